//! A device's interrupt line.
//!
//! The line is edge-triggered: each signal is one interrupt, and nothing is seen of a state. So that none is lost:
//!
//! - The device puts its results in the used ring, then sets the status bit, then signals. It signals each time, also when
//!   the bit is set already.
//! - The driver reads the status, clears the bits that it saw, then looks at the used rings.
//!
//! If the bit was set before the driver cleared it, the results were there before that as well, and the driver finds them.
//! If it was set later, its signal came later too: it is another interrupt, which finds the bit set. What can happen is an
//! interrupt that finds no bit, and that is harmless.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

use super::counters::Counters;

#[derive(Debug)]
pub(crate) struct Interrupt {
    /// The register InterruptStatus.
    status: AtomicU32,
    irqfd: EventFd,
    counters: Arc<Counters>,
}

impl Interrupt {
    pub(crate) fn new(irqfd: EventFd, counters: Arc<Counters>) -> Self {
        Self { status: AtomicU32::new(0), irqfd, counters }
    }

    /// Buffers were used.
    pub(crate) fn queue(&self) -> io::Result<()> {
        self.raise(VIRTIO_MMIO_INT_VRING)
    }

    /// The device's status has changed.
    pub(crate) fn config(&self) -> io::Result<()> {
        self.raise(VIRTIO_MMIO_INT_CONFIG)
    }

    fn raise(&self, bit: u32) -> io::Result<()> {
        self.status.fetch_or(bit, Ordering::SeqCst);
        self.counters.interrupts.add(1);
        self.irqfd.write(1)
    }

    /// The register InterruptStatus.
    pub(crate) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The register InterruptACK.
    pub(crate) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_raise_is_a_signal_and_the_status_stays_until_acknowledged() {
        let irqfd = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let interrupt = Interrupt::new(irqfd.try_clone().unwrap(), Arc::default());
        interrupt.queue().unwrap();
        interrupt.queue().unwrap();
        assert_eq!((irqfd.read().unwrap(), interrupt.status()), (2, 1));
        interrupt.config().unwrap();
        assert_eq!((irqfd.read().unwrap(), interrupt.status()), (1, 3));
        interrupt.acknowledge(1);
        assert_eq!(interrupt.status(), 2);
        assert!(irqfd.read().is_err(), "acknowledging is no signal");
    }

    /// The interleaving that edge-triggered lines are known for: results between the driver's read and its clearing.
    #[test]
    fn results_that_come_while_the_driver_acknowledges_are_found() {
        let irqfd = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let interrupt = Interrupt::new(irqfd.try_clone().unwrap(), Arc::default());
        interrupt.queue().unwrap();
        irqfd.read().unwrap();
        let seen = interrupt.status();
        interrupt.queue().unwrap();
        interrupt.acknowledge(seen);
        // The bit is gone, but the second result was in the ring before; and the line was signalled again.
        assert_eq!((interrupt.status(), irqfd.read().unwrap()), (0, 1));
        interrupt.queue().unwrap();
        assert_eq!((interrupt.status(), irqfd.read().unwrap()), (1, 1), "later ones set it again");
    }
}

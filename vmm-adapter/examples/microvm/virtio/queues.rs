//! The queues of a device, as the device sees them.

use std::sync::Arc;

use virtio_queue::{Queue, QueueOwnedT, QueueT};

use super::Broken;
use super::chain::Chain;
use super::counters::Counters;
use super::dma::Dma;
use super::interrupt::Interrupt;

/// One queue that the driver has set up.
#[derive(Debug)]
pub(crate) struct Ring {
    queue: Queue,
    /// The driver was asked for no notifications.
    quiet: bool,
    /// Buffers were used since the driver was last told.
    news: bool,
}

impl Ring {
    pub(crate) fn new(queue: Queue) -> Self {
        Self { queue, quiet: false, news: false }
    }
}

/// The queues of a device, while the driver is ready.
pub(crate) struct Queues<'a> {
    pub(crate) dma: &'a Dma,
    pub(crate) rings: &'a mut [Ring],
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) counters: &'a Arc<Counters>,
}

impl<'a> Queues<'a> {
    /// The next request of queue `index`. When there is none the driver is asked to notify of the next.
    pub(crate) fn pop(&mut self, index: usize) -> Result<Option<Chain<'a>>, Broken> {
        let dma = self.dma;
        let memory = dma.memory();
        let ring = ring(self.rings, index)?;
        loop {
            if let Some(chain) = ring.queue.iter(memory).map_err(broken)?.next() {
                if !ring.quiet {
                    ring.queue.disable_notification(memory).map_err(broken)?;
                    ring.quiet = true;
                }
                return Chain::parse(dma, chain).map(Some);
            }
            ring.quiet = false;
            if !ring.queue.enable_notification(memory).map_err(broken)? {
                return Ok(None);
            }
            // Something came in between, without a notification.
        }
    }

    /// Gives a request back, with `written` bytes of its buffers filled.
    pub(crate) fn done(&mut self, index: usize, head: u16, written: u64) -> Result<(), Broken> {
        let memory = self.dma.memory();
        let ring = ring(self.rings, index)?;
        ring.queue.add_used(memory, head, u32::try_from(written).unwrap_or(u32::MAX)).map_err(broken)?;
        ring.news = true;
        self.counters.requests.add(1);
        Ok(())
    }

    /// Tells the driver of what was given back, if it wants to know. It is told at the end of
    /// [`Device::process`](super::Device::process) in any case.
    pub(crate) fn signal(&mut self, index: usize) -> Result<(), Broken> {
        let ring = ring(self.rings, index)?;
        if std::mem::take(&mut ring.news)
            && ring.queue.needs_notification(self.dma.memory()).map_err(broken)?
        {
            self.interrupt.queue().map_err(|error| Broken(format!("cannot signal an interrupt: {error}")))?;
        }
        Ok(())
    }

    pub(crate) fn signal_all(&mut self) -> Result<(), Broken> {
        (0..self.rings.len()).try_for_each(|index| self.signal(index))
    }
}

fn ring(rings: &mut [Ring], index: usize) -> Result<&mut Ring, Broken> {
    rings.get_mut(index).ok_or_else(|| Broken(format!("there is no queue {index}")))
}

fn broken(error: virtio_queue::Error) -> Broken {
    match error {
        virtio_queue::Error::InvalidAvailRingIndex => {
            Broken::new("the guest says that it put more requests into a queue than the queue holds")
        }
        other => Broken(format!("a queue cannot be used: {other}")),
    }
}

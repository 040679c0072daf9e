//! irqfds.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{error, sys};
use crate::config::{IrqLine, Trigger};
use crate::error::{Error, Result};

/// What is bound to the lines. KVM hears of it at the start: before, there is no interrupt controller that could take an interrupt,
/// and what is signalled then is to be lost.
#[derive(Debug, Default)]
pub(super) struct Irqs {
    bound: BTreeMap<u32, Bound>,
    started: bool,
}

#[derive(Debug)]
struct Bound {
    /// The caller's, by which it unbinds.
    theirs: RawFd,
    /// The same eventfd, which the caller may close before the start.
    event: EventFd,
    /// KVM takes a line back when the guest is done with it, and says so here. Nobody listens: the line has to be let go all
    /// the same, and on Gunyah nobody could hear it either.
    done: Option<EventFd>,
}

impl Irqs {
    /// Binds a declared line.
    pub(super) fn add(&mut self, vm: &VmFd, fd: &EventFd, line: IrqLine) -> Result<()> {
        const OP: &str = "register_irqfd";
        if self.bound.contains_key(&line.spi) {
            return Err(Error::invalid(OP, format!("interrupt line {} is bound already", line.spi)));
        }
        let done = match line.trigger {
            Trigger::Edge => None,
            Trigger::Level => Some(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(error::os(OP))?),
        };
        let event = fd.try_clone().map_err(error::os(OP))?;
        let bound = Bound { theirs: fd.as_raw_fd(), event, done };
        if self.started {
            bound.connect(OP, vm, line.spi)?;
        }
        self.bound.insert(line.spi, bound);
        Ok(())
    }

    pub(super) fn remove(&mut self, vm: &VmFd, fd: &EventFd, line: IrqLine) -> Result<()> {
        const OP: &str = "unregister_irqfd";
        match self.bound.get(&line.spi) {
            Some(bound) if bound.theirs == fd.as_raw_fd() => {}
            _ => {
                let why = format!("interrupt line {} is not bound to this eventfd", line.spi);
                return Err(Error::invalid(OP, why));
            }
        }
        if let (Some(bound), true) = (self.bound.remove(&line.spi), self.started) {
            vm.unregister_irqfd(&bound.event, line.spi).map_err(error::ioctl(OP, "KVM_IRQFD"))?;
        }
        Ok(())
    }

    /// The interrupt controller is there.
    pub(super) fn start(&mut self, op: &'static str, vm: &VmFd) -> Result<()> {
        self.started = true;
        self.bound.iter().try_for_each(|(spi, bound)| bound.connect(op, vm, *spi))
    }
}

impl Bound {
    fn connect(&self, op: &'static str, vm: &VmFd, gsi: u32) -> Result<()> {
        // KVM would take a counter that is not 0 for a signal.
        sys::drain(&self.event);
        match &self.done {
            None => vm.register_irqfd(&self.event, gsi),
            Some(done) => vm.register_irqfd_with_resample(&self.event, done, gsi),
        }
        .map_err(error::ioctl(op, "KVM_IRQFD"))
    }
}

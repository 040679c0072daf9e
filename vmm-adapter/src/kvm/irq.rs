//! irqfds.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::level::{Ends, Levels};
use super::{error, sys};
use crate::config::{IrqLine, Trigger};
use crate::error::{Error, Result};

/// What is bound to the lines. KVM hears of it at the start: before, there is no interrupt controller that could take an interrupt,
/// and what is signalled then is to be lost.
#[derive(Debug, Default)]
pub(super) struct Irqs {
    bound: BTreeMap<u32, Bound>,
    started: bool,
    /// There when a level line is bound.
    levels: Option<Levels>,
}

#[derive(Debug)]
struct Bound {
    /// The caller's, by which it unbinds.
    theirs: RawFd,
    /// The same eventfd, which the caller may close before the start.
    event: EventFd,
    /// Of a level line.
    ends: Option<Ends>,
}

impl Irqs {
    /// Binds a declared line.
    pub(super) fn add(&mut self, vm: &VmFd, fd: &EventFd, line: IrqLine) -> Result<()> {
        const OP: &str = "register_irqfd";
        if self.bound.contains_key(&line.spi) {
            return Err(Error::invalid(OP, format!("interrupt line {} is bound already", line.spi)));
        }
        let ends = match line.trigger {
            Trigger::Edge => None,
            Trigger::Level => Some(Ends::new().map_err(error::os(OP))?),
        };
        if ends.is_some() && self.levels.is_none() {
            self.levels = Some(Levels::new().map_err(error::os(OP))?);
        }
        let event = fd.try_clone().map_err(error::os(OP))?;
        let bound = Bound { theirs: fd.as_raw_fd(), event, ends };
        if self.started {
            bound.connect(OP, vm, line.spi, self.levels.as_ref())?;
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
            let event = match &bound.ends {
                None => &bound.event,
                Some(ends) => {
                    self.levels.iter().for_each(|levels| levels.remove(line.spi));
                    &ends.raise
                }
            };
            vm.unregister_irqfd(event, line.spi).map_err(error::ioctl(OP, "KVM_IRQFD"))?;
        }
        Ok(())
    }

    /// The interrupt controller is there.
    pub(super) fn start(&mut self, op: &'static str, vm: &VmFd) -> Result<()> {
        self.started = true;
        self.bound.iter().try_for_each(|(spi, bound)| bound.connect(op, vm, *spi, self.levels.as_ref()))
    }
}

impl Bound {
    fn connect(&self, op: &'static str, vm: &VmFd, spi: u32, levels: Option<&Levels>) -> Result<()> {
        // KVM would take a counter that is not 0 for a signal.
        sys::drain(&self.event);
        match (&self.ends, levels) {
            (Some(ends), Some(levels)) => {
                vm.register_irqfd_with_resample(&ends.raise, &ends.done, spi)
                    .map_err(error::ioctl(op, "KVM_IRQFD"))?;
                levels.add(spi, &self.event, ends).map_err(error::os(op))
            }
            _ => vm.register_irqfd(&self.event, spi).map_err(error::ioctl(op, "KVM_IRQFD")),
        }
    }
}

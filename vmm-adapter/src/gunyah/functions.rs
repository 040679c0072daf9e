//! The VM's irqfds and ioeventfds.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};

use gunyah_ioctls as ioctls;
use gunyah_ioctls::VmFd;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::{error, sys};
use crate::config::{IrqLine, Trigger};
use crate::error::{Error, Result};
use crate::vm::IoEventMatch;

/// What is bound, and to which file descriptor. Dropping it takes everything out of the VM.
#[derive(Debug, Default)]
pub(super) struct Functions {
    irqs: BTreeMap<u32, (RawFd, ioctls::IrqFd)>,
    ioevents: Vec<IoEvent>,
}

#[derive(Debug)]
struct IoEvent {
    addr: u64,
    want: IoEventMatch,
    fd: RawFd,
    handle: ioctls::IoEventFd,
}

impl Functions {
    /// Binds a declared line.
    pub(super) fn add_irqfd(&mut self, vm: &VmFd, fd: &EventFd, line: IrqLine) -> Result<()> {
        const OP: &str = "register_irqfd";
        if self.irqs.contains_key(&line.spi) {
            return Err(Error::invalid(OP, format!("interrupt line {} is bound already", line.spi)));
        }
        let trigger = match line.trigger {
            Trigger::Edge => ioctls::Trigger::Edge,
            Trigger::Level => ioctls::Trigger::Level,
        };
        let handle = vm.add_irqfd(sys::borrow(fd), line.spi, trigger).map_err(error::backend(OP))?;
        self.irqs.insert(line.spi, (fd.as_raw_fd(), handle));
        Ok(())
    }

    pub(super) fn remove_irqfd(&mut self, fd: &EventFd, line: IrqLine) -> Result<()> {
        const OP: &str = "unregister_irqfd";
        match self.irqs.remove(&line.spi) {
            Some((raw, handle)) if raw == fd.as_raw_fd() => handle.remove().map_err(error::backend(OP)),
            other => {
                if let Some(other) = other {
                    self.irqs.insert(line.spi, other);
                }
                Err(Error::invalid(OP, format!("interrupt line {} is not bound to this eventfd", line.spi)))
            }
        }
    }

    pub(super) fn add_ioevent(
        &mut self,
        vm: &VmFd,
        fd: &EventFd,
        addr: GuestAddress,
        want: IoEventMatch,
    ) -> Result<()> {
        const OP: &str = "register_ioevent";
        let matching = match want {
            IoEventMatch::Any => ioctls::IoEventMatch::Any,
            IoEventMatch::Value { width, value } => ioctls::IoEventMatch::Value { width, value },
        };
        let handle = vm.add_ioeventfd(sys::borrow(fd), addr.0, matching).map_err(error::backend(OP))?;
        self.ioevents.push(IoEvent { addr: addr.0, want, fd: fd.as_raw_fd(), handle });
        Ok(())
    }

    pub(super) fn remove_ioevent(
        &mut self,
        fd: &EventFd,
        addr: GuestAddress,
        want: IoEventMatch,
    ) -> Result<()> {
        const OP: &str = "unregister_ioevent";
        let same = |event: &IoEvent| event.addr == addr.0 && event.want == want && event.fd == fd.as_raw_fd();
        match self.ioevents.iter().position(same) {
            Some(index) => self.ioevents.swap_remove(index).handle.remove().map_err(error::backend(OP)),
            None => Err(Error::invalid(OP, format!("no such ioevent at {:#x}", addr.0))),
        }
    }
}

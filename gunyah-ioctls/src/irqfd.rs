//! irqfds: eventfds that ring a doorbell of the guest.

use std::os::fd::{AsFd, AsRawFd};

use gunyah_bindings::v11;

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::function::{Function, FunctionHandle};
use crate::ops;

/// How the guest's interrupt controller takes the doorbell's interrupt. Must agree with the devicetree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Each write to the eventfd is an interrupt.
    Edge,
    /// Level triggered. There is no resampling: the host signals again for as long as the device asserts its line.
    Level,
}

/// An irqfd of a VM, from [`VmFd::add_irqfd`](crate::VmFd::add_irqfd). Dropping it removes the irqfd silently.
#[derive(Debug)]
pub struct IrqFd(FunctionHandle);

impl IrqFd {
    pub(crate) fn function(fd: impl AsFd, label: u32, trigger: Trigger) -> Result<Function> {
        let fd = u32::try_from(fd.as_fd().as_raw_fd())
            .map_err(|_| ops::ADD_FUNCTION.invalid("not an open eventfd"))?;
        let flags = if trigger == Trigger::Level { v11::GH_IRQFD_LEVEL } else { 0 };
        Ok(Function::Irqfd(v11::gh_fn_irqfd_arg { fd, label, flags, padding: 0 }))
    }

    pub(crate) fn new(handle: FunctionHandle) -> Self {
        Self(handle)
    }

    /// The label of the doorbell.
    pub fn label(&self) -> u32 {
        if let Function::Irqfd(arg) = self.0.function() { arg.label } else { 0 }
    }

    /// Removes the irqfd from its VM.
    ///
    /// v11 and android14-early answer success even when nothing was there to remove.
    ///
    /// # Errors
    ///
    /// [`Error::VmClosed`] when the VM's file descriptor is closed. [`Error::VmUnusable`]. [`Error::Ioctl`]: ENOENT the kernel has
    /// no such irqfd, ENOMEM, EINTR signals interrupted every try. With all but ENOENT the kernel still has it, and its label
    /// stays taken for as long as this VM exists.
    pub fn remove(self) -> Result<()> {
        self.0.remove()
    }
}

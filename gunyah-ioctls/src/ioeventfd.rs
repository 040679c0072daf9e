//! ioeventfds: stores of the guest that signal an eventfd instead of ending `run`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use gunyah_bindings::v11;

use crate::error::{Error, Result};
use crate::function::{Function, FunctionHandle};
use crate::ops;

/// Which stores to an ioeventfd's address signal it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoEventMatch {
    /// Stores of any width and value.
    Any,
    /// Stores of this width in bytes (1, 2, 4, 8), of any value.
    ///
    /// The width is handed to the kernel; every kernel read ignores it, so that any width matches.
    Width(u8),
    /// Stores of this width in bytes (1, 2, 4, 8) and this value.
    ///
    /// Kernels of the time of v11 compared the value as a truth value: any but 0 matches, and 0 never does.
    Value {
        /// Width in bytes: 1, 2, 4 or 8.
        width: u8,
        /// The value, which fits the width.
        value: u64,
    },
}

/// An ioeventfd of a VM, from [`VmFd::add_ioeventfd`](crate::VmFd::add_ioeventfd). Dropping it removes it silently.
#[derive(Debug)]
pub struct IoEventFd(FunctionHandle);

impl IoEventFd {
    pub(crate) fn function(fd: impl AsFd, addr: u64, matching: IoEventMatch) -> Result<Function> {
        let op = ops::ADD_FUNCTION;
        let (len, flags, datamatch) = match matching {
            IoEventMatch::Any => (0, 0, 0),
            IoEventMatch::Width(width) => (width, 0, 0),
            IoEventMatch::Value { width, value } => (width, v11::GH_IOEVENTFD_DATAMATCH, value),
        };
        if !matches!((matching, len), (IoEventMatch::Any, 0) | (_, 1 | 2 | 4 | 8)) {
            return Err(op.invalid("the width of an ioeventfd is not 1, 2, 4 or 8 bytes"));
        }
        if len < 8 && flags != 0 && datamatch >> (u32::from(len) * 8) != 0 {
            return Err(op.invalid("the value to match does not fit the width"));
        }
        if addr.checked_add(u64::from(len)).is_none() {
            return Err(op.invalid("the ioeventfd's address + width wraps around"));
        }
        let fd = fd.as_fd().as_raw_fd();
        let len = u32::from(len);
        Ok(Function::Ioeventfd(v11::gh_fn_ioeventfd_arg { datamatch, addr, len, fd, flags, padding: 0 }))
    }

    /// The eventfd under a number that stays its own.
    pub(crate) fn hold(fd: &impl AsFd) -> Result<OwnedFd> {
        fd.as_fd().try_clone_to_owned().map_err(|source| Error::Os {
            call: "fcntl",
            doing: "keeping an ioeventfd's file",
            source,
        })
    }

    pub(crate) fn new(handle: FunctionHandle) -> Self {
        Self(handle)
    }

    /// The guest physical address.
    pub fn addr(&self) -> u64 {
        if let Function::Ioeventfd(arg) = self.0.function() { arg.addr } else { 0 }
    }

    /// Removes the ioeventfd from its VM.
    ///
    /// android14 (and the last kernels of the v11 form) remove every ioeventfd at the address. The others are put back
    /// at once; a store in between becomes an exit.
    ///
    /// # Errors
    ///
    /// [`Error::VmClosed`] when the VM's file descriptor is closed. [`Error::VmUnusable`]. [`Error::Ioctl`]: ENOENT the kernel has
    /// no such ioeventfd, ENOMEM, EINTR signals interrupted every try. With all but ENOENT the kernel still has it, and
    /// nothing that matches the same stores can be added to this VM any more. [`Error::IoEventFdLost`]: it is removed, and
    /// another is with it (v11, android14).
    pub fn remove(self) -> Result<()> {
        self.0.remove()
    }
}

#[cfg(test)]
mod tests {
    use std::io::stdin;

    use super::*;

    fn arg(addr: u64, matching: IoEventMatch) -> Result<v11::gh_fn_ioeventfd_arg> {
        match IoEventFd::function(stdin(), addr, matching)? {
            Function::Ioeventfd(arg) => Ok(arg),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_argument_says_what_was_asked() {
        let any = arg(0x1000, IoEventMatch::Any).unwrap();
        assert_eq!((any.len, any.flags, any.datamatch), (0, 0, 0));
        let width = arg(0x1000, IoEventMatch::Width(2)).unwrap();
        assert_eq!((width.len, width.flags, width.datamatch), (2, 0, 0));
        let value = arg(0x1000, IoEventMatch::Value { width: 8, value: u64::MAX }).unwrap();
        assert_eq!((value.len, value.flags, value.datamatch), (8, 1, u64::MAX));
    }

    #[test]
    fn what_the_kernel_forgets_is_refused() {
        for (addr, matching) in [
            (0, IoEventMatch::Width(0)),
            (0, IoEventMatch::Width(3)),
            (0, IoEventMatch::Width(16)),
            (0, IoEventMatch::Value { width: 0, value: 0 }),
            (0, IoEventMatch::Value { width: 1, value: 0x100 }),
            (0, IoEventMatch::Value { width: 4, value: 1 << 32 }),
            (u64::MAX - 3, IoEventMatch::Width(4)),
        ] {
            let error = arg(addr, matching).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{matching:?}: {error:?}");
        }
    }
}

//! ioeventfd: a guest's store signals an eventfd instead of making an exit.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gunyah_bindings::v11;

use super::uapi::Arg;
use super::vm_mgr::Vm;
use crate::errno::Errno;
use crate::transport::call::Call;
use crate::transport::sys;

/// One ioeventfd.
pub(crate) struct Ioeventfd {
    addr: u64,
    /// 0: a store of any length.
    len: u32,
    datamatch: Option<u64>,
    eventfd: OwnedFd,
    /// The hypervisor matches stores itself.
    bypassed: AtomicBool,
}

impl Ioeventfd {
    pub(crate) fn bind(vm: &Arc<Vm>, arg: &[u8], call: &Call<'_>) -> Result<Arc<Self>, Errno> {
        if arg.len() != v11::gh_fn_ioeventfd_arg::SIZE {
            return Err(Errno::EINVAL);
        }
        let arg = v11::gh_fn_ioeventfd_arg::parse(arg);
        let matching = arg.flags & v11::GH_IOEVENTFD_DATAMATCH != 0;
        if arg.flags & !v11::GH_IOEVENTFD_DATAMATCH != 0 || !matches!(arg.len, 0 | 1 | 2 | 4 | 8) {
            return Err(Errno::EINVAL);
        }
        let wraps = arg.addr.checked_add(arg.len.into()).is_none();
        if wraps && vm.kernel().differences.ioeventfd_wrap_check {
            return Err(Errno::EINVAL);
        }
        if matching && arg.len == 0 {
            return Err(Errno::EINVAL);
        }
        let eventfd = call.caller.eventfd(arg.fd)?;
        let handler = Arc::new(Self {
            addr: arg.addr,
            // The length counts only together with a value.
            len: if matching { arg.len } else { 0 },
            datamatch: matching.then_some(arg.datamatch),
            eventfd,
            bypassed: AtomicBool::new(false),
        });
        let mut handlers = vm.mmio_handlers();
        if handlers.iter().any(|other| other.collides(&handler)) {
            return Err(Errno::EEXIST);
        }
        handlers.push(Arc::clone(&handler));
        handler.bypass(vm);
        Ok(handler)
    }

    pub(crate) fn unbind(self: &Arc<Self>, vm: &Vm) {
        let mut handlers = vm.mmio_handlers();
        handlers.retain(|other| !Arc::ptr_eq(other, self));
        if self.bypassed.swap(false, Ordering::AcqRel) {
            if let (Some(guest), Some(only)) = (vm.guest.get(), self.only(false)) {
                guest.unbind_ioeventfd(self.eventfd.as_fd(), self.addr, only);
            }
        }
    }

    /// Length and value that a store must have, if it must; `None` when that cannot be said so.
    fn only(&self, as_bool: bool) -> Option<Option<(u32, u64)>> {
        match self.datamatch {
            None => Some(None),
            Some(_) if as_bool => None,
            // A value too large for its length matches nothing, and nobody else may cut it to size.
            Some(value) if self.len < 8 && value >> (8 * self.len) != 0 => None,
            Some(value) => Some(Some((self.len, value))),
        }
    }

    /// Lets the hypervisor match stores, where it can. Under the lock of the handlers.
    fn bypass(&self, vm: &Vm) {
        let Some(guest) = vm.guest.get() else { return };
        let Some(only) = self.only(vm.kernel().differences.datamatch_is_bool) else { return };
        if !self.bypassed.load(Ordering::Acquire)
            && guest.bind_ioeventfd(vm, self.eventfd.as_fd(), self.addr, only)
        {
            self.bypassed.store(true, Ordering::Release);
        }
    }

    /// Whether some store would belong to both.
    fn collides(&self, other: &Self) -> bool {
        let overlap = |a: Option<u64>, b: Option<u64>| a.is_none() || b.is_none() || a == b;
        self.addr == other.addr
            && (self.len == 0 || other.len == 0 || self.len == other.len)
            && overlap(self.datamatch, other.datamatch)
    }

    fn matches(&self, addr: u64, len: u64, value: u64, as_bool: bool) -> bool {
        self.addr == addr
            && (self.len == 0 || u64::from(self.len) == len)
            && match self.datamatch {
                None => true,
                Some(_) if as_bool => value != 0,
                Some(wanted) => value == wanted,
            }
    }
}

impl Vm {
    /// At start: the hypervisor is there.
    pub(crate) fn bind_ioeventfds(&self) {
        self.mmio_handlers().iter().for_each(|handler| handler.bypass(self));
    }

    /// Offers a guest's store to the ioeventfds; true if one took it.
    pub(crate) fn mmio_write(&self, addr: u64, len: u64, value: u64) -> bool {
        let as_bool = self.kernel().differences.datamatch_is_bool;
        let value = if len < 8 { value & ((1 << (8 * len)) - 1) } else { value };
        let handlers = self.mmio_handlers();
        let Some(handler) = handlers.iter().find(|h| h.matches(addr, len, value, as_bool)) else {
            return false;
        };
        sys::eventfd_signal(handler.eventfd.as_fd());
        true
    }
}

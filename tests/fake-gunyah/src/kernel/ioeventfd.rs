//! ioeventfd: a guest's store signals an eventfd instead of making an exit.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

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
        });
        let mut handlers = vm.mmio_handlers();
        if handlers.iter().any(|other| other.collides(&handler)) {
            return Err(Errno::EEXIST);
        }
        handlers.push(Arc::clone(&handler));
        Ok(handler)
    }

    pub(crate) fn unbind(self: &Arc<Self>, vm: &Vm) {
        vm.mmio_handlers().retain(|other| !Arc::ptr_eq(other, self));
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

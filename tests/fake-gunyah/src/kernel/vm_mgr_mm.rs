//! A VM's memory: the regions that user space gives.

use std::sync::{MutexGuard, PoisonError};

use gunyah_bindings::v11;

use super::uapi::Arg;
use super::vm_mgr::Vm;
use super::{Answer, Undo};
use crate::errno::Errno;
use crate::flavour::Pinning;
use crate::transport::call::Call;
use crate::transport::sys;

const ACCESS: u32 = v11::GH_MEM_ALLOW_READ | v11::GH_MEM_ALLOW_WRITE | v11::GH_MEM_ALLOW_EXEC;

/// Whether the host keeps access to what it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// It does.
    Share,
    /// It does not.
    Lend,
}

/// One region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) label: u32,
    pub(crate) access: u32,
    pub(crate) guest_addr: u64,
    pub(crate) size: u64,
    pub(crate) user_addr: u64,
    #[allow(dead_code, reason = "shown in Debug output")]
    pub(crate) transfer: Transfer,
}

impl Region {
    fn overlaps(&self, other: &Self) -> bool {
        // Kernels that don't see a wrap-around compare with wrapped ends, too.
        self.guest_addr < other.guest_addr.wrapping_add(other.size)
            && other.guest_addr < self.guest_addr.wrapping_add(self.size)
    }

    /// Whether `len` bytes at `addr` lie in it.
    pub(crate) fn holds(&self, addr: u64, len: u64) -> bool {
        addr >= self.guest_addr
            && addr.checked_add(len).is_some_and(|end| end <= self.guest_addr.saturating_add(self.size))
    }
}

/// The regions, and how many bytes of them count as locked.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) regions: Vec<Region>,
    pub(crate) locked: u64,
}

impl Memory {
    pub(crate) fn clear(&mut self) {
        self.regions.clear();
        self.locked = 0;
    }
}

impl Vm {
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.mm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `SET_USER_MEM_REGION` and `LEND_USER_MEM`.
    pub(crate) fn set_user_memory(
        self: &std::sync::Arc<Self>,
        call: &Call<'_>,
        arg: u64,
        transfer: Transfer,
    ) -> Result<Answer, Errno> {
        let kernel = self.kernel();
        let differences = &kernel.differences;
        if differences.owner_check {
            self.check_owner(call)?;
        }
        if differences.memory_feature_check && !kernel.hypervisor.memory_extents {
            return Err(Errno::EOPNOTSUPP);
        }
        let arg = v11::gh_userspace_memory_region::copy_from_user(&call.caller, arg)?;
        if arg.flags & !ACCESS != 0 {
            return Err(Errno::EINVAL);
        }
        let page = sys::page_size() as u64;
        let aligned = [arg.memory_size, arg.guest_phys_addr, arg.userspace_addr];
        if arg.memory_size == 0 || aligned.iter().any(|value| value % page != 0) {
            return Err(Errno::EINVAL);
        }
        let wraps = arg.guest_phys_addr.checked_add(arg.memory_size).is_none();
        if wraps && differences.region_wrap_check {
            return Err(Errno::EOVERFLOW);
        }
        let region = Region {
            label: arg.label,
            access: arg.flags,
            guest_addr: arg.guest_phys_addr,
            size: arg.memory_size,
            user_addr: arg.userspace_addr,
            transfer,
        };
        let mut memory = self.memory();
        let same_label = |other: &Region| differences.unique_labels && other.label == region.label;
        if memory.regions.iter().any(|other| same_label(other) || other.overlaps(&region)) {
            return Err(Errno::EEXIST);
        }
        match differences.pinning {
            Pinning::None | Pinning::OnDemand => {}
            Pinning::AtOnceForWriting => pin(call, &region, true)?,
            Pinning::AtOnce => {
                let limit = kernel.memlock.unwrap_or_else(|| {
                    if call.caller.may_lock_any() {
                        u64::MAX
                    } else {
                        sys::memlock_limit(call.caller.tgid()).unwrap_or(u64::MAX)
                    }
                });
                if memory.locked.saturating_add(region.size) > limit {
                    return Err(Errno::ENOMEM);
                }
                pin(call, &region, region.access & v11::GH_MEM_ALLOW_WRITE != 0)?;
                memory.locked += region.size;
            }
        }
        memory.regions.push(region);
        drop(memory);
        let vm = std::sync::Arc::clone(self);
        let undo = Undo::Do(Box::new(move || {
            vm.memory().regions.retain(|other| other.guest_addr != region.guest_addr);
        }));
        Ok(Answer { undo, ..Answer::value(0) })
    }

    /// The region that holds `len` bytes at a guest address.
    pub(crate) fn region_of(&self, addr: u64, len: u64) -> Option<Region> {
        self.memory().regions.iter().find(|region| region.holds(addr, len)).copied()
    }

    /// Tries to give the guest the page at `addr`, as demand paging does.
    pub(crate) fn demand_page(&self, addr: u64, write: bool) -> Result<(), Errno> {
        if !self.is_running() {
            return Err(Errno::ENODEV);
        }
        let region = self.region_of(addr, 1).ok_or(Errno::ENOENT)?;
        if write && region.access & v11::GH_MEM_ALLOW_WRITE == 0 {
            return Err(Errno::EPERM);
        }
        Ok(())
    }
}

/// Pins a region's pages: all of them, or none.
fn pin(call: &Call<'_>, region: &Region, writable: bool) -> Result<(), Errno> {
    if call.caller.is_mapped(region.user_addr, region.size, writable) { Ok(()) } else { Err(Errno::EFAULT) }
}

//! The few calls whose safety this backend vouches for.
#![expect(unsafe_code, reason = "guest memory is given to the kernel, and EventFd lends no BorrowedFd")]

use std::os::fd::{AsRawFd, BorrowedFd};

use gunyah_ioctls::{Result, UserMemoryRegion, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::{MemoryRegion, Sharing};

/// The eventfd's file descriptor.
pub(super) fn borrow(fd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: `fd` owns the descriptor and stays borrowed as long as the result, so it stays open.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

/// Gives `region` to the VM: shares or lends it.
///
/// The caller keeps a clone of `region` until `vm` and every vCPU of it are closed.
pub(super) fn give(vm: &VmFd, region: &MemoryRegion, argument: &UserMemoryRegion) -> Result<()> {
    match region.sharing() {
        // SAFETY: the mapping is owned by `region`, of which the backend keeps a clone until the VM and its vCPUs are
        // closed. The memory is only reached through vm-memory's volatile accesses, so no reference to it exists.
        Sharing::Shared => unsafe { vm.set_user_memory_region(argument) },
        // SAFETY: as above; and `MemoryRegion` gives no way to private memory once `close_to_host` was called, which the
        // backend does before it starts the VM.
        Sharing::Private => unsafe { vm.lend_user_memory(argument) },
    }
}

//! Giving memory to the VM, in the form that the host takes.

use std::fs::File;
use std::os::fd::AsFd;

use gunyah_ioctls as ioctls;
use gunyah_ioctls::{Access, GuestMemory, GuestMemoryMapping, UserMemoryRegion, VmFd};
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap};

use super::{error, sys};
use crate::error::{Error, Result};
use crate::memory::{MemoryRegion, Sharing, check_geometry};

/// The VM's regions in the form that the host takes. The label of each is its place among all.
///
/// Must outlive the VM and its vCPUs: the guest uses the memory until they are closed.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Guest memory of the kernel's making, which the regions are mappings of.
    made: Vec<GuestMemory>,
}

impl Given {
    /// Shares or lends memory of this process.
    pub(super) fn give(op: &'static str, vm: &VmFd, region: &MemoryRegion, place: usize) -> Result<()> {
        let argument = UserMemoryRegion {
            label: u32::try_from(place).map_err(|_| Error::invalid(op, "too many regions"))?,
            guest_phys_addr: region.addr().0,
            memory_size: region.size(),
            userspace_addr: region
                .host_addr()
                .ok_or_else(|| Error::invalid(op, "the memory was private memory of another VM"))?,
            access: access(region),
        };
        sys::give(vm, region, &argument).map_err(error::backend(op))
    }

    /// Makes guest memory of the kernel's kind, and maps it here and in the VM.
    pub(super) fn make(
        op: &'static str,
        device: &ioctls::Gunyah,
        addr: GuestAddress,
        size: u64,
        sharing: Sharing,
    ) -> Result<(GuestMemory, MemoryRegion)> {
        check_geometry(op, addr, size)?;
        let memory = device.create_guest_memory(size, false).map_err(error::backend(op))?;
        let refused = |source| Error::Memory { addr: addr.0, size, source };
        let file =
            memory.as_fd().try_clone_to_owned().map(File::from).map_err(|error| refused(error.into()))?;
        let len = usize::try_from(size).map_err(|error| refused(error.into()))?;
        let mapping = GuestRegionMmap::from_range(addr, len, Some(FileOffset::new(file, 0)))
            .map_err(|error| refused(error.into()))?;
        Ok((memory, MemoryRegion::from_mmap(mapping, sharing)?))
    }

    /// Binds what [`Given::make`] made.
    pub(super) fn bind(
        &mut self,
        op: &'static str,
        vm: &VmFd,
        memory: GuestMemory,
        region: &MemoryRegion,
    ) -> Result<()> {
        let mapping = GuestMemoryMapping {
            guest_addr: region.addr().0,
            offset: 0,
            size: region.size(),
            access: access(region),
            sharing: match region.sharing() {
                Sharing::Shared => ioctls::Sharing::Share,
                Sharing::Private => ioctls::Sharing::Lend,
            },
        };
        vm.map_guest_memory(&memory, &mapping).map_err(error::backend(op))?;
        self.made.push(memory);
        Ok(())
    }

    /// The host loses all private memory.
    pub(super) fn close_to_host(&self, regions: &[MemoryRegion]) {
        let unmap = !self.made.is_empty();
        for region in regions {
            region.close_to_host(unmap);
        }
    }
}

/// A guest can execute from whatever it can read: the kernels take that back where it cannot be.
fn access(region: &MemoryRegion) -> Access {
    let read = Access::READ | Access::EXEC;
    if region.is_writable() { read | Access::WRITE } else { read }
}

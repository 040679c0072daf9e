//! Giving memory to the VM, in the form that the host takes.

use std::fs::File;
use std::os::fd::AsFd;

use gunyah_ioctls as ioctls;
use gunyah_ioctls::{Access, GuestMemory, GuestMemoryMapping, UserMemoryRegion, VmFd};
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap};

use super::{error, sys};
use crate::config::VmConfig;
use crate::error::{Error, Result};
use crate::memory::{MemoryRegion, Sharing, check_geometry};

/// The Resource Manager rounds the main region's address up to this.
pub(super) const MAIN_ALIGNMENT: u64 = 2 << 20;

/// Every region of a VM, in the order in which it was given. The first is the main one, with label 0; the label of each is
/// its place here.
///
/// Must outlive the VM and its vCPUs: the guest uses the memory until they are closed.
#[derive(Debug, Default)]
pub(super) struct Regions {
    regions: Vec<MemoryRegion>,
    /// Guest memory of the kernel's making, which the regions are mappings of.
    made: Vec<GuestMemory>,
}

impl Regions {
    pub(super) fn all(&self) -> &[MemoryRegion] {
        &self.regions
    }

    /// Checks a region against those that are there, and against the guest's address space.
    pub(super) fn check(&self, op: &'static str, region: &MemoryRegion, config: &VmConfig) -> Result<()> {
        let (addr, size) = (region.addr().0, region.size());
        if addr.checked_add(size).is_none_or(|end| end > config.guest_phys_end()) {
            let why =
                format!("{addr:#x} + {size:#x} is beyond {} bits of guest address", config.guest_phys_bits);
            return Err(Error::invalid(op, why));
        }
        if let Some(other) = self.regions.iter().find(|other| other.overlaps(region)) {
            let why = format!(
                "{addr:#x} + {size:#x} overlaps the memory at {:#x} + {:#x}",
                other.addr().0,
                other.size()
            );
            return Err(Error::invalid(op, why));
        }
        if self.regions.is_empty() {
            self.check_main(op, region, config)?;
        }
        Ok(())
    }

    fn check_main(&self, op: &'static str, region: &MemoryRegion, config: &VmConfig) -> Result<()> {
        if region.addr().0 % MAIN_ALIGNMENT != 0 {
            // Elsewhere the Resource Manager would move it and the guest would not find itself where it was put.
            let why = format!("the main region's address {:#x} is not aligned to 2 MiB", region.addr().0);
            return Err(Error::invalid(op, why));
        }
        if !region.is_writable() {
            return Err(Error::invalid(
                op,
                "the main region cannot be read-only: the hypervisor writes the tree in it",
            ));
        }
        match (config.kind.is_protected(), region.sharing()) {
            (true, Sharing::Shared) => {
                Err(Error::invalid(op, "the main region of a protected VM must be private"))
            }
            (false, Sharing::Private) => {
                Err(Error::invalid(op, "the main region of a plain VM must be shared"))
            }
            _ => Ok(()),
        }
    }

    /// Shares or lends memory of this process.
    pub(super) fn give(&mut self, op: &'static str, vm: &VmFd, region: &MemoryRegion) -> Result<()> {
        let argument = UserMemoryRegion {
            label: self.next_label(op)?,
            guest_phys_addr: region.addr().0,
            memory_size: region.size(),
            userspace_addr: region
                .host_addr()
                .ok_or_else(|| Error::invalid(op, "the memory was private memory of another VM"))?,
            access: access(region),
        };
        sys::give(vm, region, &argument).map_err(error::backend(op))?;
        self.regions.push(region.clone());
        Ok(())
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

    /// Binds what [`Regions::make`] made.
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
        self.regions.push(region.clone());
        Ok(())
    }

    fn next_label(&self, op: &'static str) -> Result<u32> {
        u32::try_from(self.regions.len()).map_err(|_| Error::invalid(op, "too many regions"))
    }

    /// The host loses all private memory.
    pub(super) fn close_to_host(&self) {
        let unmap = !self.made.is_empty();
        for region in &self.regions {
            region.close_to_host(unmap);
        }
    }
}

/// A guest can execute from whatever it can read: the kernels take that back where it cannot be.
fn access(region: &MemoryRegion) -> Access {
    let read = Access::READ | Access::EXEC;
    if region.is_writable() { read | Access::WRITE } else { read }
}

//! Giving memory to the VM, in the form that the host takes.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use gunyah_ioctls as ioctls;
use gunyah_ioctls::{
    Access, CmaMapping, CmaMemory, CmaRegion, GuestMemory, GuestMemoryMapping, UserMemoryRegion, VmFd,
};
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap};

use super::{error, sys};
use crate::error::{Error, Result};
use crate::memory::{MemoryRegion, PIECE, Sharing, check_geometry};

/// What is behind a region.
#[derive(Debug)]
pub(super) enum Backing {
    /// Memory of this process.
    User,
    /// A file of the kernel's making, which the region is a mapping of.
    File(GuestMemory),
    /// Memory that the host has reserved, which the region is a mapping of.
    Reserved(#[allow(dead_code, reason = "it is only kept open")] CmaMemory),
}

/// What is behind the VM's regions, in their order. The label of each is its place.
///
/// Must outlive the VM and its vCPUs: the guest uses the memory until they are closed.
#[derive(Debug, Default)]
pub(super) struct Given(Vec<Backing>);

impl Given {
    pub(super) fn add(&mut self, backing: Backing) {
        self.0.push(backing);
    }

    pub(super) fn get(&self, place: usize) -> Option<&Backing> {
        self.0.get(place)
    }

    /// Shares or lends memory of this process.
    pub(super) fn give(op: &'static str, vm: &VmFd, region: &MemoryRegion, place: usize) -> Result<()> {
        let argument = UserMemoryRegion {
            label: label(op, place)?,
            guest_phys_addr: region.addr().0,
            memory_size: region.size(),
            userspace_addr: region
                .host_addr()
                .ok_or_else(|| Error::invalid(op, "the memory was private memory of another VM"))?,
            access: access(region),
        };
        sys::give(vm, region, &argument).map_err(error::backend(op))
    }

    /// Makes a file of guest memory, and maps it here. With `huge` the kernel may use pages of 2 MiB.
    pub(super) fn make_file(
        op: &'static str,
        device: &ioctls::Gunyah,
        addr: GuestAddress,
        size: u64,
        sharing: Sharing,
        huge: bool,
    ) -> Result<(GuestMemory, MemoryRegion)> {
        check_geometry(op, addr, size)?;
        let huge = huge && addr.0 % PIECE == 0 && size % PIECE == 0;
        let memory = device.create_guest_memory(size, huge).map_err(error::backend(op))?;
        let region = map_here(memory.as_fd(), addr, size, sharing)?;
        Ok((memory, region))
    }

    /// Takes memory that the host has reserved, and maps it here.
    pub(super) fn take_reserved(
        op: &'static str,
        node: &Path,
        addr: GuestAddress,
        size: u64,
        sharing: Sharing,
    ) -> Result<(CmaMemory, MemoryRegion)> {
        check_geometry(op, addr, size)?;
        let memory =
            CmaRegion::open(node).and_then(|region| region.create_memory()).map_err(error::backend(op))?;
        let region = map_here(memory.as_fd(), addr, size, sharing)?;
        Ok((memory, region))
    }

    /// Binds what [`Given::make_file`] made.
    pub(super) fn bind_file(
        op: &'static str,
        vm: &VmFd,
        memory: &GuestMemory,
        region: &MemoryRegion,
    ) -> Result<()> {
        let mapping = GuestMemoryMapping {
            guest_addr: region.addr().0,
            offset: 0,
            size: region.size(),
            access: access(region),
            sharing: sharing(region),
        };
        vm.map_guest_memory(memory, &mapping).map_err(error::backend(op))
    }

    /// Binds what [`Given::take_reserved`] took.
    pub(super) fn bind_reserved(
        op: &'static str,
        vm: &VmFd,
        memory: &CmaMemory,
        region: &MemoryRegion,
        place: usize,
    ) -> Result<()> {
        let mapping = CmaMapping {
            label: label(op, place)?,
            guest_addr: region.addr().0,
            offset: 0,
            size: region.size(),
            access: access(region),
            sharing: sharing(region),
        };
        vm.map_cma_memory(memory, &mapping).map_err(error::backend(op))
    }

    /// The host loses all private memory. Kernels that make the memory refuse to lend what the host has mapped.
    pub(super) fn close_to_host(&self, regions: &[MemoryRegion]) {
        for (region, backing) in regions.iter().zip(&self.0) {
            region.close_to_host(matches!(backing, Backing::File(_)));
        }
    }
}

/// Maps a file of guest memory into this process.
fn map_here(fd: BorrowedFd<'_>, addr: GuestAddress, size: u64, sharing: Sharing) -> Result<MemoryRegion> {
    let refused = |source| Error::Memory { addr: addr.0, size, source };
    let file = fd.try_clone_to_owned().map(File::from).map_err(|error| refused(error.into()))?;
    let len = usize::try_from(size).map_err(|error| refused(error.into()))?;
    let mapping = GuestRegionMmap::from_range(addr, len, Some(FileOffset::new(file, 0)))
        .map_err(|error| refused(error.into()))?;
    MemoryRegion::from_mmap(mapping, sharing)
}

fn label(op: &'static str, place: usize) -> Result<u32> {
    u32::try_from(place).map_err(|_| Error::invalid(op, "too many regions"))
}

fn sharing(region: &MemoryRegion) -> ioctls::Sharing {
    match region.sharing() {
        Sharing::Shared => ioctls::Sharing::Share,
        Sharing::Private => ioctls::Sharing::Lend,
    }
}

/// A guest can execute from whatever it can read: the kernels take that back where it cannot be.
fn access(region: &MemoryRegion) -> Access {
    let read = Access::READ | Access::EXEC;
    if region.is_writable() { read | Access::WRITE } else { read }
}

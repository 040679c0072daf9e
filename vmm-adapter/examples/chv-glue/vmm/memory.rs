//! Guest memory: the VMM's mappings, given to the VM by their addresses.
#![expect(unsafe_code, reason = "the trait takes guest memory as a raw pointer")]

use std::sync::Arc;

use anyhow::Context;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
};

use super::layout::{DMA_POOL, DMA_POOL_SIZE, RAM, RAM_SIZE};
use crate::hypervisor::vm::Vm;

/// The VMM's mappings of guest memory. They have to outlive the VM and its vCPUs.
pub(super) struct MemoryManager {
    ram: Arc<GuestRegionMmap>,
    pool: Arc<GuestRegionMmap>,
}

impl MemoryManager {
    pub(super) fn new() -> anyhow::Result<Self> {
        let map = |addr, size| GuestRegionMmap::from_range(GuestAddress(addr), size, None).map(Arc::new);
        Ok(Self { ram: map(RAM, RAM_SIZE)?, pool: map(DMA_POOL, DMA_POOL_SIZE)? })
    }

    /// Gives all of it to the VM: RAM first, since that is where payload and devicetree are.
    ///
    /// The DMA pool is a region of its own, also where all memory is shared: memory is lent or shared as a whole.
    ///
    /// # Safety
    /// `self` outlives the VM and its vCPUs.
    pub(super) unsafe fn give(&self, vm: &dyn Vm) -> anyhow::Result<()> {
        for (slot, region) in (0..).zip([&self.ram, &self.pool]) {
            let (addr, size) = (region.start_addr().0, region.size());
            // SAFETY: the region stays mapped until the VM and its vCPUs are gone, as the caller promises, and vm-memory makes no
            // references into it.
            unsafe { vm.create_user_memory_region(slot, addr, size, region.as_ptr(), false, false) }?;
        }
        Ok(())
    }

    /// Writes to RAM: before the start, since a protected VM's RAM is lost to the host then, and a store to it ends the process.
    pub(super) fn load(&self, addr: u64, data: &[u8]) -> anyhow::Result<()> {
        let offset = addr.checked_sub(RAM).context("not in RAM")?;
        Ok(self.ram.write_slice(data, MemoryRegionAddress(offset))?)
    }

    /// What devices may touch: all memory, or what a protected VM shares. Nothing else is in it, so nothing else can be touched by
    /// mistake.
    pub(super) fn for_devices(&self, protected: bool) -> anyhow::Result<GuestMemoryMmap> {
        let lent = if protected { None } else { Some(Arc::clone(&self.ram)) };
        let regions = lent.into_iter().chain([Arc::clone(&self.pool)]).collect();
        Ok(GuestMemoryMmap::from_arc_regions(regions)?)
    }
}

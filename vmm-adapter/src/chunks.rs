//! A guest's memory in regions of the size that the host takes.

use vm_memory::GuestAddress;

use crate::caps::Feature;
use crate::error::Result;
use crate::memory::{MemoryRegion, Sharing, check_geometry};
use crate::vm::Vm;

impl dyn Vm + '_ {
    /// Gives the guest `size` bytes at `addr`, side by side in as many regions as this host wants
    /// ([`Vm::largest_region`]), made as [`Vm::allocate`] makes them. Configuring only. Gives the regions in their order; as the VM's
    /// first memory, the first of them is the main one.
    ///
    /// `ready` sees each region before the hypervisor has it where there is
    /// [`Feature::OwnMemory`], and right after where there is not: the place for
    /// [`MemoryRegion::prepare`].
    ///
    /// ```
    /// # #[cfg(feature = "gunyah")]
    /// # fake_gunyah::Fake::builder().build().unwrap().run(|_| {
    /// # let vm = vmm_adapter::open()?.create_vm(&vmm_adapter::VmConfig::new(1))?;
    /// use vm_memory::GuestAddress;
    /// use vmm_adapter::{Prepare, Sharing};
    /// let ram = vm.allocate_chunks(GuestAddress(0x8000_0000), 4 << 20, Sharing::Shared, |region| {
    ///     region.prepare(&Prepare::default(), |_, _| {}).map(drop)
    /// })?;
    /// # assert_eq!(ram.iter().map(|region| region.size()).sum::<u64>(), 4 << 20);
    /// # Ok::<(), vmm_adapter::Error>(())
    /// # }).unwrap().unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`Vm::allocate`] and [`Vm::map`], and what `ready` answers. The regions before stay with the VM then.
    pub fn allocate_chunks(
        &self,
        addr: GuestAddress,
        size: u64,
        sharing: Sharing,
        mut ready: impl FnMut(&MemoryRegion) -> Result<()>,
    ) -> Result<Vec<MemoryRegion>> {
        check_geometry("allocate_chunks", addr, size)?;
        let largest = self.largest_region();
        let own = self.capabilities().has(Feature::OwnMemory);
        let mut regions: Vec<MemoryRegion> = Vec::new();
        let mut done = 0;
        while done < size {
            let at = GuestAddress(addr.0.saturating_add(done));
            let chunk = size.saturating_sub(done).min(largest);
            // The first region of such a VM is the host's.
            let reserved = self.config().reserved_memory.is_some() && self.memory().is_empty();
            let region = if own && !reserved {
                let region = MemoryRegion::new(at, chunk, sharing)?;
                ready(&region)?;
                self.map(&region)?;
                region
            } else {
                let region = self.allocate(at, chunk, sharing)?;
                ready(&region)?;
                region
            };
            done = done.saturating_add(chunk);
            regions.push(region);
        }
        Ok(regions)
    }
}

//! What devices may touch of a VM's memory.

use vm_memory::{GuestMemoryMmap, GuestMemoryRegion};

use crate::error::{Error, Result};
use crate::vm::Vm;

/// The shared memory of a VM, as vm-memory's traits know it: virtio-queue and the front ends of vhost-user take it as it is.
///
/// Private memory is not in it. An access there is vm-memory's
/// [`InvalidGuestAddress`](vm_memory::GuestMemoryError::InvalidGuestAddress), not a SIGBUS; a guest whose driver puts its queues there
/// has no restricted DMA pool, or does not use it.
pub type SharedMemory = GuestMemoryMmap<()>;

/// The shared memory that `vm` has been given so far. Any phase; take it when all memory is given.
///
/// It keeps the memory mapped as long as it exists, also beyond the VM's end.
///
/// ```
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
/// # use vmm_adapter::{Hypervisor, Sharing, VmConfig, VmKind};
/// # #[cfg(feature = "gunyah")]
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let fake = fake_gunyah::Fake::builder().flavour(fake_gunyah::Flavour::Android14).build()?;
/// # fake.run(|_| -> Result<(), vmm_adapter::Error> {
/// let vm = vmm_adapter::gunyah::Gunyah::open()?.create_vm(&VmConfig::new(1).with_kind(VmKind::Protected))?;
/// vm.allocate(GuestAddress(0x8000_0000), 4 << 20, Sharing::Private)?;
/// vm.allocate(GuestAddress(0x8040_0000), 2 << 20, Sharing::Shared)?;
///
/// let memory = vmm_adapter::shared_memory(&*vm)?;
/// assert_eq!(memory.num_regions(), 1);
/// assert!(memory.write_obj(1_u32, GuestAddress(0x8040_0000)).is_ok());
/// assert!(memory.write_obj(1_u32, GuestAddress(0x8000_0000)).is_err());
/// # Ok(())
/// # })??;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "gunyah"))]
/// # fn main() {}
/// ```
///
/// # Errors
/// [`Memory`](crate::Error::Memory): vm-memory refuses the regions, which must not overlap.
pub fn shared_memory(vm: &dyn Vm) -> Result<SharedMemory> {
    let mut regions: Vec<_> = vm.memory().iter().filter_map(|region| region.shared()).collect();
    regions.sort_by_key(|region| region.start_addr());
    let Some(first) = regions.first().map(|region| region.start_addr().0) else {
        return Ok(SharedMemory::new());
    };
    let size = regions.iter().fold(0, |sum: u64, region| sum.saturating_add(region.len()));
    SharedMemory::from_arc_regions(regions).map_err(|source| Error::Memory {
        addr: first,
        size,
        source: Box::new(source),
    })
}

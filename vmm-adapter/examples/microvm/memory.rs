//! The guest's memory.

use vm_memory::GuestAddress;
use vmm_adapter::{Backend, Feature, MemoryRegion, Prepare, Sharing, Vm};

use crate::error::Result;
use crate::layout;

/// Gives the guest `size` bytes, in regions as large as the host takes them. Gives the first, in which payload and devicetree must
/// be. With `prepare` all of it is there, in large pages if the host has them, before it is given away.
pub(crate) fn give(vm: &dyn Vm, size: u64, sharing: Sharing, prepare: bool) -> Result<MemoryRegion> {
    let own = vm.capabilities().has(Feature::OwnMemory);
    // Gunyah locks what it gets from this process: at once, or page by page until the limit ends the guest.
    let locks = own && vm.capabilities().backend() == Backend::Gunyah;
    let regions = vm.allocate_chunks(GuestAddress(layout::RAM), size, sharing, |region| {
        if prepare {
            return make_ready(region, if locks { size } else { 0 });
        }
        region.advise_huge_pages();
        Ok(())
    })?;
    match regions.into_iter().next() {
        Some(main) => Ok(main),
        // Never: there are no chunks of nothing.
        None => Ok(vm.allocate(GuestAddress(layout::RAM), size, sharing)?),
    }
}

fn make_ready(region: &MemoryRegion, locks: u64) -> vmm_adapter::Result<()> {
    let how = if locks > 0 { Prepare::locking(locks) } else { Prepare::default() };
    // A line for each quarter, of what takes long.
    let mut told = 0;
    let prepared = region.prepare(&how, |done, size| {
        let quarter = done.saturating_mul(4) / size.max(1);
        if size >= 1 << 30 && quarter > told && quarter < 4 {
            told = quarter;
            eprintln!("microvm: preparing memory: {} %", 25 * quarter);
        }
    })?;
    eprintln!(
        "microvm: memory at {:#x}: {} MiB ready, {} % in large pages",
        region.addr().0,
        prepared.size >> 20,
        prepared.coverage()
    );
    Ok(())
}

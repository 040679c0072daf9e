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
    let mut main = None;
    let mut done = 0;
    while done < size {
        let addr = GuestAddress(layout::RAM.saturating_add(done));
        let piece = size.saturating_sub(done).min(vm.largest_region());
        let ready = |region: &MemoryRegion| -> Result<()> {
            if prepare {
                make_ready(region, if locks { size } else { 0 })
            } else {
                region.welcome_huge_pages();
                Ok(())
            }
        };
        let region = if own {
            let region = MemoryRegion::new(addr, piece, sharing)?;
            ready(&region)?;
            vm.map(&region)?;
            region
        } else {
            let region = vm.allocate(addr, piece, sharing)?;
            ready(&region)?;
            region
        };
        done = done.saturating_add(piece);
        main.get_or_insert(region);
    }
    // A guest without memory was refused before.
    match main {
        Some(main) => Ok(main),
        None => Ok(vm.allocate(GuestAddress(layout::RAM), size, sharing)?),
    }
}

fn make_ready(region: &MemoryRegion, locks: u64) -> Result<()> {
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

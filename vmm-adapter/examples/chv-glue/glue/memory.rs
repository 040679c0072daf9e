//! A raw pointer becomes a region.
#![expect(unsafe_code, reason = "Cloud Hypervisor gives memory as a raw pointer")]

use anyhow::{Context, bail};
use vm_memory::{GuestAddress, GuestRegionMmap, MmapRegion};
use vmm_adapter::{MemoryRegion, Sharing};

/// The region at `userspace_addr`. Dropping it leaves the mapping alone.
///
/// # Safety
/// `userspace_addr .. + size` is mapped, and stays so as long as the region or a clone of it exists. No reference into it exists.
pub(super) unsafe fn region(
    guest_phys_addr: u64,
    size: usize,
    userspace_addr: *mut u8,
    readonly: bool,
    sharing: Sharing,
) -> anyhow::Result<MemoryRegion> {
    // Of the mapping vmm-adapter only looks at the flags, and only to take pages back from the guest, which these traits have no call
    // for.
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: the caller vouches for the mapping, which the new object does not own and does not unmap.
    let mapping = unsafe { MmapRegion::build_raw(userspace_addr, size, prot, flags) }?;
    let mapping = GuestRegionMmap::new(mapping, GuestAddress(guest_phys_addr))
        .with_context(|| format!("{guest_phys_addr:#x} + {size:#x} goes beyond the last address"))?;
    let region = MemoryRegion::from_mmap(mapping, sharing)?;
    Ok(if readonly { region.read_only() } else { region })
}

/// Who sees the memory at this guest address.
pub(super) fn sharing(
    protected: bool,
    pool: Option<(u64, u64)>,
    addr: u64,
    size: u64,
) -> anyhow::Result<Sharing> {
    let Some((pool, pool_size)) = pool.filter(|_| protected) else {
        return Ok(if protected { Sharing::Private } else { Sharing::Shared });
    };
    let (end, pool_end) = (addr.saturating_add(size), pool.saturating_add(pool_size));
    if end <= pool || pool_end <= addr {
        Ok(Sharing::Private)
    } else if pool <= addr && end <= pool_end {
        Ok(Sharing::Shared)
    } else {
        bail!(
            "{addr:#x} + {size:#x} is in part in the DMA pool at {pool:#x} + {pool_size:#x}, and memory is lent or shared as a \
             whole: make the pool a region of its own"
        )
    }
}

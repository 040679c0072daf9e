//! Guest memory, and who may touch it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
    ReadVolatile,
};

use crate::error::{Error, Result};
use crate::phase::Phase;
use crate::sys::page_size;

/// What memory is cut into pieces of: the size of the large pages that hypervisors like.
pub(crate) const PIECE: u64 = 2 << 20;

/// Who sees a piece of guest memory while the VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Host and guest.
    Shared,
    /// The guest alone: the host loses it at [`Vm::start`](crate::Vm::start) (Gunyah says lent).
    Private,
}

/// One piece of guest memory, mapped in this process.
///
/// A clone is the same memory. The mapping lives as long as anything uses it, a VM included, so giving memory to a VM
/// is safe.
///
/// Private memory is reached through [`MemoryRegion::write`] and [`MemoryRegion::read`] only, and only until the VM starts:
/// afterwards they fail, where a pointer into it would end the process. There is no [`MemoryRegion::shared`] view of it
/// to hand to a device.
///
/// ```
/// use vm_memory::{GuestAddress, GuestMemoryRegion};
/// use vmm_adapter::{MemoryRegion, Sharing};
/// let ram = MemoryRegion::new(GuestAddress(0x8000_0000), 2 << 20, Sharing::Shared)?;
/// ram.write(GuestAddress(0x8000_0000), b"payload")?;
/// assert_eq!(ram.shared().unwrap().len(), 2 << 20);
/// # Ok::<(), vmm_adapter::Error>(())
/// ```
#[derive(Clone)]
pub struct MemoryRegion {
    addr: GuestAddress,
    size: u64,
    sharing: Sharing,
    writable: bool,
    host: Arc<RwLock<Host>>,
}

/// The host's side of a region.
#[derive(Debug)]
struct Host {
    /// `None` when private memory had to be unmapped for the start.
    mapping: Option<Arc<GuestRegionMmap>>,
    lent: bool,
}

impl MemoryRegion {
    /// Fresh memory, filled with zeros.
    ///
    /// # Errors
    /// - [`Error::InvalidArgument`]: `addr` or `size` is no multiple of the host's page size, `size` is 0, or the region
    ///   goes beyond the last address.
    /// - [`Error::Memory`]: the host has not that much.
    pub fn new(addr: GuestAddress, size: u64, sharing: Sharing) -> Result<Self> {
        const OP: &str = "MemoryRegion::new";
        check_geometry(OP, addr, size)?;
        let len =
            usize::try_from(size).map_err(|_| Error::invalid(OP, format!("{size:#x} bytes are too many")))?;
        let mapping = GuestRegionMmap::from_range(addr, len, None).map_err(|source| Error::Memory {
            addr: addr.0,
            size,
            source: Box::new(source),
        })?;
        Ok(Self::with_mapping(addr, size, sharing, mapping))
    }

    /// Memory that the caller has mapped, a file's for example.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: address, size or the host's address are no multiples of the page size; or the region
    /// is to be private and somebody else holds its mapping.
    pub fn from_mmap(mapping: GuestRegionMmap, sharing: Sharing) -> Result<Self> {
        const OP: &str = "MemoryRegion::from_mmap";
        let (addr, size) = (mapping.start_addr(), mapping.len());
        check_geometry(OP, addr, size)?;
        if mapping.as_ptr() as u64 % page_size() != 0 {
            return Err(Error::invalid(OP, "the host's address is not aligned to a page"));
        }
        // One count is the region's own, one is what asking takes.
        if sharing == Sharing::Private && Arc::strong_count(&mapping.get_mmap()) > 2 {
            return Err(Error::invalid(OP, "memory cannot become private while others hold its mapping"));
        }
        Ok(Self::with_mapping(addr, size, sharing, mapping))
    }

    fn with_mapping(addr: GuestAddress, size: u64, sharing: Sharing, mapping: GuestRegionMmap) -> Self {
        let host = Host { mapping: Some(Arc::new(mapping)), lent: false };
        Self { addr, size, sharing, writable: true, host: Arc::new(RwLock::new(host)) }
    }

    /// The same memory, but a VM that it is given to may not write it
    /// ([`Feature::ReadOnlyMemory`](crate::Feature::ReadOnlyMemory)).
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.writable = false;
        self
    }

    /// The first guest address.
    pub fn addr(&self) -> GuestAddress {
        self.addr
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Who sees it while the VM runs.
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// Whether the guest may write it.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether the guest addresses `addr .. addr + size` all lie in it.
    pub fn contains(&self, addr: GuestAddress, size: u64) -> bool {
        let offset = addr.0.checked_sub(self.addr.0);
        offset.and_then(|offset| offset.checked_add(size)).is_some_and(|end| end <= self.size)
    }

    /// Whether the two share a guest address.
    pub fn overlaps(&self, other: &Self) -> bool {
        // No sum wraps: the geometry was checked.
        self.addr.0 < other.addr.0 + other.size && other.addr.0 < self.addr.0 + self.size
    }

    /// Writes to guest address `addr`.
    ///
    /// # Errors
    /// - [`Error::InvalidArgument`]: not all of it lies in this region.
    /// - [`Error::WrongState`]: the memory is private and its VM has started.
    pub fn write(&self, addr: GuestAddress, data: &[u8]) -> Result<()> {
        const OP: &str = "MemoryRegion::write";
        self.reach(OP, addr, data.len(), |mapping, offset| mapping.write_slice(data, offset))
    }

    /// Fills `len` bytes from guest address `addr` on by `source`, a file for example, without a copy in between.
    ///
    /// # Errors
    /// As [`MemoryRegion::write`], and [`Error::InvalidArgument`] when `source` fails or has not that much.
    pub fn read_from(&self, addr: GuestAddress, source: &mut impl ReadVolatile, len: usize) -> Result<()> {
        const OP: &str = "MemoryRegion::read_from";
        self.reach(OP, addr, len, |mapping, offset| mapping.read_exact_volatile_from(offset, source, len))
    }

    /// Reads from guest address `addr`.
    ///
    /// # Errors
    /// As [`MemoryRegion::write`].
    pub fn read(&self, addr: GuestAddress, data: &mut [u8]) -> Result<()> {
        const OP: &str = "MemoryRegion::read";
        self.reach(OP, addr, data.len(), |mapping, offset| mapping.read_slice(data, offset))
    }

    /// The view that devices get: shared memory as vm-memory knows it. `None` for private memory.
    pub fn shared(&self) -> Option<Arc<GuestRegionMmap>> {
        if self.sharing == Sharing::Shared { self.lock().mapping.clone() } else { None }
    }

    /// Does `access` while the host can still reach the memory; the lock keeps it reachable.
    fn reach(
        &self,
        op: &'static str,
        addr: GuestAddress,
        len: usize,
        access: impl FnOnce(&GuestRegionMmap, MemoryRegionAddress) -> Result<(), GuestMemoryError>,
    ) -> Result<()> {
        if !self.contains(addr, len as u64) {
            let why = format!("{:#x} + {len:#x} is not within {:#x} + {:#x}", addr.0, self.addr.0, self.size);
            return Err(Error::invalid(op, why));
        }
        let host = self.lock();
        match &host.mapping {
            Some(mapping) if !host.lent => {
                let offset = MemoryRegionAddress(addr.0.saturating_sub(self.addr.0));
                access(mapping, offset).map_err(|error| Error::invalid(op, error.to_string()))
            }
            _ => Err(Error::WrongState { op, phase: Phase::Running }),
        }
    }

    /// The mapping, while the host can reach it.
    pub(crate) fn mapping(&self) -> Option<Arc<GuestRegionMmap>> {
        let host = self.lock();
        if host.lent { None } else { host.mapping.clone() }
    }

    fn lock(&self) -> RwLockReadGuard<'_, Host> {
        // Nothing that could panic runs under the write lock.
        self.host.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host loses private memory from here on. Waits for accesses that are under way.
    ///
    /// With `unmap` the mapping goes away too: some kernels refuse to lend what the host has mapped.
    #[cfg(any(test, feature = "gunyah"))]
    pub(crate) fn close_to_host(&self, unmap: bool) {
        if self.sharing == Sharing::Private {
            let mut host = self.host.write().unwrap_or_else(PoisonError::into_inner);
            host.lent = true;
            if unmap {
                host.mapping = None;
            }
        }
    }

    /// Frees the pages of a piece, after which they read as zeros. For memory that the hypervisor has just taken back from a
    /// guest; nothing is touched, so that it may be private memory.
    #[cfg(any(feature = "gunyah", feature = "kvm"))]
    pub(crate) fn discard(&self, op: &'static str, offset: u64, size: u64) -> Result<()> {
        let host = self.lock();
        let Some(mapping) = &host.mapping else { return Ok(()) };
        crate::sys::discard(mapping, offset, size)
            .map_err(|source| Error::Backend { op, source: Box::new(source) })
    }

    /// The host's address of the first byte; `None` once it is unmapped.
    #[cfg(any(feature = "gunyah", feature = "kvm"))]
    pub(crate) fn host_addr(&self) -> Option<u64> {
        self.lock().mapping.as_ref().map(|mapping| mapping.as_ptr() as u64)
    }
}

impl fmt::Debug for MemoryRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.writable { "" } else { ", read-only" };
        write!(f, "MemoryRegion({:#x} + {:#x}, {:?}{access})", self.addr.0, self.size, self.sharing)
    }
}

/// Whether a region can have this place and size.
pub(crate) fn check_geometry(op: &'static str, addr: GuestAddress, size: u64) -> Result<()> {
    let page = page_size();
    if size == 0 {
        return Err(Error::invalid(op, format!("the region at {:#x} has no bytes", addr.0)));
    }
    if addr.0 % page != 0 || size % page != 0 {
        let why = format!("{:#x} + {size:#x} is not aligned to the page size of {page} bytes", addr.0);
        return Err(Error::invalid(op, why));
    }
    if addr.0.checked_add(size).is_none() {
        return Err(Error::invalid(op, format!("{:#x} + {size:#x} goes beyond the last address", addr.0)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: GuestAddress = GuestAddress(0x8000_0000);

    fn region(sharing: Sharing) -> MemoryRegion {
        MemoryRegion::new(BASE, 0x1_0000, sharing).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_seen_by_devices() {
        let ram = region(Sharing::Shared);
        ram.write(GuestAddress(BASE.0 + 0xfffc), &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 4];
        ram.clone().read(GuestAddress(BASE.0 + 0xfffc), &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
        let view = ram.shared().unwrap();
        assert_eq!(view.read_obj::<u32>(MemoryRegionAddress(0xfffc)).unwrap(), u32::from_ne_bytes(back));
    }

    #[test]
    fn a_source_is_read_as_far_as_asked() {
        let ram = region(Sharing::Private);
        let mut source = &[1, 2, 3, 4, 5][..];
        ram.read_from(BASE, &mut source, 3).unwrap();
        let mut back = [9; 4];
        ram.read(BASE, &mut back).unwrap();
        assert_eq!((back, source), ([1, 2, 3, 0], &[4, 5][..]));
        assert!(ram.read_from(BASE, &mut source, 3).is_err(), "it has not that much");
        assert!(ram.read_from(GuestAddress(BASE.0 + 0xffff), &mut &[1, 2][..], 2).is_err());
        ram.close_to_host(false);
        assert!(matches!(ram.read_from(BASE, &mut &[1][..], 1), Err(Error::WrongState { .. })));
    }

    #[test]
    fn nothing_outside_is_reached() {
        let ram = region(Sharing::Shared);
        for addr in [BASE.0 - 1, BASE.0 + 0xfffd, 0, u64::MAX] {
            let error = ram.write(GuestAddress(addr), &[0; 4]).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        }
    }

    #[test]
    fn private_memory_is_out_of_reach_after_the_start() {
        let ram = region(Sharing::Private);
        ram.write(BASE, &[1]).unwrap();
        assert!(ram.shared().is_none());
        ram.close_to_host(false);
        assert!(matches!(ram.write(BASE, &[1]), Err(Error::WrongState { .. })));
        assert!(matches!(ram.clone().read(BASE, &mut [0]), Err(Error::WrongState { .. })));

        let shared = region(Sharing::Shared);
        shared.close_to_host(true);
        shared.write(BASE, &[1]).unwrap();
    }

    #[test]
    fn private_memory_has_one_holder() {
        let mapping = GuestRegionMmap::from_range(BASE, 0x1_0000, None).unwrap();
        let held = mapping.get_mmap();
        let error = MemoryRegion::from_mmap(mapping, Sharing::Private).unwrap_err();
        assert!(error.to_string().contains("others hold"), "{error}");
        let again = GuestRegionMmap::with_arc(held, BASE).unwrap();
        MemoryRegion::from_mmap(again, Sharing::Private).unwrap();
    }

    #[test]
    fn geometry_is_checked() {
        let why = |addr, size| {
            MemoryRegion::new(GuestAddress(addr), size, Sharing::Shared).unwrap_err().to_string()
        };
        assert!(why(0, 0).contains("no bytes"));
        assert!(why(0x800, 0x1_0000).contains("not aligned"));
        assert!(why(0x1_0000, 0x1_0001).contains("not aligned"));
        assert!(why(u64::MAX - 0xffff, 0x1_0000).contains("beyond the last address"));
        assert!(why(0, 1 << 62).contains("cannot map"));
    }

    #[test]
    fn overlaps_are_seen() {
        let at = |addr| MemoryRegion::new(GuestAddress(addr), 0x2_0000, Sharing::Shared).unwrap();
        assert!(at(0x10_0000).overlaps(&at(0x11_0000)));
        assert!(at(0x11_0000).overlaps(&at(0x10_0000)));
        assert!(!at(0x10_0000).overlaps(&at(0x12_0000)));
    }
}

//! Getting guest memory ready before it is given away, while something can still be done.

use std::fs;
use std::io;

use vm_memory::GuestRegionMmap;

use crate::error::{Error, Result};
use crate::memory::{MemoryRegion, PIECE};
use crate::phase::Phase;
use crate::sys::{self, Advice};

/// How much to do between two calls of a progress report.
const BATCH: u64 = 64 << 20;

/// What [`MemoryRegion::prepare`] is to do.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// Ask for pages of 2 MiB, and move what is there to such pages.
    pub huge_pages: bool,
    /// Bytes that all of the guest's memory together will lock: [`Error::LockedMemory`] if this process may not. 0: not checked.
    ///
    /// Gunyah up to android14 locks a region when it is given, android15 and android16 page by page as the guest touches it, where
    /// the limit ends the guest under load. v17 and KVM lock nothing.
    pub locks: u64,
    /// Raise the soft limit to the hard one where that is enough for `locks`.
    pub raise_limit: bool,
}

impl Default for Prepare {
    /// Large pages, and no check of the limit.
    fn default() -> Self {
        Self { huge_pages: true, locks: 0, raise_limit: false }
    }
}

impl Prepare {
    /// Large pages, and a check that this process may lock `bytes`, for which it raises its limit if it can.
    pub fn locking(bytes: u64) -> Self {
        Self { locks: bytes, raise_limit: true, ..Self::default() }
    }
}

/// What memory is like after [`MemoryRegion::prepare`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The region's size in bytes. All of it is there.
    pub size: u64,
    /// Bytes of it in pages of 2 MiB, as the kernel counts them for the mappings in which the region lies.
    pub huge: u64,
}

impl Prepared {
    /// The part in large pages, in percent.
    pub fn coverage(&self) -> u8 {
        u8::try_from(self.huge.saturating_mul(100) / self.size.max(1)).unwrap_or(100).min(100)
    }
}

impl MemoryRegion {
    /// Tells the host that large pages are welcome, for whatever of the memory is touched from now on. It costs nothing: no page is
    /// provided for it, and a host without large pages takes no notice. [`MemoryRegion::prepare`] does more.
    pub fn advise_huge_pages(&self) {
        if let Some(mapping) = self.mapping() {
            let _ = sys::prepare(&mapping, 0, self.size(), Advice::HugePages);
        }
    }

    /// Has the host provide every page now, large ones if it can, before a call that cannot be taken back. What is in the memory
    /// stays.
    ///
    /// A guest that is made of pages of 4 KiB needs five hundred times the page tables, of which the hypervisor has few: on phones
    /// such guests were seen to die under load, with much memory free on the host. `progress` gets the bytes done and the size.
    ///
    /// Call it before [`Vm::map`](crate::Vm::map): some kernels lock the pages there. It is slow where the host has to make room.
    ///
    /// ```
    /// use vm_memory::GuestAddress;
    /// use vmm_adapter::{MemoryRegion, Prepare, Sharing};
    /// let ram = MemoryRegion::new(GuestAddress(0x8000_0000), 4 << 20, Sharing::Shared)?;
    /// let prepared = ram.prepare(&Prepare::default(), |done, size| println!("{done} of {size} bytes"))?;
    /// println!("{} % in large pages", prepared.coverage());
    /// # Ok::<(), vmm_adapter::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::LockedMemory`]: this process may not lock as much as [`Prepare::locks`] says.
    /// - [`Error::Memory`]: the host has not that much.
    /// - [`Error::WrongState`]: the memory is private and its VM has started.
    pub fn prepare(&self, how: &Prepare, mut progress: impl FnMut(u64, u64)) -> Result<Prepared> {
        const OP: &str = "MemoryRegion::prepare";
        check_limit(how)?;
        let mapping = self.mapping().ok_or(Error::WrongState { op: OP, phase: Phase::Running })?;
        let size = self.size();
        let refused = |error: io::Error| Error::Memory { addr: self.addr().0, size, source: error.into() };
        if how.huge_pages {
            // A wish: hosts without large pages refuse it, and the report tells.
            let _ = sys::prepare(&mapping, 0, size, Advice::HugePages);
        }
        let mut done = 0;
        while done < size {
            let batch = BATCH.min(size.saturating_sub(done));
            sys::prepare(&mapping, done, batch, Advice::Populate).map_err(refused)?;
            if how.huge_pages {
                collapse(&mapping, done, batch);
            }
            done = done.saturating_add(batch);
            progress(done, size);
        }
        Ok(Prepared { size, huge: huge_bytes(&mapping, size) })
    }
}

/// Moves each large piece that is not in a large page yet. Older kernels cannot, and busy ones may not: the report tells.
fn collapse(mapping: &GuestRegionMmap, start: u64, size: u64) {
    let base = mapping.as_ptr() as u64;
    let end = start.saturating_add(size);
    // Pieces are aligned in this process's addresses.
    let mut at = base.saturating_add(start).next_multiple_of(PIECE).saturating_sub(base);
    while at.saturating_add(PIECE) <= end {
        if sys::prepare(mapping, at, PIECE, Advice::Collapse)
            .is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
        {
            return;
        }
        at = at.saturating_add(PIECE);
    }
}

fn check_limit(how: &Prepare) -> Result<()> {
    if how.locks == 0 || may_lock_anything() {
        return Ok(());
    }
    let limits = sys::memlock_limits().map_err(limits_failed)?;
    let (soft, hard) = limits;
    if soft >= how.locks {
        return Ok(());
    }
    if how.raise_limit && hard >= how.locks {
        return sys::raise_memlock(hard).map_err(limits_failed);
    }
    Err(Error::LockedMemory { need: how.locks, limit: if how.raise_limit { hard } else { soft } })
}

fn limits_failed(source: io::Error) -> Error {
    Error::Backend { op: "MemoryRegion::prepare", source: Box::new(source) }
}

/// Whether this process has CAP_IPC_LOCK, by which the limit does not bind it.
fn may_lock_anything() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|caps| caps >> CAP_IPC_LOCK & 1 == 1)
}

/// The bytes in large pages of the mappings that a mapping of `size` bytes lies in.
fn huge_bytes(mapping: &GuestRegionMmap, size: u64) -> u64 {
    let start = mapping.as_ptr() as u64;
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    in_large_pages(&smaps, start, start.saturating_add(size)).min(size)
}

/// Sums up what `/proc/self/smaps` says of mappings that have an address in `start .. end`.
fn in_large_pages(smaps: &str, start: u64, end: u64) -> u64 {
    const KINDS: [&str; 3] = ["AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:"];
    let (mut inside, mut kib) = (false, 0_u64);
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        let range = first.split_once('-').and_then(|(from, to)| {
            Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
        });
        if let Some((from, to)) = range {
            inside = from < end && start < to;
        } else if inside && KINDS.contains(&first) {
            let number = line.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok());
            kib = kib.saturating_add(number.unwrap_or(0));
        }
    }
    kib.saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::memory::Sharing;

    const BASE: GuestAddress = GuestAddress(0x8000_0000);

    #[test]
    fn large_pages_are_a_wish_that_leaves_memory_alone() {
        let ram = MemoryRegion::new(BASE, 6 << 20, Sharing::Shared).unwrap();
        ram.write(BASE, b"payload").unwrap();
        ram.advise_huge_pages();
        let mut back = [0; 7];
        ram.read(BASE, &mut back).unwrap();
        assert_eq!(&back, b"payload");
        let start = ram.mapping().unwrap().as_ptr() as u64;
        // Where the kernel can, the mapping has the flag.
        if fs::metadata("/sys/kernel/mm/transparent_hugepage").is_ok() {
            let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
            let mut inside = false;
            let flagged = smaps.lines().any(|line| {
                if let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
                    if let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)) {
                        inside = from <= start && start < to;
                    }
                }
                inside && line.starts_with("VmFlags:") && line.contains(" hg")
            });
            assert!(flagged);
        }
    }

    #[test]
    fn memory_is_there_and_keeps_what_was_in_it() {
        let size = 6 << 20;
        let ram = MemoryRegion::new(BASE, size, Sharing::Private).unwrap();
        ram.write(BASE, b"payload").unwrap();
        let mut reports = Vec::new();
        let prepared = ram.prepare(&Prepare::default(), |done, of| reports.push((done, of))).unwrap();
        assert_eq!(prepared.size, size);
        assert!(prepared.huge <= size && prepared.coverage() <= 100);
        assert_eq!(reports, [(size, size)]);
        let mut back = [0; 7];
        ram.read(BASE, &mut back).unwrap();
        assert_eq!(&back, b"payload");
        // mincore would do as well: every page is resident.
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(smaps.lines().filter_map(|line| line.strip_prefix("Rss:")).any(|rss| {
            rss.trim().trim_end_matches(" kB").parse::<u64>().is_ok_and(|kib| kib * 1024 >= size)
        }));
        ram.close_to_host(true);
        assert!(matches!(ram.prepare(&Prepare::default(), |_, _| {}), Err(Error::WrongState { .. })));
    }

    #[test]
    fn a_batch_is_reported_as_it_is_done() {
        let ram = MemoryRegion::new(BASE, BATCH + (2 << 20), Sharing::Shared).unwrap();
        let mut reports = Vec::new();
        let how = Prepare { huge_pages: false, ..Prepare::default() };
        ram.prepare(&how, |done, _| reports.push(done)).unwrap();
        assert_eq!(reports, [BATCH, BATCH + (2 << 20)]);
    }

    #[test]
    fn large_pages_are_counted_for_the_mapping_alone() {
        let smaps = "7f0000000000-7f0000400000 rw-p 00000000 00:00 0 \nRss:  4096 kB\nAnonHugePages:      2048 kB\n\
                     ShmemPmdMapped:        0 kB\n7f0000400000-7f0000800000 rw-s 00000000 00:01 9 /memfd:x (deleted)\n\
                     AnonHugePages:         0 kB\nShmemPmdMapped:     4096 kB\nFilePmdMapped:    0 kB\n";
        assert_eq!(in_large_pages(smaps, 0x7f00_0000_0000, 0x7f00_0040_0000), 2 << 20);
        assert_eq!(in_large_pages(smaps, 0x7f00_0030_0000, 0x7f00_0050_0000), 6 << 20);
        assert_eq!(in_large_pages(smaps, 0x1000, 0x2000), 0);
        assert_eq!(in_large_pages("nonsense", 0, u64::MAX), 0);
        assert_eq!(Prepared { size: 4 << 20, huge: 2 << 20 }.coverage(), 50);
    }
}

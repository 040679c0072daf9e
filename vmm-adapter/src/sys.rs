//! What std does not offer: the page size, and advice about mappings.
#![expect(unsafe_code, reason = "calls into the C library")]

use std::io;

use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

/// The size of a page of this host in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: sysconf reads a constant of the process and takes no pointer.
    let answer = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // Linux always knows its page size; the smallest one there is stands in for an answer that cannot come.
    u64::try_from(answer).unwrap_or(4096)
}

/// Frees the pages of a piece of a mapping, which is not touched.
#[cfg(any(feature = "gunyah", feature = "kvm"))]
pub(crate) fn discard(mapping: &GuestRegionMmap, offset: u64, size: u64) -> io::Result<()> {
    // The pages of a file, whoever else has it mapped; or those of this process alone.
    let shared = mapping.flags() & libc::MAP_SHARED != 0;
    let advice = if shared { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
    advise(mapping, offset, size, advice)
}

/// What the kernel may be told about guest memory without harm to whoever uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Large pages are welcome.
    HugePages,
    /// Every page is to be there, as if it had been written to (Linux 5.14).
    Populate,
    /// What is there is to be moved to large pages (Linux 6.1).
    Collapse,
}

/// Gives advice about a piece of a mapping, whose contents stay.
pub(crate) fn prepare(mapping: &GuestRegionMmap, offset: u64, size: u64, advice: Advice) -> io::Result<()> {
    // The last one is newer than some C libraries.
    const MADV_COLLAPSE: libc::c_int = 25;
    let advice = match advice {
        Advice::HugePages => libc::MADV_HUGEPAGE,
        Advice::Populate => libc::MADV_POPULATE_WRITE,
        Advice::Collapse => MADV_COLLAPSE,
    };
    advise(mapping, offset, size, advice)
}

fn advise(mapping: &GuestRegionMmap, offset: u64, size: u64, advice: libc::c_int) -> io::Result<()> {
    let outside = || io::Error::from(io::ErrorKind::InvalidInput);
    if offset.checked_add(size).is_none_or(|end| end > mapping.len()) {
        return Err(outside());
    }
    let at = usize::try_from(offset).map_err(|_| outside())?;
    let len = usize::try_from(size).map_err(|_| outside())?;
    // SAFETY: the range lies in the mapping, which is borrowed. It is guest memory: no Rust reference to it exists, and whoever
    // accesses it does so by volatile accesses and expects it to change at any time.
    match unsafe { libc::madvise(mapping.as_ptr().wrapping_add(at).cast(), len, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How much memory this process may lock: the soft and the hard limit in bytes.
pub(crate) fn memlock_limits() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the struct, which lives across the call.
    match unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } {
        0 => Ok((limit.rlim_cur, limit.rlim_max)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raises the soft limit to the hard one.
pub(crate) fn raise_memlock(hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: the struct lives across the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

//! Where this process maps memory of guests.
#![expect(unsafe_code, reason = "maps memory")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::errno::Errno;

/// A range of addresses of this process. Nothing here has a reference into it.
#[derive(Debug)]
pub(super) struct Window {
    base: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the range belongs to no thread.
unsafe impl Send for Window {}
// SAFETY: as above; all methods are system calls.
unsafe impl Sync for Window {}

impl Window {
    /// A range where nothing can be accessed yet.
    pub(super) fn reserve(len: u64) -> Result<Self, Errno> {
        let len = usize::try_from(len).map_err(|_| Errno::ENOMEM)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        NonNull::new(base).map(|base| Self { base, len }).ok_or(Errno::ENOMEM)
    }

    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// The address of a part of it, if it lies inside.
    fn part(&self, at: u64, len: u64) -> Result<(*mut libc::c_void, usize), Errno> {
        let (at, len) = (usize::try_from(at).ok(), usize::try_from(len).ok());
        let (Some(at), Some(len)) = (at, len) else { return Err(Errno::EFAULT) };
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Errno::EFAULT);
        }
        Ok((self.base.as_ptr().wrapping_byte_add(at), len))
    }

    /// Shows a part of a file at `at`.
    pub(super) fn map(
        &self,
        at: u64,
        len: u64,
        file: BorrowedFd<'_>,
        offset: u64,
        writable: bool,
    ) -> Result<(), Errno> {
        let (place, len) = self.part(at, len)?;
        let prot = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: the range is a part of this window, where nobody has references.
        let mapped = unsafe { libc::mmap(place, len, prot, flags, file.as_raw_fd(), offset) };
        if mapped == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // A forked child must not keep the guest's memory. Failing that costs only memory.
        // SAFETY: as above.
        unsafe { libc::madvise(place, len, libc::MADV_DONTFORK) };
        Ok(())
    }

    /// Makes a part inaccessible, or accessible again.
    pub(super) fn protect(&self, at: u64, len: u64, accessible: bool) {
        let prot = if accessible { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
        if let Ok((place, len)) = self.part(at, len) {
            // SAFETY: the range is a part of this window, where nobody has references.
            unsafe { libc::mprotect(place, len, prot) };
        }
    }

    /// Takes the pages of a part out of the page table; the file keeps them.
    pub(super) fn unmap_pages(&self, at: u64, len: u64) {
        if let Ok((place, len)) = self.part(at, len) {
            // SAFETY: the range is a part of this window, a shared mapping of a file.
            unsafe { libc::madvise(place, len, libc::MADV_DONTNEED) };
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the range is ours alone.
        unsafe { libc::munmap(self.base.as_ptr(), self.len) };
    }
}

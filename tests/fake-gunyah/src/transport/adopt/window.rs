//! Where this process maps memory of guests.
#![expect(unsafe_code, reason = "maps memory")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::errno::Errno;

/// What the largest pages that a guest can have without asking are aligned to.
const HUGE_PAGE: usize = 2 << 20;

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
        Self::anonymous(len, libc::PROT_NONE)
    }

    /// A range of memory that is in no file, filled with zeros.
    pub(super) fn memory(len: u64) -> Result<Self, Errno> {
        let window = Self::anonymous(len, libc::PROT_READ | libc::PROT_WRITE)?;
        window.advise(libc::MADV_DONTFORK);
        Ok(window)
    }

    /// Aligned to a huge page, which guest memory is as well: only then can the guest have whole ones.
    fn anonymous(len: u64, prot: libc::c_int) -> Result<Self, Errno> {
        let len = usize::try_from(len).map_err(|_| Errno::ENOMEM)?;
        let room = len.checked_add(HUGE_PAGE).ok_or(Errno::ENOMEM)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), room, prot, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let before = base.align_offset(HUGE_PAGE);
        let rest = base.wrapping_byte_add(before + len);
        // SAFETY: both pieces are parts of the mapping just made. What stays is a window of its own.
        unsafe {
            if before > 0 {
                libc::munmap(base, before);
            }
            libc::munmap(rest, room - before - len);
        }
        let base = NonNull::new(base.wrapping_byte_add(before)).ok_or(Errno::ENOMEM)?;
        Ok(Self { base, len })
    }

    /// Huge pages, please. Not getting them costs only time.
    pub(super) fn want_huge_pages(&self) {
        self.advise(libc::MADV_HUGEPAGE);
    }

    fn advise(&self, advice: libc::c_int) {
        // SAFETY: the range is this window.
        unsafe { libc::madvise(self.base.as_ptr(), self.len, advice) };
    }

    /// Fills a part with a part of a file.
    pub(super) fn read_from(
        &self,
        at: u64,
        len: u64,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<(), Errno> {
        let (mut place, mut left) = self.part(at, len)?;
        let mut offset = libc::off_t::try_from(offset).map_err(|_| Errno::EINVAL)?;
        while left > 0 {
            // SAFETY: the range is a part of this window, where nobody has references.
            let n = unsafe { libc::pread(file.as_raw_fd(), place, left, offset) };
            let n = usize::try_from(n).map_err(|_| Errno::last())?;
            if n == 0 {
                return Err(Errno::EFAULT);
            }
            (place, left, offset) = (place.wrapping_byte_add(n), left - n, offset + n as libc::off_t);
        }
        Ok(())
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
        self.advise(libc::MADV_DONTFORK);
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

    /// Takes the pages of a part out of the page table. A file keeps them; memory that is in no file loses them.
    pub(super) fn unmap_pages(&self, at: u64, len: u64) {
        if let Ok((place, len)) = self.part(at, len) {
            // SAFETY: the range is a part of this window, where nobody has references.
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

//! The page that a vCPU's file shares with user space.
#![expect(unsafe_code, reason = "maps the page and accesses it while user space does")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::errno::Errno;

/// The first page of a file, mapped shared. User space may write any byte of it at any time, so there is never a
/// reference into it, and each byte that the driver needs is read once.
pub(crate) struct SharedPage {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread, and every access is volatile and bounds-checked.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Maps the first `len` bytes of a file, which must be that long.
    pub(crate) fn map(file: BorrowedFd<'_>, len: usize) -> Result<Self, Errno> {
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // A forked child must not keep the file alive through our mapping. Failing that costs only time.
        // SAFETY: the range is the mapping just made.
        unsafe { libc::madvise(base, len, libc::MADV_DONTFORK) };
        NonNull::new(base.cast()).map(|base| Self { base, len }).ok_or(Errno::ENOMEM)
    }

    /// Reads `buf.len()` bytes at `offset`; bytes beyond the page read as zero.
    pub(crate) fn read(&self, offset: usize, buf: &mut [u8]) {
        for (i, byte) in buf.iter_mut().enumerate() {
            let at = offset.saturating_add(i);
            // SAFETY: `at` is inside the mapping, which lives as long as `self`.
            *byte = if at < self.len { unsafe { self.base.add(at).read_volatile() } } else { 0 };
        }
    }

    /// Writes `data` at `offset`; bytes beyond the page are dropped.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            let at = offset.saturating_add(i);
            if at < self.len {
                // SAFETY: `at` is inside the mapping, which lives as long as `self`.
                unsafe { self.base.add(at).write_volatile(*byte) };
            }
        }
    }

    /// One byte.
    pub(crate) fn byte(&self, offset: usize) -> u8 {
        let mut byte = [0];
        self.read(offset, &mut byte);
        byte[0]
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody can use it after this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

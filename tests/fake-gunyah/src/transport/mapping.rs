//! Our own view of a file that stands for an object.
#![expect(unsafe_code, reason = "maps a file and unmaps it")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::errno::Errno;

/// A shared mapping of a file's first bytes, for as long as it is used.
///
/// It keeps the open file description that it was made from alive: as long as it exists, the last close of that one is
/// no event, whoever else has got a copy by a `fork`.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread; those who access its bytes do so by volatile or atomic accesses.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file, which must be that long. Of an empty file nothing can be accessed.
    pub(crate) fn new(file: BorrowedFd<'_>, len: usize) -> Result<Self, Errno> {
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len.max(1),
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
        unsafe { libc::madvise(base, len.max(1), libc::MADV_DONTFORK) };
        NonNull::new(base.cast()).map(|base| Self { base, len }).ok_or(Errno::ENOMEM)
    }

    /// The address of the first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes that may be accessed.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody can use it after this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len.max(1)) };
    }
}

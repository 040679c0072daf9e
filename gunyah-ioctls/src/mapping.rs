//! Memory mapped from a file descriptor, unmapped when dropped.
#![expect(unsafe_code, reason = "this file owns mmap and munmap")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// A shared, readable and writable mapping that belongs to this value.
///
/// It never hands out references: whoever uses it reads and writes through the raw pointer.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; the value only holds its address and length.
unsafe impl Send for Mapping {}
// SAFETY: a shared `Mapping` gives out no more than the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd` from `offset`.
    pub(crate) fn new(fd: BorrowedFd<'_>, offset: libc::off_t, len: usize) -> io::Result<Self> {
        // SAFETY: the kernel chooses the address, so no mapping of anybody else is replaced.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Self { start, len })
    }

    /// The address of the first byte.
    #[inline]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and belongs to this value; no references into it exist.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

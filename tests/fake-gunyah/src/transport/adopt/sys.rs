//! Files of memory: their content and their holes.
#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::errno::Errno;
use crate::transport::sys as host;

/// A file of memory of `len` bytes, all holes.
pub(super) fn memory_file(name: &CStr, len: u64) -> Result<OwnedFd, Errno> {
    let file = host::memfd(name)?;
    host::truncate(std::os::fd::AsFd::as_fd(&file), len)?;
    Ok(file)
}

/// Writes all of `data` at `offset`.
pub(super) fn write_at(file: BorrowedFd<'_>, data: &[u8], offset: u64) -> Result<(), Errno> {
    // SAFETY: the pointer and the length are those of a slice.
    let n =
        unsafe { libc::pwrite(file.as_raw_fd(), data.as_ptr().cast(), data.len(), offset as libc::off_t) };
    if n < 0 {
        return Err(Errno::last());
    }
    // Memory that has run out ends a write early.
    if n == data.len() as isize { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// The next stretch of content in a part of a file.
pub(super) fn next_content(file: BorrowedFd<'_>, within: Range<u64>) -> Option<Range<u64>> {
    let seek = |from: u64, whence| {
        // SAFETY: takes numbers. Nobody uses the file's position.
        let at = unsafe { libc::lseek(file.as_raw_fd(), from as libc::off_t, whence) };
        u64::try_from(at).ok()
    };
    let start = seek(within.start, libc::SEEK_DATA).filter(|start| *start < within.end)?;
    let end = seek(start, libc::SEEK_HOLE).unwrap_or(within.end).min(within.end);
    Some(start..end)
}

/// Frees a part of a file; it is a hole then.
pub(super) fn punch(file: BorrowedFd<'_>, range: Range<u64>) -> Result<(), Errno> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    host::fallocate(file, mode, range.start, range.end - range.start)
}

/// Fills the holes in a part of a file with zeros.
pub(super) fn fill(file: BorrowedFd<'_>, range: Range<u64>) -> Result<(), Errno> {
    host::fallocate(file, 0, range.start, range.end - range.start)
}

/// Whether a file is memory and nothing else: what a guest was lent is taken out of the file, which must not hit a disk.
pub(super) fn is_memory(file: BorrowedFd<'_>) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: fstatfs writes a whole structure when it succeeds, and zeros are one, too.
    let stat = unsafe {
        libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr());
        stat.assume_init()
    };
    #[allow(clippy::unnecessary_cast, reason = "the field's type differs between C libraries")]
    let kind = stat.f_type as i64;
    kind == TMPFS_MAGIC
}

/// Opens a path for reading and writing, or only for reading.
pub(super) fn open(path: &CStr) -> Result<OwnedFd, Errno> {
    host::open(path, 0).or_else(|_| {
        // SAFETY: the path ends in NUL.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        // SAFETY: the kernel has just made this descriptor for us.
        if fd < 0 { Err(Errno::last()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
    })
}

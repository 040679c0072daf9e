//! The few system calls that have no safe wrapper in the standard library.
#![expect(unsafe_code, reason = "this file owns the raw system calls of the doctor")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// The host's page size in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: no preconditions.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn check(answer: i64) -> io::Result<i64> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn own(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the caller has just got this descriptor from the kernel, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An ioctl that takes a number. The codes passed here are for calls without a pointer, or for calls that do not exist.
pub(crate) fn ask(fd: BorrowedFd<'_>, code: u32, value: u32) -> io::Result<i64> {
    // SAFETY: every code that the doctor passes takes a number, so the kernel follows no pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), code as libc::Ioctl, libc::c_ulong::from(value)) }.into())
}

/// The same for a call that answers with a file descriptor.
pub(crate) fn ask_for_fd(fd: BorrowedFd<'_>, code: u32) -> io::Result<OwnedFd> {
    ask(fd, code, 0).and_then(own)
}

/// An eventfd.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }.into()).and_then(own)
}

/// An anonymous file.
pub(crate) fn memfd() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string that outlives the call.
    check(unsafe { libc::memfd_create(c"doctor".as_ptr(), libc::MFD_CLOEXEC) }.into()).and_then(own)
}

/// An io_uring of one entry.
pub(crate) fn io_uring() -> io::Result<OwnedFd> {
    // The kernel's io_uring_params has 120 bytes, all zero for an ordinary ring.
    let mut params = [0_u64; 15];
    // SAFETY: the kernel reads and writes 120 bytes at `params`, which has as many and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, params.as_mut_ptr()) }).and_then(own)
}

/// Anonymous memory of this process, aligned to 2 MiB. Nothing reads or writes it but the kernel.
pub(crate) struct Memory {
    start: NonNull<libc::c_void>,
    mapped: usize,
    offset: usize,
    size: usize,
}

const HUGE: usize = 2 << 20;

impl Memory {
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        let mapped = size.checked_add(HUGE).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), mapped, access, flags, -1, 0) };
        let start = NonNull::new(start).filter(|start| start.as_ptr() != libc::MAP_FAILED);
        let start = start.ok_or_else(io::Error::last_os_error)?;
        let offset = start.as_ptr().align_offset(HUGE).min(HUGE);
        Ok(Self { start, mapped, offset, size })
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> usize {
        self.start.addr().get().saturating_add(self.offset)
    }

    /// Has the kernel pin all of it for as long as `ring`, an io_uring, is open: as it pins a guest's memory.
    pub(crate) fn pin(&self, ring: &OwnedFd) -> io::Result<()> {
        const REGISTER_BUFFERS: u32 = 0;
        // SAFETY: inside the mapping, see `advise`.
        let start = unsafe { self.start.as_ptr().byte_add(self.offset) };
        let piece = libc::iovec { iov_base: start, iov_len: self.size };
        // SAFETY: the kernel reads one iovec at `piece`, which outlives the call. Nothing is ever submitted to the ring, so
        // the kernel neither reads nor writes the memory.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                ring.as_raw_fd(),
                REGISTER_BUFFERS,
                &raw const piece,
                1_u32,
            )
        };
        check(answer).map(drop)
    }

    /// Gives the kernel advice about all of it.
    pub(crate) fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: `offset + size` is at most `mapped`, as `new` has mapped HUGE bytes more than `size`. No reference to
        // the memory exists, so whatever the advice does to its contents changes no Rust value.
        let answer = unsafe { libc::madvise(self.start.as_ptr().byte_add(self.offset), self.size, advice) };
        check(answer.into()).map(drop)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing refers to it.
        let _ = unsafe { libc::munmap(self.start.as_ptr(), self.mapped) };
    }
}

//! userfaultfd(2).
#![expect(unsafe_code, reason = "raw system calls")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::errno::Errno;

const API: u64 = 0xc018_aa3f;
const REGISTER: u64 = 0xc020_aa00;
const UNREGISTER: u64 = 0x8010_aa01;
const WAKE: u64 = 0x8010_aa02;
const COPY: u64 = 0xc028_aa03;
const ZEROPAGE: u64 = 0xc020_aa04;
const CONTINUE: u64 = 0xc020_aa07;
/// On `/dev/userfaultfd`: a new one.
const NEW: u64 = 0xaa00;

const VERSION: u64 = 0xaa;
const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
const FEATURE_SIGBUS: u64 = 1 << 7;
const FEATURE_THREAD_ID: u64 = 1 << 8;
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const MODE_MISSING: u64 = 1;
const MODE_MINOR: u64 = 1 << 2;
const EVENT_PAGEFAULT: u8 = 0x12;
const FAULT_WRITE: u64 = 1;

/// The flags with which a program without privileges may make one: faults of the kernel on its behalf fail.
pub(super) const USER_MODE_FLAGS: u64 = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64 | 1;

/// A userfaultfd, of this process's memory or another's.
#[derive(Debug)]
pub(crate) struct Uffd(OwnedFd);

/// Somebody waits for a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageFault {
    pub(crate) addr: u64,
    pub(crate) write: bool,
    pub(crate) tid: u32,
}

impl Uffd {
    /// One for this process's memory that also sees what KVM touches, which takes a privilege.
    pub(crate) fn for_kvm() -> Result<Self, Errno> {
        const FLAGS: libc::c_int = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: takes a number.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS) };
        let uffd = if fd >= 0 {
            // SAFETY: the kernel has just made this descriptor for us.
            Self(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        } else {
            let refused = Errno::last();
            let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/userfaultfd");
            let device = device.map_err(|_| refused)?;
            // SAFETY: takes a number.
            let fd = unsafe { libc::syscall(libc::SYS_ioctl, device.as_raw_fd(), NEW, FLAGS) };
            if fd < 0 {
                return Err(Errno::last());
            }
            // SAFETY: as above.
            Self(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        };
        uffd.set_up(FEATURE_MISSING_SHMEM | FEATURE_MINOR_SHMEM | FEATURE_THREAD_ID)?;
        Ok(uffd)
    }

    /// One that a program has made: a touch of what is missing in a range is SIGBUS.
    pub(super) fn guard(fd: OwnedFd) -> Result<Self, Errno> {
        let uffd = Self(fd);
        uffd.set_up(FEATURE_MISSING_SHMEM | FEATURE_SIGBUS)?;
        Ok(uffd)
    }

    /// # Safety
    /// `arg` is what the request reads and writes.
    unsafe fn call<T>(&self, request: u64, arg: &mut T) -> Result<(), Errno> {
        // SAFETY: the caller's; the structure lives until the call returns.
        let ret =
            unsafe { libc::syscall(libc::SYS_ioctl, self.0.as_raw_fd(), request, std::ptr::from_mut(arg)) };
        if ret < 0 { Err(Errno::last()) } else { Ok(()) }
    }

    fn set_up(&self, features: u64) -> Result<(), Errno> {
        let mut api = [VERSION, features, 0];
        // SAFETY: version, features, and the calls that there are.
        unsafe { self.call(API, &mut api) }
    }

    fn register_for(&self, addr: u64, len: u64, mode: u64) -> Result<(), Errno> {
        let mut register = [addr, len, mode, 0];
        // SAFETY: a range, the mode, and the calls that there are.
        unsafe { self.call(REGISTER, &mut register) }
    }

    /// Hears of every page of a range that is not in its page table.
    pub(super) fn register(&self, addr: u64, len: u64) -> Result<(), Errno> {
        self.register_for(addr, len, MODE_MISSING | MODE_MINOR)
    }

    /// Hears of every page of a range that its file does not have.
    pub(super) fn register_missing(&self, addr: u64, len: u64) -> Result<(), Errno> {
        self.register_for(addr, len, MODE_MISSING)
    }

    pub(super) fn unregister(&self, addr: u64, len: u64) {
        let mut range = [addr, len];
        // SAFETY: a range.
        let _ = unsafe { self.call(UNREGISTER, &mut range) };
    }

    /// Lets those who wait for pages of a range look again.
    pub(super) fn wake(&self, addr: u64, len: u64) {
        let mut range = [addr, len];
        // SAFETY: a range.
        let _ = unsafe { self.call(WAKE, &mut range) };
    }

    /// Fills pages that the file does not have with what this process has at `from`.
    pub(super) fn copy(&self, addr: u64, from: u64, len: u64) -> Result<(), Errno> {
        let mut copy = [addr, from, len, 0, 0];
        // SAFETY: to, from, length, mode, and how far it came. The kernel checks both addresses.
        unsafe { self.call(COPY, &mut copy) }
    }

    /// Fills pages that the file does not have with zeros.
    pub(super) fn zero(&self, addr: u64, len: u64) -> Result<(), Errno> {
        let mut zero = [addr, len, 0, 0];
        // SAFETY: a range, the mode, and how far it came.
        unsafe { self.call(ZEROPAGE, &mut zero) }
    }

    /// Shows pages that the file has.
    pub(super) fn show(&self, addr: u64, len: u64) -> Result<(), Errno> {
        let mut show = [addr, len, 0, 0];
        // SAFETY: a range, the mode, and how far it came.
        unsafe { self.call(CONTINUE, &mut show) }
    }

    /// The next fault, without waiting for one.
    pub(crate) fn next(&self) -> Option<PageFault> {
        let mut message = [0u64; 4];
        let size = size_of_val(&message);
        loop {
            // SAFETY: the pointer and the length are those of an array.
            let n = unsafe { libc::read(self.0.as_raw_fd(), message.as_mut_ptr().cast(), size) };
            if usize::try_from(n) != Ok(size) {
                return None;
            }
            let [event, flags, addr, tid] = message;
            if event.to_ne_bytes().first() == Some(&EVENT_PAGEFAULT) {
                return Some(PageFault { addr, write: flags & FAULT_WRITE != 0, tid: tid as u32 });
            }
        }
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

//! The raw system calls: ioctl, mmap, signals and timers. Nothing else in the crate enters the kernel by itself.
#![expect(unsafe_code, reason = "this file owns the raw system calls of the crate")]

use std::ffi::{c_int, c_ulong};
use std::fs::OpenOptions;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::Error;
use crate::features::Flavour;

/// The argument of an ioctl that takes a number, or none.
#[derive(Debug)]
pub(crate) struct Value;

/// The argument of an ioctl that takes a pointer to a `T`, which the kernel only reads.
#[derive(Debug)]
pub(crate) struct In<T>(PhantomData<fn(T)>);

/// One ioctl: its name in the kernel's header, its request code, and the kind of its argument.
///
/// Calling one is safe because [`crate::ops`], the only place that makes them, pairs each code with the argument that
/// the kernel expects, and a test holds that table against the numbers in hex.
#[derive(Debug)]
pub(crate) struct Op<A> {
    pub(crate) name: &'static str,
    pub(crate) code: u32,
    argument: PhantomData<fn(A)>,
}

impl<A> Clone for Op<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Op<A> {}

impl<A> Op<A> {
    pub(super) const fn new(name: &'static str, code: u32) -> Self {
        Self { name, code, argument: PhantomData }
    }

    /// The error for this ioctl, named.
    pub(crate) fn error(&self, source: io::Error, flavour: Option<Flavour>) -> Error {
        Error::Ioctl { op: self.name, source, flavour }
    }

    /// Refuses an argument before the kernel sees it.
    pub(crate) fn invalid(&self, why: &'static str) -> Error {
        Error::InvalidArgument { op: self.name, why }
    }
}

impl Op<Value> {
    /// Issues the ioctl with a number as its argument.
    pub(crate) fn call(&self, fd: BorrowedFd<'_>, value: u64) -> io::Result<c_int> {
        // SAFETY: the argument is a number, as the table of operations says, so the kernel follows no pointer.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), self.code as libc::Ioctl, value as c_ulong) })
    }

    /// Issues an ioctl that answers with a new file descriptor.
    pub(crate) fn call_fd(&self, fd: BorrowedFd<'_>, value: u64) -> io::Result<OwnedFd> {
        self.call(fd, value).map(own)
    }
}

impl<T> Op<In<T>> {
    /// Issues the ioctl with a pointer to `argument`.
    pub(crate) fn call(&self, fd: BorrowedFd<'_>, argument: &T) -> io::Result<c_int> {
        // SAFETY: `argument` is valid for reads of a `T` for the whole call, and the table of operations says that the
        // kernel reads a `T` and writes nothing.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), self.code as libc::Ioctl, std::ptr::from_ref(argument)) })
    }

    /// Issues an ioctl that answers with a new file descriptor.
    pub(crate) fn call_fd(&self, fd: BorrowedFd<'_>, argument: &T) -> io::Result<OwnedFd> {
        self.call(fd, argument).map(own)
    }

    /// Asks whether the ioctl exists, with a null pointer: a kernel that has it fails to copy the argument.
    pub(crate) fn probe(&self, fd: BorrowedFd<'_>) -> io::Result<c_int> {
        // SAFETY: the kernel checks the null pointer and answers EFAULT; user memory is not touched.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), self.code as libc::Ioctl, std::ptr::null::<T>()) })
    }
}

fn check(answer: c_int) -> io::Result<c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor for us, so nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// `VCPU_RUN`, the hot path: no error value is built when it succeeds.
#[inline]
pub(crate) fn vcpu_run(fd: BorrowedFd<'_>) -> std::result::Result<(), i32> {
    // SAFETY: the call takes no pointer. What the kernel writes is the run page, which is only accessed by raw reads
    // and writes (see `run_page`).
    let answer =
        unsafe { libc::ioctl(fd.as_raw_fd(), crate::ops::VCPU_RUN.code as libc::Ioctl, 0 as c_ulong) };
    if answer >= 0 { Ok(()) } else { Err(errno()) }
}

/// Opens a device node for reading and writing.
pub(crate) fn open(path: &Path, close_on_exec: bool) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path)?;
    if !close_on_exec {
        // SAFETY: the descriptor is open; F_SETFD changes nothing but its flags.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) })?;
    }
    Ok(file.into())
}

/// The host's page size in bytes.
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// The calling thread's errno.
pub(crate) fn errno() -> i32 {
    // SAFETY: errno's address is valid for the calling thread.
    unsafe { *errno_location() }
}

fn set_errno(value: i32) {
    // SAFETY: errno's address is valid for the calling thread, which alone writes it.
    unsafe { *errno_location() = value }
}

#[cfg(target_os = "android")]
fn errno_location() -> *mut c_int {
    // SAFETY: no preconditions.
    unsafe { libc::__errno() }
}

#[cfg(not(target_os = "android"))]
fn errno_location() -> *mut c_int {
    // SAFETY: no preconditions.
    unsafe { libc::__errno_location() }
}

/// The calling thread's id in the kernel.
pub(crate) fn gettid() -> i32 {
    // SAFETY: no preconditions.
    let tid = unsafe { libc::syscall(libc::SYS_gettid) };
    i32::try_from(tid).unwrap_or(0)
}

/// Enters and leaves the kernel, so that a signal already sent to this thread is delivered before this returns.
pub(crate) fn deliver_signals() {
    // SAFETY: no preconditions.
    let _ = unsafe { libc::syscall(libc::SYS_getppid) };
}

/// Sends `signal` to one thread of this process. Async-signal-safe; leaves errno alone.
pub(crate) fn tgkill(tid: i32, signal: c_int) -> bool {
    let saved = errno();
    // SAFETY: a plain system call on numbers. A thread id that is gone gives ESRCH.
    let answer = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) };
    set_errno(saved);
    answer == 0
}

const MEMBARRIER_PRIVATE_EXPEDITED: c_int = 1 << 3;
const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED: c_int = 1 << 4;

/// Makes [`membarrier`] work for this process. Whether it does.
pub(crate) fn register_membarrier() -> bool {
    // SAFETY: numbers only.
    let answer =
        unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_REGISTER_PRIVATE_EXPEDITED, 0_u32, 0) };
    answer == 0
}

/// Has every running thread of this process execute a full memory barrier. Async-signal-safe; leaves errno alone.
pub(crate) fn membarrier() -> bool {
    let saved = errno();
    // SAFETY: numbers only.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_PRIVATE_EXPEDITED, 0_u32, 0) };
    set_errno(saved);
    answer == 0
}

/// A POSIX timer that signals one thread.
#[derive(Debug)]
pub(crate) struct ThreadTimer {
    id: c_int,
}

impl ThreadTimer {
    /// A timer, not yet armed, that sends `signal` to thread `tid` of this process.
    pub(crate) fn new(tid: i32, signal: c_int) -> io::Result<Self> {
        // SAFETY: sigevent is plain data; all zeroes is a valid value.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = tid;
        let mut id: c_int = 0;
        // SAFETY: the kernel reads `event` and writes the timer's id, an int, to `id`; both outlive the call.
        let answer = unsafe {
            libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, &raw mut event, &raw mut id)
        };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { id }) }
    }

    /// The kernel's number of this timer, for [`set_timer`].
    pub(crate) fn id(&self) -> c_int {
        self.id
    }
}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        // SAFETY: the timer is ours, and nobody uses its id after this: kickers use it only while their vCPU runs.
        let _ = unsafe { libc::syscall(libc::SYS_timer_delete, self.id) };
    }
}

/// Arms a timer to expire every `millis` milliseconds, or disarms it with 0. Async-signal-safe; leaves errno alone.
pub(crate) fn set_timer(id: c_int, millis: u32) -> bool {
    let saved = errno();
    let period = libc::timespec {
        tv_sec: libc::time_t::from(millis / 1000),
        tv_nsec: i64::from(millis % 1000).saturating_mul(1_000_000) as _,
    };
    let setting = libc::itimerspec { it_interval: period, it_value: period };
    // SAFETY: the kernel reads `setting`, which outlives the call; an id that is gone gives EINVAL.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_timer_settime,
            id,
            0,
            &raw const setting,
            std::ptr::null_mut::<libc::itimerspec>(),
        )
    };
    set_errno(saved);
    answer == 0
}

extern "C" fn do_nothing(_: c_int) {}

/// Makes `signal` interrupt system calls: installs an empty handler without SA_RESTART.
///
/// A handler that is there already is kept when it interrupts system calls too; one with SA_RESTART is EBUSY.
pub(crate) fn install_kick_handler(signal: c_int) -> io::Result<()> {
    // SAFETY: sigaction is plain data; all zeroes is a valid value.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `old` is valid for writes; the null pointer asks for no change.
    check(unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut old) })?;
    if old.sa_sigaction != libc::SIG_DFL && old.sa_sigaction != libc::SIG_IGN {
        return if old.sa_flags & libc::SA_RESTART == 0 {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EBUSY))
        };
    }
    // SAFETY: as above.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = do_nothing as extern "C" fn(c_int) as libc::sighandler_t;
    // SAFETY: `new` holds a handler that does nothing, which is safe to run at any point of any thread.
    unsafe {
        libc::sigemptyset(&raw mut new.sa_mask);
        check(libc::sigaction(signal, &raw const new, std::ptr::null_mut())).map(drop)
    }
}

/// Lets `signal` through on the calling thread.
pub(crate) fn unblock_signal(signal: c_int) -> io::Result<()> {
    // SAFETY: sigset_t is plain data, filled by sigemptyset before use; the calls write nothing but `set`.
    let answer = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut())
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(answer)) }
}

/// Blocks every signal but `signal` on the calling thread.
pub(crate) fn block_all_but(signal: c_int) -> io::Result<()> {
    // SAFETY: sigset_t is plain data, filled by sigfillset before use; the calls write nothing but `set`.
    let answer = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigdelset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(answer)) }
}

/// The first real-time signal that the C library leaves to programs, and the last.
pub(crate) fn real_time_signals() -> (c_int, c_int) {
    (libc::SIGRTMIN(), libc::SIGRTMAX())
}

/// Frees a range of a file, which reads as zeroes afterwards.
pub(crate) fn punch_hole(fd: BorrowedFd<'_>, offset: libc::off_t, len: libc::off_t) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: numbers only. Mappings of the range stay valid.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, len) }).map(drop)
}

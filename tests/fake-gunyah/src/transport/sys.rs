//! The raw system calls that the fake makes for itself, each behind a safe function.
#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::errno::Errno;

type Result<T> = std::result::Result<T, Errno>;

/// A system call as the listener hands it over.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notif {
    pub(crate) id: u64,
    pub(crate) tid: u32,
    pub(crate) flags: u32,
    pub(crate) nr: i32,
    pub(crate) arch: u32,
    pub(crate) ip: u64,
    pub(crate) args: [u64; 6],
}

/// The answer to a [`Notif`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resp {
    pub(crate) id: u64,
    pub(crate) val: i64,
    pub(crate) error: i32,
    pub(crate) flags: u32,
}

/// "Carry out the system call as if there were no filter."
pub(crate) const RESP_CONTINUE: u32 = 1;

#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

/// Install the descriptor and answer with its number, in one step.
const ADDFD_SEND: u32 = 2;

const NOTIF_RECV: u64 = 0xc050_2100;
const NOTIF_SEND: u64 = 0xc018_2101;
const NOTIF_ID_VALID: u64 = 0x4008_2102;
const NOTIF_ADDFD: u64 = 0x4018_2103;
const NOTIF_SET_FLAGS: u64 = 0x4008_2104;
const FD_SYNC_WAKE_UP: u64 = 1;

fn check(ret: libc::c_long) -> Result<libc::c_long> {
    if ret < 0 { Err(Errno::last()) } else { Ok(ret) }
}

/// An fd that a system call has just returned.
fn owned(ret: libc::c_long) -> Result<OwnedFd> {
    let fd = check(ret)? as RawFd;
    // SAFETY: the kernel has just created this descriptor for us; nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An ioctl whose argument is a number or a pointer that the caller keeps valid.
///
/// # Safety
/// If the request takes a pointer, `arg` points to the structure that it takes, valid for reads and writes.
unsafe fn ioctl(fd: BorrowedFd<'_>, request: u64, arg: usize) -> Result<i64> {
    // SAFETY: the caller keeps the argument valid for this request.
    let ret = unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), request, arg) };
    check(ret)
}

/// A call that has been received is not interrupted by signals any more: the driver looks for them itself.
const FILTER_FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

/// Installs `filter` on the calling thread and returns its listener. The thread also gives up new privileges, which
/// is what lets an unprivileged thread do this. Makes no allocation: it is called between fork and exec, too.
pub(crate) fn install_listener(filter: &[libc::sock_filter], killable: bool) -> Result<OwnedFd> {
    let more = if killable { FILTER_FLAG_WAIT_KILLABLE_RECV } else { 0 };
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: these calls read `program`, which lives until they return, and the filter that it points to.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        owned(libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | more,
            &raw const program,
        ))
    }
}

/// Asks for hand-overs without a trip through another CPU. Kernels before 6.6 cannot, and lose only speed.
pub(crate) fn set_sync_wake_up(listener: BorrowedFd<'_>) {
    // SAFETY: the argument is a number.
    let _ = unsafe { ioctl(listener, NOTIF_SET_FLAGS, FD_SYNC_WAKE_UP as usize) };
}

/// Receives the next system call; `None` if its caller gave up meanwhile.
pub(crate) fn notif_recv(listener: BorrowedFd<'_>) -> Option<Notif> {
    let mut notif = Notif::default();
    // SAFETY: the request writes one `Notif`, zeroed as the kernel demands.
    unsafe { ioctl(listener, NOTIF_RECV, &raw mut notif as usize) }.ok()?;
    Some(notif)
}

/// Answers a system call. `ENOENT`: the caller was interrupted and is not waiting any more.
pub(crate) fn notif_send(listener: BorrowedFd<'_>, resp: Resp) -> Result<()> {
    // SAFETY: the request reads one `Resp`.
    unsafe { ioctl(listener, NOTIF_SEND, &raw const resp as usize) }.map(drop)
}

/// Whether the caller still waits for the answer.
pub(crate) fn notif_valid(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the request reads one u64.
    unsafe { ioctl(listener, NOTIF_ID_VALID, &raw const id as usize) }.is_ok()
}

/// Installs `fd` in the caller and answers its system call with the new number.
pub(crate) fn notif_add_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    cloexec: bool,
) -> Result<RawFd> {
    let newfd_flags = if cloexec { libc::O_CLOEXEC as u32 } else { 0 };
    let add = AddFd { id, flags: ADDFD_SEND, srcfd: fd.as_raw_fd() as u32, newfd: 0, newfd_flags };
    // SAFETY: the request reads one `AddFd`.
    unsafe { ioctl(listener, NOTIF_ADDFD, &raw const add as usize) }.map(|fd| fd as RawFd)
}

/// Installs `fd` in the caller, close-on-exec; its call goes on.
#[cfg_attr(not(all(feature = "kvm", target_arch = "aarch64")), expect(dead_code, reason = "KVM's"))]
pub(crate) fn notif_install_fd(listener: BorrowedFd<'_>, id: u64, fd: BorrowedFd<'_>) -> Result<RawFd> {
    let newfd_flags = libc::O_CLOEXEC as u32;
    let add = AddFd { id, flags: 0, srcfd: fd.as_raw_fd() as u32, newfd: 0, newfd_flags };
    // SAFETY: the request reads one `AddFd`.
    unsafe { ioctl(listener, NOTIF_ADDFD, &raw const add as usize) }.map(|fd| fd as RawFd)
}

/// poll(2). `EINTR` counts as "nothing ready".
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout_ms: i32) {
    // SAFETY: the pointer and the length are those of a slice.
    let ret = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
    if ret < 0 {
        for fd in fds {
            fd.revents = 0;
        }
    }
}

/// Whether thread `tid` belongs to process `tgid`.
pub(crate) fn is_thread_of(tgid: u32, tid: u32) -> bool {
    // SAFETY: signal 0 is never delivered; the kernel only looks the thread up.
    let ret = unsafe { libc::syscall(libc::SYS_tgkill, tgid, tid, 0) };
    ret == 0 || Errno::last() == Errno::EPERM
}

/// Copies from another (or this) process's memory. Short counts and bad addresses are `EFAULT`.
pub(crate) fn process_read(tid: u32, addr: u64, buf: &mut [u8]) -> Result<()> {
    if buf.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote = libc::iovec { iov_base: addr as *mut libc::c_void, iov_len: buf.len() };
    // SAFETY: the local vector is the slice; the remote one is checked by the kernel.
    let n = unsafe { libc::process_vm_readv(tid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    if n == buf.len() as isize { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Copies to another (or this) process's memory. Short counts and bad addresses are `EFAULT`.
pub(crate) fn process_write(tid: u32, addr: u64, data: &[u8]) -> Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let remote = libc::iovec { iov_base: addr as *mut libc::c_void, iov_len: data.len() };
    // SAFETY: the local vector is the slice, only read; the remote one is checked by the kernel.
    let n = unsafe { libc::process_vm_writev(tid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    if n == data.len() as isize { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Which file a descriptor refers to: the same for every duplicate of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

/// The file behind a descriptor of this process.
pub(crate) fn file_id(fd: RawFd) -> Result<FileId> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat writes a whole `stat` when it succeeds; a bad fd is an error.
    let stat = unsafe {
        check(libc::fstat(fd, stat.as_mut_ptr()).into())?;
        stat.assume_init()
    };
    #[allow(clippy::unnecessary_cast, reason = "the fields' types differ between machines")]
    Ok(FileId { dev: stat.st_dev as u64, ino: stat.st_ino as u64 })
}

/// Opens `path` for reading and writing, close-on-exec, with more flags.
pub(crate) fn open(path: &CStr, flags: libc::c_int) -> Result<OwnedFd> {
    // SAFETY: the path ends in NUL; the mode is used by O_TMPFILE only.
    owned(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | flags, 0o600) }.into())
}

/// An anonymous memory file.
pub(crate) fn memfd(name: &CStr) -> Result<OwnedFd> {
    // SAFETY: the name ends in NUL.
    owned(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) }.into())
}

/// Allocates or frees a part of a file.
pub(crate) fn fallocate(file: BorrowedFd<'_>, mode: libc::c_int, offset: u64, len: u64) -> Result<()> {
    let (offset, len) = (offset as libc::off_t, len as libc::off_t);
    // SAFETY: takes numbers. Mappings of the file stay valid.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) }.into()).map(drop)
}

/// Duplicates a descriptor of this process by its number; `EBADF` if there is none.
pub(crate) fn dup(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl checks the number.
    owned(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }.into())
}

/// Fetches a copy of descriptor `fd` of process `tgid`.
pub(crate) fn fetch_fd(tgid: u32, fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: both calls check their numbers.
    let pidfd = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, tgid, 0) })?;
    // SAFETY: as above.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

/// Waits for a child's end, and leaves its status to be asked for.
pub(crate) fn wait_for_end(pid: u32) -> Result<()> {
    // SAFETY: takes numbers.
    let pidfd = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let mut fds = [libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    while fds.iter().all(|fd| fd.revents == 0) {
        poll(&mut fds, -1);
    }
    Ok(())
}

/// An eventfd that never blocks.
pub(crate) fn eventfd() -> Result<OwnedFd> {
    // SAFETY: takes numbers.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into())
}

/// An inotify instance that never blocks.
pub(crate) fn inotify() -> Result<OwnedFd> {
    // SAFETY: takes numbers.
    owned(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) }.into())
}

/// Watches a file for the end of its last writable description.
pub(crate) fn inotify_watch_close(inotify: BorrowedFd<'_>, path: &CStr) -> Result<i32> {
    // SAFETY: the path ends in NUL.
    let wd = unsafe { libc::inotify_add_watch(inotify.as_raw_fd(), path.as_ptr(), libc::IN_CLOSE_WRITE) };
    check(wd.into()).map(|wd| wd as i32)
}

/// Ends a watch.
pub(crate) fn inotify_unwatch(inotify: BorrowedFd<'_>, wd: i32) {
    // SAFETY: takes numbers.
    let _ = unsafe { libc::inotify_rm_watch(inotify.as_raw_fd(), wd) };
}

/// An epoll instance.
pub(crate) fn epoll() -> Result<OwnedFd> {
    // SAFETY: takes a number.
    owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into())
}

/// Adds an eventfd: each write to it is an event, the counter stays as it is.
pub(crate) fn epoll_add_edge(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>, token: u64) -> Result<()> {
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: token };
    // SAFETY: reads one event.
    let ret =
        unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event) };
    check(ret.into()).map(drop)
}

/// Takes an eventfd out again.
pub(crate) fn epoll_remove(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>) {
    // SAFETY: the event may be null for this operation.
    let _ = unsafe {
        libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd.as_raw_fd(), std::ptr::null_mut())
    };
}

/// The tokens of what became ready, without waiting.
pub(crate) fn epoll_ready(epoll: BorrowedFd<'_>) -> Vec<u64> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 32];
    // SAFETY: writes at most as many events as there is room for.
    let n = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, 0) };
    events.iter().take(n.max(0) as usize).map(|event| event.u64).collect()
}

/// Blocks every signal on the calling thread: signals for the process go to the program's own threads.
pub(crate) fn block_signals() {
    // SAFETY: the set is filled before it is used.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// Blocks no signal on the calling thread. Makes no allocation: it is called between fork and exec.
pub(crate) fn unblock_signals() {
    // SAFETY: the set is filled before it is used.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// The soft limit of memory that process `tgid` may lock, in bytes.
pub(crate) fn memlock_limit(tgid: u32) -> Option<u64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit64.
    let ret = unsafe { libc::prlimit64(tgid as i32, libc::RLIMIT_MEMLOCK, std::ptr::null(), &raw mut limit) };
    (ret == 0).then_some(limit.rlim_cur)
}

/// The page size of this machine, in bytes.
pub(crate) fn page_size() -> usize {
    // SAFETY: takes a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// Sends `fd` over a socket. Makes no allocation: it is called between fork and exec.
pub(crate) fn send_fd(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<()> {
    let mut byte = [0u8; 1];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = [0u64; 4];
    // SAFETY: the header points to the vector and to a control buffer that is big enough and aligned for one fd.
    unsafe {
        let mut msg: libc::msghdr = std::mem::zeroed();
        msg.msg_iov = &raw mut iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let cmsg = libc::CMSG_FIRSTHDR(&raw const msg);
        (*cmsg).cmsg_level = libc::SOL_SOCKET;
        (*cmsg).cmsg_type = libc::SCM_RIGHTS;
        (*cmsg).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(cmsg).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        check(libc::sendmsg(socket.as_raw_fd(), &raw const msg, 0) as libc::c_long)?;
    }
    Ok(())
}

/// Receives an fd that [`send_fd`] sent; `EPIPE` if the other end closed without sending one.
pub(crate) fn recv_fd(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = [0u64; 4];
    // SAFETY: as in `send_fd`; the fd that arrives is new and ours.
    unsafe {
        let mut msg: libc::msghdr = std::mem::zeroed();
        msg.msg_iov = &raw mut iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = size_of_val(&control) as _;
        check(libc::recvmsg(socket.as_raw_fd(), &raw mut msg, libc::MSG_CMSG_CLOEXEC) as libc::c_long)?;
        let cmsg = libc::CMSG_FIRSTHDR(&raw const msg);
        if cmsg.is_null() || (*cmsg).cmsg_type != libc::SCM_RIGHTS {
            return Err(Errno::EPIPE);
        }
        Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(cmsg).cast::<RawFd>().read_unaligned()))
    }
}

/// Sets a file's size.
pub(crate) fn truncate(fd: BorrowedFd<'_>, size: u64) -> Result<()> {
    // SAFETY: takes numbers.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), size as libc::off_t) }.into()).map(drop)
}

/// read(2).
pub(crate) fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize> {
    // SAFETY: the pointer and the length are those of a slice.
    let n = unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
    check(n as libc::c_long).map(|n| n as usize)
}

/// Takes an eventfd's counter, if it is not 0.
pub(crate) fn eventfd_drain(fd: BorrowedFd<'_>) {
    let mut count = [0u8; 8];
    let vector = libc::iovec { iov_base: count.as_mut_ptr().cast(), iov_len: count.len() };
    // SAFETY: the vector is that of an array. The flag keeps an eventfd that may block from doing so.
    let _ = unsafe { libc::preadv2(fd.as_raw_fd(), &raw const vector, 1, -1, libc::RWF_NOWAIT) };
}

/// Adds one to an eventfd's counter.
pub(crate) fn eventfd_signal(fd: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the pointer and the length are those of an array. A full counter is readable already.
    let _ = unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

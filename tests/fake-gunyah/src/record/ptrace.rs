//! The raw system calls of a tracer, each behind a safe function.
#![expect(unsafe_code, reason = "raw system calls")]

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

const PTRACE_CONT_AT_SYSCALLS: libc::c_long = 24;
const PTRACE_GETEVENTMSG: libc::c_long = 0x4201;
const PTRACE_SEIZE: libc::c_long = 0x4206;
const PTRACE_LISTEN: libc::c_long = 0x4208;
const PTRACE_GET_SYSCALL_INFO: libc::c_long = 0x420e;

/// System-call stops are told apart from a real SIGTRAP; new threads and processes are traced, too; and the program does
/// not outlive its recorder.
const OPTIONS: libc::c_int = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_EXITKILL;

/// Kernel-internal results of an interrupted call: what becomes of it depends on the signal's handler.
pub(crate) const ERESTARTSYS: i64 = 512;
pub(crate) const ERESTARTNOINTR: i64 = 513;
pub(crate) const ERESTARTNOHAND: i64 = 514;
pub(crate) const ERESTART_RESTARTBLOCK: i64 = 516;

/// The `AUDIT_ARCH` of this machine's own system calls: the ELF machine number, 64 bit, little endian.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 62 | 0xc000_0000;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 183 | 0xc000_0000;

/// A system-call stop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SyscallStop {
    /// Before the call.
    Entry { nr: i64, args: [u64; 6] },
    /// After it: what it returned, a negative errno if it failed.
    Exit { ret: i64 },
    /// A call in another machine's convention (a 32-bit program): not looked at.
    Foreign,
}

/// `struct ptrace_syscall_info`: the union holds the number and the arguments, or the result.
#[repr(C)]
#[derive(Default)]
struct SyscallInfo {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    ip: u64,
    sp: u64,
    data: [u64; 8],
}

const INFO_ENTRY: u8 = 1;
const INFO_EXIT: u8 = 2;

fn ptrace(request: libc::c_long, tid: i32, addr: usize, data: usize) -> io::Result<i64> {
    // SAFETY: every request made in this file either takes numbers or has `addr` bytes at `data`, see the callers.
    let ret = unsafe { libc::syscall(libc::SYS_ptrace, request, tid, addr, data) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// Lets a stopped thread run to its next stop, with a signal if not 0. A thread that was killed meanwhile is no error:
/// its end is reported as for any other.
pub(crate) fn resume(tid: i32, signal: i32) {
    let _ = ptrace(PTRACE_CONT_AT_SYSCALLS, tid, 0, signal as usize);
}

/// Leaves a thread stopped, as job control wants it, until it is continued or killed.
pub(crate) fn stay_stopped(tid: i32) {
    let _ = ptrace(PTRACE_LISTEN, tid, 0, 0);
}

/// What an event stop is about: the new thread's id, say.
pub(crate) fn event_message(tid: i32) -> Option<i32> {
    let mut message: libc::c_ulong = 0;
    // This request writes one unsigned long.
    ptrace(PTRACE_GETEVENTMSG, tid, 0, &raw mut message as usize).ok()?;
    i32::try_from(message).ok()
}

/// What a system-call stop is about.
pub(crate) fn syscall_stop(tid: i32) -> Option<SyscallStop> {
    let mut info = SyscallInfo::default();
    // This request writes at most as many bytes as the address says.
    ptrace(PTRACE_GET_SYSCALL_INFO, tid, size_of::<SyscallInfo>(), &raw mut info as usize).ok()?;
    let [first, args @ .., _] = info.data;
    Some(match info.op {
        _ if info.arch != NATIVE => SyscallStop::Foreign,
        INFO_ENTRY => SyscallStop::Entry { nr: first as i64, args },
        INFO_EXIT => SyscallStop::Exit { ret: first as i64 },
        _ => return None,
    })
}

/// Whether a kernel of this release can say what a system-call stop is about: 5.3 and later can.
pub(crate) fn is_new_enough(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 3)
}

/// Waits for any thread to stop or end: its id and its status. `None` when there is nothing left to wait for.
pub(crate) fn wait_any() -> Option<(i32, i32)> {
    loop {
        let mut status = 0;
        // SAFETY: writes one int.
        let tid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        if tid > 0 {
            return Some((tid, status));
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return None;
        }
    }
}

/// Copies from a traced process's memory; `None` unless all of it is there.
pub(crate) fn read_memory(tid: i32, addr: u64, buf: &mut [u8]) -> Option<()> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote = libc::iovec { iov_base: addr as *mut libc::c_void, iov_len: buf.len() };
    // SAFETY: the local vector is the slice; the remote one is checked by the kernel.
    let n = unsafe { libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0) };
    (n == buf.len() as isize).then_some(())
}

/// Whether two descriptors of two processes refer to the same open file. `None`: this kernel can't tell.
pub(crate) fn same_file(tid_a: i32, fd_a: i32, tid_b: i32, fd_b: i32) -> Option<bool> {
    const KCMP_FILE: libc::c_int = 0;
    // SAFETY: takes numbers.
    let ret = unsafe { libc::syscall(libc::SYS_kcmp, tid_a, tid_b, KCMP_FILE, fd_a, fd_b) };
    (ret >= 0).then_some(ret == 0)
}

/// The page size of this machine, in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: takes a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// The kernel's release and the machine's name.
pub(crate) fn uname() -> (String, String) {
    // SAFETY: uname fills the structure, and zeros are strings, too.
    let names = unsafe {
        let mut names: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut names);
        names
    };
    let text = |field: &[libc::c_char]| {
        let bytes: Vec<u8> = field.iter().map(|c| *c as u8).take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    (text(&names.release), text(&names.machine))
}

/// Why a program could not be started under the tracer.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The program itself: not found, not executable.
    Program(io::Error),
    /// The kernel refuses to trace it.
    Trace(io::Error),
}

/// Starts a program, traced, and stopped right after its exec: the caller resumes it.
pub(crate) fn start(mut command: Command) -> Result<i32, StartError> {
    let (mut pid_from, pid_to) = io_pipe::pipe().map_err(StartError::Program)?;
    let (go_from, mut go_to) = io_pipe::pipe().map_err(StartError::Program)?;
    let unneeded = go_to.as_raw_fd();
    // SAFETY: the child only makes system calls, on descriptors that exist until its exec closes them.
    unsafe {
        command.pre_exec(move || {
            // Else the child would keep the pipe that it waits for open itself.
            libc::close(unneeded);
            let pid = libc::getpid().to_ne_bytes();
            let mut go = [0u8; 1];
            if libc::write(pid_to.as_raw_fd(), pid.as_ptr().cast(), pid.len()) < 0
                || libc::read(go_from.as_raw_fd(), go.as_mut_ptr().cast(), 1) != 1
            {
                return Err(io::Error::from_raw_os_error(libc::ECANCELED));
            }
            Ok(())
        });
    }
    // Starting returns only when the program has been executed, so another thread waits for that. The tracer must be
    // this one: it alone may resume what it traces.
    let starter = std::thread::spawn(move || command.spawn());
    let mut pid = [0; size_of::<i32>()];
    let mut traced = Err(io::Error::from_raw_os_error(libc::ECHILD));
    if pid_from.read_exact(&mut pid).is_ok() {
        traced = ptrace(PTRACE_SEIZE, i32::from_ne_bytes(pid), 0, OPTIONS as usize);
        if traced.is_ok() {
            let _ = go_to.write_all(b"!");
        }
    }
    drop(go_to);
    let started = match starter.join() {
        Ok(started) => started,
        Err(_) => return Err(StartError::Program(io::Error::other("the thread that starts it panicked"))),
    };
    match (started, traced) {
        (Ok(child), Ok(_)) => Ok(child.id() as i32),
        (Err(_), Err(error)) if error.raw_os_error() != Some(libc::ECHILD) => Err(StartError::Trace(error)),
        (Err(error), _) => Err(StartError::Program(error)),
        (Ok(_), Err(error)) => Err(StartError::Trace(error)),
    }
}

/// Pipes for [`start`].
mod io_pipe {
    use super::{OwnedFd, io};
    use std::os::fd::FromRawFd;

    pub(super) fn pipe() -> io::Result<(std::fs::File, std::fs::File)> {
        let mut fds = [0; 2];
        // SAFETY: writes two ints; both descriptors are new.
        unsafe {
            if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) < 0 {
                return Err(io::Error::last_os_error());
            }
            let [from, to] = fds;
            Ok((OwnedFd::from_raw_fd(from).into(), OwnedFd::from_raw_fd(to).into()))
        }
    }
}

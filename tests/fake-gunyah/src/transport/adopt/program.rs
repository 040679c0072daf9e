//! System calls in the program that gives memory: this process, or another one by way of ptrace(2).
#![expect(unsafe_code, reason = "raw system calls, here and in another process")]

use std::os::fd::{FromRawFd, OwnedFd};

use crate::errno::Errno;
use crate::transport::sys;
use crate::transport::vma::Vma;

use super::uffd;

/// The program whose memory is adopted, and the number that the new file has there.
#[derive(Debug)]
pub(crate) enum Program {
    /// This process.
    Here(i32),
    /// Another one's thread, stopped.
    Stopped(Stopped, i32),
}

impl Program {
    fn call(&mut self, nr: libc::c_long, args: [u64; 6]) -> Result<u64, Errno> {
        match self {
            Self::Here(_) => {
                let [a, b, c, d, e, f] = args;
                // SAFETY: the calls made in this file change only memory that the program has just given to a VM, which
                // it keeps mapped and uses by address only; its content stays.
                let ret = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
                if ret < 0 { Err(Errno::last()) } else { Ok(ret as u64) }
            }
            Self::Stopped(thread, _) => thread.call(nr, args),
        }
    }

    fn file(&self) -> i32 {
        match self {
            Self::Here(file) | Self::Stopped(_, file) => *file,
        }
    }

    /// Maps the new file where `vma` is.
    pub(super) fn map_file(&mut self, vma: &Vma, offset: u64) -> Result<(), Errno> {
        let bit = |has, bit: libc::c_int| if has { bit as u64 } else { 0 };
        let prot = bit(vma.readable, libc::PROT_READ)
            | bit(vma.writable, libc::PROT_WRITE)
            | bit(vma.executable, libc::PROT_EXEC);
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        let args = [vma.from, vma.to - vma.from, prot, flags, self.file() as u64, offset];
        self.call(libc::SYS_mmap, args).map(drop)
    }

    /// A userfaultfd of the program's memory.
    pub(super) fn userfaultfd(&mut self, tgid: u32) -> Result<OwnedFd, Errno> {
        let number = self.call(libc::SYS_userfaultfd, [uffd::USER_MODE_FLAGS, 0, 0, 0, 0, 0])?;
        match self {
            // SAFETY: the kernel has just made this descriptor for us.
            Self::Here(_) => Ok(unsafe { OwnedFd::from_raw_fd(number as i32) }),
            Self::Stopped(..) => {
                let fetched = sys::fetch_fd(tgid, number as i32);
                let _ = self.call(libc::SYS_close, [number, 0, 0, 0, 0, 0]);
                fetched
            }
        }
    }
}

const PTRACE_GETREGSET: libc::c_long = 0x4204;
const PTRACE_SETREGSET: libc::c_long = 0x4205;
const PTRACE_SEIZE: libc::c_long = 0x4206;
const PTRACE_INTERRUPT: libc::c_long = 0x4207;
const PTRACE_GETSIGMASK: libc::c_long = 0x420a;
const PTRACE_SETSIGMASK: libc::c_long = 0x420b;
const PTRACE_SYSCALL: libc::c_long = 24;
const PTRACE_DETACH: libc::c_long = 17;
const NT_PRSTATUS: usize = 1;
/// A stop at a system call.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// `svc #0`.
const SVC: [u8; 4] = 0xd400_0001_u32.to_le_bytes();

/// The general registers of a thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Registers {
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
}

/// A thread of another process that is held at the end of a system call.
///
/// All requests must come from the thread that has seized it. Should this process die meanwhile, so does the other one: it
/// would go on with registers that are not its own.
#[derive(Debug)]
pub(crate) struct Stopped {
    tid: i32,
    attached: bool,
    /// Registers and blocked signals, once it has stopped.
    was: Option<(Registers, u64)>,
}

fn ptrace(request: libc::c_long, tid: i32, addr: usize, data: usize) -> Result<(), Errno> {
    // SAFETY: the requests made in this file take numbers or point to what their callers name.
    let ret = unsafe { libc::syscall(libc::SYS_ptrace, request, tid, addr, data) };
    if ret < 0 { Err(Errno::last()) } else { Ok(()) }
}

impl Stopped {
    /// Prepares to stop a thread that is in a system call of ours: it will stop when that has been answered.
    pub(crate) fn seize(tid: u32) -> Result<Self, Errno> {
        let tid = i32::try_from(tid).map_err(|_| Errno::ESRCH)?;
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        ptrace(PTRACE_SEIZE, tid, 0, options as usize)?;
        let seized = Self { tid, attached: true, was: None };
        ptrace(PTRACE_INTERRUPT, tid, 0, 0)?;
        Ok(seized)
    }

    /// Waits for the thread to stop: the signal of the stop.
    fn wait(&mut self) -> Result<i32, Errno> {
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        let flags = libc::WEXITED | libc::WSTOPPED | libc::__WALL | libc::WNOWAIT;
        loop {
            // A look first: the end of the process is its parent's to hear.
            // SAFETY: writes one siginfo.
            let ret = unsafe { libc::waitid(libc::P_PID, self.tid as libc::id_t, info.as_mut_ptr(), flags) };
            if ret == 0 {
                break;
            }
            if Errno::last() != Errno::EINTR {
                self.attached = false;
                return Err(Errno::ESRCH);
            }
        }
        // SAFETY: zeroed, and then filled.
        let code = unsafe { info.assume_init() }.si_code;
        if !matches!(code, libc::CLD_TRAPPED | libc::CLD_STOPPED) {
            self.attached = false;
            return Err(Errno::ESRCH);
        }
        let mut status = 0;
        // SAFETY: writes one int.
        let ret = unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL) };
        if ret == self.tid && libc::WIFSTOPPED(status) {
            return Ok(libc::WSTOPSIG(status));
        }
        self.attached = false;
        Err(Errno::ESRCH)
    }

    /// Lets it close a descriptor.
    pub(super) fn close(&mut self, fd: i32) {
        let _ = self.call(libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0]);
    }

    /// Waits until it has left its system call, and keeps signals away from it.
    pub(super) fn arrive(&mut self) -> Result<(), Errno> {
        self.wait()?;
        let mut blocked = 0u64;
        ptrace(PTRACE_GETSIGMASK, self.tid, size_of::<u64>(), &raw mut blocked as usize)?;
        let all = u64::MAX;
        ptrace(PTRACE_SETSIGMASK, self.tid, size_of::<u64>(), &raw const all as usize)?;
        self.was = Some((self.registers()?, blocked));
        Ok(())
    }

    fn registers(&self) -> Result<Registers, Errno> {
        let mut registers = Registers::default();
        let mut vector =
            libc::iovec { iov_base: (&raw mut registers).cast(), iov_len: size_of::<Registers>() };
        ptrace(PTRACE_GETREGSET, self.tid, NT_PRSTATUS, &raw mut vector as usize)?;
        Ok(registers)
    }

    fn set_registers(&self, mut registers: Registers) -> Result<(), Errno> {
        let mut vector =
            libc::iovec { iov_base: (&raw mut registers).cast(), iov_len: size_of::<Registers>() };
        ptrace(PTRACE_SETREGSET, self.tid, NT_PRSTATUS, &raw mut vector as usize)
    }

    /// Lets it make a system call, with the instruction that made the one that it has just left.
    fn call(&mut self, nr: libc::c_long, args: [u64; 6]) -> Result<u64, Errno> {
        let (mut registers, _) = self.was.ok_or(Errno::ESRCH)?;
        registers.pc = registers.pc.wrapping_sub(4);
        let mut instruction = [0; 4];
        sys::process_read(self.tid as u32, registers.pc, &mut instruction)?;
        if instruction != SVC {
            return Err(Errno::ENOSYS);
        }
        registers.x.iter_mut().zip(args).for_each(|(to, from)| *to = from);
        if let Some(number) = registers.x.get_mut(8) {
            *number = nr as u64;
        }
        self.set_registers(registers)?;
        // In, and out.
        for _ in 0..2 {
            loop {
                ptrace(PTRACE_SYSCALL, self.tid, 0, 0)?;
                if self.wait()? == SYSCALL_STOP {
                    break;
                }
            }
        }
        let [result, ..] = self.registers()?.x;
        match result as i64 {
            -4095..0 => Err(Errno(-(result as i64) as i32)),
            _ => Ok(result),
        }
    }

    /// Lets it make the system call again that it has just left, whose first argument this is, as if it never had.
    pub(super) fn start_over(&mut self, first: u64) -> Result<(), Errno> {
        let Some((mut registers, blocked)) = self.was.take() else { return Ok(()) };
        registers.pc = registers.pc.wrapping_sub(4);
        if let Some(x0) = registers.x.first_mut() {
            *x0 = first;
        }
        self.set_registers(registers)?;
        ptrace(PTRACE_SETSIGMASK, self.tid, size_of::<u64>(), &raw const blocked as usize)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.attached {
            let _ = ptrace(PTRACE_DETACH, self.tid, 0, 0);
        }
    }
}

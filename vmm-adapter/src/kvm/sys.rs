//! The calls whose safety this backend vouches for.
#![expect(unsafe_code, reason = "guest memory is given to the kernel, and the run page is shared with it")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

use kvm_bindings::{kvm_run, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

/// Gives the kernel a slot of guest memory, changes one, or takes it back (a size of 0).
///
/// The caller keeps a clone of the region whose mapping this names until the slot is taken back, or until `vm` and every vCPU of
/// it are closed.
pub(super) fn set_memory(vm: &VmFd, slot: &kvm_userspace_memory_region) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the mapping is owned by a `MemoryRegion`, of which the backend keeps a clone as long as the guest can use it.
    // The memory is only reached through vm-memory's volatile accesses, so no reference to it exists.
    unsafe { vm.set_user_memory_region(*slot) }
}

/// A descriptor of the vCPU that outlives `vcpu`.
pub(super) fn keep_vcpu(vcpu: &VcpuFd) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open as long as `vcpu`, which outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) }.try_clone_to_owned()
}

/// The vCPU of a descriptor that [`keep_vcpu`] made for a vCPU of this VM.
pub(super) fn kept_vcpu(vm: &VmFd, kept: OwnedFd) -> Result<VcpuFd, kvm_ioctls::Error> {
    // SAFETY: the descriptor is that of a vCPU of `vm`, so the mapping that is made of it is a run page; it is given away, and the
    // new vCPU is the only one that closes it.
    unsafe { vm.create_vcpu_from_rawfd(kept.into_raw_fd()) }
}

/// The run page's flag that keeps `KVM_RUN` from entering the guest, in a mapping of its own.
///
/// kvm-ioctls has a mapping of the same page and hands out references into it, so kickers must not use that one.
#[derive(Debug)]
pub(super) struct ImmediateExit {
    page: NonNull<u8>,
    size: usize,
}

// SAFETY: the mapping is process-wide and is only reached by atomic accesses.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    pub(super) fn map(vcpu: &VcpuFd, size: usize) -> io::Result<Self> {
        if size < size_of::<kvm_run>() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "KVM's run page is too small"));
        }
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), size, prot, flags, vcpu.as_raw_fd(), 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(page.cast()).ok_or_else(|| io::Error::other("mmap gave no address"))?;
        Ok(Self { page, size })
    }

    pub(super) fn flag(&self) -> &AtomicU8 {
        let at = std::mem::offset_of!(kvm_run, immediate_exit);
        // SAFETY: the offset lies in the mapping, whose size was checked; it stays mapped as long as `self`, and everybody in
        // this process who uses this mapping does so by atomics. The kernel reads the byte whole.
        unsafe { AtomicU8::from_ptr(self.page.add(at).as_ptr()) }
    }
}

impl Drop for ImmediateExit {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody can have a reference into it any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), self.size) };
    }
}

/// One or several accesses to a port, all of one width.
#[cfg(target_arch = "x86_64")]
pub(super) struct PortAccess<'a> {
    pub(super) port: u16,
    /// The guest stores.
    pub(super) write: bool,
    /// Of one access, in bytes.
    pub(super) width: usize,
    /// Of all accesses, one behind the other.
    pub(super) data: &'a mut [u8],
}

/// The port access with which `KVM_RUN` has just come back; kvm-ioctls does not tell the width of one. `None`: the kernel says
/// that the data is not in the run page.
#[cfg(target_arch = "x86_64")]
pub(super) fn port_access(vcpu: &mut VcpuFd, page_size: usize) -> Option<PortAccess<'_>> {
    let run: *mut kvm_run = vcpu.get_kvm_run();
    // SAFETY: every bit pattern of the union's arm is valid, and the caller knows that it is the one in use.
    let io = unsafe { (*run).__bindgen_anon_1.io };
    let width = usize::from(io.size);
    let len = width.checked_mul(usize::try_from(io.count).ok()?)?;
    let start = usize::try_from(io.data_offset).ok()?;
    let end = start.checked_add(len)?;
    if !matches!(width, 1 | 2 | 4) || start < size_of::<kvm_run>() || end > page_size {
        return None;
    }
    // SAFETY: the range lies in the mapping behind `run`, which has `page_size` bytes, and behind the struct that others may refer
    // to. The result borrows the vCPU, so nobody runs it, and nothing else writes there, as long as it exists.
    let data = unsafe { std::slice::from_raw_parts_mut(run.cast::<u8>().add(start), len) };
    let write = u32::from(io.direction) == kvm_bindings::KVM_EXIT_IO_OUT;
    Some(PortAccess { port: io.port, write, width, data })
}

/// The word that tells which internal error KVM had.
pub(super) fn internal_error(vcpu: &mut VcpuFd) -> u32 {
    let run = vcpu.get_kvm_run();
    // SAFETY: every bit pattern of the union's arm is valid.
    unsafe { run.__bindgen_anon_1.internal.suberror }
}

/// Takes out what an eventfd's counter holds. Does not wait.
pub(super) fn drain(fd: &EventFd) {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives across the call.
    if unsafe { libc::poll(&mut poll, 1, 0) } == 1 && poll.revents & libc::POLLIN != 0 {
        // Somebody else may have been faster and the fd may be blocking; only a reader other than the kernel could do that.
        let _ = fd.read();
    }
}

/// The calling thread's number.
pub(super) fn gettid() -> i32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Sends a signal to a thread of this process. Async-signal-safe; keeps errno.
pub(super) fn tgkill(tid: i32, signal: i32) {
    // SAFETY: takes numbers only; errno is a thread's own and is put back.
    unsafe {
        let errno = libc::__errno_location();
        let kept = *errno;
        libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal);
        *errno = kept;
    }
}

/// A system call: on its way back the kernel delivers what signals are pending.
pub(super) fn deliver_signals() {
    // SAFETY: takes nothing. `getpid` of the C library may be cached, this is not.
    unsafe { libc::syscall(libc::SYS_getppid) };
}

/// The first and the last real-time signal that programs may use.
pub(super) fn real_time_signals() -> (i32, i32) {
    (libc::SIGRTMIN(), libc::SIGRTMAX())
}

extern "C" fn nothing(_: libc::c_int) {}

/// Installs an empty handler without SA_RESTART, unless the program has one that does as well.
pub(super) fn install_handler(signal: i32) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value; the kernel fills the old one.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the pointers are to a value that lives across the call, or null.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &mut old) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if !matches!(old.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN) {
        return if old.sa_flags & libc::SA_RESTART == 0 {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the program has a handler with SA_RESTART for the kick signal",
            ))
        };
    }
    // SAFETY: as above.
    let mut new: libc::sigaction = unsafe { std::mem::zeroed() };
    new.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
    // SAFETY: the handler does nothing, so it is safe at any moment; the pointers are to values that live across the call.
    match unsafe { libc::sigaction(signal, &new, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets a signal through on the calling thread.
pub(super) fn unblock(signal: i32) -> io::Result<()> {
    // SAFETY: an all-zero set is valid, sigemptyset makes it the C library's own empty one, and it lives across the calls.
    let answer = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut())
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(answer)) }
}

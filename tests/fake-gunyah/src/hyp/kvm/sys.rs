//! The raw calls that kvm-ioctls has no safe function for.
#![expect(unsafe_code, reason = "raw system calls, and the union in KVM's run page")]

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};

use kvm_bindings::{
    KVM_EXIT_UNKNOWN, KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64, kvm_regs,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::errno::Errno;

/// Calls a thread out of `KVM_RUN`. It is blocked everywhere else, so nothing ever handles it, and whatever the program does
/// with this signal is not disturbed.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// The calling thread, for [`kick`].
pub(super) fn thread_id() -> i32 {
    // SAFETY: takes nothing.
    unsafe { libc::gettid() }
}

/// Ends the present or the next `KVM_RUN` of a thread of this process. A thread that is gone is none.
pub(super) fn kick(tid: i32) {
    // SAFETY: takes numbers. The thread blocks this signal, or has ended.
    let _ = unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, kick_signal()) };
}

/// Forgets the kicks that the calling thread has got.
pub(super) fn forget_kicks() {
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set is filled before it is used; no information about the signal is asked for.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), kick_signal());
        while libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &raw const none) > 0 {}
    }
}

/// In `KVM_RUN`, and only there, the kick can come.
pub(super) fn accept_kicks(vcpu: &VcpuFd) -> Result<(), Errno> {
    const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;
    #[repr(C)]
    struct Mask {
        len: u32,
        set: [u8; 8],
    }
    let allowed = 1u64 << (kick_signal() - 1);
    let mask = Mask { len: 8, set: (!allowed).to_ne_bytes() };
    // SAFETY: the request reads the length and that many bytes behind it.
    let ret = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &raw const mask) };
    if ret < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// Puts the answer to a load where KVM takes it.
pub(super) fn answer_mmio(vcpu: &mut VcpuFd, data: u64) {
    let run = vcpu.get_kvm_run();
    run.__bindgen_anon_1.mmio.data = data.to_le_bytes();
}

/// KVM forgets that an access waits for its answer: the instruction is not done.
pub(super) fn forget_mmio(vcpu: &mut VcpuFd) {
    vcpu.get_kvm_run().exit_reason = KVM_EXIT_UNKNOWN;
}

/// The address of an access that the processor did not describe.
pub(super) fn undescribed_access(vcpu: &mut VcpuFd) -> u64 {
    // SAFETY: all members of the union are plain numbers; this one is valid for the exit that the caller has seen.
    unsafe { vcpu.get_kvm_run().__bindgen_anon_1.arm_nisv.fault_ipa }
}

/// Gives the guest a range of this process's memory, or with size 0 takes it back.
pub(super) fn set_memory(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: what the guest does to the range cannot hurt Rust's rules: nobody has a reference into it. That it is mapped
    // as long as the guest has it is the business of `memory`, and where it is not, KVM reports a fault.
    unsafe { vm.set_user_memory_region(region) }
}

/// An eventfd as kvm-ioctls wants it.
pub(super) fn as_event_fd(fd: &BorrowedFd<'_>) -> ManuallyDrop<EventFd> {
    // SAFETY: the descriptor is open as long as it is borrowed. It is used and never closed by this.
    ManuallyDrop::new(unsafe { EventFd::from_raw_fd(fd.as_raw_fd()) })
}

/// And the other way.
pub(super) fn borrow(fd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the eventfd keeps its descriptor open as long as it is borrowed.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

/// The core registers by their place in KVM's structure.
macro_rules! core_register {
    ($($field:tt)+) => {
        KVM_REG_ARM64
            | KVM_REG_SIZE_U64
            | KVM_REG_ARM_CORE as u64
            | (std::mem::offset_of!(kvm_regs, $($field)+) / size_of::<u32>()) as u64
    };
}

/// Register Xn.
pub(super) fn x(n: u64) -> u64 {
    core_register!(regs.regs) + 2 * n
}
pub(super) const SP_EL0: u64 = core_register!(regs.sp);
pub(super) const PC: u64 = core_register!(regs.pc);
pub(super) const SP_EL1: u64 = core_register!(sp_el1);

//! What Cloud Hypervisor's seccomp filters have to allow for Gunyah, beside what they allow for every hypervisor.

use gunyah_bindings::{android, v11, v17};

/// An ioctl, by its name and its number.
pub type Ioctl = (&'static str, u32);

macro_rules! ioctls {
    ($($module:ident::$name:ident),* $(,)?) => { [$((stringify!($name), $module::$name)),*] };
}

/// Of the threads that make and configure VMs. On a VM's file descriptor some are only tried, with a null pointer, to find out what
/// the host has.
pub const VMM: [Ioctl; 18] = ioctls![
    v11::GH_CREATE_VM,
    v11::GH_VM_SET_USER_MEM_REGION,
    v11::GH_VM_SET_DTB_CONFIG,
    v11::GH_VM_START,
    v11::GH_VM_ADD_FUNCTION,
    v11::GH_VM_REMOVE_FUNCTION,
    v11::GH_VCPU_MMAP_SIZE,
    v17::GUNYAH_CREATE_GUEST_MEM,
    v17::GUNYAH_VM_MAP_MEM,
    v17::GUNYAH_VM_SET_BOOT_CONTEXT,
    android::GUNYAH_ANDROID_TENTATIVE,
    android::GUNYAH_VM_ANDROID_LEND_USER_MEM,
    android::GUNYAH_VM_ANDROID_SET_FW_CONFIG,
    android::GUNYAH_VM_ANDROID_RECLAIM_REGION,
    android::GUNYAH_ANDROID_CREATE_CMA_MEM_FD,
    android::GUNYAH_VM_ANDROID_MAP_CMA_MEM,
    android::GUNYAH_VM_ANDROID_SET_AUTH_TYPE,
    android::GUNYAH_VM_ANDROID_CHECK_EXTENSION,
];

/// A number that no Gunyah has: how a host refuses it tells which it is. It has to reach the kernel.
pub const PROBE: u32 = 0x47ff;

/// Of vCPU threads. A device that changes routes within `VmOps` makes them add and remove functions, too.
pub const VCPU: [Ioctl; 3] = ioctls![v11::GH_VCPU_RUN, v11::GH_VM_ADD_FUNCTION, v11::GH_VM_REMOVE_FUNCTION];

/// Other system calls of vCPU threads, and of those who kick them.
pub const SYSTEM_CALLS: [&str; 9] = [
    "rt_sigaction",
    "rt_sigprocmask",
    "gettid",
    "getppid",
    "timer_create",
    "timer_settime",
    "timer_delete",
    "tgkill",
    "membarrier",
];

//! The constants.

use gunyah_bindings::{android, v11, v17, vendor};

use super::Constant;

macro_rules! rows {
    ($out:ident, $module:ident: $($name:ident = $wanted:expr;)*) => {
        $($out.push(Constant {
            module: stringify!($module),
            name: stringify!($name),
            owner: None,
            rust: u64::from($module::$name),
            width: size_of_val(&$module::$name),
            wanted: $wanted,
        });)*
    };
    ($out:ident, $module:ident, $owner:ident: $($name:ident = $wanted:expr;)*) => {
        $($out.push(Constant {
            module: stringify!($module),
            name: stringify!($name),
            owner: Some(stringify!($owner)),
            rust: u64::from($module::$owner::$name.0),
            width: size_of::<$module::$owner>(),
            wanted: $wanted,
        });)*
    };
}

pub fn constants() -> Vec<Constant> {
    let mut out = Vec::new();
    v11_rows(&mut out);
    android_rows(&mut out);
    v17_rows(&mut out);
    vendor_rows(&mut out);
    out
}

fn v11_rows(out: &mut Vec<Constant>) {
    rows!(out, v11:
        GH_IOCTL_TYPE = 0x47;
        GH_CREATE_VM = 0x4700;
        GH_VM_SET_USER_MEM_REGION = 0x4020_4701;
        GH_VM_SET_DTB_CONFIG = 0x4010_4702;
        GH_VM_START = 0x4703;
        GH_VM_ADD_FUNCTION = 0x4010_4704;
        GH_VCPU_RUN = 0x4705;
        GH_VCPU_MMAP_SIZE = 0x4706;
        GH_VM_REMOVE_FUNCTION = 0x4010_4707;
        GH_MEM_ALLOW_READ = 1;
        GH_MEM_ALLOW_WRITE = 2;
        GH_MEM_ALLOW_EXEC = 4;
        GH_FN_VCPU = 1;
        GH_FN_IRQFD = 2;
        GH_FN_IOEVENTFD = 3;
        GH_FN_MAX_ARG_SIZE = 256;
        GH_IRQFD_LEVEL = 1;
        GH_IOEVENTFD_DATAMATCH = 1;
        GH_VM_MAX_EXIT_REASON_SIZE = 8;
        GH_VCPU_EXIT_UNKNOWN = 0;
        GH_VCPU_EXIT_MMIO = 1;
        GH_VCPU_EXIT_STATUS = 2;
    );
    rows!(out, v11, gh_vm_status:
        GH_VM_STATUS_LOAD_FAILED = 1;
        GH_VM_STATUS_EXITED = 2;
        GH_VM_STATUS_CRASHED = 3;
    );
}

/// What Android's kernels and the guest-memory form have alike.
macro_rules! gunyah_rows {
    ($out:ident, $module:ident) => {
        rows!($out, $module:
            GUNYAH_IOCTL_TYPE = 0x47;
            GUNYAH_CREATE_VM = 0x4700;
            GUNYAH_VM_SET_DTB_CONFIG = 0x4010_4702;
            GUNYAH_VM_START = 0x4703;
            GUNYAH_VM_ADD_FUNCTION = 0x4010_4704;
            GUNYAH_VCPU_RUN = 0x4705;
            GUNYAH_VCPU_MMAP_SIZE = 0x4706;
            GUNYAH_VM_REMOVE_FUNCTION = 0x4010_4707;
            GUNYAH_VM_SET_BOOT_CONTEXT = 0x4010_470a;
            GUNYAH_FN_VCPU = 1;
            GUNYAH_FN_IRQFD = 2;
            GUNYAH_FN_IOEVENTFD = 3;
            GUNYAH_FN_MAX_ARG_SIZE = 256;
            GUNYAH_IRQFD_LEVEL = 1;
            GUNYAH_IOEVENTFD_DATAMATCH = 1;
            GUNYAH_VM_BOOT_CONTEXT_REG_SHIFT = 8;
            GUNYAH_REG_SET_X = 0;
            GUNYAH_REG_SET_PC = 1;
            GUNYAH_REG_SET_SP = 2;
            GUNYAH_VM_MAX_EXIT_REASON_SIZE = 8;
            GUNYAH_VCPU_EXIT_UNKNOWN = 0;
            GUNYAH_VCPU_EXIT_MMIO = 1;
            GUNYAH_VCPU_EXIT_STATUS = 2;
            GUNYAH_VCPU_EXIT_PAGE_FAULT = 3;
            GUNYAH_VCPU_RESUME_HANDLED = 0;
            GUNYAH_VCPU_RESUME_FAULT = 1;
            GUNYAH_VCPU_RESUME_RETRY = 2;
        );
        rows!($out, $module, gunyah_vm_status:
            GUNYAH_VM_STATUS_LOAD_FAILED = 1;
            GUNYAH_VM_STATUS_EXITED = 2;
            GUNYAH_VM_STATUS_CRASHED = 3;
        );
    };
}

fn android_rows(out: &mut Vec<Constant>) {
    gunyah_rows!(out, android);
    rows!(out, android:
        GUNYAH_ANDROID_IOCTL_TYPE = 0x41;
        GUNYAH_VM_SET_USER_MEM_REGION = 0x4020_4701;
        GUNYAH_ANDROID_TENTATIVE = 0x4110;
        GUNYAH_VM_ANDROID_LEND_USER_MEM = 0x4020_4111;
        GUNYAH_VM_ANDROID_SET_FW_CONFIG = 0x4010_4112;
        GUNYAH_VM_ANDROID_RECLAIM_REGION = 0x4010_4113;
        GUNYAH_ANDROID_CREATE_CMA_MEM_FD = 0x4114;
        GUNYAH_VM_ANDROID_MAP_CMA_MEM = 0x4028_4115;
        GUNYAH_VM_ANDROID_SET_AUTH_TYPE = 0x4010_4116;
        GUNYAH_VM_ANDROID_CHECK_EXTENSION = 0x4117;
        GUNYAH_AUTH_ANDROID_PVM = 0;
        GUNYAH_AUTH_QCOM_TRUSTED_VM = 1;
        GUNYAH_CAP_VCPU_TIMER_WAKEUP = 0;
    );
    rows!(out, android, gunyah_map_flags:
        GUNYAH_MEM_DEFAULT_ACCESS = 0;
        GUNYAH_MEM_ALLOW_READ = 1;
        GUNYAH_MEM_ALLOW_WRITE = 2;
        GUNYAH_MEM_ALLOW_EXEC = 4;
        GUNYAH_MEM_FORCE_LEND = 0x10;
        GUNYAH_MEM_FORCE_SHARE = 0x20;
        GUNYAH_MEM_ACCESS_MASK = 0x70;
        GUNYAH_MEM_UNMAP = 0x100;
    );
}

fn v17_rows(out: &mut Vec<Constant>) {
    gunyah_rows!(out, v17);
    rows!(out, v17:
        GUNYAH_CREATE_GUEST_MEM = 0x4040_4708;
        GUNYAH_VM_MAP_MEM = 0x4020_4709;
        GUNYAH_GHMF_CLOEXEC = 1;
        GUNYAH_GHMF_ALLOW_HUGEPAGE = 2;
    );
    rows!(out, v17, gunyah_map_flags:
        GUNYAH_MEM_DEFAULT_ACCESS = 0;
        GUNYAH_MEM_FORCE_LEND = 1;
        GUNYAH_MEM_FORCE_SHARE = 2;
        GUNYAH_MEM_ACCESS_MASK = 7;
        GUNYAH_MEM_ALLOW_READ = 0x10;
        GUNYAH_MEM_ALLOW_WRITE = 0x20;
        GUNYAH_MEM_ALLOW_EXEC = 0x40;
        GUNYAH_MEM_UNMAP = 0x100;
    );
}

fn vendor_rows(out: &mut Vec<Constant>) {
    rows!(out, vendor:
        GH_VENDOR_IOCTL_TYPE = 0xb2;
        GH_VIRTIO_BACKEND_IOCTL_TYPE = 0xbc;
        GH_VIRTIO_BACKEND_IOCTL_FIRST = 1;
        GH_VIRTIO_BACKEND_IOCTL_LAST = 13;
        GH_VM_FW_NAME_MAX = 16;
        GH_VENDOR_CREATE_VM = 0xb201;
        GH_VM_WAIT_FOR_EXIT = 0xc014_b202;
        GH_VENDOR_CREATE_VCPU = 0xb240;
        GH_VM_SET_FW_NAME = 0x4010_b241;
        GH_VM_GET_FW_NAME = 0x8010_b242;
        GH_VM_GET_VCPU_COUNT = 0xb243;
        GH_VM_GET_MEM_COUNT = 0xb244;
        GH_VM_GET_MEM_REGION = 0xc020_b245;
        GH_VENDOR_VCPU_RUN = 0xb280;
        GH_VIRTIO_GET_SHMEM_SIZE = 0x8008_b261;
        GH_VIRTIO_IOEVENTFD = 0x4010_b262;
        GH_VIRTIO_IRQFD = 0x4010_b263;
        GH_VIRTIO_WAIT_FOR_EVENT = 0xc010_b264;
        GH_VIRTIO_SET_DEVICE_FEATURES = 0x4010_b265;
        GH_VIRTIO_SET_QUEUE_NUM_MAX = 0x4010_b266;
        GH_VIRTIO_SET_DEVICE_CONFIG = 0x4010_b267;
        GH_VIRTIO_GET_DRIVER_CONFIG = 0xc010_b268;
        GH_VIRTIO_GET_QUEUE_INFO = 0xc028_b269;
        GH_VIRTIO_GET_DRIVER_FEATURES = 0xc010_b26a;
        GH_VIRTIO_ACK_DRIVER_OK = 0xc004_b26b;
        GH_VIRTIO_SET_APP_READY = 0xb26c;
        GH_VIRTIO_ACK_RESET = 0x4008_b26d;
        GH_VIRTIO_INPUT_SET_CONFIG = 0x4020_b26e;
        GH_VIRTIO_INPUT_SET_DATA = 0x408c_b26f;
        GH_VM_EXIT_UNKNOWN = 0;
        GH_VM_EXIT_SHUTDOWN = 1;
        GH_VM_EXIT_RESTART = 2;
        GH_VM_EXIT_PANIC = 3;
        GH_VM_EXIT_NS_WATCHDOG = 4;
        GH_VM_EXIT_HYP_ERROR = 5;
        GH_VM_EXIT_ASYNC_EXT_ABORT = 6;
        GH_VM_EXIT_FORCE_STOPPED = 7;
    );
}

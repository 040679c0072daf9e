//! Arguments as they lie in the caller's memory, and the places in the run page.

use gunyah_bindings::{android, v11, v17};

use crate::errno::Errno;
use crate::transport::memory::Caller;

/// The `N` bytes at `offset`; missing ones are 0.
pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = bytes.get(offset + i).copied().unwrap_or(0);
    }
    out
}

/// A structure without pointers or padding that matters, read field by field.
pub(crate) trait Arg: Sized {
    const SIZE: usize;
    fn parse(bytes: &[u8]) -> Self;

    /// Copies the structure from the caller: `EFAULT` if it isn't there.
    fn copy_from_user(caller: &Caller, addr: u64) -> Result<Self, Errno> {
        caller.read_bytes(addr, Self::SIZE).map(|bytes| Self::parse(&bytes))
    }
}

macro_rules! arg {
    ($type:path { $($field:ident: $int:ty),* $(,)? }) => {
        impl Arg for $type {
            const SIZE: usize = size_of::<$type>();
            fn parse(bytes: &[u8]) -> Self {
                #[allow(clippy::needless_update, reason = "some have reserved fields")]
                Self {
                    $($field: <$int>::from_le_bytes(bytes_at(bytes, std::mem::offset_of!($type, $field))).into(),)*
                    ..Self::default()
                }
            }
        }
    };
}

arg!(v11::gh_userspace_memory_region {
    label: u32,
    flags: u32,
    guest_phys_addr: u64,
    memory_size: u64,
    userspace_addr: u64,
});
arg!(v11::gh_vm_dtb_config { guest_phys_addr: u64, size: u64 });
arg!(v11::gh_fn_desc { type_: u32, arg_size: u32, arg: u64 });
arg!(v11::gh_fn_vcpu_arg { id: u32 });
arg!(v11::gh_fn_irqfd_arg { fd: u32, label: u32, flags: u32, padding: u32 });
arg!(v11::gh_fn_ioeventfd_arg { datamatch: u64, addr: u64, len: u32, fd: i32, flags: u32, padding: u32 });

arg!(android::gunyah_vm_boot_context { reg: u32, value: u64 });
arg!(android::gunyah_auth_desc { type_: u32, arg_size: u32, arg: u64 });
arg!(v17::gunyah_create_mem_args { flags: u64, size: u64 });

/// The two forms of the same flags are types of their own.
macro_rules! arg_with_flags {
    ($type:path, $flags:path { $($field:ident: $int:ty),* $(,)? }) => {
        impl Arg for $type {
            const SIZE: usize = size_of::<$type>();
            fn parse(bytes: &[u8]) -> Self {
                Self {
                    flags: $flags(u32::from_le_bytes(bytes_at(bytes, std::mem::offset_of!($type, flags)))),
                    $($field: <$int>::from_le_bytes(bytes_at(bytes, std::mem::offset_of!($type, $field))),)*
                }
            }
        }
    };
}
arg_with_flags!(
    v17::gunyah_map_mem_args,
    v17::gunyah_map_flags { guest_addr: u64, guest_mem_fd: u32, offset: u64, size: u64 }
);
arg_with_flags!(
    android::gunyah_map_cma_mem_args,
    android::gunyah_map_flags { label: u32, guest_addr: u64, guest_mem_fd: u32, offset: u64, size: u64 }
);

/// The run page's fields. v11's lie where all later forms have them; the later ones add to them.
pub(crate) mod run {
    use std::mem::offset_of;

    use super::{android, v11, v17};

    /// The union at the page's end of what belongs to each exit reason.
    const EXIT: usize = size_of::<v11::gh_vcpu_run>() - size_of::<v11::gh_vcpu_run_exit>();
    pub(crate) const IMMEDIATE_EXIT: usize = offset_of!(v11::gh_vcpu_run, immediate_exit);
    pub(crate) const EXIT_REASON: usize = offset_of!(v11::gh_vcpu_run, exit_reason);
    pub(crate) const MMIO_PHYS_ADDR: usize = EXIT + offset_of!(v11::gh_vcpu_run_mmio, phys_addr);
    pub(crate) const MMIO_DATA: usize = EXIT + offset_of!(v11::gh_vcpu_run_mmio, data);
    pub(crate) const MMIO_LEN: usize = EXIT + offset_of!(v11::gh_vcpu_run_mmio, len);
    pub(crate) const MMIO_IS_WRITE: usize = EXIT + offset_of!(v11::gh_vcpu_run_mmio, is_write);
    pub(crate) const MMIO_RESUME_ACTION: usize =
        EXIT + offset_of!(android::gunyah_vcpu_run_mmio, resume_action);
    pub(crate) const STATUS: usize = EXIT + offset_of!(v11::gh_vcpu_run_status, status);
    pub(crate) const STATUS_EXIT_INFO: usize = EXIT + offset_of!(v11::gh_vcpu_run_status, exit_info);
    pub(crate) const FAULT_PHYS_ADDR: usize =
        EXIT + offset_of!(android::gunyah_vcpu_run_page_fault, phys_addr);
    pub(crate) const FAULT_ATTEMPT: usize = EXIT + offset_of!(android::gunyah_vcpu_run_page_fault, attempt);
    pub(crate) const FAULT_RESUME_ACTION: usize =
        EXIT + offset_of!(android::gunyah_vcpu_run_page_fault, resume_action);

    pub(crate) const EXIT_INFO_TYPE: usize = offset_of!(v11::gh_vm_exit_info, type_);
    pub(crate) const EXIT_INFO_REASON_SIZE: usize = offset_of!(v11::gh_vm_exit_info, reason_size);
    pub(crate) const EXIT_INFO_REASON: usize = offset_of!(v11::gh_vm_exit_info, reason);
    pub(crate) const EXIT_INFO_SIZE: usize = size_of::<v11::gh_vm_exit_info>();

    // One driver serves all forms, so the forms must agree.
    const _: () = assert!(offset_of!(v17::gunyah_vcpu_run, exit_reason) == EXIT_REASON);
    const _: () = assert!(offset_of!(android::gunyah_vcpu_run, exit_reason) == EXIT_REASON);
}

//! Every ioctl that this crate issues: name, request code, argument. The one table that [`Op`] relies on.

use gunyah_bindings::{android, v11, v17};

use crate::sys::{In, Op, Value};

pub(crate) const CREATE_VM: Op<Value> = Op::new("GH_CREATE_VM", v11::GH_CREATE_VM);
pub(crate) const SET_USER_MEM_REGION: Op<In<v11::gh_userspace_memory_region>> =
    Op::new("GH_VM_SET_USER_MEM_REGION", v11::GH_VM_SET_USER_MEM_REGION);
pub(crate) const SET_DTB_CONFIG: Op<In<v11::gh_vm_dtb_config>> =
    Op::new("GH_VM_SET_DTB_CONFIG", v11::GH_VM_SET_DTB_CONFIG);
pub(crate) const VM_START: Op<Value> = Op::new("GH_VM_START", v11::GH_VM_START);
pub(crate) const ADD_FUNCTION: Op<In<v11::gh_fn_desc>> =
    Op::new("GH_VM_ADD_FUNCTION", v11::GH_VM_ADD_FUNCTION);
pub(crate) const REMOVE_FUNCTION: Op<In<v11::gh_fn_desc>> =
    Op::new("GH_VM_REMOVE_FUNCTION", v11::GH_VM_REMOVE_FUNCTION);
pub(crate) const VCPU_RUN: Op<Value> = Op::new("GH_VCPU_RUN", v11::GH_VCPU_RUN);
pub(crate) const VCPU_MMAP_SIZE: Op<Value> = Op::new("GH_VCPU_MMAP_SIZE", v11::GH_VCPU_MMAP_SIZE);

pub(crate) const CREATE_GUEST_MEM: Op<In<v17::gunyah_create_mem_args>> =
    Op::new("GUNYAH_CREATE_GUEST_MEM", v17::GUNYAH_CREATE_GUEST_MEM);
pub(crate) const VM_MAP_MEM: Op<In<v17::gunyah_map_mem_args>> =
    Op::new("GUNYAH_VM_MAP_MEM", v17::GUNYAH_VM_MAP_MEM);
pub(crate) const SET_BOOT_CONTEXT: Op<In<v17::gunyah_vm_boot_context>> =
    Op::new("GUNYAH_VM_SET_BOOT_CONTEXT", v17::GUNYAH_VM_SET_BOOT_CONTEXT);

pub(crate) const TENTATIVE: Op<Value> =
    Op::new("GUNYAH_ANDROID_TENTATIVE", android::GUNYAH_ANDROID_TENTATIVE);
pub(crate) const LEND_USER_MEM: Op<In<v11::gh_userspace_memory_region>> =
    Op::new("GUNYAH_VM_ANDROID_LEND_USER_MEM", android::GUNYAH_VM_ANDROID_LEND_USER_MEM);
pub(crate) const SET_FW_CONFIG: Op<In<android::gunyah_vm_firmware_config>> =
    Op::new("GUNYAH_VM_ANDROID_SET_FW_CONFIG", android::GUNYAH_VM_ANDROID_SET_FW_CONFIG);
pub(crate) const RECLAIM_REGION: Op<In<android::gunyah_address_range>> =
    Op::new("GUNYAH_VM_ANDROID_RECLAIM_REGION", android::GUNYAH_VM_ANDROID_RECLAIM_REGION);
pub(crate) const CREATE_CMA_MEM_FD: Op<Value> =
    Op::new("GUNYAH_ANDROID_CREATE_CMA_MEM_FD", android::GUNYAH_ANDROID_CREATE_CMA_MEM_FD);
pub(crate) const MAP_CMA_MEM: Op<In<android::gunyah_map_cma_mem_args>> =
    Op::new("GUNYAH_VM_ANDROID_MAP_CMA_MEM", android::GUNYAH_VM_ANDROID_MAP_CMA_MEM);
pub(crate) const SET_AUTH_TYPE: Op<In<android::gunyah_auth_desc>> =
    Op::new("GUNYAH_VM_ANDROID_SET_AUTH_TYPE", android::GUNYAH_VM_ANDROID_SET_AUTH_TYPE);
pub(crate) const CHECK_EXTENSION: Op<Value> =
    Op::new("GUNYAH_VM_ANDROID_CHECK_EXTENSION", android::GUNYAH_VM_ANDROID_CHECK_EXTENSION);

/// Extension 0: a sleeping vCPU with a timer set is woken by the host.
pub(crate) const EXTENSION_VCPU_TIMER_WAKEUP: u64 = android::GUNYAH_CAP_VCPU_TIMER_WAKEUP as u64;

/// An ioctl that no Gunyah has: how it is refused tells the families apart.
pub(crate) const UNKNOWN: Op<Value> = Op::new("an ioctl that does not exist", 0x47ff);

#[cfg(test)]
mod tests {
    use super::*;

    fn number<T>(op: Op<In<T>>) -> (u32, usize) {
        (op.code, size_of::<T>())
    }

    #[test]
    fn codes_and_argument_sizes_are_the_kernels() {
        assert_eq!(number(SET_USER_MEM_REGION), (0x4020_4701, 32));
        assert_eq!(number(SET_DTB_CONFIG), (0x4010_4702, 16));
        assert_eq!(number(ADD_FUNCTION), (0x4010_4704, 16));
        assert_eq!(number(REMOVE_FUNCTION), (0x4010_4707, 16));
        assert_eq!(number(CREATE_GUEST_MEM), (0x4040_4708, 64));
        assert_eq!(number(VM_MAP_MEM), (0x4020_4709, 32));
        assert_eq!(number(SET_BOOT_CONTEXT), (0x4010_470a, 16));
        assert_eq!(number(LEND_USER_MEM), (0x4020_4111, 32));
        assert_eq!(number(SET_FW_CONFIG), (0x4010_4112, 16));
        assert_eq!(number(RECLAIM_REGION), (0x4010_4113, 16));
        assert_eq!(number(MAP_CMA_MEM), (0x4028_4115, 40));
        assert_eq!(number(SET_AUTH_TYPE), (0x4010_4116, 16));
        let plain = [
            (CREATE_VM, 0x4700),
            (VM_START, 0x4703),
            (VCPU_RUN, 0x4705),
            (VCPU_MMAP_SIZE, 0x4706),
            (TENTATIVE, 0x4110),
            (CREATE_CMA_MEM_FD, 0x4114),
            (CHECK_EXTENSION, 0x4117),
        ];
        for (op, code) in plain {
            assert_eq!(op.code, code, "{}", op.name);
        }
    }
}

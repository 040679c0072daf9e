//! The structs: size, alignment, and offset and size of each member.

use std::mem::{MaybeUninit, offset_of};

use gunyah_bindings::{android, v11, v17, vendor};

use super::{Field, Struct, c_path, pointee};

macro_rules! rows {
    ($out:ident, $module:ident: $($name:ident size $size:literal align $align:literal {
        $($first:ident $(. $rest:ident)* : $offset:literal, $length:literal;)*
    })*) => {
        $({
            let place = MaybeUninit::<$module::$name>::uninit();
            let p = place.as_ptr();
            $out.push(Struct {
                module: stringify!($module),
                name: stringify!($name),
                rust: (size_of::<$module::$name>(), align_of::<$module::$name>()),
                wanted: ($size, $align),
                fields: vec![$(Field {
                    path: c_path(stringify!($first $(. $rest)*)),
                    rust: (
                        offset_of!($module::$name, $first $(. $rest)*),
                        // SAFETY: `p` points into `place`, and an address is taken without a read.
                        pointee(unsafe { &raw const (*p).$first $(. $rest)* }),
                    ),
                    wanted: ($offset, $length),
                },)*],
            });
        })*
    };
}

pub fn structs() -> Vec<Struct> {
    let mut out = Vec::new();
    v11_rows(&mut out);
    android_rows(&mut out);
    v17_rows(&mut out);
    vendor_rows(&mut out);
    out
}

fn v11_rows(out: &mut Vec<Struct>) {
    rows!(out, v11:
        gh_userspace_memory_region size 32 align 8 {
            label: 0, 4;
            flags: 4, 4;
            guest_phys_addr: 8, 8;
            memory_size: 16, 8;
            userspace_addr: 24, 8;
        }
        gh_vm_dtb_config size 16 align 8 {
            guest_phys_addr: 0, 8;
            size: 8, 8;
        }
        gh_fn_desc size 16 align 8 {
            type_: 0, 4;
            arg_size: 4, 4;
            arg: 8, 8;
        }
        gh_fn_vcpu_arg size 4 align 4 {
            id: 0, 4;
        }
        gh_fn_irqfd_arg size 16 align 4 {
            fd: 0, 4;
            label: 4, 4;
            flags: 8, 4;
            padding: 12, 4;
        }
        gh_fn_ioeventfd_arg size 32 align 8 {
            datamatch: 0, 8;
            addr: 8, 8;
            len: 16, 4;
            fd: 20, 4;
            flags: 24, 4;
            padding: 28, 4;
        }
        gh_vm_exit_info size 16 align 4 {
            type_: 0, 2;
            padding: 2, 2;
            reason_size: 4, 4;
            reason: 8, 8;
        }
        gh_vcpu_run_mmio size 24 align 8 {
            phys_addr: 0, 8;
            data: 8, 8;
            len: 16, 4;
            is_write: 20, 1;
        }
        gh_vcpu_run_status size 20 align 4 {
            status: 0, 4;
            exit_info: 4, 16;
        }
        gh_vcpu_run size 40 align 8 {
            immediate_exit: 0, 1;
            padding: 1, 7;
            exit_reason: 8, 4;
            __bindgen_anon_1.mmio: 16, 24;
            __bindgen_anon_1.mmio.phys_addr: 16, 8;
            __bindgen_anon_1.mmio.data: 24, 8;
            __bindgen_anon_1.mmio.len: 32, 4;
            __bindgen_anon_1.mmio.is_write: 36, 1;
            __bindgen_anon_1.status: 16, 20;
            __bindgen_anon_1.status.status: 16, 4;
            __bindgen_anon_1.status.exit_info.type_: 20, 2;
            __bindgen_anon_1.status.exit_info.reason_size: 24, 4;
            __bindgen_anon_1.status.exit_info.reason: 28, 8;
        }
    );
}

/// What Android's kernels and the guest-memory form have alike.
macro_rules! gunyah_rows {
    ($out:ident, $module:ident) => {
        rows!($out, $module:
            gunyah_vm_dtb_config size 16 align 8 {
                guest_phys_addr: 0, 8;
                size: 8, 8;
            }
            gunyah_fn_desc size 16 align 8 {
                type_: 0, 4;
                arg_size: 4, 4;
                arg: 8, 8;
            }
            gunyah_fn_vcpu_arg size 4 align 4 {
                id: 0, 4;
            }
            gunyah_fn_irqfd_arg size 16 align 4 {
                fd: 0, 4;
                label: 4, 4;
                flags: 8, 4;
                padding: 12, 4;
            }
            gunyah_fn_ioeventfd_arg size 32 align 8 {
                datamatch: 0, 8;
                addr: 8, 8;
                len: 16, 4;
                fd: 20, 4;
                flags: 24, 4;
                padding: 28, 4;
            }
            gunyah_vm_boot_context size 16 align 8 {
                reg: 0, 4;
                reserved: 4, 4;
                value: 8, 8;
            }
            gunyah_vm_exit_info size 16 align 4 {
                type_: 0, 2;
                padding: 2, 2;
                reason_size: 4, 4;
                reason: 8, 8;
            }
            gunyah_vcpu_run_mmio size 24 align 8 {
                phys_addr: 0, 8;
                data: 8, 8;
                len: 16, 4;
                is_write: 20, 1;
                resume_action: 21, 1;
            }
            gunyah_vcpu_run_status size 20 align 4 {
                status: 0, 4;
                exit_info: 4, 16;
            }
            gunyah_vcpu_run_page_fault size 16 align 8 {
                phys_addr: 0, 8;
                attempt: 8, 4;
                resume_action: 12, 1;
            }
            gunyah_vcpu_run size 40 align 8 {
                immediate_exit: 0, 1;
                padding: 1, 7;
                exit_reason: 8, 4;
                __bindgen_anon_1.mmio: 16, 24;
                __bindgen_anon_1.mmio.phys_addr: 16, 8;
                __bindgen_anon_1.mmio.data: 24, 8;
                __bindgen_anon_1.mmio.len: 32, 4;
                __bindgen_anon_1.mmio.is_write: 36, 1;
                __bindgen_anon_1.mmio.resume_action: 37, 1;
                __bindgen_anon_1.status: 16, 20;
                __bindgen_anon_1.status.status: 16, 4;
                __bindgen_anon_1.status.exit_info.type_: 20, 2;
                __bindgen_anon_1.status.exit_info.reason_size: 24, 4;
                __bindgen_anon_1.status.exit_info.reason: 28, 8;
                __bindgen_anon_1.page_fault: 16, 16;
                __bindgen_anon_1.page_fault.phys_addr: 16, 8;
                __bindgen_anon_1.page_fault.attempt: 24, 4;
                __bindgen_anon_1.page_fault.resume_action: 28, 1;
            }
        );
    };
}

fn android_rows(out: &mut Vec<Struct>) {
    gunyah_rows!(out, android);
    rows!(out, android:
        gunyah_userspace_memory_region size 32 align 8 {
            label: 0, 4;
            flags: 4, 4;
            guest_phys_addr: 8, 8;
            memory_size: 16, 8;
            userspace_addr: 24, 8;
        }
        gunyah_vm_firmware_config size 16 align 8 {
            guest_phys_addr: 0, 8;
            size: 8, 8;
        }
        gunyah_address_range size 16 align 8 {
            guest_phys_addr: 0, 8;
            size: 8, 8;
        }
        gunyah_map_cma_mem_args size 40 align 8 {
            label: 0, 4;
            guest_addr: 8, 8;
            flags: 16, 4;
            guest_mem_fd: 20, 4;
            offset: 24, 8;
            size: 32, 8;
        }
        gunyah_auth_desc size 16 align 8 {
            type_: 0, 4;
            arg_size: 4, 4;
            arg: 8, 8;
        }
        gunyah_qtvm_auth_arg size 24 align 8 {
            vm_id: 0, 2;
            peripheral_id: 4, 4;
            guest_phys_addr: 8, 8;
            size: 16, 8;
        }
    );
}

fn v17_rows(out: &mut Vec<Struct>) {
    gunyah_rows!(out, v17);
    rows!(out, v17:
        gunyah_create_mem_args size 64 align 8 {
            flags: 0, 8;
            size: 8, 8;
            reserved: 16, 48;
        }
        gunyah_map_mem_args size 32 align 8 {
            guest_addr: 0, 8;
            flags: 8, 4;
            guest_mem_fd: 12, 4;
            offset: 16, 8;
            size: 24, 8;
        }
    );
}

fn vendor_rows(out: &mut Vec<Struct>) {
    rows!(out, vendor:
        gh_fw_name size 16 align 1 {
            name: 0, 16;
        }
        gh_fw_name_and_exit_status size 20 align 4 {
            name: 0, 16;
            reason: 16, 4;
        }
        gh_vm_mem_region size 32 align 8 {
            fw_idx: 0, 1;
            padding: 1, 7;
            fw_phys: 8, 8;
            fw_size: 16, 8;
            fd: 24, 4;
            tail_padding: 28, 4;
        }
    );
}

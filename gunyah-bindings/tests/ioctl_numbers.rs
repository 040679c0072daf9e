//! ioctl codes and other constants against the hand-written table.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]
#![expect(unsafe_code, reason = "the table takes addresses of union members")]

mod table;

use gunyah_bindings::{boot, exit};

#[test]
fn constants_are_the_numbers_that_kernels_use() {
    let mut wrong = Vec::new();
    for c in table::constants() {
        if c.rust != c.wanted {
            wrong.push(format!("{}::{}: {:#x}, wanted {:#x}", c.module, c.name, c.rust, c.wanted));
        }
    }
    assert!(wrong.is_empty(), "constants differ:\n{}", wrong.join("\n"));
}

/// Direction, length, type and number of a code, taken apart by hand.
fn parts(code: u64) -> (u64, u64, u64, u64) {
    (code >> 30, (code >> 16) & 0x3fff, (code >> 8) & 0xff, code & 0xff)
}

#[test]
fn a_code_says_how_long_its_argument_is() {
    let arguments = [
        ("v11", "GH_VM_SET_USER_MEM_REGION", "gh_userspace_memory_region"),
        ("v11", "GH_VM_SET_DTB_CONFIG", "gh_vm_dtb_config"),
        ("v11", "GH_VM_ADD_FUNCTION", "gh_fn_desc"),
        ("v11", "GH_VM_REMOVE_FUNCTION", "gh_fn_desc"),
        ("android", "GUNYAH_VM_SET_USER_MEM_REGION", "gunyah_userspace_memory_region"),
        ("android", "GUNYAH_VM_SET_DTB_CONFIG", "gunyah_vm_dtb_config"),
        ("android", "GUNYAH_VM_ADD_FUNCTION", "gunyah_fn_desc"),
        ("android", "GUNYAH_VM_REMOVE_FUNCTION", "gunyah_fn_desc"),
        ("android", "GUNYAH_VM_SET_BOOT_CONTEXT", "gunyah_vm_boot_context"),
        ("android", "GUNYAH_VM_ANDROID_LEND_USER_MEM", "gunyah_userspace_memory_region"),
        ("android", "GUNYAH_VM_ANDROID_SET_FW_CONFIG", "gunyah_vm_firmware_config"),
        ("android", "GUNYAH_VM_ANDROID_RECLAIM_REGION", "gunyah_address_range"),
        ("android", "GUNYAH_VM_ANDROID_MAP_CMA_MEM", "gunyah_map_cma_mem_args"),
        ("android", "GUNYAH_VM_ANDROID_SET_AUTH_TYPE", "gunyah_auth_desc"),
        ("v17", "GUNYAH_VM_SET_DTB_CONFIG", "gunyah_vm_dtb_config"),
        ("v17", "GUNYAH_VM_ADD_FUNCTION", "gunyah_fn_desc"),
        ("v17", "GUNYAH_VM_REMOVE_FUNCTION", "gunyah_fn_desc"),
        ("v17", "GUNYAH_VM_SET_BOOT_CONTEXT", "gunyah_vm_boot_context"),
        ("v17", "GUNYAH_CREATE_GUEST_MEM", "gunyah_create_mem_args"),
        ("v17", "GUNYAH_VM_MAP_MEM", "gunyah_map_mem_args"),
    ];
    let constants = table::constants();
    let structs = table::structs();
    for (module, code, argument) in arguments {
        let code = constants.iter().find(|c| c.module == module && c.name == code).unwrap();
        let argument = structs.iter().find(|s| s.module == module && s.name == argument).unwrap();
        let (direction, length, _, _) = parts(code.rust);
        assert_eq!((direction, length), (1, argument.rust.0 as u64), "{module}::{}", code.name);
    }
    // Whatever has a length above 0 and is no vendor code is in the list.
    let with_argument = |c: &&table::Constant| c.module != "vendor" && c.rust > 0xffff;
    assert_eq!(constants.iter().filter(with_argument).count(), arguments.len());
}

#[test]
fn no_two_ioctls_of_a_module_share_a_code() {
    for module in table::MODULES {
        // Codes only: everything else is small.
        let mut codes: Vec<u64> = table::constants()
            .iter()
            .filter(|c| c.module == module && c.rust > 0xfff)
            .map(|c| c.rust)
            .collect();
        let all = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all, "{module}");
        assert!(all >= 8, "{module} has only {all} codes");
    }
}

#[test]
fn boot_context_registers() {
    use gunyah_bindings::{android, v17};

    assert_eq!(boot::reg(android::GUNYAH_REG_SET_X, 0), 0);
    assert_eq!(boot::reg(android::GUNYAH_REG_SET_X, 31), 31);
    assert_eq!(boot::reg(v17::GUNYAH_REG_SET_PC, 0), 256);
    assert_eq!(boot::reg(v17::GUNYAH_REG_SET_SP, 2), 0x202);
}

#[test]
fn exit_types() {
    let types = [
        exit::VM_EXIT,
        exit::PSCI_SYSTEM_OFF,
        exit::PSCI_SYSTEM_RESET,
        exit::PSCI_SYSTEM_RESET2,
        exit::WATCHDOG_BITE,
        exit::HYPERVISOR_ERROR,
        exit::ASYNC_HARDWARE_ERROR,
        exit::FORCE_STOPPED,
    ];
    assert_eq!(types, [0, 1, 2, 3, 4, 5, 6, 7]);
    let codes = [
        exit::CODE_NORMAL,
        exit::CODE_SOFTWARE_ERROR,
        exit::CODE_UNKNOWN,
        exit::CODE_BUS_ERROR,
        exit::CODE_DEVICE_ERROR,
    ];
    assert_eq!(codes, [0, 1, 2, 3, 4]);
    assert_eq!((exit::FLAG_RESTART, exit::FLAG_RESET2), (1, 0x8000));
}

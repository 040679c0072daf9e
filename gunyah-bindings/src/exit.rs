//! How a VM ended: the numbers in the `type_` and `reason` of [`gh_vm_exit_info`](crate::v11::gh_vm_exit_info).
//!
//! Written by hand. The kernel passes these on without a look, so no kernel header names them: they are the Resource
//! Manager's, read in its open source. A host may send others. The vendor flavour numbers its exits differently:
//! see [`vendor`](crate::vendor).

/// The guest asked the Resource Manager to end the VM. The reason is one word: flags in its low 16 bits
/// ([`FLAG_RESTART`], [`FLAG_RESET2`]), a code in its high 16 bits (`CODE_…`).
pub const VM_EXIT: u16 = 0;
/// The guest called PSCI `SYSTEM_OFF`.
pub const PSCI_SYSTEM_OFF: u16 = 1;
/// The guest called PSCI `SYSTEM_RESET`.
pub const PSCI_SYSTEM_RESET: u16 = 2;
/// The guest called PSCI `SYSTEM_RESET2`. The reason has 16 bytes, reset type and cookie; only the first 8 reach user space.
pub const PSCI_SYSTEM_RESET2: u16 = 3;
/// The guest's watchdog bit.
pub const WATCHDOG_BITE: u16 = 4;
/// An error of the hypervisor or of software, such as a fault of a vCPU.
pub const HYPERVISOR_ERROR: u16 = 5;
/// An asynchronous hardware error.
pub const ASYNC_HARDWARE_ERROR: u16 = 6;
/// The host stopped the VM by force, as it does when the last file descriptor of the VM is closed.
pub const FORCE_STOPPED: u16 = 7;

/// With [`VM_EXIT`], code: a normal end.
pub const CODE_NORMAL: u16 = 0;
/// With [`VM_EXIT`], code: a software error.
pub const CODE_SOFTWARE_ERROR: u16 = 1;
/// With [`VM_EXIT`], code: unknown.
pub const CODE_UNKNOWN: u16 = 2;
/// With [`VM_EXIT`], code: a bus error.
pub const CODE_BUS_ERROR: u16 = 3;
/// With [`VM_EXIT`], code: a device error.
pub const CODE_DEVICE_ERROR: u16 = 4;

/// With [`VM_EXIT`], flag: the guest wants to be started again.
pub const FLAG_RESTART: u16 = 1 << 0;
/// With [`VM_EXIT`], flag: a reset of the 64-bit `SYSTEM_RESET2` kind.
pub const FLAG_RESET2: u16 = 1 << 15;

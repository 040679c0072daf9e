//! The Resource Manager's rules: the guest's devicetree, and what it makes of it.
//!
//! `VM_START` hands the guest's devicetree to the Resource Manager, a program in a VM of its own below the host. It
//! looks for one node, `/gunyah-vm-config`, makes the VM's vCPUs, doorbells and shared memory from it, and refuses
//! a tree that it cannot use. The driver turns the refusal into an errno of `VM_START`.
//!
//! [`read_vm_config`] is that reading. What it refuses, and with which code:
//!
//! | the tree | answer | seen or chosen |
//! |---|---|---|
//! | no `gunyah-vm-config` (or `qcom,vm-config`) at the root | `NORESOURCE` | seen |
//! | no `memory` node in it | `NORESOURCE` | seen |
//! | no `vcpus` node in it | `NORESOURCE` | seen |
//! | no `image-name` | `ARGUMENT_INVALID` | seen |
//! | a node with `device_type = "memory"` whose name is not exactly `memory` | `ARGUMENT_INVALID` | seen |
//! | no interrupt controller, no cpus node, no boot CPU | `NORESOURCE` | chosen |
//! | `/hypervisor` is there already | `ARGUMENT_INVALID` | chosen |
//! | a secondary CPU without a usable `enable-method`, a doorbell without a peer or a label, a bad address | `ARGUMENT_INVALID` | chosen |
//! | not a devicetree, or a damaged one | `NORESOURCE` | chosen |
//!
//! "Seen" was observed with the open Resource Manager of December 2023: one property changed at a time, and the errno
//! of `VM_START` noted. That the other rows are refused is known too; their code was not observed. They follow
//! what the seen ones have in common: a missing node is `NORESOURCE` (ENODEV), a wrong or missing property
//! `ARGUMENT_INVALID` (EINVAL). The first finding ends the reading, in the order of [`read_vm_config`]'s list.
//!
//! [`check_parcels`] then looks at the memory that comes with the tree, and [`write_overlay`] writes the tree as the guest
//! gets it.
//!
//! Where the GIC's node has no usable `reg`, or the GIC is no GICv3, the VM starts with a warning and its guest gets no
//! interrupts: chosen, too.
//!
//! The Resource Managers on phones are closed and newer. A tree that passes here can still be refused there.

mod config;
mod cpus;
mod error;
mod fdt;
mod interrupts;
mod memory;
mod overlay;
mod parcels;
mod vdevices;

pub use config::{VmDescription, read_vm_config};
pub use cpus::Affinity;
pub use error::{RmError, RmErrorCode};
pub use interrupts::{GicFrames, Interrupt, Trigger};
pub use memory::Range;
pub use overlay::write_overlay;
pub use parcels::{Parcel, check_parcels};
pub use vdevices::{Doorbell, SharedMemory};

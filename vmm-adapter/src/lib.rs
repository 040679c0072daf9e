//! One hypervisor trait set for VMMs, with Gunyah behind it.
//!
//! | trait | what it is |
//! |---|---|
//! | [`Hypervisor`] | makes VMs |
//! | [`Vm`] | memory, interrupt lines, vCPUs, the start |
//! | [`Vcpu`] | runs the guest and calls the VMM's devices |
//! | [`IoHandler`] | the VMM's devices |
//! | [`Kicker`] | ends a vCPU's run from another thread |
//!
//! The rules, on every backend:
//!
//! - A VM has [phases](Phase): configuring, running, stopped. A call in the wrong one is an error that says so.
//! - Interrupt lines, the interrupt controller and the number of vCPUs are declared in [`VmConfig`], before the VM is made.
//! - What a backend lacks is said: by [`Capabilities`], by a facet that is `None`, by [`Error::Unsupported`]. Nothing is
//!   dropped silently.
//! - The devicetree is part of the interface: [`fdt::write`] writes it, with what the hypervisor wants in it.
//!
//! The backends are features of this crate: `gunyah` (default). The flavour of Gunyah is found out at run time.

mod boot;
mod caps;
mod config;
mod error;
pub mod fdt;
#[cfg(feature = "gunyah")]
pub mod gunyah;
mod hypervisor;
mod io;
mod memory;
mod phase;
mod sys;
mod vcpu;
mod vm;

pub use boot::BootContext;
pub use caps::{Backend, Capabilities, Feature};
pub use config::{GicLayout, IrqLine, MsiPool, Trigger, VmConfig, VmKind};
pub use error::{Error, Result};
pub use hypervisor::Hypervisor;
pub use io::{IoHandler, IoOutcome};
pub use memory::{MemoryRegion, Sharing};
pub use phase::Phase;
pub use vcpu::{ExitCause, ExitDetails, Kicker, Registers, Vcpu, VcpuExit};
pub use vm::{DirtyLog, IoEventMatch, Vm};

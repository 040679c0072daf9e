//! One hypervisor trait set for VMMs, with Gunyah and KVM behind it.
//!
//! | trait | what it is |
//! |---|---|
//! | [`Hypervisor`] | makes VMs |
//! | [`Vm`] | memory, interrupt lines, vCPUs, the start |
//! | [`Vcpu`] | runs the guest and calls the VMM's devices |
//! | [`IoHandler`] | the VMM's devices |
//! | [`Kicker`] | ends a vCPU's run from another thread |
//! | [`Registers`], [`DirtyLog`], [`Reclaim`] | facets: what not every backend has |
//!
//! The rules, on every backend:
//!
//! - A VM has [phases](Phase): configuring, running, stopped. A call in the wrong one is an error that says so.
//! - Interrupt lines, the interrupt controller and the number of vCPUs are declared in [`VmConfig`], before the VM is made.
//! - What a backend lacks is said: by [`Capabilities`], by a facet that is `None`, by [`Error::Unsupported`]. Nothing is
//!   dropped silently.
//! - The devicetree is part of the interface: [`fdt::write`] writes it, with what the hypervisor wants in it.
//!
//! # Backends
//!
//! Each is a feature of this crate, and any number of them can be compiled in. Which one a VM is made by is decided at run time:
//! [`open`] takes the best of a host, [`open_backend`] the one that was asked for.
//!
//! | feature | [`Backend`] | hosts | guests |
//! |---|---|---|---|
//! | `gunyah`, on by default | [`Gunyah`](Backend::Gunyah) | kernels with `/dev/gunyah`: v11, android14 to android16, v17; the flavour is found out at run time | arm64, protected or not |
//! | `kvm` | [`Kvm`](Backend::Kvm) | kernels with `/dev/kvm`, on arm64 and x86_64 | those of the host's architecture |
//!
//! The `kvm` backend keeps the rules that Gunyah makes, so a VMM that was developed on it does not break on Gunyah. Without either
//! feature the crate still has the devicetree, the lint, the bus and the memory regions.
//!
//! # Beside the traits
//!
//! Nobody has to use these: [`Bus`] finds devices by address, [`MsiFrame`] takes message-signalled interrupts where there is no ITS,
//! [`VcpuThread`] runs, pauses and ends a vCPU, [`ExitStats`] measures its exits, [`MemoryRegion::prepare`] gets memory ready before it is
//! given away, [`shared_memory`] is what devices may touch of it, and [`fdt::lint`] checks a tree on any machine.
//!
//! # Guides
//!
//! - [`porting_from_kvm`], for authors of a VMM that runs on KVM.
//! - [`cloud_hypervisor`], for those of Cloud Hypervisor and of VMMs with traits like its.
//!
//! # A whole VMM
//!
//! The guest stores the letter A to address 0x1000_0000 and powers off.
//!
//! ```
//! # #[cfg(feature = "gunyah")]
//! # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! # let fake = fake_gunyah::Fake::builder().guest(fake_gunyah::Guest::code()).build()?;
//! # fake.run(|_| vmm())??;
//! # Ok(())
//! # }
//! # #[cfg(feature = "gunyah")]
//! # fn vmm() -> Result<(), vmm_adapter::Error> {
//! use vm_memory::GuestAddress;
//! use vmm_adapter::fdt::{self, GuestTree};
//! use vmm_adapter::gunyah::Gunyah;
//! use vmm_adapter::{BootContext, Hypervisor, IoHandler, IoOutcome, Sharing, VcpuExit, VmConfig};
//!
//! struct Devices;
//!
//! impl IoHandler for Devices {
//!     fn mmio_read(&self, _addr: GuestAddress, _data: &mut [u8]) -> IoOutcome {
//!         IoOutcome::Unclaimed
//!     }
//!     fn mmio_write(&self, addr: GuestAddress, data: &[u8]) -> IoOutcome {
//!         assert_eq!((addr.0, data), (0x1000_0000, &b"A"[..]));
//!         IoOutcome::Handled
//!     }
//! }
//!
//! let ram_start = GuestAddress(0x8000_0000);
//! let tree_start = GuestAddress(0x8010_0000);
//!
//! let vm = Gunyah::open()?.create_vm(&VmConfig::new(1))?;
//! let ram = vm.allocate(ram_start, 2 << 20, Sharing::Shared)?;
//! // mov w0, #'A'; mov x1, #0x10000000; strb w0, [x1]; mov w0, #0x84000008 (SYSTEM_OFF); hvc #0
//! for (addr, word) in (ram_start.0..).step_by(4).zip([
//!     0x5280_0820_u32, 0xd2a2_0001, 0x3900_0020, 0x5280_0100, 0x72b0_8000, 0xd400_0002,
//! ]) {
//!     ram.write(GuestAddress(addr), &word.to_le_bytes())?;
//! }
//! let tree = fdt::write(&*vm, &GuestTree::default())?;
//! ram.write(tree_start, &tree)?;
//! let fdt_size = (tree.len() as u64 + vm.tree_slack(tree.len() as u64)).next_multiple_of(4096);
//!
//! let mut vcpu = vm.create_vcpu(0)?;
//! vm.start(&BootContext { entry: ram_start, fdt: tree_start, fdt_size })?;
//! assert!(matches!(vcpu.run(&Devices)?, VcpuExit::PowerOff(_)));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "gunyah"))]
//! # fn main() {}
//! ```

mod boot;
mod bus;
mod caps;
mod chunks;
mod config;
mod error;
pub mod fdt;
#[cfg(feature = "gunyah")]
pub mod gunyah;
mod hypervisor;
mod io;
#[cfg(all(feature = "kvm", any(target_arch = "aarch64", target_arch = "x86_64")))]
pub mod kvm;
mod memory;
mod msi;
mod phase;
mod prepare;
mod select;
#[cfg(any(feature = "gunyah", feature = "kvm"))]
mod setup;
mod shared;
mod stats;
mod sys;
mod thread;
mod vcpu;
mod vm;

pub use boot::BootContext;
pub use bus::{Bus, MmioDevice};
pub use caps::{Backend, Capabilities, Feature, GuestArch};
pub use config::{GicLayout, IrqLine, MsiPool, Trigger, VmConfig, VmKind};
pub use error::{Error, Result};
pub use hypervisor::Hypervisor;
pub use io::{IoHandler, IoOutcome};
pub use memory::{MemoryRegion, Sharing};
pub use msi::{MsiFrame, MsiMessage};
pub use phase::Phase;
pub use prepare::{Prepare, Prepared};
pub use select::{open, open_backend, set_kick_signal};
pub use shared::{SharedMemory, shared_memory};
pub use stats::{ExitKind, ExitNumbers, ExitReport, ExitStats, Latency};
pub use thread::{VcpuEnd, VcpuThread};
pub use vcpu::{ExitCause, ExitDetails, Kicker, Registers, Vcpu, VcpuExit};
pub use vm::{DirtyLog, IoEventMatch, Reclaim, Vm};

#[doc = include_str!("../docs/porting-from-kvm.md")]
pub mod porting_from_kvm {}

#[doc = include_str!("../docs/cloud-hypervisor.md")]
pub mod cloud_hypervisor {}

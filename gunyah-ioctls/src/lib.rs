//! Safe wrappers over the ioctls of `/dev/gunyah`.
//!
//! [`Gunyah`] is the device, [`VmFd`] a VM, [`VcpuFd`] a vCPU; a method carries the name of its ioctl. Who knows
//! `kvm-ioctls` is at home here. One binary drives every Gunyah that takes arbitrary guests: the mailing lists' v11 and v17
//! and Android 14, 15 and 16. What a host has is found out at run time ([`Features`]); a call that it lacks is
//! [`Error::NotInAbi`], and the kernel is not asked.
//!
//! # The life of a VM
//!
//! 1. [`Gunyah::create_vm`].
//! 2. Memory, vCPUs, irqfds and ioeventfds are added, and the devicetree that names them is written into the memory.
//! 3. [`VmFd::set_dtb_config`], and [`VmFd::start`].
//! 4. One thread per vCPU calls [`VcpuFd::run`] and answers what it returns, until it returns [`VcpuExit::Status`].
//!
//! ```
//! use gunyah_ioctls::{Access, Gunyah, UserMemoryRegion, VcpuExit};
//! # use fake_gunyah::{Fake, Guest, Script};
//! # let script = Script::new().mmio_read(0x1000, 4).expect(42).mmio_write(0x1008, 4, 42).exit(1, &[0; 4]);
//! # let fake = Fake::builder().guest(Guest::scripts([script])).build()?;
//! # let page = 1 << 16;
//! # let memory = std::alloc::Layout::from_size_align(page, page)?;
//! # // SAFETY: the layout is not empty.
//! # let memory = unsafe { std::alloc::alloc_zeroed(memory) } as u64; // never freed
//! # let size = page as u64;
//! # fake.run(|_| {
//!
//! let vm = Gunyah::new()?.create_vm()?;
//! let region = UserMemoryRegion {
//!     label: 0,
//!     guest_phys_addr: 0x8000_0000,
//!     memory_size: size,
//!     userspace_addr: memory,
//!     access: Access::RWX,
//! };
//! // SAFETY: the memory is this guest's for as long as the VM exists.
//! unsafe { vm.set_user_memory_region(&region)? };
//! let mut vcpu = vm.add_vcpu(0)?;
//! vm.set_dtb_config(0x8000_0000, 4096)?;
//! vm.start()?;
//! let end = loop {
//!     match vcpu.run()? {
//!         VcpuExit::MmioRead { addr, len } => {
//!             println!("the guest loads {len} bytes from {addr:#x}");
//!             vcpu.complete_mmio_read(&42_u64.to_le_bytes()[..len])?;
//!         }
//!         VcpuExit::MmioWrite { addr, data, len } => println!("it stores {:x?} to {addr:#x}", &data[..len]),
//!         VcpuExit::Status(status) => break status,
//!         other => println!("{other:?}"),
//!     }
//! };
//! println!("{end}");
//! # Ok::<(), gunyah_ioctls::Error>(())
//! # })??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//!
//! - **No exit is lost.** The kernel lets a signal overtake a finished exit; `run` finds it.
//! - **No answer is lost where user space can prevent it.** The kernel drops an answer to an MMIO read when a signal reaches
//!   it at the wrong moment. [Kicks](KickHandle) keep away from that moment; [`VcpuFd::answers_possibly_lost`] counts what
//!   may remain.
//! - **A kick is never lost**: it ends the current or the next `run`, once.
//! - **The run page is not trusted.** Whatever a kernel or hypervisor writes there, the worst is an [`Error`].
//! - **What kernels forget to check is checked here**, on every flavour alike: ranges that wrap around, sizes of 0, ids and labels
//!   in use. See [`Error::InvalidArgument`] and [`Error::WrongPhase`].
//! - **Nothing leaks.** File descriptors are owned, mappings end with their owners, and `Drop` never panics.
//!
//! # Signals
//!
//! The crate uses one real-time signal ([`set_kick_signal`]) and installs its handler. On threads that run vCPUs, block the
//! others: [`block_other_signals`] says why.
//!
//! # Platforms
//!
//! 64-bit Linux and Android. The kernel's vCPU file has no 32-bit entry.

#[cfg(not(all(any(target_os = "linux", target_os = "android"), target_pointer_width = "64")))]
compile_error!("gunyah-ioctls needs 64-bit Linux or Android: Gunyah's vCPU file has no 32-bit entry");

mod book;
mod boot;
mod cma;
mod error;
mod exit;
mod features;
mod function;
mod guest_memory;
mod gunyah;
mod ioeventfd;
mod irqfd;
mod kick;
mod mapping;
mod memory;
mod ops;
mod run_page;
mod sys;
mod vcpu;
mod vm;

pub use boot::{AuthType, BootRegister};
pub use cma::{CmaMapping, CmaMemory, CmaRegion};
pub use error::{Error, Result, causes};
pub use exit::{ExitInfo, ExitType, GuestExitCode, VcpuExit, VmStatus};
pub use features::{Feature, Features, Flavour};
pub use guest_memory::{GuestMemory, GuestMemoryMapping, HostMapping};
pub use gunyah::Gunyah;
pub use ioeventfd::{IoEventFd, IoEventMatch};
pub use irqfd::{IrqFd, Trigger};
pub use kick::KickHandle;
pub use kick::signal::{block_other_signals, set_kick_signal};
pub use memory::{Access, Sharing, UserMemoryRegion};
pub use vcpu::VcpuFd;
pub use vm::VmFd;

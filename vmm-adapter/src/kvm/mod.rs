//! The KVM backend, on arm64 and x86_64.
//!
//! It keeps the rules of the traits, which are Gunyah's: phases, declared lines, a main region. A VMM that runs here does not
//! break on Gunyah for lack of them.
//!
//! | | arm64 | x86_64 |
//! |---|---|---|
//! | interrupt controller | GICv3 where [`GicLayout`](crate::GicLayout) says | local APICs and an I/O APIC; an 8254 timer |
//! | [`IrqLine::spi`](crate::IrqLine) | the SPI, 0 to 959 | the pin of the I/O APIC, 0 to 23 |
//! | vCPU 0 starts | at [`entry`](crate::BootContext::entry) in EL1, MMU off, X0 = [`fdt`](crate::BootContext::fdt) | at `entry` in 32-bit protected mode, flat segments, no paging, EBX = `fdt`, which is what the PVH boot protocol wants |
//! | other vCPUs | PSCI CPU_ON | INIT and SIPI |
//! | [`GuestPower`](Feature::GuestPower), [`MsiPool`](Feature::MsiPool) | yes | no: the VMM's devices do that |
//! | [`PortIo`](Feature::PortIo) | no | yes |
//! | [`MmioFault`](Feature::MmioFault) | where the host's kernel can (Linux 5.5) | no |
//!
//! Both have registers, dirty-page tracking, read-only memory and memory that can be taken back. Neither has private memory.
//!
//! A vCPU is ended by a real-time signal, as on Gunyah ([`set_kick_signal`](crate::set_kick_signal)).

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod arch;
mod dirty;
mod error;
mod ioevent;
mod irq;
mod kick;
mod level;
mod memory;
mod reclaim;
pub mod registers;
mod signal;
mod sys;
mod vcpu;
mod vm;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kvm_ioctls::Cap;

use crate::caps::{Backend, Capabilities, Feature};
use crate::config::{VmConfig, VmKind};
use crate::error::{Error, Result};
use crate::hypervisor::Hypervisor;
use crate::vm::Vm;

pub(crate) use signal::set_kick_signal;

/// The version that the interface has had since 2007.
const API_VERSION: i32 = 12;

/// KVM on this host.
#[derive(Debug)]
pub struct Kvm {
    device: kvm_ioctls::Kvm,
    capabilities: Capabilities,
}

impl Kvm {
    /// Where the kernel puts the device.
    pub const DEFAULT_PATH: &str = "/dev/kvm";

    /// Opens [`Kvm::DEFAULT_PATH`].
    ///
    /// # Errors
    /// As [`Kvm::open_path`].
    pub fn open() -> Result<Self> {
        Self::open_path(Self::DEFAULT_PATH)
    }

    /// Opens the device at `path` and asks what it offers.
    ///
    /// # Errors
    /// - [`Backend`](crate::Error::Backend), with the errno of `open`: ENOENT for a node that is not there, EACCES for one that may
    ///   not be opened.
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): the node is something else, or a KVM that lacks what this backend
    ///   is built on.
    pub fn open_path(path: impl AsRef<Path>) -> Result<Self> {
        const OP: &str = "open";
        let path = path.as_ref();
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::invalid(OP, "the path has a byte 0 in it"))?;
        let device = kvm_ioctls::Kvm::new_with_path(&name).map_err(error::backend(OP))?;
        let version = device.get_api_version();
        if version != API_VERSION {
            let what =
                if version < 0 { "is no KVM device".to_owned() } else { format!("has version {version}") };
            return Err(Error::invalid(OP, format!("{} {what}", path.display())));
        }
        const NEEDED: [(Cap, &str); 4] = [
            (Cap::UserMemory, "guest memory from user space"),
            (Cap::Irqfd, "irqfd"),
            (Cap::Ioeventfd, "ioeventfd"),
            (Cap::ImmediateExit, "immediate_exit"),
        ];
        let lacks = NEEDED.iter().find(|(cap, _)| !device.check_extension(*cap));
        if let Some(what) = lacks.map(|(_, what)| *what).or_else(|| arch::lacks(&device)) {
            return Err(Error::invalid(OP, format!("this host's KVM lacks {what}")));
        }
        let capabilities = capabilities(&device);
        Ok(Self { device, capabilities })
    }
}

impl Hypervisor for Kvm {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn create_vm(&self, config: &VmConfig) -> Result<std::sync::Arc<dyn Vm>> {
        const OP: &str = "create_vm";
        config.check_for(self.capabilities.max_vcpus())?;
        let mut config = config.clone();
        match config.kind {
            VmKind::Any => config.kind = VmKind::Plain,
            VmKind::Plain => {}
            VmKind::Protected => self.capabilities.require(Feature::PrivateMemory)?,
            VmKind::ProtectedFirmware { .. } => self.capabilities.require(Feature::Firmware)?,
            VmKind::Trusted { .. } => self.capabilities.require(Feature::TrustedVm)?,
        }
        if config.reserved_memory.is_some() {
            self.capabilities.require(Feature::ReservedMemory)?;
        }
        if config.msi.is_some() {
            self.capabilities.require(Feature::MsiPool)?;
        }
        config.guest_phys_bits = config.guest_phys_bits.min(self.capabilities.guest_phys_bits());
        arch::check(OP, &config)?;
        let capabilities = self.capabilities.with_guest_phys_bits(config.guest_phys_bits);
        vm::KvmVm::create(OP, &self.device, config, capabilities)
    }
}

fn capabilities(device: &kvm_ioctls::Kvm) -> Capabilities {
    let everywhere = [
        (Feature::Registers, true),
        (Feature::Unmap, true),
        (Feature::PlainVm, true),
        (Feature::ReadOnlyMemory, device.check_extension(Cap::ReadonlyMem)),
        (Feature::OwnMemory, true),
        (Feature::BootContext, true),
        (Feature::DirtyLog, true),
        (Feature::Reclaim, true),
    ];
    let offered = everywhere.into_iter().chain(arch::offered(device));
    let features = offered.filter(|(_, has)| *has).map(|(feature, _)| feature);
    let max_vcpus = u32::try_from(device.get_max_vcpus()).unwrap_or(u32::MAX);
    Capabilities::new(Backend::Kvm, arch::GUEST, features, max_vcpus, arch::guest_phys_bits(device))
}

//! From the description of the guest to a VM.

use std::sync::Arc;

use anyhow::{Context, bail};
use vm_memory::GuestAddress;
use vmm_adapter::{
    Backend, Capabilities, Feature, GicLayout, GuestArch, IrqLine, MsiFrame, MsiPool, VmConfig, VmKind,
    open_backend,
};

use super::hypervisor_type;
use super::irq::FIRST_SPI;
use super::vm::AdapterVm;
use crate::hypervisor::additions::{GuestDescription, LegacyLine, MsiLines, Protection};
use crate::hypervisor::gic::VgicConfig;
use crate::hypervisor::vm::Vm;
use crate::hypervisor::{Hypervisor, HypervisorError, HypervisorType, HypervisorVmConfig};

/// A hypervisor of vmm-adapter's.
pub struct AdapterHypervisor {
    inner: Box<dyn vmm_adapter::Hypervisor>,
}

impl AdapterHypervisor {
    /// Opens this host's.
    pub fn new(backend: Backend) -> Result<Self, HypervisorError> {
        open_backend(backend).map(Self::from).map_err(|error| HypervisorError::HypervisorCreate(error.into()))
    }
}

impl From<Box<dyn vmm_adapter::Hypervisor>> for AdapterHypervisor {
    /// Takes one that is open.
    fn from(inner: Box<dyn vmm_adapter::Hypervisor>) -> Self {
        Self { inner }
    }
}

impl Hypervisor for AdapterHypervisor {
    fn hypervisor_type(&self) -> HypervisorType {
        hypervisor_type(self.inner.capabilities().backend())
    }

    fn create_vm(&self, config: HypervisorVmConfig) -> Result<Arc<dyn Vm>, HypervisorError> {
        self.check_required_extensions()?;
        let create = || -> anyhow::Result<AdapterVm> {
            let description =
                config.description.context("HypervisorVmConfig::description says nothing of the guest")?;
            let vm = self.inner.create_vm(&vm_config(&description, self.inner.capabilities())?)?;
            // Memory comes as a pointer, and v17 takes none. Known on the VM only, and before anything is given to it.
            vm.capabilities().require(Feature::OwnMemory)?;
            Ok(AdapterVm::new(vm, description))
        };
        create().map(|vm| Arc::new(vm) as Arc<dyn Vm>).map_err(HypervisorError::VmCreate)
    }

    fn check_required_extensions(&self) -> Result<(), HypervisorError> {
        let caps = self.inner.capabilities();
        let check = || {
            if caps.guest_arch() != GuestArch::Arm64 {
                bail!(
                    "{} runs {} guests on this host, and these are arm64's",
                    caps.backend(),
                    caps.guest_arch()
                );
            }
            for feature in [Feature::OwnMemory, Feature::MsiPool, Feature::GuestPower] {
                caps.require(feature)?;
            }
            Ok(())
        };
        check().map_err(HypervisorError::CheckExtensions)
    }

    fn get_host_ipa_limit(&self) -> i32 {
        self.inner.capabilities().guest_phys_bits().into()
    }

    /// None: no backend of vmm-adapter debugs guests.
    fn get_guest_debug_hw_bps(&self) -> usize {
        0
    }

    fn get_max_vcpus(&self) -> u32 {
        self.inner.capabilities().max_vcpus()
    }
}

/// What vmm-adapter wants to know, in its words.
fn vm_config(description: &GuestDescription, caps: &Capabilities) -> anyhow::Result<VmConfig> {
    let GuestDescription { vcpus, protection, vgic, lines, msi, .. } = description;
    check_sizes(vgic, *vcpus, msi.is_some())?;
    let gic = GicLayout {
        distributor: GuestAddress(vgic.dist_addr),
        redistributors: GuestAddress(vgic.redists_addr),
    };
    let kind = match protection {
        Protection::Auto => VmKind::Any,
        Protection::Never => VmKind::Plain,
        Protection::Always => VmKind::Protected,
    };
    let mut config = VmConfig::new(*vcpus).with_kind(kind).with_gic(gic);
    // What the VMM was told of the host holds for the VM.
    (config.max_vcpus, config.guest_phys_bits) = (caps.max_vcpus(), caps.guest_phys_bits());
    config.irq_lines = lines.iter().copied().map(line).collect();
    if let Some(MsiLines { first_intid, count }) = *msi {
        if count == 0 {
            bail!("a pool of no lines: leave GuestDescription::msi away");
        }
        let base = first_intid.checked_sub(FIRST_SPI).with_context(|| {
            format!("INTID {first_intid} cannot be a message's: SPIs begin at {FIRST_SPI}")
        })?;
        config = config.with_msi(MsiPool { base, count, frame: GuestAddress(vgic.msi_addr) });
    }
    if let Some(line) = config.lines().find(|line| line.spi >= vgic.nr_irqs.saturating_sub(FIRST_SPI)) {
        bail!("SPI {} is beyond the controller's {} interrupts", line.spi, vgic.nr_irqs);
    }
    Ok(config)
}

fn line(LegacyLine { pin, level }: LegacyLine) -> IrqLine {
    if level { IrqLine::level(pin) } else { IrqLine::edge(pin) }
}

/// vmm-adapter knows the sizes itself: others would be a misunderstanding.
fn check_sizes(vgic: &VgicConfig, vcpus: u32, msi: bool) -> anyhow::Result<()> {
    let sizes = [
        ("vCPUs", vgic.vcpu_count, vcpus.into()),
        ("bytes of distributor", vgic.dist_size, GicLayout::DISTRIBUTOR_SIZE),
        (
            "bytes of redistributors",
            vgic.redists_size,
            GicLayout::REDISTRIBUTOR_SIZE.saturating_mul(vcpus.into()),
        ),
        ("bytes of frame", if msi { vgic.msi_size } else { MsiFrame::SIZE }, MsiFrame::SIZE),
    ];
    match sizes.into_iter().find(|(_, is, want)| is != want) {
        Some((what, is, want)) => {
            bail!("the interrupt controller has {is:#x} {what}, and {want:#x} are right")
        }
        None => Ok(()),
    }
}

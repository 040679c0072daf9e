//! What is particular to arm64.

use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_CAP_ARM_INJECT_EXT_DABT, KVM_CAP_ARM_VM_IPA_SIZE,
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_vcpu_events,
    kvm_vcpu_init,
};
use kvm_ioctls::{Cap, DeviceFd, VcpuFd, VmFd};

use super::error;
use super::registers::{ARM64_PC, arm64_x};
use crate::boot::BootContext;
use crate::caps::{Feature, GuestArch};
use crate::config::VmConfig;
use crate::error::{Error, Result};

pub(super) const GUEST: GuestArch = GuestArch::Arm64;

/// What a host without a choice has.
const DEFAULT_IPA_BITS: u8 = 40;
/// The narrowest address space that can be asked for.
const LEAST_IPA_BITS: u8 = 32;
/// The first shared peripheral interrupt.
const FIRST_SPI: u32 = 32;
/// KVM takes numbers of interrupts from here on, in steps of as many as fit one register.
const LEAST_IRQS: u32 = 64;
const MOST_IRQS: u32 = 992;
const IRQ_STEP: u32 = 32;

pub(super) fn lacks(device: &kvm_ioctls::Kvm) -> Option<&'static str> {
    const NEEDED: [(Cap, &str); 3] = [
        (Cap::ArmPsci02, "PSCI"),
        (Cap::DeviceCtrl, "devices in the kernel"),
        (Cap::IrqfdResample, "level interrupts"),
    ];
    NEEDED.iter().find(|(cap, _)| !device.check_extension(*cap)).map(|(_, what)| *what)
}

pub(super) fn offered(device: &kvm_ioctls::Kvm) -> [(Feature, bool); 3] {
    let fault = device.check_extension_raw(KVM_CAP_ARM_INJECT_EXT_DABT.into()) > 0;
    [(Feature::MmioFault, fault), (Feature::MsiPool, true), (Feature::GuestPower, true)]
}

pub(super) fn guest_phys_bits(device: &kvm_ioctls::Kvm) -> u8 {
    let limit = device.check_extension_raw(KVM_CAP_ARM_VM_IPA_SIZE.into());
    u8::try_from(limit).ok().filter(|bits| *bits > 0).unwrap_or(DEFAULT_IPA_BITS)
}

pub(super) fn check(op: &'static str, config: &VmConfig) -> Result<()> {
    if config.guest_phys_bits < LEAST_IPA_BITS {
        let why = format!(
            "{} bits of guest address, KVM has no fewer than {LEAST_IPA_BITS}",
            config.guest_phys_bits
        );
        return Err(Error::invalid(op, why));
    }
    match config.lines().find(|line| line.spi >= MOST_IRQS - FIRST_SPI) {
        Some(line) => {
            let last = MOST_IRQS - FIRST_SPI - 1;
            let why = format!("interrupt line {} does not exist, KVM's go from 0 to {last}", line.spi);
            Err(Error::invalid(op, why))
        }
        None => Ok(()),
    }
}

pub(super) fn create_vm(
    device: &kvm_ioctls::Kvm,
    config: &VmConfig,
) -> std::result::Result<VmFd, kvm_ioctls::Error> {
    if config.guest_phys_bits == DEFAULT_IPA_BITS {
        // What KVM makes when it is not told, on hosts too that cannot be told.
        return device.create_vm();
    }
    device.create_vm_with_ipa_size(config.guest_phys_bits.into())
}

/// The interrupt controller, a GICv3.
#[derive(Debug)]
pub(super) struct Platform {
    gic: DeviceFd,
}

impl Platform {
    pub(super) fn create(
        op: &'static str,
        _device: &kvm_ioctls::Kvm,
        vm: &VmFd,
        config: &VmConfig,
    ) -> Result<Self> {
        let mut device =
            kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, fd: 0, flags: 0 };
        let gic = vm.create_device(&mut device).map_err(error::ioctl(op, "KVM_CREATE_DEVICE of a GICv3"))?;
        let platform = Self { gic };
        let last = config.lines().map(|line| line.spi).max().unwrap_or(0);
        let irqs = (FIRST_SPI + last + 1).next_multiple_of(IRQ_STEP).max(LEAST_IRQS);
        platform.set(op, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &irqs)?;
        let distributor = config.gic.distributor.0;
        platform.set(op, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &distributor)?;
        let redistributors = config.gic.redistributors.0;
        platform.set(op, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, &redistributors)?;
        Ok(platform)
    }

    pub(super) fn init_vcpu(&self, op: &'static str, vm: &VmFd, vcpu: &VcpuFd, id: u32) -> Result<()> {
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init).map_err(error::ioctl(op, "KVM_ARM_PREFERRED_TARGET"))?;
        let [features, ..] = &mut init.features;
        *features |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        if id != 0 {
            *features |= 1 << KVM_ARM_VCPU_POWER_OFF;
        }
        vcpu.vcpu_init(&init).map_err(error::ioctl(op, "KVM_ARM_VCPU_INIT"))
    }

    /// All vCPUs are there: the interrupt controller can be finished.
    pub(super) fn start(&self, op: &'static str, _vm: &VmFd) -> Result<()> {
        self.attribute(op, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, 0)
    }

    fn set<T: Copy>(&self, op: &'static str, group: u32, attr: u32, value: &T) -> Result<()> {
        self.attribute(op, group, attr, std::ptr::from_ref(value) as u64)
    }

    fn attribute(&self, op: &'static str, group: u32, attr: u32, addr: u64) -> Result<()> {
        let attribute = kvm_device_attr { group, attr: attr.into(), addr, flags: 0 };
        self.gic.set_device_attr(&attribute).map_err(error::ioctl(op, "KVM_SET_DEVICE_ATTR of the GICv3"))
    }
}

pub(super) fn set_boot_registers(op: &'static str, vcpu: &VcpuFd, boot: &BootContext) -> Result<()> {
    set_register(op, vcpu, ARM64_PC, boot.entry.0)?;
    set_register(op, vcpu, arm64_x(0), boot.fdt.0)
}

/// The access that has just come out becomes a synchronous external abort.
pub(super) fn inject_fault(op: &'static str, vcpu: &VcpuFd) -> Result<()> {
    let mut events = kvm_vcpu_events::default();
    events.exception.ext_dabt_pending = 1;
    vcpu.set_vcpu_events(&events).map_err(error::ioctl(op, "KVM_SET_VCPU_EVENTS"))
}

/// Whether `KVM_RUN` refused since the guest accessed a device by an instruction that the processor does not describe. That of
/// a pair and of one with write-back, for example, has no syndrome.
pub(super) fn is_undescribed(refused: &kvm_ioctls::Error) -> bool {
    refused.errno() == libc::ENOSYS
}

/// Where the guest is.
pub(super) fn program_counter(op: &'static str, vcpu: &VcpuFd) -> Result<u64> {
    get_register(op, vcpu, ARM64_PC)
}

/// The width of a register in bytes, if it is one that a number holds.
fn width(op: &'static str, id: u64) -> Result<usize> {
    match kvm_ioctls::reg_size(id) {
        width @ (4 | 8) => Ok(width),
        other => Err(Error::invalid(op, format!("the register {id:#x} has {other} bytes, not 4 or 8"))),
    }
}

pub(super) fn get_register(op: &'static str, vcpu: &VcpuFd, id: u64) -> Result<u64> {
    let mut bytes = [0; 8];
    let place = bytes.get_mut(..width(op, id)?).unwrap_or_default();
    vcpu.get_one_reg(id, place).map_err(error::ioctl(op, "KVM_GET_ONE_REG"))?;
    Ok(u64::from_le_bytes(bytes))
}

pub(super) fn set_register(op: &'static str, vcpu: &VcpuFd, id: u64, value: u64) -> Result<()> {
    let bytes = value.to_le_bytes();
    let place = bytes.get(..width(op, id)?).unwrap_or_default();
    vcpu.set_one_reg(id, place).map_err(error::ioctl(op, "KVM_SET_ONE_REG"))?;
    Ok(())
}

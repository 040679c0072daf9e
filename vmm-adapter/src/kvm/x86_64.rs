//! What is particular to x86_64.

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, Msrs, kvm_msr_entry, kvm_pit_config, kvm_regs,
    kvm_segment, kvm_sregs,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};

use super::error;
use super::registers::{X86_CR0, X86_CR2, X86_CR3, X86_CR4, X86_EFER, X86_GENERAL, X86_MSR};
use crate::boot::BootContext;
use crate::caps::{Feature, GuestArch};
use crate::config::VmConfig;
use crate::error::{Error, Result};

pub(super) const GUEST: GuestArch = GuestArch::X86_64;

/// Pages that KVM uses for itself on Intel processors, right below the firmware's place.
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TSS: usize = 0xfffb_d000;
/// The pins of the I/O APIC.
const PINS: u32 = 24;

pub(super) fn lacks(device: &kvm_ioctls::Kvm) -> Option<&'static str> {
    const NEEDED: [(Cap, &str); 2] =
        [(Cap::Irqchip, "an interrupt controller in the kernel"), (Cap::IrqfdResample, "level interrupts")];
    NEEDED.iter().find(|(cap, _)| !device.check_extension(*cap)).map(|(_, what)| *what)
}

pub(super) fn offered(_device: &kvm_ioctls::Kvm) -> [(Feature, bool); 1] {
    [(Feature::PortIo, true)]
}

/// What CPUID says.
pub(super) fn guest_phys_bits(device: &kvm_ioctls::Kvm) -> u8 {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    let cpuid = device.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).ok();
    let bits = cpuid.and_then(|cpuid| {
        let entry = cpuid.as_slice().iter().find(|entry| entry.function == ADDRESS_SIZES)?;
        u8::try_from(entry.eax & 0xff).ok()
    });
    // What processors without that leaf have.
    bits.unwrap_or(36)
}

pub(super) fn check(op: &'static str, config: &VmConfig) -> Result<()> {
    match config.lines().find(|line| line.spi >= PINS) {
        Some(line) => {
            let why = format!("interrupt line {} does not exist, the I/O APIC has {PINS} pins", line.spi);
            Err(Error::invalid(op, why))
        }
        None => Ok(()),
    }
}

pub(super) fn create_vm(
    device: &kvm_ioctls::Kvm,
    _config: &VmConfig,
) -> std::result::Result<VmFd, kvm_ioctls::Error> {
    device.create_vm()
}

/// The interrupt controllers and the timer, which KVM keeps, and the processor that guests see.
#[derive(Debug)]
pub(super) struct Platform {
    cpuid: CpuId,
}

impl Platform {
    pub(super) fn create(
        op: &'static str,
        device: &kvm_ioctls::Kvm,
        vm: &VmFd,
        _config: &VmConfig,
    ) -> Result<Self> {
        vm.set_identity_map_address(IDENTITY_MAP).map_err(error::ioctl(op, "KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(TSS).map_err(error::ioctl(op, "KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(error::ioctl(op, "KVM_CREATE_IRQCHIP"))?;
        let timer = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(timer).map_err(error::ioctl(op, "KVM_CREATE_PIT2"))?;
        let cpuid = device
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(error::ioctl(op, "KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Self { cpuid })
    }

    pub(super) fn init_vcpu(&self, op: &'static str, _vm: &VmFd, vcpu: &VcpuFd, id: u32) -> Result<()> {
        let mut cpuid = self.cpuid.clone();
        for entry in cpuid.as_mut_slice() {
            match entry.function {
                // The initial APIC id.
                0x1 => entry.ebx = entry.ebx & 0x00ff_ffff | id << 24,
                // The x2APIC id.
                0xb | 0x1f => entry.edx = id,
                _ => {}
            }
        }
        vcpu.set_cpuid2(&cpuid).map_err(error::ioctl(op, "KVM_SET_CPUID2"))
    }

    pub(super) fn start(&self, _op: &'static str, _vm: &VmFd) -> Result<()> {
        Ok(())
    }
}

/// 32-bit protected mode with flat segments, as the PVH boot protocol has it.
pub(super) fn set_boot_registers(op: &'static str, vcpu: &VcpuFd, boot: &BootContext) -> Result<()> {
    const CR0_PE: u64 = 1;
    const CR0_ET: u64 = 1 << 4;
    const RFLAGS_FIXED: u64 = 2;
    let mut sregs = get_sregs(op, vcpu)?;
    let flat = |selector: u16, type_: u8| kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    // Code: execute and read, accessed. Data: read and write, accessed.
    sregs.cs = flat(0x08, 0b1011);
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = flat(0x10, 0b0011);
    }
    // A 32-bit task state segment that is in use.
    sregs.tr = kvm_segment { limit: 0x67, selector: 0x18, type_: 0b1011, present: 1, ..Default::default() };
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr4 = 0;
    sregs.efer = 0;
    vcpu.set_sregs(&sregs).map_err(error::ioctl(op, "KVM_SET_SREGS"))?;
    let regs = kvm_regs { rip: boot.entry.0, rbx: boot.fdt.0, rflags: RFLAGS_FIXED, ..Default::default() };
    vcpu.set_regs(&regs).map_err(error::ioctl(op, "KVM_SET_REGS"))
}

/// Never asked for: the feature is not offered.
pub(super) fn inject_fault(op: &'static str, _vcpu: &VcpuFd) -> Result<()> {
    Err(Error::invalid(op, "x86_64 has no fault for an access that nobody claims"))
}

/// Never: KVM decodes the instructions itself, and one that it cannot decode is an internal error of its.
pub(super) fn is_undescribed(_refused: &kvm_ioctls::Error) -> bool {
    false
}

/// Where the guest is.
pub(super) fn program_counter(op: &'static str, vcpu: &VcpuFd) -> Result<u64> {
    get_regs(op, vcpu).map(|regs| regs.rip)
}

fn get_sregs(op: &'static str, vcpu: &VcpuFd) -> Result<kvm_sregs> {
    vcpu.get_sregs().map_err(error::ioctl(op, "KVM_GET_SREGS"))
}

fn get_regs(op: &'static str, vcpu: &VcpuFd) -> Result<kvm_regs> {
    vcpu.get_regs().map_err(error::ioctl(op, "KVM_GET_REGS"))
}

/// The register's place among the general ones.
fn general(regs: &mut kvm_regs, id: u64) -> Option<&mut u64> {
    let index = usize::try_from(id.checked_sub(X86_GENERAL)?).ok()?;
    let all = [
        &mut regs.rax,
        &mut regs.rbx,
        &mut regs.rcx,
        &mut regs.rdx,
        &mut regs.rsi,
        &mut regs.rdi,
        &mut regs.rsp,
        &mut regs.rbp,
        &mut regs.r8,
        &mut regs.r9,
        &mut regs.r10,
        &mut regs.r11,
        &mut regs.r12,
        &mut regs.r13,
        &mut regs.r14,
        &mut regs.r15,
        &mut regs.rip,
        &mut regs.rflags,
    ];
    all.into_iter().nth(index)
}

/// The register's place among the special ones.
fn special(sregs: &mut kvm_sregs, id: u64) -> Option<&mut u64> {
    match id {
        X86_CR0 => Some(&mut sregs.cr0),
        X86_CR2 => Some(&mut sregs.cr2),
        X86_CR3 => Some(&mut sregs.cr3),
        X86_CR4 => Some(&mut sregs.cr4),
        X86_EFER => Some(&mut sregs.efer),
        _ => None,
    }
}

/// The number of the model-specific register, if it is one.
fn model_specific(id: u64) -> Option<u32> {
    u32::try_from(id.checked_sub(X86_MSR)?).ok()
}

fn unknown(op: &'static str, id: u64) -> Error {
    Error::invalid(op, format!("there is no register {id:#x}"))
}

fn msr(op: &'static str, index: u32, data: u64) -> Result<Msrs> {
    Msrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }])
        .map_err(|_| unknown(op, X86_MSR | u64::from(index)))
}

pub(super) fn get_register(op: &'static str, vcpu: &VcpuFd, id: u64) -> Result<u64> {
    if let Some(index) = model_specific(id) {
        let mut msrs = msr(op, index, 0)?;
        let read = vcpu.get_msrs(&mut msrs).map_err(error::ioctl(op, "KVM_GET_MSRS"))?;
        let entry = msrs.as_slice().first().filter(|_| read == 1);
        return entry.map(|entry| entry.data).ok_or_else(|| unknown(op, id));
    }
    let mut regs = get_regs(op, vcpu)?;
    if let Some(place) = general(&mut regs, id) {
        return Ok(*place);
    }
    let mut sregs = get_sregs(op, vcpu)?;
    special(&mut sregs, id).map(|place| *place).ok_or_else(|| unknown(op, id))
}

pub(super) fn set_register(op: &'static str, vcpu: &VcpuFd, id: u64, value: u64) -> Result<()> {
    if let Some(index) = model_specific(id) {
        let written = vcpu.set_msrs(&msr(op, index, value)?).map_err(error::ioctl(op, "KVM_SET_MSRS"))?;
        return if written == 1 { Ok(()) } else { Err(unknown(op, id)) };
    }
    let mut regs = get_regs(op, vcpu)?;
    if let Some(place) = general(&mut regs, id) {
        *place = value;
        return vcpu.set_regs(&regs).map_err(error::ioctl(op, "KVM_SET_REGS"));
    }
    let mut sregs = get_sregs(op, vcpu)?;
    *special(&mut sregs, id).ok_or_else(|| unknown(op, id))? = value;
    vcpu.set_sregs(&sregs).map_err(error::ioctl(op, "KVM_SET_SREGS"))
}

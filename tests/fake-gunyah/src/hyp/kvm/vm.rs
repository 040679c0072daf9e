//! The VM: its vCPUs, its interrupt controller, and what ends it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_CAP_ARM_NISV_TO_USER, KVM_DEV_ARM_VGIC_CTRL_INIT,
    KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
    KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_enable_cap, kvm_vcpu_init,
};
use kvm_ioctls::{DeviceFd, Kvm, VcpuFd, VmFd};

use super::demand::Demand;
use super::lines::Lines;
use super::memory::Memory;
use super::vcpu::{Engine, Runner};
use super::{Refused, refused, sys};
use crate::errno::Errno;
use crate::hyp::machine::{BootRegisters, exit_type};
use crate::hyp::{Kicker, Pager, VcpuEngine};
use crate::rm::{GicFrames, VmDescription};

/// KVM's GIC has at least so many interrupts, whatever the doorbells.
const MIN_IRQS: u32 = 256;
/// And at most so many.
const MAX_IRQS: u32 = 992;
/// And it has these SPIs, by their INTID.
const SPIS: std::ops::Range<u32> = 32..MAX_IRQS;

/// Whether guests can run on KVM here; if not, why.
pub(crate) fn available() -> Result<(), String> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm: {}", Errno(error.errno())))?;
    let vm = kvm.create_vm().map_err(|error| refused("create a VM")(error).to_string())?;
    Gic::device(&vm).map(drop).map_err(|refused| refused.to_string())
}

/// One VM of KVM's.
pub(crate) struct KvmVm {
    pub(super) fd: VmFd,
    /// The interrupt controller goes with the VM.
    _gic: Gic,
    pub(super) memory: Mutex<Memory>,
    /// What hears of missing pages, if they come one by one.
    pub(super) demand: Option<Demand>,
    pub(super) lines: Lines,
    events: Arc<dyn Pager>,
    runners: Mutex<Vec<Arc<Runner>>>,
    waiting: Mutex<Vec<Option<VcpuFd>>>,
    faults: Mutex<Vec<String>>,
    ended: AtomicBool,
}

impl fmt::Debug for KvmVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmVm")
            .field("ended", &self.ended())
            .field("faults", &self.faults())
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KvmVm {
    /// Makes the VM that a tree describes. Its first vCPU starts with these registers, and the others wait for PSCI CPU_ON.
    pub(crate) fn new(
        config: &VmDescription,
        registers: &BootRegisters,
        events: Arc<dyn Pager>,
        on_demand: bool,
    ) -> Result<Arc<Self>, Refused> {
        let wrong = |what| Refused { what, errno: Errno::EINVAL };
        let frames = config
            .gic
            .as_ref()
            .ok_or_else(|| wrong("the tree does not say where the interrupt controller is (its reg)"))?;
        let lines = Lines::new(&config.doorbells, SPIS).ok_or_else(|| {
            wrong("a doorbell's interrupt is none of the SPIs 0 to 959, which are all that its GICv3 has")
        })?;
        let kvm = Kvm::new().map_err(refused("open /dev/kvm"))?;
        // Without a say KVM's guests have 40 bits of address, if the host has.
        let bits = match kvm.get_host_ipa_limit() {
            0 | 40.. => 0,
            fewer => u64::from(fewer.unsigned_abs()),
        };
        let fd = kvm.create_vm_with_type(bits).map_err(refused("create a VM"))?;
        let _ = fd.enable_cap(&kvm_enable_cap { cap: KVM_CAP_ARM_NISV_TO_USER, ..Default::default() });
        let vcpus = (0..config.vcpus)
            .map(|id| create_vcpu(&fd, id, (id == config.boot_vcpu).then_some(registers)).map(Some))
            .collect::<Result<Vec<_>, _>>()?;
        let demand = if on_demand { Some(Demand::new()?) } else { None };
        let gic = Gic::new(&fd, frames, config.vcpus, lines.highest())?;
        lines.set_up(&fd)?;
        let vm = Arc::new(Self {
            fd,
            _gic: gic,
            memory: Mutex::default(),
            demand,
            lines,
            events,
            runners: Mutex::default(),
            waiting: Mutex::new(vcpus),
            faults: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        if let Some(demand) = &vm.demand {
            demand.start(&vm)?;
        }
        Ok(vm)
    }

    /// The engine of vCPU `id`, of which there is one.
    pub(crate) fn engine(self: &Arc<Self>, id: u32) -> Option<Box<dyn VcpuEngine>> {
        let fd = lock(&self.waiting).get_mut(id as usize).and_then(Option::take)?;
        Some(Box::new(Engine::new(self, id, fd)))
    }

    pub(super) fn page_in(&self, ipa: u64, write: bool) -> Result<(), Errno> {
        self.events.page_in(ipa, write)
    }

    /// Thread `tid` is about to come out of the guest, because of this page.
    pub(super) fn remember_fault(&self, tid: u32, ipa: u64, write: bool) {
        for runner in lock(&self.runners).iter() {
            runner.remember_fault(tid, ipa, write);
        }
    }

    pub(super) fn add_runner(&self, runner: &Arc<Runner>) {
        lock(&self.runners).push(Arc::clone(runner));
    }

    pub(super) fn remove_runner(&self, runner: &Arc<Runner>) {
        lock(&self.runners).retain(|other| !Arc::ptr_eq(other, runner));
    }

    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// The host stops the VM: every vCPU answers POWERED_OFF from now on.
    pub(crate) fn stop(&self) {
        self.ended.store(true, Ordering::SeqCst);
        for runner in lock(&self.runners).iter() {
            runner.kick();
        }
    }

    /// The guest has ended its VM. Of several ends the first one counts.
    pub(super) fn end(&self, exit_type: u16, reason: &[u8]) {
        if !self.ended.swap(true, Ordering::SeqCst) {
            self.events.vm_exited(exit_type, reason);
            self.stop();
        }
    }

    /// Ends the VM because of a fault. The reason has the layout that the interpreter's faults have.
    pub(super) fn fault(&self, vcpu: u32, pc: u64, what: &str, addr: u64) {
        lock(&self.faults).push(format!("vCPU {vcpu}: {what}, at pc {pc:#x}"));
        let mut reason = Vec::with_capacity(16);
        reason.extend_from_slice(&(vcpu << 16).to_le_bytes());
        reason.extend_from_slice(&(addr as u32).to_le_bytes());
        reason.extend_from_slice(&pc.to_le_bytes());
        self.end(exit_type::SOFTWARE_ERROR, &reason);
    }

    /// What went wrong in the guest, for people.
    pub(crate) fn faults(&self) -> Vec<String> {
        lock(&self.faults).clone()
    }
}

/// Makes a vCPU. That with registers runs, the others are off.
fn create_vcpu(vm: &VmFd, id: u32, registers: Option<&BootRegisters>) -> Result<VcpuFd, Refused> {
    let vcpu = vm.create_vcpu(id.into()).map_err(refused("create a vCPU"))?;
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target).map_err(refused("ask for the processor"))?;
    if let Some(features) = target.features.first_mut() {
        *features |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        if registers.is_none() {
            *features |= 1 << KVM_ARM_VCPU_POWER_OFF;
        }
    }
    vcpu.vcpu_init(&target).map_err(refused("set up a vCPU"))?;
    sys::accept_kicks(&vcpu).map_err(|errno| Refused { what: "set a signal mask", errno })?;
    if let Some(registers) = registers {
        let fixed =
            [(sys::PC, registers.pc), (sys::SP_EL0, registers.sp_el0), (sys::SP_EL1, registers.sp_el1)];
        let general = (0..).map(sys::x).zip(registers.x);
        for (id, value) in fixed.into_iter().chain(general) {
            vcpu.set_one_reg(id, &value.to_le_bytes()).map_err(refused("set a register"))?;
        }
    }
    Ok(vcpu)
}

/// The guest's interrupt controller.
struct Gic {
    _device: DeviceFd,
}

impl Gic {
    fn device(vm: &VmFd) -> Result<DeviceFd, Refused> {
        let mut device =
            kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, ..Default::default() };
        vm.create_device(&mut device).map_err(refused("create a GICv3"))
    }

    /// `vcpus` must have been made; `highest` is the highest interrupt of a doorbell.
    fn new(vm: &VmFd, frames: &GicFrames, vcpus: u32, highest: u32) -> Result<Self, Refused> {
        let device = Self::device(vm)?;
        let set = |group: u32, attr: u32, value: &u64, what| {
            let attribute = kvm_device_attr {
                group,
                attr: attr.into(),
                addr: std::ptr::from_ref(value) as u64,
                ..Default::default()
            };
            device.set_device_attr(&attribute).map_err(refused(what))
        };
        // The number is a u32, which is the first half of this one.
        let irqs = u64::from(highest.saturating_add(1).next_multiple_of(32).clamp(MIN_IRQS, MAX_IRQS));
        set(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &irqs, "set the number of interrupts")?;
        set(
            KVM_DEV_ARM_VGIC_GRP_ADDR,
            KVM_VGIC_V3_ADDR_TYPE_DIST,
            &frames.distributor.address,
            "place the distributor",
        )?;
        // The address is aligned to 64 KiB; the count is above it, the number of the region below.
        let region = (u64::from(vcpus) << 52) | (frames.redistributors.address & !0xffff);
        let redistributors = "place the redistributors";
        set(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, &region, redistributors)?;
        set(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, &0, "start the GICv3")?;
        Ok(Self { _device: device })
    }
}

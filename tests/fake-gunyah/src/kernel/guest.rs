//! What runs in a VM: a script per vCPU, or code.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};

use gunyah_bindings::{exit, v11};

use super::ticket::Resource;
use super::vm_mgr::Vm;
use super::vm_mgr_mm::{Region, Transfer};
use crate::errno::Errno;
use crate::hyp::gic::GicLayout;
use crate::hyp::kvm::{KvmVm, Refused};
use crate::hyp::machine::{BootRegisters, Machine};
use crate::hyp::script::{Script, ScriptVm};
use crate::hyp::{Engine, Pager, VmEvents};
use crate::rm::{self, Affinity, VmDescription};
use crate::transport::sys;

/// What a fake's VMs run.
pub(crate) enum Guests {
    /// A script per vCPU id, from 0.
    Scripts(Vec<Script>),
    /// The code and the devicetree that user space has put into guest memory, and what executes the code.
    Code(Execution),
}

/// What executes code guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Execution {
    pub(crate) engine: Engine,
    /// The interpreter will do where KVM refuses a VM.
    pub(crate) or_interpreter: bool,
}

/// What a start brings.
pub(crate) struct Parts {
    pub(crate) running: Running,
    pub(crate) resources: Vec<Resource>,
    /// Irqfds find a doorbell whatever their label.
    pub(crate) all_doorbells: bool,
}

/// The guest of a VM that has started.
pub(crate) enum Running {
    Scripts(Arc<ScriptVm>),
    /// With the interrupt of each doorbell.
    Machine(Arc<Machine>, HashMap<u32, u32>),
    Kvm(Arc<KvmVm>),
}

/// How a guest reaches its VM. It does not keep it.
struct Events {
    vm: Weak<Vm>,
    /// The guest's PSCI calls reach the Resource Manager.
    psci: bool,
}

impl VmEvents for Events {
    fn wake(&self, id: u32) {
        if let Some(vm) = self.vm.upgrade() {
            vm.wake(id);
        }
    }

    fn vm_exited(&self, exit_type: u16, reason: &[u8]) {
        let by_psci = (exit::PSCI_SYSTEM_OFF..=exit::PSCI_SYSTEM_RESET2).contains(&exit_type);
        if let Some(vm) = self.vm.upgrade() {
            if by_psci && !self.psci {
                vm.kernel().observer.note(|| "the guest's PSCI call ends nothing: no psci node".to_owned());
            } else {
                vm.rm_exited(exit_type, reason);
            }
        }
    }
}

impl Pager for Events {
    fn page_in(&self, ipa: u64, write: bool) -> Result<(), Errno> {
        let vm = self.vm.upgrade().ok_or(Errno::ENODEV)?;
        vm.demand_page(ipa, write)
    }
}

impl Guests {
    /// Loads the guest into a VM that starts.
    pub(crate) fn load(&self, vm: &Arc<Vm>) -> Result<Parts, Errno> {
        match self {
            Self::Scripts(scripts) => load_scripts(vm, scripts),
            Self::Code(execution) => load_code(vm, *execution),
        }
    }
}

fn load_scripts(vm: &Arc<Vm>, scripts: &[Script]) -> Result<Parts, Errno> {
    if vm.dtb() != v11::gh_vm_dtb_config::default() {
        find_dtb(vm)?;
    }
    vm.boot().check(&vm.kernel().differences)?;
    let events: Arc<dyn VmEvents> = Arc::new(Events { vm: Arc::downgrade(vm), psci: true });
    let failures = Arc::clone(&vm.kernel().observer.failures);
    let shared = ScriptVm::new(events, failures);
    let resources = (0..)
        .zip(scripts)
        .map(|(label, script)| Resource::Vcpu { label, engine: shared.engine(label, script) })
        .collect();
    Ok(Parts { running: Running::Scripts(shared), resources, all_doorbells: true })
}

fn load_code(vm: &Arc<Vm>, execution: Execution) -> Result<Parts, Errno> {
    let dtb = vm.dtb();
    let image = find_dtb(vm)?;
    let config = read_config(vm)?;
    let protected = if image.transfer == Transfer::Lend { "a protected" } else { "an unprotected" };
    vm.kernel().observer.note(|| format!("VM {} starts as {protected} VM", vm.number));
    // The parcel with the devicetree is mapped where the tree says, whatever its region said.
    let base = config.base_address.unwrap_or(image.guest_addr);
    let shift = |addr: u64| addr.wrapping_sub(image.guest_addr).wrapping_add(base);
    if base != image.guest_addr {
        vm.kernel()
            .observer
            .note(|| format!("the region at {:#x} is mapped at base-address {base:#x}", image.guest_addr));
        vm.move_region(image.guest_addr, base)?;
    }
    let dtb_addr = shift(dtb.guest_phys_addr);
    adopt(vm, &config, dtb_addr, dtb.size)?;
    let events = Arc::new(Events { vm: Arc::downgrade(vm), psci: config.psci });
    let mut registers = BootRegisters { pc: base, ..BootRegisters::default() };
    registers.x[0] = dtb_addr;
    {
        let boot = vm.boot();
        boot.check(&vm.kernel().differences)?;
        boot.apply(&mut registers);
    }
    let kvm = match execution.engine {
        Engine::Kvm if !vm.adoptions.gave_up() => match start_kvm(vm, &config, &registers, &events) {
            Ok(machine) => Some(machine),
            Err(refused) if execution.or_interpreter => {
                vm.kernel().observer.notice(&format!("{refused}; an interpreter runs this VM"));
                None
            }
            Err(refused) => {
                vm.kernel().observer.notice(&refused.to_string());
                return Err(refused.errno);
            }
        },
        _ => None,
    };
    let mut resources: Vec<_> =
        config.doorbells.iter().map(|bell| Resource::Doorbell { label: bell.label }).collect();
    // Otherwise the hypervisor schedules them, and the host never sees them.
    let ours = if config.affinity == Affinity::Proxy { 0..config.vcpus } else { 0..0 };
    let running = match kvm {
        Some(machine) => {
            let engines = ours.filter_map(|label| Some((label, machine.engine(label)?)));
            resources.extend(engines.map(|(label, engine)| Resource::Vcpu { label, engine }));
            Running::Kvm(machine)
        }
        None => {
            let gic = config.gic.map(|frames| GicLayout {
                distributor: frames.distributor.address,
                redistributors: frames.redistributors.address,
                redistributors_size: frames.redistributors.size,
            });
            let machine = Machine::with_gic(vm.ram(), events, config.vcpus, gic);
            machine.start_vcpu(config.boot_vcpu, registers);
            resources.extend(ours.map(|label| Resource::Vcpu { label, engine: machine.engine(label) }));
            let doorbells = config.doorbells.iter().map(|bell| (bell.label, bell.intid())).collect();
            Running::Machine(machine, doorbells)
        }
    };
    Ok(Parts { running, resources, all_doorbells: false })
}

fn start_kvm(
    vm: &Arc<Vm>,
    config: &VmDescription,
    registers: &BootRegisters,
    events: &Arc<Events>,
) -> Result<Arc<KvmVm>, Refused> {
    let events = Arc::clone(events) as Arc<dyn Pager>;
    let on_demand =
        vm.kernel().differences.demand_paging || vm.memory().regions.iter().any(|region| region.on_demand);
    let machine = KvmVm::new(config, registers, events, on_demand)?;
    vm.ram().hand_over(&machine)?;
    Ok(machine)
}

/// The Resource Manager takes the VM's memory, and writes its nodes into the devicetree.
fn adopt(vm: &Vm, config: &VmDescription, dtb_addr: u64, dtb_size: u64) -> Result<(), Errno> {
    let differences = &vm.kernel().differences;
    let refused = |error: rm::RmError| {
        vm.kernel().observer.note(|| format!("Resource Manager: {error}"));
        Errno(error.error.errno())
    };
    let parcels: Vec<_> = vm.memory().regions.iter().map(|region| region.parcel(dtb_addr)).collect();
    let warnings = rm::check_parcels(config, &parcels, differences.rm_takes_shared_image).map_err(refused)?;
    for warning in warnings {
        vm.kernel().observer.note(|| format!("Resource Manager: {warning}"));
    }
    let tree = read_tree(vm, dtb_addr, dtb_size)?;
    let tree = rm::write_overlay(&tree, config, &parcels, differences.rm_largest_tree).map_err(refused)?;
    if vm.ram().poke(dtb_addr, &tree) { Ok(()) } else { Err(Errno::EFAULT) }
}

/// The buffer that holds the devicetree.
fn read_tree(vm: &Vm, addr: u64, size: u64) -> Result<Vec<u8>, Errno> {
    let mut tree = vec![0; usize::try_from(size).map_err(|_| Errno::ENOMEM)?];
    if vm.ram().peek(addr, &mut tree) { Ok(tree) } else { Err(Errno::EFAULT) }
}

/// The Resource Manager reads the devicetree.
fn read_config(vm: &Vm) -> Result<VmDescription, Errno> {
    let dtb = vm.dtb();
    let tree = read_tree(vm, dtb.guest_phys_addr, dtb.size)?;
    let config = rm::read_vm_config(&tree).map_err(|error| {
        vm.kernel().observer.note(|| format!("Resource Manager: {error}"));
        Errno(error.error.errno())
    })?;
    for warning in &config.warnings {
        vm.kernel().observer.note(|| format!("Resource Manager: {warning}"));
    }
    Ok(config)
}

impl Running {
    /// The host rings a doorbell.
    pub(crate) fn ring(&self, vm: &Vm, label: u32) {
        match self {
            Self::Scripts(scripts) => {
                scripts.ring(label);
                vm.wake_all();
            }
            Self::Machine(machine, doorbells) => {
                if let Some(intid) = doorbells.get(&label) {
                    machine.raise(*intid);
                }
            }
            Self::Kvm(machine) => machine.ring(label),
        }
    }

    /// The host stops the VM.
    pub(crate) fn stop(&self) {
        match self {
            Self::Scripts(scripts) => scripts.stop(),
            Self::Machine(machine, _) => machine.stop(),
            Self::Kvm(machine) => machine.stop(),
        }
    }

    /// From now on the eventfd rings this doorbell without the driver. False: the driver must.
    pub(crate) fn bind_irqfd(&self, vm: &Vm, label: u32, eventfd: BorrowedFd<'_>) -> bool {
        let Self::Kvm(machine) = self else { return false };
        // What was signalled before the start rings nothing, and KVM would take it for a ring.
        sys::eventfd_drain(eventfd);
        let bound = machine.add_irqfd(label, eventfd);
        if let Err(refused) = &bound {
            vm.kernel().observer.note(|| format!("irqfd {label} is served by the driver: {refused}"));
        }
        bound.is_ok()
    }

    pub(crate) fn unbind_irqfd(&self, label: u32, eventfd: BorrowedFd<'_>) {
        if let Self::Kvm(machine) = self {
            machine.remove_irqfd(label, eventfd);
        }
    }

    /// From now on such stores signal the eventfd without the driver. False: the driver must see to that.
    pub(crate) fn bind_ioeventfd(
        &self,
        vm: &Vm,
        eventfd: BorrowedFd<'_>,
        addr: u64,
        only: Option<(u32, u64)>,
    ) -> bool {
        let Self::Kvm(machine) = self else { return false };
        let bound = machine.add_ioeventfd(eventfd, addr, only);
        if let Err(refused) = &bound {
            vm.kernel().observer.note(|| format!("ioeventfd {addr:#x} is served by the driver: {refused}"));
        }
        bound.is_ok()
    }

    pub(crate) fn unbind_ioeventfd(&self, eventfd: BorrowedFd<'_>, addr: u64, only: Option<(u32, u64)>) {
        if let Self::Kvm(machine) = self {
            machine.remove_ioeventfd(eventfd, addr, only);
        }
    }

    /// What went wrong in the guest.
    pub(crate) fn faults(&self) -> Vec<String> {
        match self {
            Self::Scripts(_) => Vec::new(),
            Self::Machine(machine, _) => machine.faults(),
            Self::Kvm(machine) => machine.faults(),
        }
    }
}

/// The region that holds the devicetree, whose pages the guest gets now.
fn find_dtb(vm: &Vm) -> Result<Region, Errno> {
    let differences = &vm.kernel().differences;
    let dtb = vm.dtb();
    if differences.dtb_whole_pages && dtb.size < sys::page_size() as u64 {
        return Err(Errno::EINVAL);
    }
    let region = vm.region_of(dtb.guest_phys_addr, dtb.size).ok_or(differences.dtb_nowhere)?;
    if region.is_forced_share() && differences.shared_dtb_fails {
        return Err(Errno::ENOMEM);
    }
    vm.give_dtb(&dtb)?;
    Ok(region)
}

//! Kinds of VMs, and where their memory comes from.

use std::path::PathBuf;

use vm_memory::GuestAddress;
use vmm_adapter::{Error, Feature, Hypervisor, Phase, Sharing, VmConfig, VmKind};

use crate::mailbox::mailbox;
use crate::rig::{self, RAM, RAM_SIZE, Rig, boot, guest};
use crate::target::{self, Probe};

/// The VM of that kind; nothing, after a look at how it is refused, where there are none.
fn of_kind(
    hypervisor: &dyn Hypervisor,
    probe: &Probe,
    kind: VmKind,
    needs: Feature,
) -> Option<std::sync::Arc<dyn vmm_adapter::Vm>> {
    match hypervisor.create_vm(&VmConfig::new(1).with_kind(kind)) {
        Err(Error::Unsupported { feature, .. }) => {
            assert_eq!(feature, needs);
            probe.inapplicable("there are no VMs of this kind");
            None
        }
        other => {
            let vm = other.unwrap();
            assert!(vm.capabilities().has(needs) && hypervisor.capabilities().has(needs));
            Some(vm)
        }
    }
}

/// Every kernel that was read refuses the choice, after it has taken it. That has to be an error, and final.
pub fn a_trusted_vm_ends_at_its_start(hypervisor: &dyn Hypervisor, probe: &Probe) {
    let kind = VmKind::Trusted { vm_id: 45, peripheral_id: 28 };
    let Some(vm) = of_kind(hypervisor, probe, kind, Feature::TrustedVm) else { return };
    assert!(kind.is_protected());
    let ram = rig::give_ram(&*vm);
    let vcpus = vec![vm.create_vcpu(0).unwrap()];
    let mut program = guest(hypervisor);
    program.power_off();
    rig::load(&*vm, &ram, &program);
    let mut rig = Rig { vm, ram, vcpus };
    rig.write_tree();
    match rig.vm.start(&boot()) {
        Ok(()) => rig.run_to_the_end(&mailbox()),
        Err(error) => {
            assert_eq!(error.errno(), Some(22), "{error:?}");
            assert!(error.chain().contains("SET_AUTH_TYPE"), "{}", error.chain());
            assert_eq!(rig.vm.phase(), Phase::Stopped);
            let again = rig.vm.start(&boot());
            assert!(matches!(again, Err(Error::WrongState { .. })), "{again:?}");
            let ran = rig.vcpus[0].run(&mailbox());
            assert!(matches!(ran, Err(Error::WrongState { op: "run", phase: Phase::Stopped })), "{ran:?}");
        }
    }
}

pub fn firmware_must_be_in_memory(hypervisor: &dyn Hypervisor, probe: &Probe) {
    let firmware = |addr| VmKind::ProtectedFirmware { addr: GuestAddress(addr), size: 0x1_0000 };
    let inside = RAM - RAM_SIZE;
    for (kind, starts) in [(firmware(inside), true), (firmware(0x4000_0000), false)] {
        let Some(vm) = of_kind(hypervisor, probe, kind, Feature::Firmware) else { return };
        let ram = rig::give_ram(&*vm);
        if starts {
            vm.allocate(GuestAddress(inside), RAM_SIZE, Sharing::Private).unwrap();
        }
        let vcpus = vec![vm.create_vcpu(0).unwrap()];
        let mut program = guest(hypervisor);
        program.power_off();
        rig::load(&*vm, &ram, &program);
        let rig = Rig { vm, ram, vcpus };
        rig.write_tree();
        let started = rig.vm.start(&boot());
        assert_eq!(started.is_ok(), starts, "{started:?}");
        let phase = if starts { Phase::Running } else { Phase::Stopped };
        assert_eq!(rig.vm.phase(), phase);
    }
}

pub fn the_main_region_comes_from_reserved_memory(hypervisor: &dyn Hypervisor, probe: &Probe) {
    let mut config = VmConfig::new(1).with_kind(VmKind::Any);
    config.reserved_memory = Some(PathBuf::from(target::RESERVED));
    let vm = match hypervisor.create_vm(&config) {
        Err(Error::Unsupported { feature: Feature::ReservedMemory, .. }) => {
            return probe.inapplicable("no host memory is reserved for guests");
        }
        other => other.unwrap(),
    };
    if probe.objects().is_none() {
        return probe.inapplicable("which region this host has is not known");
    }
    let ram = rig::give_ram(&*vm);
    let again = hypervisor.create_vm(&config).unwrap();
    let taken = again.allocate(GuestAddress(RAM), target::RESERVED_SIZE * 2, ram.sharing());
    assert!(taken.is_err(), "larger than the region: {taken:?}");
    drop(again);
    let vcpus = vec![vm.create_vcpu(0).unwrap()];
    let mut program = guest(hypervisor);
    program.power_off();
    rig::load(&*vm, &ram, &program);
    let mut rig = Rig { vm, ram, vcpus }.start();
    rig.run_to_the_end(&mailbox());
}

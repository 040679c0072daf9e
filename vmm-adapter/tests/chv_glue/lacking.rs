//! What Gunyah cannot do is an error that says so, and the methods that do nothing are those that may.
#![expect(unsafe_code, reason = "the trait takes guest memory as a raw pointer")]

use fake_gunyah::Flavour;
use vm_memory::{GuestAddress, GuestRegionMmap};
use vmm_sys_util::eventfd::EventFd;

use super::{chain, create_vm, description, gunyah, on};
use crate::hypervisor::HypervisorType;
use crate::hypervisor::additions::Protection;
use crate::hypervisor::cpu::{CpuState, ExtendedReg, MpState, RegList, StandardRegisters, Vcpu, VcpuInit};
use crate::hypervisor::gic::GicState;
use crate::hypervisor::vm::{DataMatch, IoEventAddress, Vm};
use crate::vmm::layout::{RAM, vgic};

/// The errors of every call that Gunyah has nothing for, by their names.
fn vcpu_errors(vm: &dyn Vm, vcpu: &dyn Vcpu) -> Vec<(&'static str, String)> {
    let mut init = vcpu.create_vcpu_init();
    let regs = vcpu.create_standard_regs();
    vec![
        ("get_regs", chain(vcpu.get_regs().unwrap_err())),
        ("set_regs", chain(vcpu.set_regs(&regs).unwrap_err())),
        ("get_sys_reg", chain(vcpu.get_sys_reg(0).unwrap_err())),
        ("get_cntvct", chain(vcpu.get_cntvct().unwrap_err())),
        ("set_cntvct", chain(vcpu.set_cntvct(0).unwrap_err())),
        ("get_mp_state", chain(vcpu.get_mp_state().unwrap_err())),
        ("set_mp_state", chain(vcpu.set_mp_state(MpState).unwrap_err())),
        ("set_guest_debug", chain(vcpu.set_guest_debug(&[GuestAddress(0)], true).unwrap_err())),
        ("vcpu_init", chain(vcpu.vcpu_init(&init).unwrap_err())),
        ("vcpu_finalize", chain(vcpu.vcpu_finalize(4).unwrap_err())),
        ("set_pre_finalize_regs", chain(vcpu.set_pre_finalize_regs(&[ExtendedReg]).unwrap_err())),
        (
            "vcpu_set_processor_features",
            chain(vcpu.vcpu_set_processor_features(vm, &mut init, 0).unwrap_err()),
        ),
        ("get_reg_list", chain(vcpu.get_reg_list(&mut RegList).unwrap_err())),
        ("init_pmu", chain(vcpu.init_pmu(7).unwrap_err())),
        ("state", chain(vcpu.state().unwrap_err())),
        ("set_state", chain(vcpu.set_state(&CpuState).unwrap_err())),
        ("get_preferred_target", chain(vm.get_preferred_target(&mut VcpuInit).unwrap_err())),
        ("create_passthrough_device", chain(vm.create_passthrough_device().unwrap_err())),
        ("start_dirty_log", chain(vm.start_dirty_log().unwrap_err())),
        ("stop_dirty_log", chain(vm.stop_dirty_log().unwrap_err())),
        ("get_dirty_log", chain(vm.get_dirty_log(0, RAM, 4096).unwrap_err())),
    ]
}

#[test]
fn every_lack_is_said() {
    on(Flavour::Android16, |_| {
        let vm = create_vm(&gunyah(), description(Protection::Auto));
        let vcpu = vm.create_vcpu(0, None).unwrap();
        assert_eq!(vcpu.hypervisor_type(), HypervisorType::Gunyah);
        let errors = vcpu_errors(&*vm, &*vcpu);
        assert_eq!(errors.len(), 21);
        for (call, error) in &errors {
            let why = match *call {
                "get_regs" | "set_regs" | "get_sys_reg" | "get_cntvct" | "set_cntvct" => {
                    "Gunyah on this host does not offer access to vCPU registers"
                }
                "start_dirty_log" | "stop_dirty_log" | "get_dirty_log" => {
                    "Gunyah on this host does not offer dirty-page tracking"
                }
                "vcpu_init"
                | "vcpu_finalize"
                | "set_pre_finalize_regs"
                | "set_mp_state"
                | "vcpu_set_processor_features" => {
                    "Gunyah has initialised vCPU 0 itself; see Vcpu::is_initialised"
                }
                "get_preferred_target" => "Gunyah initialises vCPUs itself; see Vcpu::is_initialised",
                _ => "vmm-adapter has no such call, on any hypervisor",
            };
            assert!(error.ends_with(why), "{call}: {error}");
        }
        // A caller that wants to know more than the text gets it.
        let StandardRegisters::Adapter(_) = vcpu.create_standard_regs();
        let crate::hypervisor::cpu::HypervisorCpuError::GetStandardRegs(source) =
            vcpu.get_regs().unwrap_err()
        else {
            panic!()
        };
        assert!(matches!(source.downcast_ref(), Some(vmm_adapter::Error::Unsupported { .. })));
        assert!(vcpu.is_initialised());
        assert!(!vcpu.has_pmu_support());
        assert_eq!(vcpu.vcpu_get_finalized_features(), 0);
        assert!(vm.snapshot_clock(&*vcpu).is_none());
    });
}

#[test]
fn the_interrupt_controller_is_the_one_that_was_described() {
    on(Flavour::V11, |_| {
        let vm = create_vm(&gunyah(), description(Protection::Never));
        // Nothing is to be done, before, between and after.
        vm.create_irq_chip().unwrap();
        let other = chain(vm.create_vgic(&vgic(2)).err().unwrap());
        assert!(other.contains("the VM was made for VgicConfig"), "{other}");
        let gic = vm.create_vgic(&vgic(1)).unwrap();
        vm.create_irq_chip().unwrap();
        let mut gic = gic.lock().unwrap();
        assert_eq!((gic.fdt_compatibility(), gic.fdt_maint_irq(), gic.vcpu_count()), ("arm,gic-v3", 0, 1));
        assert_eq!(gic.device_properties(), [0x8ff_0000, 0x1_0000, 0x8fd_0000, 0x2_0000]);
        assert!(gic.msi_compatible());
        assert_eq!(
            (gic.msi_compatibility(), gic.msi_properties()),
            ("arm,gic-v2m-frame", [0x8fc_0000, 0x1000])
        );
        for error in [gic.state().map(|_| ()), gic.set_state(&GicState), gic.save_data_tables()]
            .map(Result::unwrap_err)
        {
            assert!(chain(error).contains("vmm-adapter has no such call"));
        }
    });
}

#[test]
fn memory_does_not_come_back_and_is_not_logged() {
    on(Flavour::Android16, |_| {
        const SIZE: usize = 2 << 20;
        let ram = GuestRegionMmap::<()>::from_range(GuestAddress(RAM), SIZE, None).unwrap();
        let vm = create_vm(&gunyah(), description(Protection::Auto));
        // SAFETY: the mapping outlives the VM, and nothing refers to its bytes.
        let give = |log| unsafe {
            vm.create_user_memory_region(0, RAM, SIZE, ram.as_ptr(), false, log).map_err(chain)
        };
        let logged = give(true).unwrap_err();
        assert!(logged.ends_with("does not offer dirty-page tracking"), "{logged}");
        // Nothing was done.
        give(false).unwrap();
        // SAFETY: what was given.
        let removed = unsafe { vm.remove_user_memory_region(0, RAM, SIZE, ram.as_ptr(), false, false) };
        let removed = chain(removed.unwrap_err());
        assert!(removed.ends_with("does not offer taking guest memory back"), "{removed}");
    });
}

#[test]
fn arm64_guests_have_no_ports() {
    on(Flavour::V11, |_| {
        let vm = create_vm(&gunyah(), description(Protection::Never));
        let event = EventFd::new(0).unwrap();
        let port = IoEventAddress::Pio(0x3f8);
        for error in [
            vm.register_ioevent(&event, &port, Some(DataMatch::DataMatch32(1))),
            vm.unregister_ioevent(&event, &port),
        ] {
            assert!(chain(error.unwrap_err()).ends_with("port 0x3f8: arm64 guests have no ports"));
        }
    });
}

//! What works where the backend has the facet: registers, the dirty log, memory that comes back.
#![expect(unsafe_code, reason = "the trait takes guest memory as a raw pointer")]

use vm_memory::{GuestAddress, GuestMemoryRegion, GuestRegionMmap};
use vmm_adapter::{Feature, GuestArch, Sharing};

use super::double::Paper;
use super::{AdapterHypervisor, chain, create_vm, description};
use crate::hypervisor::Hypervisor;
use crate::hypervisor::HypervisorType;
use crate::hypervisor::additions::Protection;
use crate::hypervisor::cpu::{CoreRegisters, StandardRegisters};

#[test]
fn registers_have_kvms_numbers() {
    let paper = Paper::new();
    let vm = create_vm(&paper.hypervisor().into(), description(Protection::Never));
    let vcpu = vm.create_vcpu(0, None).unwrap();
    let StandardRegisters::Adapter(read) = vcpu.get_regs().unwrap();
    let core = 0x6030_0000_0010_0000;
    assert_eq!((read.regs[0], read.regs[30], read.sp), (core, core + 60, core + 62));
    assert_eq!((read.pc, read.pstate), (core + 64, core + 66));
    // As the backend that has them says.
    #[cfg(feature = "kvm")]
    {
        use vmm_adapter::kvm::registers;
        assert_eq!(
            (read.regs[7], read.pc, read.pstate),
            (registers::arm64_x(7), registers::ARM64_PC, registers::ARM64_PSTATE)
        );
    }

    let StandardRegisters::Adapter(zero) = vcpu.create_standard_regs();
    assert_eq!(zero, CoreRegisters::default());
    let mut set = CoreRegisters { sp: 31, pc: 32, pstate: 33, ..zero };
    (0..31).for_each(|number| set.regs[number] = number as u64);
    vcpu.set_regs(&StandardRegisters::Adapter(set)).unwrap();
    let numbers: Vec<_> = (0..34).map(|number| (core + 2 * number, number)).collect();
    assert_eq!(paper.registers(), numbers);
    assert_eq!(vcpu.get_regs().unwrap(), StandardRegisters::Adapter(set));

    // mrs x0, mpidr_el1 is d53800a0; KVM has MPIDR_EL1 as 603000000013c005.
    assert_eq!(vcpu.get_sys_reg(0xd538_00a0 & 0x1f_ffe0).unwrap(), 0x6030_0000_0013_c005);
    // KVM_REG_ARM_TIMER_CNT.
    assert_eq!(vcpu.get_cntvct().unwrap(), 0x6030_0000_0013_df1a);
    vcpu.set_cntvct(7).unwrap();
    assert_eq!(vcpu.get_cntvct().unwrap(), 7);
    assert_eq!(vcpu.hypervisor_type(), HypervisorType::Kvm);
}

#[test]
fn memory_is_logged_and_comes_back() {
    const SIZE: usize = 1 << 20;
    let map = |addr| GuestRegionMmap::<()>::from_range(GuestAddress(addr), SIZE, None).unwrap();
    let (first, second) = (map(0x4000_0000), map(0x5000_0000));
    let paper = Paper::new();
    let vm = create_vm(&paper.hypervisor().into(), description(Protection::Never));
    // SAFETY: the mappings outlive the VM, and nothing refers to their bytes.
    let give = |slot, region: &GuestRegionMmap, readonly, log| unsafe {
        let addr = region.start_addr().0;
        vm.create_user_memory_region(slot, addr, SIZE, region.as_ptr(), readonly, log)
    };
    give(0, &first, false, false).unwrap();
    give(7, &second, true, true).unwrap();
    assert_eq!(paper.take_said(), ["log 0x50000000"]);
    assert_eq!(
        paper.regions(),
        [(0x4000_0000, Sharing::Shared, true), (0x5000_0000, Sharing::Shared, false)]
    );
    let why = chain(give(7, &second, false, false).unwrap_err());
    assert_eq!(why, "cannot create a region of guest memory: memory slot 7 is taken");

    vm.start_dirty_log().unwrap();
    assert_eq!(paper.take_said(), ["log 0x40000000", "log 0x50000000"]);
    assert_eq!(vm.get_dirty_log(7, 0x5000_0000, SIZE as u64).unwrap(), [0x5000_0000, 5]);
    let why = chain(vm.get_dirty_log(0, 0x5000_0000, SIZE as u64).unwrap_err());
    assert!(why.ends_with("memory slot 0 is 0x40000000 + 0x100000"), "{why}");
    assert!(chain(vm.get_dirty_log(1, 0, 0).unwrap_err()).ends_with("there is no memory slot 1"));
    vm.stop_dirty_log().unwrap();
    assert_eq!(paper.take_said(), ["no log 0x40000000", "no log 0x50000000"]);

    let remove = |slot, addr| {
        // SAFETY: what was given.
        unsafe { vm.remove_user_memory_region(slot, addr, SIZE, second.as_ptr(), true, true) }
    };
    assert!(chain(remove(7, 0x4000_0000).unwrap_err()).contains("memory slot 7 is 0x50000000"));
    remove(7, 0x5000_0000).unwrap();
    assert_eq!(paper.take_said(), ["unmap 0x50000000"]);
    assert!(chain(remove(7, 0x5000_0000).unwrap_err()).ends_with("there is no memory slot 7"));
    // The slot is free again.
    give(7, &second, false, false).unwrap();
}

#[test]
fn what_every_vm_needs_is_checked_first() {
    let all = || Feature::ALL.into_iter();
    for lacks in [Feature::OwnMemory, Feature::MsiPool, Feature::GuestPower] {
        let paper = Paper::on(GuestArch::Arm64, all().filter(|feature| *feature != lacks));
        let hypervisor = AdapterHypervisor::from(paper.hypervisor());
        let why = chain(hypervisor.check_required_extensions().unwrap_err());
        assert!(why.ends_with(&format!("does not offer {lacks}")), "{why}");
        assert!(hypervisor.create_vm(Default::default()).is_err());
    }
    let hypervisor = AdapterHypervisor::from(Paper::new().hypervisor());
    hypervisor.check_required_extensions().unwrap();
    assert_eq!((hypervisor.get_host_ipa_limit(), hypervisor.get_max_vcpus()), (44, 4));
    assert_eq!(hypervisor.get_guest_debug_hw_bps(), 0);
    assert_eq!(hypervisor.hypervisor_type(), HypervisorType::Kvm);
    let why = chain(hypervisor.create_vm(Default::default()).err().unwrap());
    assert!(why.contains("HypervisorVmConfig::description says nothing"), "{why}");
}

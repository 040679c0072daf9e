//! Guest memory.

use conformance::asm::{Program, Width};
use vm_memory::GuestAddress;
use vmm_adapter::{Error, Feature, Hypervisor, MemoryRegion, Sharing, VcpuExit, VmConfig, VmKind};

use crate::mailbox::{MAILBOX, mailbox};
use crate::rig::{self, RAM, RAM_SIZE, Rig};
use crate::target::Probe;

pub fn regions_must_fit(hypervisor: &dyn Hypervisor, _: &Probe) {
    let vm = rig::create_vm(hypervisor, VmConfig::new(1));
    let main = if vm.config().kind.is_protected() { Sharing::Private } else { Sharing::Shared };
    let refused = |addr, size, sharing| {
        let answer = vm.allocate(GuestAddress(addr), size, sharing);
        assert!(matches!(answer, Err(Error::InvalidArgument { .. })), "{addr:#x} {size:#x}: {answer:?}");
    };
    refused(RAM, 0, main);
    refused(RAM + 1, RAM_SIZE, main);
    refused(RAM, RAM_SIZE + 1, main);
    refused(u64::MAX - RAM_SIZE + 1, RAM_SIZE, main);
    refused(1 << VmConfig::DEFAULT_GUEST_PHYS_BITS, RAM_SIZE, main);
    refused((1 << VmConfig::DEFAULT_GUEST_PHYS_BITS) - RAM_SIZE / 2, RAM_SIZE, main);
    refused(RAM + 0x10_0000, RAM_SIZE, main);
    assert_eq!(vm.memory().len(), 0);
    let ram = rig::give_ram(&*vm);
    refused(RAM, RAM_SIZE, Sharing::Shared);
    refused(RAM + RAM_SIZE - 0x1_0000, RAM_SIZE, Sharing::Shared);
    refused(RAM - RAM_SIZE / 2, RAM_SIZE, Sharing::Shared);
    vm.allocate(GuestAddress(RAM + RAM_SIZE), RAM_SIZE, Sharing::Shared).unwrap();
    assert_eq!(vm.memory().len(), 2);
    assert_eq!(vm.memory()[0].addr(), ram.addr());
}

pub fn memory_is_what_host_and_guest_see(hypervisor: &dyn Hypervisor, _: &Probe) {
    const SHARED: u64 = RAM + (16 << 20);
    let mut program = Program::new();
    program.mov(1, SHARED + 0x100).load(Width::Double, 2, 1).add(2, 2, 1);
    program.mov(1, SHARED + 0x200).store(Width::Double, 2, 1).power_off();
    let rig = Rig::new(hypervisor, 1, &[], &program);
    let shared = rig.vm.allocate(GuestAddress(SHARED), 0x1_0000, Sharing::Shared).unwrap();
    shared.write(GuestAddress(SHARED + 0x100), &41_u64.to_le_bytes()).unwrap();
    let mut rig = rig.start();
    assert!(matches!(rig.vcpus[0].run(&mailbox()), Ok(VcpuExit::PowerOff(_))));
    let mut back = [0; 8];
    shared.read(GuestAddress(SHARED + 0x200), &mut back).unwrap();
    assert_eq!(u64::from_le_bytes(back), 42);
}

/// A store to it comes to the handler, or faults; the memory stays as it is.
pub fn read_only_memory_is_not_written(hypervisor: &dyn Hypervisor, _: &Probe) {
    const ROM: u64 = RAM + (16 << 20);
    let mut program = Program::new();
    program.mov(1, ROM).load(Width::Word, 2, 1).mov(3, MAILBOX).store(Width::Word, 2, 3);
    program.store_at(Width::Word, ROM, 0xbad).power_off();
    let rig = Rig::new(hypervisor, 1, &[], &program);
    let caps = rig.vm.capabilities();
    if !caps.has(Feature::OwnMemory) {
        return;
    }
    let rom = MemoryRegion::new(GuestAddress(ROM), 0x1_0000, Sharing::Shared).unwrap().read_only();
    rom.write(GuestAddress(ROM), &0x600d_u32.to_le_bytes()).unwrap();
    match rig.vm.map(&rom) {
        Err(Error::Unsupported { feature: Feature::ReadOnlyMemory, .. }) => {
            assert!(!caps.has(Feature::ReadOnlyMemory));
            return;
        }
        other => other.unwrap(),
    }
    let mut rig = rig.start();
    let io = mailbox();
    let exit = rig.vcpus[0].run(&io).unwrap();
    assert!(matches!(exit, VcpuExit::PowerOff(_) | VcpuExit::Crashed(_)), "{exit:?}");
    assert_eq!(io.stores()[0], (MAILBOX, 4, 0x600d));
    let mut back = [0; 4];
    rom.read(GuestAddress(ROM), &mut back).unwrap();
    assert_eq!(u32::from_le_bytes(back), 0x600d);
}

pub fn a_plain_vm_shares_its_memory(hypervisor: &dyn Hypervisor, _: &Probe) {
    const SLOT: u64 = RAM + 0x8000;
    let vm = match hypervisor.create_vm(&VmConfig::new(1).with_kind(VmKind::Plain)) {
        Err(Error::Unsupported { feature: Feature::PlainVm, .. }) => return,
        other => other.unwrap(),
    };
    assert!(vm.capabilities().has(Feature::PlainVm));
    let ram = rig::give_ram(&*vm);
    assert_eq!(ram.sharing(), Sharing::Shared);
    let mut program = Program::new();
    program.store_at(Width::Word, SLOT, 0x0123_4567).power_off();
    ram.write(GuestAddress(RAM), &program.bytes()).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut rig = Rig { vm, ram, vcpus: vec![vcpu] }.start();
    assert!(matches!(rig.vcpus[0].run(&mailbox()), Ok(VcpuExit::PowerOff(_))));
    let mut back = [0; 4];
    rig.ram.read(GuestAddress(SLOT), &mut back).unwrap();
    assert_eq!(u32::from_le_bytes(back), 0x0123_4567);
}

pub fn private_memory_is_out_of_reach(hypervisor: &dyn Hypervisor, _: &Probe) {
    let config = VmConfig::new(1).with_kind(VmKind::Protected);
    let vm = match hypervisor.create_vm(&config) {
        Err(Error::Unsupported { feature: Feature::PrivateMemory, .. }) => return,
        other => other.unwrap(),
    };
    let shared_main = vm.allocate(GuestAddress(RAM), RAM_SIZE, Sharing::Shared);
    assert!(matches!(shared_main, Err(Error::InvalidArgument { .. })), "{shared_main:?}");
    let ram = rig::give_ram(&*vm);
    assert!(ram.shared().is_none());
    let mut program = Program::new();
    program.store_at(Width::Word, MAILBOX, 9).power_off();
    ram.write(GuestAddress(RAM), &program.bytes()).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut rig = Rig { vm, ram, vcpus: vec![vcpu] }.start();
    for answer in [rig.ram.write(GuestAddress(RAM), &[0]), rig.ram.read(GuestAddress(RAM), &mut [0])] {
        assert!(matches!(answer, Err(Error::WrongState { .. })), "{answer:?}");
    }
    let io = mailbox();
    assert!(matches!(rig.vcpus[0].run(&io), Ok(VcpuExit::PowerOff(_))));
    assert_eq!(io.stores(), [(MAILBOX, 4, 9)]);
}

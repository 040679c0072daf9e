//! vCPU registers.

use conformance::asm::Width;
use vmm_adapter::kvm::registers as kvm;
use vmm_adapter::{Error, Feature, GuestArch, Hypervisor, VcpuExit};

use crate::mailbox::{MAILBOX, mailbox};
use crate::rig::{RAM, Rig, guest};
use crate::target::Probe;

/// What is written before the first run is what the guest has; what the guest has left is what is read.
pub fn registers_are_those_of_the_guest(hypervisor: &dyn Hypervisor, probe: &Probe) {
    let arch = hypervisor.capabilities().guest_arch();
    // What the assembler calls 7 and 1.
    let (seven, one, pc) = match arch {
        GuestArch::Arm64 => (kvm::arm64_x(7), kvm::arm64_x(1), kvm::ARM64_PC),
        _ => (kvm::X86_GENERAL + 15, kvm::X86_GENERAL + 9, kvm::X86_RIP),
    };
    let mut program = guest(hypervisor);
    program.mov(1, MAILBOX).store(Width::Double, 7, 1);
    let again = program.here();
    program.branch(again);
    let mut rig = Rig::one(hypervisor, &program);
    let Some(registers) = rig.vcpus[0].registers() else {
        assert!(!rig.vm.capabilities().has(Feature::Registers));
        return probe.inapplicable("registers cannot be reached");
    };
    assert_eq!(registers.get(pc).unwrap(), RAM, "where the guest starts");
    registers.set(seven, 0x1122_3344_5566_7788).unwrap();
    assert_eq!(registers.get(seven).unwrap(), 0x1122_3344_5566_7788);
    let nowhere = registers.get(0x00ff_ffff);
    assert!(matches!(nowhere, Err(Error::InvalidArgument { .. })), "{nowhere:?}");

    let io = mailbox();
    let kicker = rig.vcpus[0].kicker();
    std::thread::scope(|scope| {
        let (vcpu, io) = (&mut rig.vcpus[0], &io);
        let run = scope.spawn(move || vcpu.run(io).unwrap());
        while io.stores().is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        kicker.kick();
        assert_eq!(run.join().unwrap(), VcpuExit::Interrupted);
    });
    assert_eq!(io.stores(), [(MAILBOX, 8, 0x1122_3344_5566_7788)]);
    let registers = rig.vcpus[0].registers().unwrap();
    assert_eq!(registers.get(one).unwrap(), MAILBOX);
    assert!((RAM..RAM + 0x1000).contains(&registers.get(pc).unwrap()));
}

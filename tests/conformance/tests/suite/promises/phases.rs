//! Capabilities and phases.

use conformance::asm::Width;
use vm_fdt::FdtWriter;
use vm_memory::GuestAddress;
use vmm_adapter::{
    BootContext, Error, Feature, GuestArch, Hypervisor, IoEventMatch, IrqLine, MemoryRegion, MsiFrame,
    MsiPool, Phase, Sharing, VmConfig, VmKind,
};
use vmm_sys_util::eventfd::EventFd;

use crate::mailbox::{MAILBOX, mailbox};
use crate::rig::{self, RAM, Rig, boot, guest};
use crate::target::Probe;

/// The three ways in which a lack is said agree.
pub fn what_is_not_offered_is_refused(hypervisor: &dyn Hypervisor, _: &Probe) {
    let vm = rig::create_vm(hypervisor, VmConfig::new(1));
    let caps = vm.capabilities();
    for feature in caps.iter() {
        assert!(hypervisor.capabilities().has(feature), "{feature:?} was ruled out before the VM was made");
    }
    assert_eq!(caps.backend(), hypervisor.capabilities().backend());
    assert_eq!(caps.guest_arch(), hypervisor.capabilities().guest_arch());
    for feature in Feature::ALL {
        match caps.require(feature) {
            Ok(()) => assert!(caps.has(feature)),
            Err(Error::Unsupported { feature: named, .. }) => assert!(!caps.has(feature) && named == feature),
            Err(other) => panic!("{other}"),
        }
    }
    let ram = rig::give_ram(&*vm);
    let mut vcpu = vm.create_vcpu(0).unwrap();
    assert_eq!(vcpu.registers().is_some(), caps.has(Feature::Registers));
    assert_eq!(vm.dirty_log().is_some(), caps.has(Feature::DirtyLog));
    if !caps.has(Feature::Unmap) {
        let refused = vm.unmap(ram.addr());
        assert!(matches!(refused, Err(Error::Unsupported { feature: Feature::Unmap, .. })), "{refused:?}");
    }
    let own = MemoryRegion::new(GuestAddress(0x9000_0000), 0x1_0000, Sharing::Shared).unwrap();
    match vm.map(&own) {
        Ok(()) => assert!(caps.has(Feature::OwnMemory)),
        Err(Error::Unsupported { feature: Feature::OwnMemory, .. }) => assert!(!caps.has(Feature::OwnMemory)),
        Err(other) => panic!("{other}"),
    }
    // What the hypervisor makes can be written.
    assert!(caps.has(Feature::OwnMemory) || !caps.has(Feature::ReadOnlyMemory));
    if !caps.has(Feature::PrivateMemory) {
        let refused = vm.allocate(GuestAddress(0xa000_0000), 0x1_0000, Sharing::Private);
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
    assert!(caps.max_vcpus() >= 1 && caps.guest_phys_bits() >= 32);
}

fn wrong<T: std::fmt::Debug>(answer: Result<T, Error>, op: &str, phase: Phase) {
    match answer {
        Err(Error::WrongState { op: named, phase: found }) => assert_eq!((named, found), (op, phase)),
        other => panic!("{op} while {phase}: {other:?}"),
    }
}

pub fn calls_in_the_wrong_phase_are_refused(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = guest(hypervisor);
    program.power_off();
    let mut rig = Rig::new(hypervisor, 1, &[IrqLine::edge(4)], &program);
    assert_eq!(rig.vm.phase(), Phase::Configuring);
    wrong(rig.vcpus[0].run(&mailbox()), "run", Phase::Configuring);
    let (fd, line) = (EventFd::new(0).unwrap(), IrqLine::edge(4));
    let (doorbell, any) = (GuestAddress(MAILBOX + 0x800), IoEventMatch::Any);
    rig.vm.register_ioevent(&fd, doorbell, any).unwrap();

    let mut rig = rig.start();
    assert_eq!(rig.vm.phase(), Phase::Running);
    rig.vm.register_irqfd(&fd, line).unwrap();
    let more = MemoryRegion::new(GuestAddress(0x9000_0000), 0x1_0000, Sharing::Shared).unwrap();
    let vm = std::sync::Arc::clone(&rig.vm);
    let configuring_only = |phase| {
        wrong(vm.map(&more), "map", phase);
        wrong(vm.create_vcpu(0), "create_vcpu", phase);
        wrong(vm.start(&boot()), "start", phase);
        wrong(vm.describe(&mut FdtWriter::new().unwrap(), 1), "describe", phase);
        let allocated = vm.allocate(GuestAddress(0x9000_0000), 0x1_0000, Sharing::Shared);
        assert!(matches!(allocated, Err(Error::WrongState { .. })), "{allocated:?}");
    };
    configuring_only(Phase::Running);

    rig.run_to_the_end(&mailbox());
    assert_eq!(vm.phase(), Phase::Stopped);
    configuring_only(Phase::Stopped);
    let other = EventFd::new(0).unwrap();
    wrong(vm.register_irqfd(&other, IrqLine::edge(4)), "register_irqfd", Phase::Stopped);
    wrong(
        vm.register_ioevent(&other, GuestAddress(MAILBOX + 0x900), any),
        "register_ioevent",
        Phase::Stopped,
    );
    match vm.unmap(GuestAddress(0x9000_0000)) {
        Err(Error::WrongState { op: "unmap", phase: Phase::Stopped }) => {
            assert!(vm.capabilities().has(Feature::Unmap));
        }
        Err(Error::Unsupported { feature: Feature::Unmap, .. }) => {
            assert!(!vm.capabilities().has(Feature::Unmap));
        }
        other => panic!("{other:?}"),
    }
    if let Some(reclaim) = vm.reclaim() {
        wrong(reclaim.pages(GuestAddress(RAM), 0x1_0000), "Reclaim::pages", Phase::Stopped);
    }
    // What was bound can be let go at any time, once.
    vm.unregister_irqfd(&fd, line).unwrap();
    vm.unregister_ioevent(&fd, doorbell, any).unwrap();
    for again in [vm.unregister_irqfd(&fd, line), vm.unregister_ioevent(&fd, doorbell, any)] {
        assert!(matches!(again, Err(Error::InvalidArgument { .. })), "{again:?}");
    }
}

/// A pool of messages is refused with the VM where there are none, and a frame needs a pool.
pub fn messages_need_a_pool(hypervisor: &dyn Hypervisor, _: &Probe) {
    let pool = MsiPool { base: 64, count: 4, frame: GuestAddress(0x1100_0000) };
    let config = VmConfig::new(1).with_kind(VmKind::Any);
    match hypervisor.create_vm(&config.clone().with_msi(pool)) {
        Err(Error::Unsupported { feature: Feature::MsiPool, .. }) => {
            assert!(!hypervisor.capabilities().has(Feature::MsiPool));
        }
        other => {
            let vm = other.unwrap();
            assert!(
                hypervisor.capabilities().has(Feature::MsiPool) && vm.capabilities().has(Feature::MsiPool)
            );
            let frame = MsiFrame::new(&vm).unwrap();
            let second = MsiFrame::new(&vm);
            assert!(matches!(second, Err(Error::InvalidArgument { .. })), "its lines are bound: {second:?}");
            drop(frame);
            MsiFrame::new(&vm).unwrap();
        }
    }
    let refused = MsiFrame::new(&hypervisor.create_vm(&config).unwrap());
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
}

/// What the adapter itself refuses does not end the VM.
pub fn a_bad_start_leaves_the_vm_configurable(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = guest(hypervisor);
    program.power_off();
    let rig = Rig::new(hypervisor, 1, &[], &program);
    let refused = |boot: BootContext| {
        let answer = rig.vm.start(&boot);
        assert!(matches!(answer, Err(Error::InvalidArgument { .. })), "{boot:?}: {answer:?}");
        assert_eq!(rig.vm.phase(), Phase::Configuring);
    };
    if rig.vm.capabilities().guest_arch() == GuestArch::Arm64 {
        refused(boot());
        rig.write_tree();
        refused(BootContext { fdt: GuestAddress(RAM - 0x1000), ..boot() });
        refused(BootContext { fdt: GuestAddress(boot().fdt.0 + 4), ..boot() });
        refused(BootContext { fdt_size: 0, ..boot() });
        refused(BootContext { fdt_size: 0x1001, ..boot() });
        refused(BootContext { fdt_size: 1 << 40, ..boot() });
    }
    refused(BootContext { entry: GuestAddress(0x1000), ..boot() });
    let elsewhere = BootContext { entry: GuestAddress(RAM + 4), ..boot() };
    if !rig.vm.capabilities().has(Feature::BootContext) {
        let answer = rig.vm.start(&elsewhere);
        assert!(
            matches!(answer, Err(Error::Unsupported { feature: Feature::BootContext, .. })),
            "{answer:?}"
        );
    }
    rig.vm.start(&boot()).unwrap();
}

pub fn vcpus_are_those_declared(hypervisor: &dyn Hypervisor, _: &Probe) {
    let most = hypervisor.capabilities().max_vcpus();
    for count in [0, most + 1] {
        let refused = hypervisor.create_vm(&VmConfig::new(count));
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{count}: {refused:?}");
    }
    // As many as it says, or a good many of them.
    let many = most.min(VmConfig::DEFAULT_MAX_VCPUS + 6);
    let vm = rig::create_vm(hypervisor, VmConfig::new(many));
    assert!(vm.capabilities().max_vcpus() >= many);
    for id in 0..many {
        vm.create_vcpu(id).unwrap();
    }
    let vm = rig::create_vm(hypervisor, VmConfig::new(2));
    let ram = rig::give_ram(&*vm);
    let first = vm.create_vcpu(0).unwrap();
    assert_eq!(first.id(), 0);
    for id in [0, 2, u32::MAX] {
        let refused = vm.create_vcpu(id);
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{id}: {refused:?}");
    }
    // Not all of them are there yet.
    let rig = Rig { vm, ram, vcpus: vec![first] };
    rig.write_tree();
    let refused = rig.vm.start(&boot());
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
    let second = rig.vm.create_vcpu(1).unwrap();
    rig.vm.start(&boot()).unwrap();
    drop(second);
}

/// The number of a vCPU that was dropped is free again until the start, as often as one likes; the new one runs as any does.
pub fn a_dropped_vcpu_can_be_made_again(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = guest(hypervisor);
    program.store_at(Width::Word, MAILBOX, 7).power_off();
    let mut rig = Rig::new(hypervisor, 2, &[], &program);
    for id in [1, 0, 0, 1] {
        let kicker = rig.vcpus.remove(id).kicker();
        // This one is not there any more.
        kicker.kick();
        rig.write_tree();
        let refused = rig.vm.start(&boot());
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{id} is not there: {refused:?}");
        rig.vcpus.insert(id, rig.vm.create_vcpu(id as u32).unwrap());
    }
    let mut rig = rig.start();
    let refused = rig.vm.create_vcpu(1);
    assert!(matches!(refused, Err(Error::WrongState { .. })), "{refused:?}");
    let io = mailbox();
    rig.run_to_the_end(&io);
    assert_eq!(io.stores(), [(MAILBOX, 4, 7)]);
    for vcpu in &mut rig.vcpus {
        rig::assert_off(&*rig.vm, vcpu.run(&io).unwrap());
    }
}

//! Interrupt lines and ioevents.

use std::time::{Duration, Instant};

use conformance::asm::Width;
use vm_memory::GuestAddress;
use vmm_adapter::{Error, Hypervisor, IoEventMatch, IrqLine, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::mailbox::{MAILBOX, mailbox};
use crate::rig::{self, Rig, guest};
use crate::target::Probe;

fn event() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

fn refused(answer: Result<(), Error>) {
    assert!(matches!(answer, Err(Error::InvalidArgument { .. })), "{answer:?}");
}

pub fn only_declared_lines_can_be_bound(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = guest(hypervisor);
    program.power_off();
    let lines = [IrqLine::edge(1), IrqLine::level(20)];
    let rig = Rig::new(hypervisor, 1, &lines, &program);
    let (one, two) = (event(), event());
    refused(rig.vm.register_irqfd(&one, IrqLine::edge(2)));
    refused(rig.vm.register_irqfd(&one, IrqLine::level(1)));
    refused(rig.vm.register_irqfd(&one, IrqLine { spi: 20, trigger: Trigger::Edge }));
    refused(rig.vm.unregister_irqfd(&one, IrqLine::edge(1)));

    for line in lines {
        rig.vm.register_irqfd(&one, line).unwrap();
        refused(rig.vm.register_irqfd(&two, line));
        refused(rig.vm.unregister_irqfd(&two, line));
        rig.vm.unregister_irqfd(&one, line).unwrap();
        rig.vm.register_irqfd(&two, line).unwrap();
        rig.vm.unregister_irqfd(&two, line).unwrap();
    }

    // A driver that unmasks its interrupt late binds it late.
    let rig = rig.start();
    rig.vm.register_irqfd(&one, IrqLine::edge(1)).unwrap();
    refused(rig.vm.register_irqfd(&one, IrqLine::edge(2)));
}

/// Waits until `done`, for as long as a busy host may need.
fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn a_signal_rings_the_doorbell(hypervisor: &dyn Hypervisor, probe: &Probe) {
    let mut program = guest(hypervisor);
    program.power_off();
    let lines = [IrqLine::edge(3), IrqLine::level(4), IrqLine::edge(5)];
    let rig = Rig::new(hypervisor, 1, &lines, &program);
    let events: Vec<EventFd> = lines.iter().map(|_| event()).collect();
    for (fd, line) in events.iter().zip(lines) {
        rig.vm.register_irqfd(fd, line).unwrap();
    }
    let rig = rig.start();
    events[0].write(1).unwrap();
    events[1].write(1).unwrap();
    // Without a way to look into the hypervisor there is nothing more to see from here.
    if probe.doorbells(3).is_some() {
        eventually("the doorbells ring", || probe.doorbells(3) == Some(1) && probe.doorbells(4) == Some(1));
        assert_eq!(probe.doorbells(5), Some(0), "another line's does not");
        rig.vm.unregister_irqfd(&events[0], lines[0]).unwrap();
        events[0].write(1).unwrap();
        events[2].write(1).unwrap();
        eventually("the third rings", || probe.doorbells(5) == Some(1));
        assert_eq!(probe.doorbells(3), Some(1), "an unbound line is silent");
    }
}

/// The guest sleeps, and an interrupt ends that.
pub fn a_signal_wakes_the_guest(hypervisor: &dyn Hypervisor, probe: &Probe) {
    if probe.doorbells(0).is_none() {
        return probe
            .inapplicable("a real interrupt controller wants a driver first, which this guest is not");
    }
    let mut program = guest(hypervisor);
    program.store_at(Width::Word, MAILBOX, 1).wfi().store_at(Width::Word, MAILBOX, 2).power_off();
    let rig = Rig::new(hypervisor, 1, &[IrqLine::edge(7)], &program);
    let fd = event();
    rig.vm.register_irqfd(&fd, IrqLine::edge(7)).unwrap();
    let mut rig = rig.start();
    let io = mailbox();
    std::thread::scope(|scope| {
        let vcpu = &mut rig.vcpus[0];
        let io = &io;
        let run = scope.spawn(move || vcpu.run(io));
        eventually("the guest is about to sleep", || io.stores().len() == 1);
        fd.write(1).unwrap();
        let exit = run.join().unwrap().unwrap();
        rig::assert_off(&*rig.vm, exit);
    });
    assert_eq!(io.stores().len(), 2);
}

pub fn an_ioevent_makes_no_exit(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = guest(hypervisor);
    program.store_at(Width::Word, MAILBOX, 1).store_at(Width::Half, MAILBOX, 2);
    program.store_at(Width::Word, MAILBOX + 4, 3).power_off();
    let mut rig = Rig::one(hypervisor, &program);
    let (fd, gone) = (event(), event());
    rig.vm.register_ioevent(&gone, GuestAddress(MAILBOX + 4), IoEventMatch::Any).unwrap();
    rig.vm.unregister_ioevent(&gone, GuestAddress(MAILBOX + 4), IoEventMatch::Any).unwrap();
    refused(rig.vm.unregister_ioevent(&gone, GuestAddress(MAILBOX + 4), IoEventMatch::Any));
    rig.vm.register_ioevent(&fd, GuestAddress(MAILBOX), IoEventMatch::Any).unwrap();
    refused(rig.vm.register_ioevent(&gone, GuestAddress(MAILBOX), IoEventMatch::Any));
    refused(rig.vm.register_ioevent(
        &gone,
        GuestAddress(MAILBOX + 8),
        IoEventMatch::Value { width: 3, value: 0 },
    ));
    refused(rig.vm.register_ioevent(
        &gone,
        GuestAddress(MAILBOX + 8),
        IoEventMatch::Value { width: 1, value: 256 },
    ));

    let io = mailbox();
    rig.run_to_the_end(&io);
    assert_eq!(io.stores(), [(MAILBOX + 4, 4, 3)], "only the store next to it makes an exit");
    assert_eq!(fd.read().unwrap(), 2);
    assert!(gone.read().is_err());
}

pub fn an_ioevent_compares_the_value(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = guest(hypervisor);
    program.store_at(Width::Word, MAILBOX, 7).store_at(Width::Word, MAILBOX, 0).power_off();
    let mut rig = Rig::one(hypervisor, &program);
    let fd = event();
    rig.vm.register_ioevent(&fd, GuestAddress(MAILBOX), IoEventMatch::Value { width: 4, value: 7 }).unwrap();
    let io = mailbox();
    rig.run_to_the_end(&io);
    assert_eq!(io.stores(), [(MAILBOX, 4, 0)]);
    assert_eq!(fd.read().unwrap(), 1);
}

//! Interrupt lines and ioevents.

use conformance::asm::Width;
use vm_memory::GuestAddress;
use vmm_adapter::{Error, Hypervisor, IoEventMatch, IrqLine, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::mailbox::{MAILBOX, mailbox};
use crate::rig::{Rig, guest};
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

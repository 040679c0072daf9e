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

/// In each width, and with values that fill it. The same value in another width is another store.
pub fn an_ioevent_compares_the_value(hypervisor: &dyn Hypervisor, _: &Probe) {
    const PATTERN: u64 = 0xf7e6_d5c4_b3a2_9188;
    let place = |width: Width| MAILBOX + 0x10 * width.bytes() as u64;
    let value = |width: Width| PATTERN >> (64 - 8 * width.bytes());
    let mut program = guest(hypervisor);
    let mut want = Vec::new();
    for width in Width::ALL {
        let (addr, value, bytes) = (place(width), value(width), width.bytes());
        program.store_at(width, addr, value).store_at(width, addr, 0);
        want.push((addr, bytes, 0));
        for other in Width::ALL.into_iter().filter(|other| *other != width) {
            let cut = value & (u64::MAX >> (64 - 8 * other.bytes()));
            program.store_at(other, addr, cut);
            want.push((addr, other.bytes(), cut));
        }
    }
    program.power_off();
    let mut rig = Rig::one(hypervisor, &program);
    let bind = |width: Width| {
        let (fd, width_in_bytes) = (event(), width.bytes() as u8);
        let want = IoEventMatch::Value { width: width_in_bytes, value: value(width) };
        rig.vm.register_ioevent(&fd, GuestAddress(place(width)), want).unwrap();
        fd
    };
    let fds = Width::ALL.map(bind);
    let io = mailbox();
    rig.run_to_the_end(&io);
    assert_eq!(io.stores(), want);
    for (fd, width) in fds.iter().zip(Width::ALL) {
        assert_eq!(fd.read().unwrap(), 1, "{width:?}");
    }
}

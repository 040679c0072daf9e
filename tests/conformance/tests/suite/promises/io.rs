//! MMIO.

use std::sync::atomic::{AtomicU64, Ordering};

use conformance::asm::{Program, Width};
use vmm_adapter::{Feature, Hypervisor, VcpuExit};

use crate::mailbox::{MAILBOX, Mailbox, NOWHERE, mailbox};
use crate::rig::{RAM, Rig};
use crate::target::Probe;

const PATTERN: u64 = 0x8877_6655_4433_2211;

fn low_bytes(value: u64, bytes: usize) -> u64 {
    value & (u64::MAX >> (64 - 8 * bytes))
}

pub fn loads_and_stores_of_all_widths(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = Program::new();
    program.mov(1, MAILBOX).mov(3, MAILBOX + 0x100);
    for width in Width::ALL {
        // The upper bytes must not matter, nor keep what an earlier load left.
        program.mov(2, u64::MAX).load(width, 2, 1).store(Width::Double, 2, 3).store(width, 2, 3);
    }
    program.power_off();
    let mut rig = Rig::one(hypervisor, &program);
    let io = Mailbox::new(|addr, len| {
        assert_eq!(addr, MAILBOX);
        low_bytes(PATTERN, len)
    });
    assert!(matches!(rig.vcpus[0].run(&io), Ok(VcpuExit::PowerOff(_))));
    let want: Vec<_> = Width::ALL
        .into_iter()
        .flat_map(|width| {
            let value = low_bytes(PATTERN, width.bytes());
            [(MAILBOX + 0x100, 8, value), (MAILBOX + 0x100, width.bytes(), value)]
        })
        .collect();
    assert_eq!(io.stores(), want);
}

/// Marks in the mailbox that the guest took an exception, and powers off. Vectors of EL1 with SPx are at 0x200.
fn with_vectors(body: impl FnOnce(&mut Program)) -> Program {
    let mut program = Program::new();
    program.mov(0, RAM + 0x1000).set_vectors(0);
    body(&mut program);
    program.power_off();
    program.align(0x1000);
    for entry in 0..16 {
        program.align(0x80);
        program.store_at(Width::Word, MAILBOX + 0xff0, entry).power_off();
    }
    program
}

/// What the mailbox shows of a fault.
fn faulted(stores: &[(u64, usize, u64)]) -> bool {
    stores.last().is_some_and(|(addr, ..)| *addr == MAILBOX + 0xff0)
}

pub fn unclaimed_loads(hypervisor: &dyn Hypervisor, _: &Probe) {
    for width in Width::ALL {
        let program = with_vectors(|program| {
            program.mov(1, NOWHERE).mov(2, 0).load(width, 2, 1).mov(3, MAILBOX).store(Width::Double, 2, 3);
        });
        let mut rig = Rig::one(hypervisor, &program);
        let io = mailbox();
        let exit = rig.vcpus[0].run(&io).unwrap();
        assert!(matches!(exit, VcpuExit::PowerOff(_)), "{exit:?}");
        if rig.vm.capabilities().has(Feature::MmioFault) {
            assert!(faulted(&io.stores()), "{:x?}", io.stores());
        } else {
            assert_eq!(io.stores(), [(MAILBOX, 8, low_bytes(u64::MAX, width.bytes()))]);
        }
    }
}

pub fn unclaimed_stores(hypervisor: &dyn Hypervisor, _: &Probe) {
    let program = with_vectors(|program| {
        program.store_at(Width::Word, NOWHERE, 5).store_at(Width::Byte, MAILBOX, 6);
    });
    let mut rig = Rig::one(hypervisor, &program);
    let io = mailbox();
    let exit = rig.vcpus[0].run(&io).unwrap();
    assert!(matches!(exit, VcpuExit::PowerOff(_)), "{exit:?}");
    let stores = io.stores();
    assert_eq!(stores[0], (NOWHERE, 4, 5), "the handler is asked once");
    if rig.vm.capabilities().has(Feature::MmioFault) {
        assert!(faulted(&stores) && stores.len() == 2, "{stores:x?}");
    } else {
        assert_eq!(stores[1..], [(MAILBOX, 1, 6)]);
    }
}

/// The guest echoes each answer, so every one is checked.
pub fn many_answers_arrive_in_order(hypervisor: &dyn Hypervisor, _: &Probe) {
    const ROUNDS: u64 = 2000;
    let program = echo(ROUNDS);
    let mut rig = Rig::one(hypervisor, &program);
    let next = AtomicU64::new(1);
    let io = Mailbox::new(|_, _| next.fetch_add(1, Ordering::Relaxed));
    assert!(matches!(rig.vcpus[0].run(&io), Ok(VcpuExit::PowerOff(_))));
    let values: Vec<u64> = io.stores().iter().map(|(_, _, value)| *value).collect();
    assert_eq!(values, (1..=ROUNDS).collect::<Vec<_>>());
}

/// Loads from the mailbox and stores the same next to it, `rounds` times.
pub fn echo(rounds: u64) -> Program {
    let mut program = Program::new();
    program.mov(1, MAILBOX).mov(3, MAILBOX + 8).mov(4, rounds);
    let again = program.here();
    program.load(Width::Word, 2, 1).store(Width::Word, 2, 3).sub(4, 4, 1).branch_if(4, again).power_off();
    program
}

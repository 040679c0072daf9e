//! MMIO.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use conformance::asm::{Program, Width};
use vm_memory::GuestAddress;
use vmm_adapter::{Feature, Hypervisor, IoHandler, IoOutcome};

use crate::mailbox::{MAILBOX, Mailbox, NOWHERE, mailbox};
use crate::rig::{RAM, Rig, guest};
use crate::target::Probe;

const PATTERN: u64 = 0x8877_6655_4433_2211;

fn low_bytes(value: u64, bytes: usize) -> u64 {
    value & (u64::MAX >> (64 - 8 * bytes))
}

pub fn loads_and_stores_of_all_widths(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = guest(hypervisor);
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
    rig.run_to_the_end(&io);
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
pub fn with_vectors(hypervisor: &dyn Hypervisor, body: impl FnOnce(&mut Program)) -> Program {
    let mut program = guest(hypervisor);
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
        let program = with_vectors(hypervisor, |program| {
            program.mov(1, NOWHERE).mov(2, 0).load(width, 2, 1).mov(3, MAILBOX).store(Width::Double, 2, 3);
        });
        let mut rig = Rig::one(hypervisor, &program);
        let io = mailbox();
        rig.run_to_the_end(&io);
        if rig.vm.capabilities().has(Feature::MmioFault) {
            assert!(faulted(&io.stores()), "{:x?}", io.stores());
        } else {
            assert_eq!(io.stores(), [(MAILBOX, 8, low_bytes(u64::MAX, width.bytes()))]);
        }
    }
}

pub fn unclaimed_stores(hypervisor: &dyn Hypervisor, _: &Probe) {
    let program = with_vectors(hypervisor, |program| {
        program.store_at(Width::Word, NOWHERE, 5).store_at(Width::Byte, MAILBOX, 6);
    });
    let mut rig = Rig::one(hypervisor, &program);
    let io = mailbox();
    rig.run_to_the_end(&io);
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
    let program = echo(hypervisor, ROUNDS);
    let mut rig = Rig::one(hypervisor, &program);
    let next = AtomicU64::new(1);
    let io = Mailbox::new(|_, _| next.fetch_add(1, Ordering::Relaxed));
    rig.run_to_the_end(&io);
    let values: Vec<u64> = io.stores().iter().map(|(_, _, value)| *value).collect();
    assert_eq!(values, (1..=ROUNDS).collect::<Vec<_>>());
}

/// Loads from the mailbox and stores the same next to it, `rounds` times.
pub fn echo(hypervisor: &dyn Hypervisor, rounds: u64) -> Program {
    let mut program = guest(hypervisor);
    program.mov(1, MAILBOX).mov(3, MAILBOX + 8).mov(4, rounds);
    let again = program.here();
    program.load(Width::Word, 2, 1).store(Width::Word, 2, 3).sub(4, 4, 1).branch_if(4, again).power_off();
    program
}

/// Ports: what is stored comes with its width, also by a string instruction; loads get what the handler says, or ones.
pub fn port_io(hypervisor: &dyn Hypervisor, probe: &Probe) {
    struct Ports(Mutex<Vec<(u16, Vec<u8>)>>, Mailbox<fn(u64, usize) -> u64>);
    impl IoHandler for Ports {
        fn mmio_read(&self, addr: GuestAddress, data: &mut [u8]) -> IoOutcome {
            self.1.mmio_read(addr, data)
        }
        fn mmio_write(&self, addr: GuestAddress, data: &[u8]) -> IoOutcome {
            self.1.mmio_write(addr, data)
        }
        fn pio_read(&self, port: u16, data: &mut [u8]) -> IoOutcome {
            assert!(data.iter().all(|byte| *byte == 0));
            if port != 0x3f0 {
                return IoOutcome::Unclaimed;
            }
            data.copy_from_slice(&PATTERN.to_le_bytes()[..data.len()]);
            IoOutcome::Handled
        }
        fn pio_write(&self, port: u16, data: &[u8]) -> IoOutcome {
            self.0.lock().unwrap().push((port, data.to_vec()));
            IoOutcome::Handled
        }
    }

    let mut program = guest(hypervisor);
    let Some(code) = program.x86() else {
        assert!(!hypervisor.capabilities().has(Feature::PortIo));
        return probe.inapplicable("this processor has no ports");
    };
    assert!(hypervisor.capabilities().has(Feature::PortIo));
    code.mov(1, MAILBOX);
    code.mov(2, PATTERN);
    for width in [Width::Byte, Width::Half, Width::Word] {
        code.port(true, width, 2, 0x3f0);
    }
    for port in [0x3f0, 0x500] {
        for width in [Width::Byte, Width::Half, Width::Word] {
            code.port(false, width, 3, port);
            code.store(Width::Double, 3, 1);
        }
    }
    code.port_string(RAM + 0x8000, 5, 0x3f8);
    program.power_off();
    let mut rig = Rig::one(hypervisor, &program);
    rig.ram.write(GuestAddress(RAM + 0x8000), b"hello").unwrap();
    let io = Ports(Mutex::default(), Mailbox::new(|_, _| 0));
    rig.run_to_the_end(&io);
    let pattern = PATTERN.to_le_bytes();
    let mut want: Vec<(u16, Vec<u8>)> =
        [1, 2, 4].into_iter().map(|width| (0x3f0, pattern[..width].to_vec())).collect();
    want.extend(b"hello".iter().map(|byte| (0x3f8, vec![*byte])));
    assert_eq!(*io.0.lock().unwrap(), want);
    let loaded: Vec<u64> = io.1.stores().iter().map(|(_, _, value)| *value).collect();
    let both = [PATTERN, u64::MAX].into_iter();
    let want: Vec<u64> = both.flat_map(|value| [1, 2, 4].map(|width| low_bytes(value, width))).collect();
    assert_eq!(loaded, want);
}

//! The guest: a driver for the panel, the card and the GICv2m frame. Bare arm64 code, run where it is loaded.

use clap::ValueEnum;
use conformance::asm::{Label, Program, Width, psci};
use conformance::interrupts::{self, Gic};

use crate::vmm::layout::{
    CARD, DMA_POOL, MAILBOX, MSI_COUNT, MSI_FIRST_INTID, PANEL, PANEL_PIN, panel, vgic,
};
use crate::vmm::{VECTORS, card};

/// How the guest ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ending {
    /// It turns itself off
    #[default]
    Off,
    /// It resets itself
    Reset,
    /// It has an exception at once, and no vectors for it
    Crash,
}

/// The frame's register that messages are stored to, and the one that tells which there are.
const SETSPI: u64 = 0x40;
const TYPER: u64 = 0x8;

/// What the guest says from its shared memory.
pub(crate) const TEXT: &[u8; 24] = b"hello from shared memory";

/// The guest for a VM with so many CPUs.
pub(crate) fn program(vcpus: u32, ending: Ending) -> Vec<u8> {
    let vgic = vgic(vcpus);
    let gic = Gic { distributor: vgic.dist_addr, redistributors: vgic.redists_addr };
    let mut program = Program::new();
    let start = program.label();
    program.branch(start);
    let vectors = interrupts::vectors(&mut program, |_| ());
    let secondary = program.here();
    program.cpu_number(5).mov(8, PANEL + panel::CPU).store(Width::Word, 5, 8).cpu_off();

    program.place(start);
    see(&mut program, PANEL + panel::ID, Width::Double);
    if ending == Ending::Crash {
        // Before there are vectors.
        program.undefined();
        return program.bytes();
    }
    interrupts::enter(&mut program, vectors, MAILBOX);
    gic.set_up_distributor(&mut program);
    gic.set_up_cpu(&mut program, 0);
    gic.enable(&mut program, interrupts::SPI + PANEL_PIN, true);
    for intid in MSI_FIRST_INTID..MSI_FIRST_INTID + MSI_COUNT {
        gic.enable(&mut program, intid, true);
    }
    program.unmask_irq();

    notify(&mut program);
    speak(&mut program);
    turn_on(&mut program, vcpus, secondary);
    program.store_at(Width::Word, PANEL + panel::RAISE, 1);
    wait_for(&mut program, 1);
    take_messages(&mut program, vgic.msi_addr);
    // PSCI does not come back, but it may take a while.
    program.psci(if ending == Ending::Reset { psci::SYSTEM_RESET } else { psci::SYSTEM_OFF });
    let hang = program.here();
    program.branch(hang);
    program.bytes()
}

/// Loads, and tells what it was.
fn see(program: &mut Program, addr: u64, width: Width) {
    program.mov(0, addr).load(width, 5, 0).mov(0, PANEL + panel::SEEN).store(Width::Double, 5, 0);
}

/// Waits until this many interrupts have been taken.
fn wait_for(program: &mut Program, count: u64) {
    let (again, done) = (program.here(), program.label());
    // Masked, or one that comes between the look and the sleep would be slept over.
    program.mask_irq().mov(0, PANEL + panel::TAKEN).load(Width::Word, 5, 0);
    program.mov(6, count).sub_register(5, 5, 6).branch_unless(5, done);
    program.wfi().unmask_irq().branch(again);
    program.place(done).unmask_irq();
}

/// Stores that ring doorbells without an exit, and two that do not match.
fn notify(program: &mut Program) {
    let matching = u64::from(panel::MATCH);
    program.store_at(Width::Half, PANEL + panel::NOTIFY_ANY, 7);
    for value in [matching, 0] {
        program.store_at(Width::Word, PANEL + panel::NOTIFY_32, value);
        program.store_at(Width::Double, PANEL + panel::NOTIFY_64, value);
    }
    see(program, PANEL + panel::RANG, Width::Word);
}

/// Puts a text into the DMA pool, and a device reads it.
fn speak(program: &mut Program) {
    for (place, bytes) in (DMA_POOL..).step_by(8).zip(TEXT.chunks(8)) {
        let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        program.store_at(Width::Double, place, value);
    }
    program.dsb().store_at(Width::Double, PANEL + panel::TEXT, DMA_POOL);
    // What no device reaches: the guest's own memory, when it is protected; elsewhere it is empty there.
    program.store_at(Width::Double, PANEL + panel::TEXT, DMA_POOL - 0x1000);
}

/// Turns the other CPUs on, and waits until each has said so.
fn turn_on(program: &mut Program, vcpus: u32, secondary: Label) {
    for cpu in 1..u64::from(vcpus) {
        program.mov(1, cpu).address(2, secondary).cpu_on();
    }
    poll(program, PANEL + panel::CPU, u64::from(vcpus) - 1);
}

/// Loads 32 bits until they are this number.
fn poll(program: &mut Program, addr: u64, number: u64) {
    let (again, done) = (program.here(), program.label());
    program.mov(0, addr).load(Width::Word, 5, 0).mov(6, number).sub_register(5, 5, 6);
    program.branch_unless(5, done).branch(again).place(done);
}

/// Gives a vector of the card its message, and lets it through.
fn set_message(program: &mut Program, vector: u32, frame: u64, intid: u32) {
    let entry = CARD + card::ENTRY * u64::from(vector);
    program.store_at(Width::Word, entry + card::CONTROL, 1);
    program.store_at(Width::Double, entry, frame + SETSPI);
    program.store_at(Width::Word, entry + card::DATA, intid.into());
    program.store_at(Width::Word, entry + card::CONTROL, 0);
}

/// Takes the card's messages. The panel's interrupt was the first, so it counts from there.
fn take_messages(program: &mut Program, frame: u64) {
    let mut taken = 1;
    let mut start = |program: &mut Program, vector: u32| {
        program.store_at(Width::Word, CARD + card::START, vector.into());
        taken += 1;
        wait_for(program, taken);
    };
    see(program, frame + TYPER, Width::Word);
    for vector in 0..VECTORS {
        set_message(program, vector, frame, MSI_FIRST_INTID + vector);
        start(program, vector);
    }
    // Another message for the same vector: the last of the pool.
    set_message(program, 0, frame, MSI_FIRST_INTID + MSI_COUNT - 1);
    start(program, 0);
    // One that is not in the pool. Nothing comes of it, and the vector goes on with the next.
    set_message(program, 1, frame, MSI_FIRST_INTID + MSI_COUNT);
    program.store_at(Width::Word, CARD + card::START, 1);
    poll(program, CARD + card::SENT, 4);
    set_message(program, 1, frame, MSI_FIRST_INTID + 2);
    start(program, 1);
    // The guest's own store to the frame.
    program.store_at(Width::Word, frame + SETSPI, u64::from(MSI_FIRST_INTID + 2));
    wait_for(program, taken + 1);
}

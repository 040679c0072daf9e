//! Guest code that takes interrupts: a driver for the GICv3, vectors, and a handler that tells the host what came.
//!
//! It assumes nothing about the host: it finds its redistributor by affinity, wakes it, turns affinity routing and the
//! system registers on, and sets group, priority, trigger and route of what it uses. All code runs with the MMU off.
//!
//! Registers: X16 and X17 belong to the handler. The setup changes X0 to X9.

use crate::asm::{Label, Program, SystemRegister, Width};

/// The number of SGI 0. There are 16.
pub const SGI: u32 = 0;
/// The number of the virtual timer's interrupt, PPI 11.
pub const VIRTUAL_TIMER: u32 = 27;
/// The number of SPI 0.
pub const SPI: u32 = 32;
/// Numbers from here on say that there was no interrupt after all. A handler may see one.
pub const SPECIAL: u32 = 1020;

const ICC_PMR_EL1: SystemRegister = SystemRegister::new(3, 0, 4, 6, 0);
const ICC_SGI1R_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 11, 5);
const ICC_IAR1_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 12, 0);
const ICC_EOIR1_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 12, 1);
const ICC_BPR1_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 12, 3);
const ICC_CTLR_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 12, 4);
const ICC_SRE_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 12, 5);
const ICC_IGRPEN1_EL1: SystemRegister = SystemRegister::new(3, 0, 12, 12, 7);

// Of the distributor.
const CTLR: u64 = 0x0000;
const IROUTER: u64 = 0x6000;
// Of the distributor and of a redistributor's second frame.
const IGROUPR: u64 = 0x080;
const ISENABLER: u64 = 0x100;
const IPRIORITYR: u64 = 0x400;
const ICFGR: u64 = 0xc00;
// Of a redistributor's first frame.
const GICR_TYPER: u64 = 0x008;
const GICR_WAKER: u64 = 0x014;
/// From a redistributor's first frame to its second, and to the next redistributor.
const SECOND_FRAME: u64 = 0x1_0000;
const NEXT_REDISTRIBUTOR: u64 = 0x2_0000;

const CTLR_GROUP_1: u64 = 1 << 1;
const CTLR_AFFINITY_ROUTING: u64 = 1 << 4;
const CTLR_WRITE_PENDING: u64 = 1 << 31;
const TYPER_LAST: u64 = 1 << 4;
const WAKER_SLEEPS: u64 = 1 << 1;
const WAKER_QUIET: u64 = 1 << 2;

/// The priority of everything, and the mask that lets it through.
const PRIORITY: u64 = 0xa0;
const PRIORITY_MASK: u64 = 0xf0;

/// Where the guest's GICv3 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gic {
    /// The address of the distributor.
    pub distributor: u64,
    /// The address of the first redistributor; the others follow.
    pub redistributors: u64,
}

/// The affinity of this CPU as the GIC's registers have it for routes: the fields of MPIDR_EL1. Changes X9.
fn affinity(program: &mut Program, rd: u32) {
    program.read_register(rd, SystemRegister::MPIDR_EL1).mov(9, 0xff_00ff_ffff).and(rd, rd, 9);
}

impl Gic {
    /// Sets the distributor up. Once, by the first CPU.
    pub fn set_up_distributor(&self, program: &mut Program) {
        // Affinity routing may only be turned on while the groups are off.
        for control in [0, CTLR_AFFINITY_ROUTING, CTLR_AFFINITY_ROUTING | CTLR_GROUP_1] {
            program.mov(0, self.distributor + CTLR).mov(1, control).store(Width::Word, 1, 0);
            let again = program.here();
            program.load(Width::Word, 1, 0).mov(2, CTLR_WRITE_PENDING).and(1, 1, 2).branch_if(1, again);
        }
    }

    /// Sets up what belongs to this CPU, with these of its own interrupts (a bit for each of 0 to 31) on. A CPU that finds
    /// no redistributor turns the machine off.
    pub fn set_up_cpu(&self, program: &mut Program, own: u32) {
        // X0: the redistributor whose affinity is ours, which stands in the upper half of TYPER, without a gap.
        let (again, found, missing) = (program.label(), program.label(), program.label());
        affinity(program, 1);
        program.shift_right(2, 1, 8).mov(3, 0xff00_0000).and(2, 2, 3);
        program.mov(3, 0xff_ffff).and(1, 1, 3).or(1, 1, 2);
        program.mov(0, self.redistributors).place(again);
        program.add(2, 0, GICR_TYPER as u32).load(Width::Double, 3, 2).shift_right(4, 3, 32);
        program.sub_register(4, 4, 1).branch_unless(4, found);
        program.mov(4, TYPER_LAST).and(4, 3, 4).branch_if(4, missing);
        program.mov(4, NEXT_REDISTRIBUTOR).add_register(0, 0, 4).branch(again);
        program.place(missing).power_off();
        program.place(found);

        // Wake it, and wait until it is.
        program.add(2, 0, GICR_WAKER as u32).load(Width::Word, 3, 2);
        program.mov(4, WAKER_SLEEPS).clear(3, 3, 4).store(Width::Word, 3, 2);
        let again = program.here();
        program.load(Width::Word, 3, 2).mov(4, WAKER_QUIET).and(3, 3, 4).branch_if(3, again);

        // Our own interrupts: group 1, all of one priority.
        program.mov(2, SECOND_FRAME).add_register(0, 0, 2);
        program.mov(3, u64::from(u32::MAX)).add(2, 0, IGROUPR as u32).store(Width::Word, 3, 2);
        program.mov(3, PRIORITY * 0x0101_0101).add(2, 0, IPRIORITYR as u32);
        for _ in 0..8 {
            program.store(Width::Word, 3, 2).add(2, 2, 4);
        }
        program.mov(3, own.into()).add(2, 0, ISENABLER as u32).store(Width::Word, 3, 2);
        program.dsb();

        // The CPU interface: by system registers, everything through, EOI ends and deactivates, group 1 on.
        program.read_register(0, ICC_SRE_EL1).mov(1, 1).or(0, 0, 1).write_register(ICC_SRE_EL1, 0).isb();
        program.mov(0, PRIORITY_MASK).write_register(ICC_PMR_EL1, 0);
        program.write_register(ICC_BPR1_EL1, 31).write_register(ICC_CTLR_EL1, 31);
        program.mov(0, 1).write_register(ICC_IGRPEN1_EL1, 0).isb();
    }

    /// Lets a shared interrupt in, to this CPU.
    pub fn enable(&self, program: &mut Program, intid: u32, edge: bool) {
        let register = |block: u64, bits: u32| self.distributor + block + u64::from(intid * bits / 32 * 4);
        let bit = 1_u64 << (intid % 32);
        let set = |program: &mut Program, addr, bits, on| {
            program.mov(0, addr).load(Width::Word, 1, 0).mov(2, bits);
            if on {
                program.or(1, 1, 2)
            } else {
                program.clear(1, 1, 2)
            };
            program.store(Width::Word, 1, 0);
        };
        set(program, register(IGROUPR, 1), bit, true);
        set(program, register(ICFGR, 2), 2 << (intid % 16 * 2), edge);
        program.mov(0, self.distributor + IPRIORITYR + u64::from(intid)).mov(1, PRIORITY);
        program.store(Width::Byte, 1, 0);
        affinity(program, 1);
        program.mov(0, self.distributor + IROUTER + 8 * u64::from(intid)).store(Width::Double, 1, 0);
        program.mov(0, register(ISENABLER, 1)).mov(1, bit).store(Width::Word, 1, 0).dsb();
    }
}

/// Interrupts the CPU of this number with an SGI: its affinity is its number. Changes X0.
pub fn send_sgi(program: &mut Program, cpu: u32, sgi: u32) {
    let (range, target) = (u64::from(cpu & 0xff) / 16, 1 << (cpu % 16));
    let value = u64::from(sgi) << 24 | range << 44 | u64::from(cpu >> 8) << 16 | target;
    // Before: what the other CPU is to see. After: the SGI is on its way.
    program.dsb().mov(0, value).write_register(ICC_SGI1R_EL1, 0).isb();
}

/// Where the guest tells what it took, from its mailbox's start; there is one mailbox for each CPU.
pub mod mailbox {
    /// Stored, 32 bits: the number of the interrupt that the CPU takes.
    pub const TAKEN: u64 = 0x0;
    /// Loaded, 32 bits, after an interrupt: not 0 means that the machine shall be turned off.
    pub const END: u64 = 0x8;
    /// Stored, 32 bits: the CPU can be interrupted now.
    pub const READY: u64 = 0xc;
    /// Stored, 64 bits: ESR_EL1 of an exception that should not be.
    pub const EXCEPTION: u64 = 0x10;
    /// For what else a guest has to say or to ask, 64 bits.
    pub const OTHER: u64 = 0x18;
    /// Bytes of one.
    pub const SIZE: u64 = 0x20;
}

/// Puts the vectors and the handler here, to be reached by nothing but exceptions. `before_end` runs in the handler
/// before the interrupt's end; the number is in X16 and must stay there, X17 may be used.
pub fn vectors(program: &mut Program, before_end: impl FnOnce(&mut Program)) -> Label {
    let (off, unexpected) = (program.label(), program.label());
    program.place(off).power_off();
    program.place(unexpected);
    program.read_register(16, SystemRegister::ESR_EL1).read_register(17, SystemRegister::TPIDR_EL1);
    program.add(17, 17, mailbox::EXCEPTION as u32).store(Width::Double, 16, 17).power_off();

    let handler = program.here();
    program.read_register(16, ICC_IAR1_EL1).dsb();
    program.read_register(17, SystemRegister::TPIDR_EL1).store(Width::Word, 16, 17);
    before_end(program);
    program.write_register(ICC_EOIR1_EL1, 16).isb();
    program.read_register(17, SystemRegister::TPIDR_EL1).add(17, 17, mailbox::END as u32);
    program.load(Width::Word, 16, 17).branch_if(16, off).exception_return();

    program.align(0x800);
    let vectors = program.here();
    for entry in 0..16 {
        program.align(0x80);
        // IRQ at EL1, with either stack pointer. The handler uses none.
        program.branch(if matches!(entry, 1 | 5) { handler } else { unexpected });
    }
    vectors
}

/// Sets this CPU's vectors and mailbox (the mailbox of CPU 0, for all of them). Changes X0, X1.
pub fn enter(program: &mut Program, vectors: Label, mailboxes: u64) {
    program.address(0, vectors).set_vectors(0);
    program.cpu_number(0).shift_left(0, 0, mailbox::SIZE.trailing_zeros());
    program.mov(1, mailboxes).add_register(0, 0, 1).write_register(SystemRegister::TPIDR_EL1, 0);
}

/// Says that it is ready. Changes X0, X1.
pub fn say_ready(program: &mut Program) {
    program.read_register(0, SystemRegister::TPIDR_EL1).add(0, 0, mailbox::READY as u32);
    program.mov(1, 1).store(Width::Word, 1, 0);
}

/// Takes interrupts, for ever.
pub fn serve(program: &mut Program) {
    program.unmask_irq();
    let again = program.here();
    program.wfi().branch(again);
}

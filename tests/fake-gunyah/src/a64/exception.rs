//! Exceptions that the guest takes itself, and the return from them.

use super::stop::{Exec, Fault, FaultKind, Stop, Trap};
use super::{Bus, Cpu};

// Exception classes, bits 31..26 of ESR_EL1.
pub(super) const UNDEFINED: u32 = 0x00;
pub(super) const SVC: u32 = 0x15;
pub(super) const INSTRUCTION_ABORT: u32 = 0x21;
pub(super) const PC_ALIGNMENT: u32 = 0x22;
pub(super) const DATA_ABORT: u32 = 0x25;
pub(super) const SP_ALIGNMENT: u32 = 0x26;
pub(super) const BRK: u32 = 0x3c;

/// Fault status codes in an abort's syndrome.
pub(super) const EXTERNAL_ABORT: u32 = 0x10;
pub(super) const ALIGNMENT_FAULT: u32 = 0x21;
/// A data abort's syndrome: the access was a write.
pub(super) const WRITE_NOT_READ: u32 = 1 << 6;

/// PSTATE.{I,F} among the masks.
const MASK_IRQ: u8 = 1 << 1;
const MASK_FIQ: u8 = 1 << 0;

/// Offsets of the vectors, from those of the stack pointer in use.
const SYNCHRONOUS: u64 = 0x00;
const IRQ: u64 = 0x80;
const FIQ: u64 = 0x100;

// Mode fields of SPSR_EL1.
const EL1T: u64 = 0b0100;
const EL1H: u64 = 0b0101;

/// The syndrome of an exception by a 32-bit instruction.
pub(super) fn syndrome(class: u32, iss: u32) -> u64 {
    (u64::from(class) << 26) | (1 << 25) | u64::from(iss)
}

/// A data abort.
pub(super) fn data_abort(addr: u64, status: u32, write: bool) -> Trap {
    let iss = status | if write { WRITE_NOT_READ } else { 0 };
    Trap::Exception { esr: syndrome(DATA_ABORT, iss), far: Some(addr), next: false }
}

/// Enters the guest's exception vector, or gives the fault if it never set any.
#[cold]
pub(super) fn take(cpu: &mut Cpu, word: u32, esr: u64, far: Option<u64>, return_to: u64) -> Option<Stop> {
    let Some(vbar) = cpu.system.vbar else {
        let kind = FaultKind::NoVectors { esr, far: far.unwrap_or(0) };
        return Some(Stop::Fault(Fault { pc: cpu.pc, word, kind }));
    };
    cpu.system.esr = esr;
    if let Some(far) = far {
        cpu.system.far = far;
    }
    enter(cpu, vbar.wrapping_add(SYNCHRONOUS), return_to);
    None
}

/// Enters one of the guest's vectors.
fn enter(cpu: &mut Cpu, vector: u64, return_to: u64) {
    let (mode, offset) = if cpu.spsel { (EL1H, 0x200) } else { (EL1T, 0) };
    cpu.system.spsr = (u64::from(cpu.nzcv) << 28) | (u64::from(cpu.daif) << 6) | mode;
    cpu.system.elr = return_to;
    cpu.spsel = true;
    cpu.daif = 0xf;
    cpu.monitor = None;
    cpu.pc = vector.wrapping_add(offset);
}

/// Before an instruction: takes an interrupt if one is signalled and not masked.
#[inline(never)]
pub(super) fn interrupt<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B) -> Option<Stop> {
    if cpu.daif & (MASK_IRQ | MASK_FIQ) == MASK_IRQ | MASK_FIQ {
        return None;
    }
    let signalled = bus.interrupts();
    let vector = if signalled.fiq && cpu.daif & MASK_FIQ == 0 {
        FIQ
    } else if signalled.irq && cpu.daif & MASK_IRQ == 0 {
        IRQ
    } else {
        return None;
    };
    let Some(vbar) = cpu.system.vbar else {
        return Some(Stop::Fault(Fault { pc: cpu.pc, word: 0, kind: FaultKind::InterruptWithoutVectors }));
    };
    let return_to = cpu.pc;
    enter(cpu, vbar.wrapping_add(vector), return_to);
    None
}

/// ERET.
pub(super) fn exception_return(cpu: &mut Cpu) -> Exec {
    let spsr = cpu.system.spsr;
    cpu.spsel = match spsr & 0x1f {
        EL1T => false,
        EL1H => true,
        _ => return Err(Trap::Fault(FaultKind::Unsupported("ERET to anything but EL1 in AArch64 state"))),
    };
    cpu.nzcv = (spsr >> 28) as u8 & 0xf;
    cpu.daif = (spsr >> 6) as u8 & 0xf;
    cpu.next_pc = cpu.system.elr;
    cpu.monitor = None;
    Err(Trap::Look)
}

//! Hints, barriers, cache maintenance, and access to system registers.

use super::alu::{bit, bits};
use super::mem_atomic::fence;
use super::stop::{Exec, FaultKind, Stop, Trap, UNKNOWN};
use super::sysreg::{self, Key};
use super::{Bus, Cpu};

/// Executes an instruction whose bits 31..22 are 1101010100.
pub(super) fn exec<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    let is_read = bit(word, 21);
    let rt = bits(word, 4, 0);
    match (bits(word, 20, 19), is_read) {
        (0, false) => hint_barrier_or_pstate(cpu, word),
        (1, false) => maintenance(bus, word),
        (2 | 3, true) => {
            let value = sysreg::read(cpu, bus, Key::of(word))?;
            cpu.set_x(rt, value);
            Ok(())
        }
        (2 | 3, false) => sysreg::write(cpu, bus, Key::of(word), cpu.x(rt)),
        _ => Err(UNKNOWN),
    }
}

fn hint_barrier_or_pstate(cpu: &mut Cpu, word: u32) -> Exec {
    let (op1, crn, crm, op2) = (bits(word, 18, 16), bits(word, 15, 12), bits(word, 11, 8), bits(word, 7, 5));
    if bits(word, 4, 0) != 31 {
        return Err(UNKNOWN);
    }
    match (op1, crn) {
        (3, 2) => hint((crm << 3) | op2),
        (3, 3) => barrier(cpu, crm, op2),
        (_, 4) => pstate(cpu, op1, crm, op2),
        _ => Err(UNKNOWN),
    }
}

/// Hints that this CPU does not know are NOPs: that is what makes them hints.
fn hint(number: u32) -> Exec {
    match number {
        1 | 2 => Err(Trap::After(Stop::Yield)),
        3 => Err(Trap::After(Stop::Wfi)),
        _ => Ok(()),
    }
}

fn barrier(cpu: &mut Cpu, crm: u32, op2: u32) -> Exec {
    match op2 {
        0b010 => cpu.monitor = None,
        // Instructions are executed one after the other: ISB and SB have nothing to wait for.
        0b110 => {}
        0b111 if crm == 0 => {}
        0b100 | 0b101 => fence(),
        _ => return Err(UNKNOWN),
    }
    Ok(())
}

/// MSR (immediate), and CFINV.
fn pstate(cpu: &mut Cpu, op1: u32, crm: u32, op2: u32) -> Exec {
    match (op1, op2) {
        (3, 6) => cpu.daif |= crm as u8,
        (3, 7) => {
            cpu.daif &= !(crm as u8);
            return Err(Trap::Look);
        }
        (0, 5) if crm < 2 => cpu.spsel = crm == 1,
        (0, 0) if crm == 0 => cpu.nzcv ^= 2,
        _ => return Err(UNKNOWN),
    }
    Ok(())
}

/// DC, IC and TLBI. Data is coherent and nothing is translated, so only the instruction caches have something to do.
fn maintenance<B: Bus + ?Sized>(bus: &mut B, word: u32) -> Exec {
    let (op1, crn, crm, op2) = (bits(word, 18, 16), bits(word, 15, 12), bits(word, 11, 8), bits(word, 7, 5));
    let has_register = bits(word, 4, 0) != 31;
    match (op1, crn, crm, op2) {
        (0, 7, 1 | 5, 0) if !has_register => bus.forget_instructions(),
        (3, 7, 5, 1) => bus.forget_instructions(),
        // DC IVAC, ISW, CSW, CISW, CVAC, CVAU, CVAP, CIVAC
        (0, 7, 6, 1 | 2) | (0, 7, 10 | 14, 2) | (3, 7, 10..=12 | 14, 1) => fence(),
        (3, 7, 4, 1) => {
            return Err(Trap::Fault(FaultKind::Unsupported("DC ZVA: DCZID_EL0 says that it is prohibited")));
        }
        // TLBI VMALLE1, ALLE by address space and by address, here and in the inner shareable domain
        (0, 8, 3 | 7, 0) if !has_register => {}
        (0, 8, 3 | 7, 1 | 2 | 3 | 5 | 7) => {}
        (0, 7, 8, 0..=3) => {
            return Err(Trap::Fault(FaultKind::Unsupported("AT: there is no address translation")));
        }
        _ => return Err(UNKNOWN),
    }
    Ok(())
}

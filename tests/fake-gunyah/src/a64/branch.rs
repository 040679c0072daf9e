//! Branches and exception-generating instructions.

use super::alu::{bit, bits, condition_holds, sign_extend, trim};
use super::exception::{self, syndrome};
use super::stop::{Exec, FaultKind, Stop, Trap, UNKNOWN};
use super::system;
use super::{Bus, Cpu};

/// Executes an instruction of the group whose bits 28..26 are 101.
pub(super) fn exec<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    match bits(word, 30, 29) {
        0b00 => {
            if bit(word, 31) {
                cpu.set_x(30, cpu.pc.wrapping_add(4));
            }
            jump(cpu, bits(word, 25, 0), 26);
            Ok(())
        }
        0b01 => {
            let value = cpu.x(bits(word, 4, 0));
            if bit(word, 25) {
                let position = (bits(word, 31, 31) << 5) | bits(word, 23, 19);
                if ((value >> position) & 1 == 1) == bit(word, 24) {
                    jump(cpu, bits(word, 18, 5), 14);
                }
            } else if (trim(bit(word, 31), value) != 0) == bit(word, 24) {
                jump(cpu, bits(word, 23, 5), 19);
            }
            Ok(())
        }
        0b10 if !bit(word, 31) => {
            if bits(word, 25, 24) != 0 || bit(word, 4) {
                return Err(UNKNOWN);
            }
            if condition_holds(bits(word, 3, 0), cpu.nzcv) {
                jump(cpu, bits(word, 23, 5), 19);
            }
            Ok(())
        }
        0b10 if bit(word, 25) => to_register(cpu, word),
        0b10 if !bit(word, 24) => exception_generating(word),
        0b10 if bits(word, 23, 22) == 0 => system::exec(cpu, bus, word),
        _ => Err(UNKNOWN),
    }
}

/// Takes the branch: `offset` counts instructions, in `width` bits.
fn jump(cpu: &mut Cpu, offset: u32, width: u32) {
    cpu.next_pc = cpu.pc.wrapping_add(sign_extend(u64::from(offset), width) << 2);
}

fn to_register(cpu: &mut Cpu, word: u32) -> Exec {
    if bits(word, 20, 10) != 0b11111_000000 || bits(word, 4, 0) != 0 {
        return Err(UNKNOWN);
    }
    let rn = bits(word, 9, 5);
    let target = cpu.x(rn);
    match bits(word, 24, 21) {
        0b0000 | 0b0010 => cpu.next_pc = target,
        0b0001 => {
            cpu.set_x(30, cpu.pc.wrapping_add(4));
            cpu.next_pc = target;
        }
        0b0100 if rn == 31 => return exception::exception_return(cpu),
        _ => return Err(UNKNOWN),
    }
    Ok(())
}

fn exception_generating(word: u32) -> Exec {
    if bits(word, 4, 2) != 0 {
        return Err(UNKNOWN);
    }
    let imm = bits(word, 20, 5) as u16;
    Err(match (bits(word, 23, 21), bits(word, 1, 0)) {
        (0b000, 0b01) => {
            Trap::Exception { esr: syndrome(exception::SVC, u32::from(imm)), far: None, next: true }
        }
        (0b000, 0b10) => Trap::After(Stop::Hvc(imm)),
        (0b000, 0b11) => Trap::After(Stop::Smc(imm)),
        (0b001, 0b00) => {
            Trap::Exception { esr: syndrome(exception::BRK, u32::from(imm)), far: None, next: false }
        }
        (0b010, 0b00) => Trap::Fault(FaultKind::Unsupported("HLT: there is no debugger to halt for")),
        _ => UNKNOWN,
    })
}

//! Data processing with an immediate.

use super::Cpu;
use super::alu::{
    add_with_carry, bit, bitfield, bits, logical_immediate, nz, ones, shift, sign_extend, trim,
};
use super::stop::{Exec, UNKNOWN};

/// Executes an instruction of the group whose bits 28..26 are 100.
pub(super) fn exec(cpu: &mut Cpu, word: u32) -> Exec {
    match bits(word, 25, 23) {
        0b000 | 0b001 => pc_relative(cpu, word),
        0b010 => add_sub(cpu, word),
        0b100 => logical(cpu, word),
        0b101 => move_wide(cpu, word),
        0b110 => bit_field(cpu, word),
        0b111 => extract(cpu, word),
        _ => Err(UNKNOWN),
    }
}

fn pc_relative(cpu: &mut Cpu, word: u32) -> Exec {
    let imm = sign_extend(u64::from((bits(word, 23, 5) << 2) | bits(word, 30, 29)), 21);
    let value =
        if bit(word, 31) { (cpu.pc & !0xfff).wrapping_add(imm << 12) } else { cpu.pc.wrapping_add(imm) };
    cpu.set_x(bits(word, 4, 0), value);
    Ok(())
}

fn add_sub(cpu: &mut Cpu, word: u32) -> Exec {
    let imm = u64::from(bits(word, 21, 10)) << if bit(word, 22) { 12 } else { 0 };
    add_sub_with_sp(cpu, word, imm)
}

/// The four instructions that add or subtract `b` and take register 31 for the stack pointer: as the first operand, and as
/// the destination unless the flags are set.
pub(super) fn add_sub_with_sp(cpu: &mut Cpu, word: u32, b: u64) -> Exec {
    let a = cpu.x_or_sp(bits(word, 9, 5));
    let subtract = bit(word, 30);
    let (result, flags) = add_with_carry(bit(word, 31), a, if subtract { !b } else { b }, subtract);
    let rd = bits(word, 4, 0);
    if bit(word, 29) {
        cpu.nzcv = flags;
        cpu.set_x(rd, result);
    } else {
        cpu.set_x_or_sp(rd, result);
    }
    Ok(())
}

fn logical(cpu: &mut Cpu, word: u32) -> Exec {
    let sf = bit(word, 31);
    let imm =
        logical_immediate(sf, bits(word, 22, 22), bits(word, 21, 16), bits(word, 15, 10)).ok_or(UNKNOWN)?;
    let a = trim(sf, cpu.x(bits(word, 9, 5)));
    let rd = bits(word, 4, 0);
    match bits(word, 30, 29) {
        0b00 => cpu.set_x_or_sp(rd, a & imm),
        0b01 => cpu.set_x_or_sp(rd, a | imm),
        0b10 => cpu.set_x_or_sp(rd, a ^ imm),
        _ => {
            cpu.nzcv = nz(sf, a & imm);
            cpu.set_x(rd, a & imm);
        }
    }
    Ok(())
}

fn move_wide(cpu: &mut Cpu, word: u32) -> Exec {
    let sf = bit(word, 31);
    let position = bits(word, 22, 21) * 16;
    if !sf && position >= 32 {
        return Err(UNKNOWN);
    }
    let imm = u64::from(bits(word, 20, 5)) << position;
    let rd = bits(word, 4, 0);
    let value = match bits(word, 30, 29) {
        0b00 => !imm,
        0b10 => imm,
        0b11 => (cpu.x(rd) & !(0xffff << position)) | imm,
        _ => return Err(UNKNOWN),
    };
    cpu.set_x(rd, trim(sf, value));
    Ok(())
}

fn bit_field(cpu: &mut Cpu, word: u32) -> Exec {
    let sf = bit(word, 31);
    let (immr, imms) = (bits(word, 21, 16), bits(word, 15, 10));
    if bit(word, 22) != sf || (!sf && (immr >= 32 || imms >= 32)) {
        return Err(UNKNOWN);
    }
    let rd = bits(word, 4, 0);
    let field = bitfield(sf, cpu.x(bits(word, 9, 5)), immr, imms);
    let value = match bits(word, 30, 29) {
        0b00 => sign_extend(field.value, field.width) << field.lsb,
        0b01 => {
            let mask = ones(field.width) << field.lsb;
            (cpu.x(rd) & !mask) | (field.value << field.lsb)
        }
        0b10 => field.value << field.lsb,
        _ => return Err(UNKNOWN),
    };
    cpu.set_x(rd, trim(sf, value));
    Ok(())
}

fn extract(cpu: &mut Cpu, word: u32) -> Exec {
    let sf = bit(word, 31);
    let lsb = bits(word, 15, 10);
    if bits(word, 30, 29) != 0 || bit(word, 21) || bit(word, 22) != sf || (!sf && lsb >= 32) {
        return Err(UNKNOWN);
    }
    let high = trim(sf, cpu.x(bits(word, 9, 5)));
    let low = trim(sf, cpu.x(bits(word, 20, 16)));
    let value = if lsb == 0 {
        low
    } else {
        shift(sf, low, 1, lsb) | shift(sf, high, 0, if sf { 64 } else { 32 } - lsb)
    };
    cpu.set_x(bits(word, 4, 0), value);
    Ok(())
}

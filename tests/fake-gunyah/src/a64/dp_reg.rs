//! Data processing between registers.

use super::Cpu;
use super::alu::{add_with_carry, bit, bits, condition_holds, crc32, extend, nz, shift, sign_extend, trim};
use super::dp_imm::add_sub_with_sp;
use super::stop::{Exec, UNKNOWN};

/// Executes an instruction of the group whose bits 27..25 are 101.
pub(super) fn exec(cpu: &mut Cpu, word: u32) -> Exec {
    let op2 = bits(word, 24, 21);
    if !bit(word, 28) {
        return match op2 {
            0b0000..=0b0111 => logical_shifted(cpu, word),
            0b1000 | 0b1010 | 0b1100 | 0b1110 => add_sub_shifted(cpu, word),
            _ => add_sub_extended(cpu, word),
        };
    }
    match op2 {
        0b0000 => with_carry(cpu, word),
        0b0010 => conditional_compare(cpu, word),
        0b0100 => conditional_select(cpu, word),
        0b0110 if bit(word, 30) => one_source(cpu, word),
        0b0110 => two_sources(cpu, word),
        0b1000..=0b1111 => three_sources(cpu, word),
        _ => Err(UNKNOWN),
    }
}

fn logical_shifted(cpu: &mut Cpu, word: u32) -> Exec {
    let sf = bit(word, 31);
    let amount = bits(word, 15, 10);
    if !sf && amount >= 32 {
        return Err(UNKNOWN);
    }
    let a = cpu.x(bits(word, 9, 5));
    let b = shift(sf, cpu.x(bits(word, 20, 16)), bits(word, 23, 22), amount);
    let b = if bit(word, 21) { !b } else { b };
    let opc = bits(word, 30, 29);
    let result = trim(
        sf,
        match opc {
            0b01 => a | b,
            0b10 => a ^ b,
            _ => a & b,
        },
    );
    if opc == 0b11 {
        cpu.nzcv = nz(sf, result);
    }
    cpu.set_x(bits(word, 4, 0), result);
    Ok(())
}

fn add_sub_shifted(cpu: &mut Cpu, word: u32) -> Exec {
    let sf = bit(word, 31);
    let (kind, amount) = (bits(word, 23, 22), bits(word, 15, 10));
    if kind == 3 || (!sf && amount >= 32) {
        return Err(UNKNOWN);
    }
    let a = cpu.x(bits(word, 9, 5));
    let b = shift(sf, cpu.x(bits(word, 20, 16)), kind, amount);
    let subtract = bit(word, 30);
    let (result, flags) = add_with_carry(sf, a, if subtract { !b } else { b }, subtract);
    if bit(word, 29) {
        cpu.nzcv = flags;
    }
    cpu.set_x(bits(word, 4, 0), result);
    Ok(())
}

fn add_sub_extended(cpu: &mut Cpu, word: u32) -> Exec {
    let amount = bits(word, 12, 10);
    if bits(word, 23, 22) != 0 || amount > 4 {
        return Err(UNKNOWN);
    }
    add_sub_with_sp(cpu, word, extend(cpu.x(bits(word, 20, 16)), bits(word, 15, 13), amount))
}

/// ADC and SBC, and the two instructions that only make flags: RMIF and SETF8/SETF16.
fn with_carry(cpu: &mut Cpu, word: u32) -> Exec {
    let sf = bit(word, 31);
    let a = cpu.x(bits(word, 9, 5));
    if bits(word, 15, 10) == 0 {
        let b = cpu.x(bits(word, 20, 16));
        let b = if bit(word, 30) { !b } else { b };
        let (result, flags) = add_with_carry(sf, a, b, cpu.nzcv & 2 != 0);
        if bit(word, 29) {
            cpu.nzcv = flags;
        }
        cpu.set_x(bits(word, 4, 0), result);
        return Ok(());
    }
    let sets_flags_only = bits(word, 30, 29) == 0b01;
    if sets_flags_only && sf && bits(word, 14, 10) == 0b00001 && !bit(word, 4) {
        let mask = bits(word, 3, 0) as u8;
        let rotated = (a.rotate_right(bits(word, 20, 15)) & 0xf) as u8;
        cpu.nzcv = (cpu.nzcv & !mask) | (rotated & mask);
        return Ok(());
    }
    if sets_flags_only
        && !sf
        && bits(word, 20, 15) == 0
        && bits(word, 13, 10) == 0b0010
        && bits(word, 4, 0) == 0b01101
    {
        let width = if bit(word, 14) { 16 } else { 8 };
        let negative = (a >> (width - 1)) & 1 == 1;
        let zero = a & ((1 << width) - 1) == 0;
        let overflow = ((a >> width) & 1 == 1) != negative;
        cpu.nzcv = (cpu.nzcv & 2) | (u8::from(negative) << 3) | (u8::from(zero) << 2) | u8::from(overflow);
        return Ok(());
    }
    Err(UNKNOWN)
}

fn conditional_compare(cpu: &mut Cpu, word: u32) -> Exec {
    let sf = bit(word, 31);
    if !bit(word, 29) || bit(word, 10) || bit(word, 4) {
        return Err(UNKNOWN);
    }
    cpu.nzcv = if condition_holds(bits(word, 15, 12), cpu.nzcv) {
        let field = bits(word, 20, 16);
        let b = if bit(word, 11) { u64::from(field) } else { cpu.x(field) };
        let subtract = bit(word, 30);
        add_with_carry(sf, cpu.x(bits(word, 9, 5)), if subtract { !b } else { b }, subtract).1
    } else {
        bits(word, 3, 0) as u8
    };
    Ok(())
}

/// CSEL, CSINC, CSINV, CSNEG.
fn conditional_select(cpu: &mut Cpu, word: u32) -> Exec {
    if bit(word, 29) || bit(word, 11) {
        return Err(UNKNOWN);
    }
    let value = if condition_holds(bits(word, 15, 12), cpu.nzcv) {
        cpu.x(bits(word, 9, 5))
    } else {
        let b = cpu.x(bits(word, 20, 16));
        let b = if bit(word, 30) { !b } else { b };
        b.wrapping_add(u64::from(bit(word, 10)))
    };
    cpu.set_x(bits(word, 4, 0), trim(bit(word, 31), value));
    Ok(())
}

fn one_source(cpu: &mut Cpu, word: u32) -> Exec {
    let sf = bit(word, 31);
    if bit(word, 29) || bits(word, 20, 16) != 0 {
        return Err(UNKNOWN);
    }
    let value = cpu.x(bits(word, 9, 5));
    let low = value as u32;
    let result = match (bits(word, 15, 10), sf) {
        (0, true) => value.reverse_bits(),
        (0, false) => u64::from(low.reverse_bits()),
        (1, _) => trim(sf, ((value >> 8) & 0x00ff_00ff_00ff_00ff) | ((value & 0x00ff_00ff_00ff_00ff) << 8)),
        (2, false) => u64::from(low.swap_bytes()),
        (2, true) => value.swap_bytes().rotate_left(32),
        (3, true) => value.swap_bytes(),
        (4, true) => u64::from(value.leading_zeros()),
        (4, false) => u64::from(low.leading_zeros()),
        // The bits that follow the sign bit and are equal to it.
        (5, true) => u64::from(((value ^ (value << 1)) | 1).leading_zeros()),
        (5, false) => u64::from(((low ^ (low << 1)) | 1).leading_zeros()),
        _ => return Err(UNKNOWN),
    };
    cpu.set_x(bits(word, 4, 0), result);
    Ok(())
}

fn two_sources(cpu: &mut Cpu, word: u32) -> Exec {
    let sf = bit(word, 31);
    if bit(word, 29) {
        return Err(UNKNOWN);
    }
    let a = trim(sf, cpu.x(bits(word, 9, 5)));
    let b = trim(sf, cpu.x(bits(word, 20, 16)));
    let opcode = bits(word, 15, 10);
    let result = match opcode {
        // Division by zero gives zero, and the one signed overflow wraps.
        0b000010 => a.checked_div(b).unwrap_or(0),
        0b000011 => divide_signed(sf, a, b),
        0b001000..=0b001011 => {
            let width = if sf { 64 } else { 32 };
            shift(sf, a, opcode & 3, (b % width) as u32)
        }
        0b010000..=0b010111 => {
            let size = opcode & 3;
            if sf != (size == 3) {
                return Err(UNKNOWN);
            }
            u64::from(crc32(opcode & 4 != 0, a as u32, b, 1 << size))
        }
        _ => return Err(UNKNOWN),
    };
    cpu.set_x(bits(word, 4, 0), trim(sf, result));
    Ok(())
}

fn divide_signed(sf: bool, a: u64, b: u64) -> u64 {
    let width = if sf { 64 } else { 32 };
    let (a, b) = (sign_extend(a, width) as i64, sign_extend(b, width) as i64);
    if b == 0 { 0 } else { a.wrapping_div(b) as u64 }
}

/// Multiplications.
fn three_sources(cpu: &mut Cpu, word: u32) -> Exec {
    let sf = bit(word, 31);
    if bits(word, 30, 29) != 0 {
        return Err(UNKNOWN);
    }
    let (n, m) = (cpu.x(bits(word, 9, 5)), cpu.x(bits(word, 20, 16)));
    let ra = bits(word, 14, 10);
    let a = cpu.x(ra);
    let subtract = bit(word, 15);
    let accumulate = |product: u64| if subtract { a.wrapping_sub(product) } else { a.wrapping_add(product) };
    let result = match (bits(word, 23, 21), sf) {
        (0b000, _) => accumulate(n.wrapping_mul(m)),
        (0b001, true) => accumulate(sign_extend(n, 32).wrapping_mul(sign_extend(m, 32))),
        (0b101, true) => accumulate((n & 0xffff_ffff).wrapping_mul(m & 0xffff_ffff)),
        (0b010, true) if !subtract && ra == 31 => {
            ((i128::from(n as i64) * i128::from(m as i64)) >> 64) as u64
        }
        (0b110, true) if !subtract && ra == 31 => ((u128::from(n) * u128::from(m)) >> 64) as u64,
        _ => return Err(UNKNOWN),
    };
    cpu.set_x(bits(word, 4, 0), trim(sf, result));
    Ok(())
}

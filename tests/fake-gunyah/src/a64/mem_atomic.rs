//! Exclusives, acquire and release, compare-and-swap and the other atomics.
//!
//! On hardware these are only promised to work on Normal memory, which needs the MMU on. Here they work on RAM regardless.
//! Outside RAM only the plain acquire loads and release stores can become MMIO.

use super::alu::{bit, bits, ones, sign_extend};
use super::cpu::{Monitor, Pending};
use super::mem::{base, check_alignment, load, refused, store, widen};
use super::stop::{Exec, Stop, Trap, UNKNOWN, UNPREDICTABLE};
use super::{Bus, Cpu, RamAccess};

/// Orders everything before with everything after: the strongest fence stands for all of the guest's.
pub(super) fn fence() {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// The group whose bits 29..24 are 001000.
pub(super) fn exclusive_or_ordered<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    let size = bits(word, 31, 30);
    match (bit(word, 23), bit(word, 21)) {
        (false, false) => exclusive(cpu, bus, word, 1 << size, false),
        (false, true) if size >= 2 => exclusive(cpu, bus, word, 2 << size, true),
        (false, true) => compare_and_swap_pair(cpu, bus, word),
        (true, false) => ordered(cpu, bus, word),
        (true, true) => compare_and_swap(cpu, bus, word),
    }
}

/// LDXR, LDAXR, STXR, STLXR and their pairs; `len` counts all bytes.
fn exclusive<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32, len: u8, pair: bool) -> Exec {
    let (rs, rt2, rn, rt) = (bits(word, 20, 16), bits(word, 14, 10), bits(word, 9, 5), bits(word, 4, 0));
    if !pair && rt2 != 31 {
        return Err(UNPREDICTABLE);
    }
    let half = u32::from(len) * 4;
    if bit(word, 22) {
        if rs != 31 || (pair && rt == rt2) {
            return Err(UNPREDICTABLE);
        }
        let addr = base(cpu, rn)?;
        check_alignment(addr, len, false)?;
        let value = load_wide(bus, addr, len)?;
        fence();
        cpu.monitor = Some(Monitor { addr, len, value });
        if pair {
            cpu.set_x(rt, value as u64 & ones(half));
            cpu.set_x(rt2, (value >> half) as u64 & ones(half));
        } else {
            cpu.set_x(rt, value as u64);
        }
        return Ok(());
    }
    if rs == rt || (pair && rs == rt2) || (rs == rn && rn != 31) {
        return Err(UNPREDICTABLE);
    }
    let addr = base(cpu, rn)?;
    check_alignment(addr, len, true)?;
    let new = if pair {
        u128::from(cpu.x(rt) & ones(half)) | (u128::from(cpu.x(rt2) & ones(half)) << half)
    } else {
        u128::from(cpu.x(rt) & ones(u32::from(len) * 8))
    };
    let stored = match cpu.monitor {
        // Seeing the marked value again stands for nobody having written.
        Some(m) if m.addr == addr && m.len == len => {
            let old = bus
                .compare_exchange(addr, len, m.value, new)
                .map_err(|access| refused(access, addr, true))?;
            old == m.value
        }
        _ => false,
    };
    cpu.monitor = None;
    cpu.set_x(rs, u64::from(!stored));
    Ok(())
}

/// Loads up to 16 bytes as one access.
fn load_wide<B: Bus + ?Sized>(bus: &mut B, addr: u64, len: u8) -> Result<u128, Trap> {
    let mut bytes = [0; 16];
    let access = match bytes.get_mut(..usize::from(len)) {
        Some(buf) => bus.load(addr, buf),
        None => RamAccess::Denied,
    };
    match access {
        RamAccess::Done => Ok(u128::from_le_bytes(bytes)),
        other => Err(refused(other, addr, false)),
    }
}

/// LDAR and STLR.
fn ordered<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    if !bit(word, 15) {
        return Err(UNKNOWN); // the limited-ordering-region forms
    }
    if bits(word, 20, 16) != 31 || bits(word, 14, 10) != 31 {
        return Err(UNPREDICTABLE);
    }
    let len = 1 << bits(word, 31, 30);
    let addr = base(cpu, bits(word, 9, 5))?;
    let rt = bits(word, 4, 0);
    if bit(word, 22) {
        return load_acquire(cpu, bus, addr, len, rt);
    }
    fence();
    let value = cpu.x(rt) & ones(u32::from(len) * 8);
    match store(bus, addr, len, value)? {
        RamAccess::Done => {
            fence();
            Ok(())
        }
        RamAccess::NotRam => {
            cpu.pending = Some(Pending::Store);
            Err(Trap::At(Stop::MmioWrite { addr, len, value }))
        }
        other => Err(refused(other, addr, true)),
    }
}

fn load_acquire<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, addr: u64, len: u8, rt: u32) -> Exec {
    match load(bus, addr, len)? {
        Ok(value) => {
            fence();
            cpu.set_x(rt, value);
            Ok(())
        }
        Err(RamAccess::NotRam) => {
            cpu.pending = Some(Pending::Load { rt, len, signed: false, sf: true });
            Err(Trap::At(Stop::MmioRead { addr, len }))
        }
        Err(other) => Err(refused(other, addr, false)),
    }
}

/// CAS and its byte and halfword forms.
fn compare_and_swap<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    if bits(word, 14, 10) != 31 {
        return Err(UNKNOWN);
    }
    let len: u8 = 1 << bits(word, 31, 30);
    let (rs, rt) = (bits(word, 20, 16), bits(word, 4, 0));
    let addr = base(cpu, bits(word, 9, 5))?;
    check_alignment(addr, len, true)?;
    let mask = ones(u32::from(len) * 8);
    let old = bus
        .compare_exchange(addr, len, u128::from(cpu.x(rs) & mask), u128::from(cpu.x(rt) & mask))
        .map_err(|access| refused(access, addr, true))?;
    cpu.set_x(rs, old as u64 & mask);
    Ok(())
}

/// CASP: the registers come in even-odd pairs.
fn compare_and_swap_pair<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    let (rs, rt) = (bits(word, 20, 16), bits(word, 4, 0));
    if bits(word, 14, 10) != 31 || rs & 1 == 1 || rt & 1 == 1 {
        return Err(UNKNOWN);
    }
    let half = if bit(word, 30) { 64 } else { 32 };
    let len = (half / 4) as u8;
    let addr = base(cpu, bits(word, 9, 5))?;
    check_alignment(addr, len, true)?;
    let joined = |r: u32| u128::from(cpu.x(r) & ones(half)) | (u128::from(cpu.x(r + 1) & ones(half)) << half);
    let old = bus
        .compare_exchange(addr, len, joined(rs), joined(rt))
        .map_err(|access| refused(access, addr, true))?;
    cpu.set_x(rs, old as u64 & ones(half));
    cpu.set_x(rs + 1, (old >> half) as u64 & ones(half));
    Ok(())
}

/// LDADD and its family, SWP, and LDAPR, which shares their encoding space.
pub(super) fn read_modify_write<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    let len: u8 = 1 << bits(word, 31, 30);
    let width = u32::from(len) * 8;
    let (rs, rn, rt) = (bits(word, 20, 16), bits(word, 9, 5), bits(word, 4, 0));
    let operation = bits(word, 15, 12);
    if operation == 0b1100 {
        if bits(word, 23, 22) != 0b10 {
            return Err(UNKNOWN);
        }
        if rs != 31 {
            return Err(UNPREDICTABLE);
        }
        let addr = base(cpu, rn)?;
        return load_acquire(cpu, bus, addr, len, rt);
    }
    if operation > 0b1000 {
        return Err(UNKNOWN);
    }
    let addr = base(cpu, rn)?;
    check_alignment(addr, len, true)?;
    let operand = cpu.x(rs) & ones(width);
    let signed = |value: u64| sign_extend(value, width) as i64;
    let apply = |old: u64| match operation {
        0b0000 => old.wrapping_add(operand),
        0b0001 => old & !operand,
        0b0010 => old ^ operand,
        0b0011 => old | operand,
        0b0100 => signed(old).max(signed(operand)) as u64,
        0b0101 => signed(old).min(signed(operand)) as u64,
        0b0110 => old.max(operand),
        0b0111 => old.min(operand),
        _ => operand,
    };
    let mut old = load(bus, addr, len)?.map_err(|access| refused(access, addr, true))?;
    loop {
        let new = apply(old) & ones(width);
        let seen = bus
            .compare_exchange(addr, len, u128::from(old), u128::from(new))
            .map_err(|access| refused(access, addr, true))? as u64
            & ones(width);
        if seen == old {
            break;
        }
        old = seen;
    }
    cpu.set_x(rt, widen(old, len, false, true));
    Ok(())
}

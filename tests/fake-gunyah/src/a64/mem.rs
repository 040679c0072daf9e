//! Loads and stores of one register or a pair, in every addressing mode.

use super::alu::{bit, bits, extend, sign_extend, trim};
use super::cpu::Pending;
use super::exception::{self, SP_ALIGNMENT, data_abort, syndrome};
use super::mem_atomic;
use super::stop::{Exec, FaultKind, Stop, Trap, UNKNOWN, UNPREDICTABLE};
use super::{Bus, Cpu, RamAccess};

/// Executes an instruction of the group with bit 27 set and bit 25 clear.
pub(super) fn exec<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    if bit(word, 26) {
        return Err(UNKNOWN); // SIMD and floating point
    }
    match (bits(word, 29, 28), bit(word, 24), bit(word, 21)) {
        (0b00, false, _) => mem_atomic::exclusive_or_ordered(cpu, bus, word),
        (0b01, false, _) => literal(cpu, bus, word),
        (0b01, true, false) if bits(word, 11, 10) == 0 => unscaled_ordered(cpu, bus, word),
        (0b10, _, _) => pair(cpu, bus, word),
        (0b11, true, _) => unsigned_offset(cpu, bus, word),
        (0b11, false, false) => signed_offset(cpu, bus, word),
        (0b11, false, true) => match bits(word, 11, 10) {
            0b00 => mem_atomic::read_modify_write(cpu, bus, word),
            0b10 => register_offset(cpu, bus, word),
            _ => Err(UNKNOWN),
        },
        _ => Err(UNKNOWN),
    }
}

/// What an instruction does with one register.
#[derive(Clone, Copy)]
enum Action {
    Store,
    /// Zero-extends, or sign-extends to 64 (`sf`) or 32 bits.
    Load {
        signed: bool,
        sf: bool,
    },
    Prefetch,
}

/// One transfer of a register, as its encoding tells it.
#[derive(Clone, Copy)]
struct Transfer {
    rt: u32,
    len: u8,
    action: Action,
    /// Whether the CPU describes a fault of it to the hypervisor, so that it can become MMIO.
    syndrome: bool,
}

impl Transfer {
    /// From the size and opc fields, which most encodings share.
    fn decode(size: u32, opc: u32, rt: u32) -> Result<Self, Trap> {
        let action = match (opc, size) {
            (0, _) => Action::Store,
            (1, _) => Action::Load { signed: false, sf: true },
            (2, 3) => Action::Prefetch,
            (2, _) => Action::Load { signed: true, sf: true },
            (3, 0 | 1) => Action::Load { signed: true, sf: false },
            _ => return Err(UNKNOWN),
        };
        Ok(Self { rt, len: 1 << size, action, syndrome: true })
    }
}

fn transfer<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, t: Transfer, addr: u64) -> Exec {
    match t.action {
        Action::Prefetch => Ok(()),
        Action::Store => {
            let value = cpu.x(t.rt);
            let access = store(bus, addr, t.len, value)?;
            match access {
                RamAccess::Done => Ok(()),
                RamAccess::NotRam if t.syndrome => {
                    cpu.pending = Some(Pending::Store);
                    let value = value & super::alu::ones(u32::from(t.len) * 8);
                    Err(Trap::At(Stop::MmioWrite { addr, len: t.len, value }))
                }
                other => Err(refused(other, addr, true)),
            }
        }
        Action::Load { signed, sf } => match load(bus, addr, t.len)? {
            Ok(value) => {
                cpu.set_x(t.rt, widen(value, t.len, signed, sf));
                Ok(())
            }
            Err(RamAccess::NotRam) if t.syndrome => {
                cpu.pending = Some(Pending::Load { rt: t.rt, len: t.len, signed, sf });
                Err(Trap::At(Stop::MmioRead { addr, len: t.len }))
            }
            Err(other) => Err(refused(other, addr, false)),
        },
    }
}

/// Extends a loaded value as the instruction says.
pub(super) fn widen(value: u64, len: u8, signed: bool, sf: bool) -> u64 {
    let width = u32::from(len) * 8;
    let value = value & super::alu::ones(width);
    if signed { trim(sf, sign_extend(value, width)) } else { value }
}

/// With the MMU off, data accesses are Device accesses: each must be aligned to its size.
pub(super) fn check_alignment(addr: u64, len: u8, write: bool) -> Exec {
    if addr & (u64::from(len) - 1) == 0 {
        Ok(())
    } else {
        Err(data_abort(addr, exception::ALIGNMENT_FAULT, write))
    }
}

/// Loads 1, 2, 4 or 8 bytes; the inner error says what memory made of it.
pub(super) fn load<B: Bus + ?Sized>(bus: &mut B, addr: u64, len: u8) -> Result<Result<u64, RamAccess>, Trap> {
    check_alignment(addr, len, false)?;
    let mut bytes = [0; 8];
    let access = match bytes.get_mut(..usize::from(len)) {
        Some(buf) => bus.load(addr, buf),
        None => RamAccess::Denied,
    };
    Ok(match access {
        RamAccess::Done => Ok(u64::from_le_bytes(bytes)),
        other => Err(other),
    })
}

/// Stores the low 1, 2, 4 or 8 bytes of `value`.
pub(super) fn store<B: Bus + ?Sized>(bus: &mut B, addr: u64, len: u8, value: u64) -> Result<RamAccess, Trap> {
    check_alignment(addr, len, true)?;
    Ok(match value.to_le_bytes().get(..usize::from(len)) {
        Some(data) => bus.store(addr, data),
        None => RamAccess::Denied,
    })
}

/// What becomes of an access that memory refused and that cannot be MMIO.
pub(super) fn refused(access: RamAccess, addr: u64, write: bool) -> Trap {
    match access {
        RamAccess::NotMapped => Trap::At(Stop::PageFault { addr, write }),
        RamAccess::NotRam => Trap::Fault(FaultKind::NoSyndrome { addr }),
        RamAccess::Done | RamAccess::Denied => data_abort(addr, exception::EXTERNAL_ABORT, write),
    }
}

/// The base register of an access; a stack pointer must be a multiple of 16 while SCTLR_EL1.SA says so.
pub(super) fn base(cpu: &Cpu, rn: u32) -> Result<u64, Trap> {
    let addr = cpu.x_or_sp(rn);
    if rn == 31 && addr & 15 != 0 && cpu.system.checks_sp() {
        return Err(Trap::Exception { esr: syndrome(SP_ALIGNMENT, 0), far: None, next: false });
    }
    Ok(addr)
}

fn literal<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    let rt = bits(word, 4, 0);
    let addr = cpu.pc.wrapping_add(sign_extend(u64::from(bits(word, 23, 5)), 19) << 2);
    let (len, action) = match bits(word, 31, 30) {
        0 => (4, Action::Load { signed: false, sf: true }),
        1 => (8, Action::Load { signed: false, sf: true }),
        2 => (4, Action::Load { signed: true, sf: true }),
        _ => (8, Action::Prefetch),
    };
    transfer(cpu, bus, Transfer { rt, len, action, syndrome: true }, addr)
}

fn unsigned_offset<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    let size = bits(word, 31, 30);
    let t = Transfer::decode(size, bits(word, 23, 22), bits(word, 4, 0))?;
    if let Action::Prefetch = t.action {
        return Ok(());
    }
    let addr = base(cpu, bits(word, 9, 5))?.wrapping_add(u64::from(bits(word, 21, 10)) << size);
    transfer(cpu, bus, t, addr)
}

/// Unscaled, unprivileged (the same at EL1 with the MMU off), post-index and pre-index.
fn signed_offset<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    let mut t = Transfer::decode(bits(word, 31, 30), bits(word, 23, 22), bits(word, 4, 0))?;
    let mode = bits(word, 11, 10);
    if let Action::Prefetch = t.action {
        return if mode == 0b00 { Ok(()) } else { Err(UNKNOWN) };
    }
    let rn = bits(word, 9, 5);
    let offset = sign_extend(u64::from(bits(word, 20, 12)), 9);
    let write_back = mode & 1 == 1;
    if write_back && rn == t.rt && rn != 31 {
        return Err(UNPREDICTABLE);
    }
    let start = base(cpu, rn)?;
    let moved = start.wrapping_add(offset);
    t.syndrome = !write_back;
    transfer(cpu, bus, t, if mode == 0b01 { start } else { moved })?;
    if write_back {
        cpu.set_x_or_sp(rn, moved);
    }
    Ok(())
}

fn register_offset<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    let size = bits(word, 31, 30);
    let t = Transfer::decode(size, bits(word, 23, 22), bits(word, 4, 0))?;
    let option = bits(word, 15, 13);
    if option & 0b010 == 0 {
        return Err(UNKNOWN);
    }
    if let Action::Prefetch = t.action {
        return Ok(());
    }
    let scale = if bit(word, 12) { size } else { 0 };
    let offset = extend(cpu.x(bits(word, 20, 16)), option, scale);
    let addr = base(cpu, bits(word, 9, 5))?.wrapping_add(offset);
    transfer(cpu, bus, t, addr)
}

/// LDAPUR and STLUR.
fn unscaled_ordered<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    let t = Transfer::decode(bits(word, 31, 30), bits(word, 23, 22), bits(word, 4, 0))?;
    if let Action::Prefetch = t.action {
        return Err(UNKNOWN);
    }
    let offset = sign_extend(u64::from(bits(word, 20, 12)), 9);
    let addr = base(cpu, bits(word, 9, 5))?.wrapping_add(offset);
    mem_atomic::fence();
    transfer(cpu, bus, t, addr)?;
    mem_atomic::fence();
    Ok(())
}

/// LDP, STP, LDPSW, LDNP, STNP.
fn pair<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    let is_load = bit(word, 22);
    let mode = bits(word, 24, 23);
    let (len, signed) = match bits(word, 31, 30) {
        0 => (4, false),
        1 if is_load && mode != 0 => (4, true),
        2 => (8, false),
        _ => return Err(UNKNOWN),
    };
    let (rt, rt2, rn) = (bits(word, 4, 0), bits(word, 14, 10), bits(word, 9, 5));
    let write_back = mode & 1 == 1;
    if (is_load && rt == rt2) || (write_back && rn != 31 && (rn == rt || rn == rt2)) {
        return Err(UNPREDICTABLE);
    }
    let start = base(cpu, rn)?;
    let offset = sign_extend(u64::from(bits(word, 21, 15)), 7).wrapping_mul(u64::from(len));
    let moved = start.wrapping_add(offset);
    let first = if mode == 0b01 { start } else { moved };
    let second = first.wrapping_add(u64::from(len));
    if is_load {
        let a = load(bus, first, len)?.map_err(|access| refused(access, first, false))?;
        let b = load(bus, second, len)?.map_err(|access| refused(access, second, false))?;
        cpu.set_x(rt, widen(a, len, signed, true));
        cpu.set_x(rt2, widen(b, len, signed, true));
    } else {
        for (addr, value) in [(first, cpu.x(rt)), (second, cpu.x(rt2))] {
            match store(bus, addr, len, value)? {
                RamAccess::Done => {}
                other => return Err(refused(other, addr, true)),
            }
        }
    }
    if write_back {
        cpu.set_x_or_sp(rn, moved);
    }
    Ok(())
}

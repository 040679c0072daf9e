//! What a GIC should signal, worked out from its registers alone.
//!
//! Written from the architecture's rules and not from the emulation: it reads every register that has a say.
#![allow(dead_code, unreachable_pub, missing_docs, missing_debug_implementations, clippy::unwrap_used)]

use fake_gunyah::a64::IccRegister;
use fake_gunyah::hyp::gic::{Gic, GicLayout};

pub const GICD: u64 = 0x3fff_0000;
pub const GICR: u64 = 0x2000_0000;

pub fn layout(vcpus: u32) -> GicLayout {
    GicLayout { distributor: GICD, redistributors: GICR, redistributors_size: u64::from(vcpus) * 0x2_0000 }
}

/// What a CPU should be signalled: the number, and whether it is in group 1.
pub fn expected(gic: &Gic, cpu: u32, affinity: u64, now: u64) -> Option<(u32, bool)> {
    let word = |addr: u64| gic.read(addr, 4, now).unwrap() as u32;
    let icc = |register| gic.icc_read(cpu, register, now).unwrap();
    let frame = GICR + u64::from(cpu) * 0x2_0000;
    if word(frame + 0x14) & 2 != 0 {
        return None;
    }
    let groups = word(GICD);
    let mut best: Option<(u8, u32, bool)> = None;
    let candidates = (0..32_u64).flat_map(|index| {
        let base = if index == 0 { frame + 0x1_0000 } else { GICD } + 4 * index;
        let bits = word(base + 0x200) & word(base + 0x100) & !word(base + 0x300);
        (0..32).filter(move |n| bits >> n & 1 == 1).map(move |n| 32 * index + n)
    });
    for intid in candidates {
        let base = if intid < 32 { frame + 0x1_0000 } else { GICD };
        let one = word(base + 0x80 + intid / 32 * 4) >> (intid % 32) & 1 == 1;
        if intid >= 32 && gic.read(GICD + 0x6000 + 8 * intid, 8, now).unwrap() != affinity {
            continue;
        }
        let enabled = [icc(IccRegister::Igrpen0), icc(IccRegister::Igrpen1)][usize::from(one)] == 1;
        if groups >> u32::from(one) & 1 == 0 || !enabled {
            continue;
        }
        let priority = gic.read(base + 0x400 + intid, 1, now).unwrap() as u8;
        if best.is_none_or(|(least, ..)| priority < least) {
            best = Some((priority, intid as u32, one));
        }
    }
    let (priority, intid, one) = best?;
    // The lowest set bit of the active priorities says what runs.
    let active = icc(IccRegister::Ap0r0) | icc(IccRegister::Ap1r0);
    let running = (0..32).find(|level| active >> level & 1 == 1).map(|level| level * 8);
    let shared = icc(IccRegister::Ctlr) & 1 == 1;
    // The bits that do not count for preemption: below BPR in group 1, BPR and below in group 0.
    let fraction = if one && !shared { icc(IccRegister::Bpr1) } else { icc(IccRegister::Bpr0) + 1 };
    let preempts = running.is_none_or(|running: u64| u64::from(priority) >> fraction < running >> fraction);
    (u64::from(priority) < icc(IccRegister::Pmr) && preempts).then_some((intid, one))
}

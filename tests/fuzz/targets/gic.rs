//! The interrupt controller: any accesses of three CPUs, any signals, any times. It never panics; what is taken was
//! signalled, is active then, and can be ended; who is told that the wait is over is signalled something.
#![no_main]

use fake_gunyah::a64::{IccRegister, Interrupts, Timer};
use fake_gunyah::hyp::gic::{Gic, GicLayout, Wait};
use libfuzzer_sys::fuzz_target;

const CPUS: u32 = 3;
const GICD: u64 = 0x3fff_0000;
const GICR: u64 = 0x3ff0_0000;
const LAYOUT: GicLayout =
    GicLayout { distributor: GICD, redistributors: GICR, redistributors_size: 0x6_0000 };

/// Takes what is signalled to a CPU, if it is of group 1.
fn take(gic: &Gic, cpu: u32, now: u64) {
    let before = gic.lines(cpu);
    let Some(intid) = gic.icc_read(cpu, IccRegister::Iar1, now) else { panic!("IAR1 can be read") };
    if intid >= 1020 {
        assert_eq!(intid, 1023);
        return;
    }
    assert_eq!(before, Interrupts { irq: true, fiq: false });
    let base = if intid < 32 { GICR + u64::from(cpu) * 0x2_0000 + 0x1_0000 } else { GICD };
    let active = gic.read(base + 0x300 + intid / 32 * 4, 4, now);
    assert_eq!(active.map(|bits| bits >> (intid % 32) & 1), Some(1));
    assert_eq!(gic.icc_read(cpu, IccRegister::Iar1, now).map(|again| again == intid), Some(false));
}

fuzz_target!(|input: &[u8]| {
    let gic = Gic::new(LAYOUT, &[0, 1, 2]);
    let mut now = 0;
    for call in input.chunks_exact(12) {
        let [op, a, b, c, value @ ..] = call else { break };
        let value = value.try_into().map_or(0, u64::from_le_bytes);
        let cpu = u32::from(*a) % CPUS;
        let place = u64::from(u16::from_le_bytes([*b, *c]));
        now += u64::from(op >> 4);
        match op & 0xf {
            0 => drop(gic.raise(place as u32, now)),
            1 => {
                let timer = if b & 1 == 0 { Timer::Virtual } else { Timer::Physical };
                drop(gic.set_timer(cpu, timer, (b & 2 == 0).then_some(value), now));
            }
            2 => assert_eq!(gic.wait(cpu, now) == Wait::Over, gic.lines(cpu) != Interrupts::default()),
            3 => take(&gic, cpu, now),
            4 => gic.reset_cpu(cpu, now),
            5 => drop(gic.look_at_clock(value)),
            6..=9 => {
                if let Some(register) = IccRegister::ALL.get(usize::from(*b)) {
                    drop(gic.icc_write(cpu, *register, value, now));
                    let _ = gic.icc_read(cpu, *register, now);
                }
            }
            op => {
                let base =
                    [GICD, GICR + u64::from(cpu) * 0x2_0000, GICR + u64::from(cpu) * 0x2_0000 + 0x1_0000];
                let len = 1 << (a >> 6);
                let addr = base[usize::from(*a >> 2) % 3] + place / len * len;
                let len = len as u8;
                assert!(gic.write(addr, len, value, now).is_some());
                if op & 1 == 0 {
                    assert!(gic.read(addr, len, now).is_some());
                }
            }
        }
        // Nobody sees both lines at once.
        assert_ne!(gic.lines(cpu), Interrupts { irq: true, fiq: true });
    }
});

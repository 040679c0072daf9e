//! The interrupt controller, register by register.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod gic_support;

use fake_gunyah::a64::{IccRegister, Interrupts, Timer};
use fake_gunyah::hyp::gic::{Gic, GicLayout, Wait, Woken};
use gic_support::{GICD, GICR, expected, layout};

const SGIS: u64 = 0x1_0000;
const NONE: Interrupts = Interrupts { irq: false, fiq: false };
const IRQ: Interrupts = Interrupts { irq: true, fiq: false };
const FIQ: Interrupts = Interrupts { irq: false, fiq: true };
const SPURIOUS: u64 = 1023;

/// A controller, and the calls of its guest in short.
struct Guest {
    gic: Gic,
    now: u64,
}

impl Guest {
    fn new(vcpus: u32) -> Self {
        let affinities: Vec<u64> = (0..vcpus).map(u64::from).collect();
        Self { gic: Gic::new(layout(vcpus), &affinities), now: 0 }
    }

    /// One whose guest has set it up: everything in group 1 with priority 0xa0, and nothing enabled.
    fn ready(vcpus: u32) -> Self {
        let guest = Self::new(vcpus);
        guest.write(GICD, 0x12);
        for word in 1..32 {
            guest.write(GICD + 0x80 + 4 * word, 0xffff_ffff);
        }
        for word in 8..255 {
            guest.write(GICD + 0x400 + 4 * word, 0xa0a0_a0a0);
        }
        for cpu in 0..vcpus {
            let frame = GICR + u64::from(cpu) * 0x2_0000;
            guest.write(frame + 0x14, 0);
            guest.write(frame + SGIS + 0x80, 0xffff_ffff);
            for word in 0..8 {
                guest.write(frame + SGIS + 0x400 + 4 * word, 0xa0a0_a0a0);
            }
            guest.icc(cpu, IccRegister::Pmr, 0xff);
            guest.icc(cpu, IccRegister::Igrpen1, 1);
        }
        guest
    }

    fn read(&self, addr: u64) -> u64 {
        self.gic.read(addr, 4, self.now).unwrap()
    }

    fn write(&self, addr: u64, value: u64) -> Vec<u32> {
        self.gic.write(addr, 4, value, self.now).unwrap().0
    }

    fn icc(&self, cpu: u32, register: IccRegister, value: u64) -> Vec<u32> {
        self.gic.icc_write(cpu, register, value, self.now).unwrap().0
    }

    fn see(&self, cpu: u32, register: IccRegister) -> u64 {
        self.gic.icc_read(cpu, register, self.now).unwrap()
    }

    fn take(&self, cpu: u32) -> u64 {
        self.see(cpu, IccRegister::Iar1)
    }

    fn end(&self, cpu: u32, intid: u64) {
        self.icc(cpu, IccRegister::Eoir1, intid);
    }

    fn enable(&self, intid: u64) {
        self.write(GICD + 0x100 + intid / 32 * 4, 1 << (intid % 32));
    }

    fn set_priority(&self, intid: u64, priority: u64) {
        assert!(self.gic.write(GICD + 0x400 + intid, 1, priority, self.now).is_some());
    }

    fn raise(&self, intid: u32) -> Vec<u32> {
        self.gic.raise(intid, self.now).0
    }

    /// A shared interrupt's pending and active bits.
    fn state(&self, intid: u64) -> (bool, bool) {
        let bit = |block| self.read(GICD + block + intid / 32 * 4) >> (intid % 32) & 1 == 1;
        (bit(0x200), bit(0x300))
    }
}

#[test]
fn what_the_registers_say_after_a_reset() {
    let guest = Guest::new(3);
    assert_eq!(guest.read(GICD), 0x50, "affinity routing, one security state, both groups off");
    assert_eq!(guest.read(GICD + 4) & 0x1f, 31);
    assert_eq!(guest.read(GICD + 0xffe8) & 0xf0, 0x30, "GICv3");
    for cpu in 0..3 {
        let frame = GICR + cpu * 0x2_0000;
        let last = u64::from(cpu == 2) << 4;
        assert_eq!(guest.gic.read(frame + 8, 8, 0), Some(cpu << 32 | cpu << 8 | last));
        assert_eq!((guest.read(frame + 8), guest.read(frame + 12)), (cpu << 8 | last, cpu));
        assert_eq!((guest.read(frame + 0xffe8), guest.read(frame + SGIS + 0xffe8)), (0x3b, 0x3b));
        assert_eq!(guest.read(frame + 0x14), 6, "asleep");
        assert_eq!((guest.read(frame + SGIS + 0xc00), guest.read(frame + SGIS + 0xc04)), (0xaaaa_aaaa, 0));
        assert_eq!(guest.read(frame + SGIS + 0x80), 0, "group 0");
        assert_eq!(guest.gic.lines(cpu as u32), NONE);
    }
    for (register, value) in [
        (IccRegister::Pmr, 0),
        (IccRegister::Igrpen0, 0),
        (IccRegister::Igrpen1, 0),
        (IccRegister::Bpr0, 2),
        (IccRegister::Bpr1, 3),
        (IccRegister::Rpr, 0xff),
        (IccRegister::Hppir1, SPURIOUS),
        (IccRegister::Iar0, SPURIOUS),
        (IccRegister::Iar1, SPURIOUS),
        (IccRegister::Sre, 7),
        (IccRegister::Ctlr, 0x4_8400),
    ] {
        assert_eq!(guest.see(0, register), value, "{register:?}");
    }
}

#[test]
fn affinities_of_all_fields() {
    let affinities = [0x12_0034_5678, 0x1];
    let gic = Gic::new(layout(2), &affinities);
    assert_eq!(gic.read(GICR + 8, 8, 0), Some(0x1234_5678_0000_0000));
    // The routing register has the fields where MPIDR_EL1 has them, and none between.
    let route = GICD + 0x6000 + 8 * 40;
    assert!(gic.write(route, 8, u64::MAX, 0).is_some());
    assert_eq!(gic.read(route, 8, 0), Some(0xff_00ff_ffff));
    assert!(gic.write(route + 4, 4, 0x12, 0).is_some());
    assert!(gic.write(route, 4, 0x34_5678, 0).is_some());
    assert_eq!((gic.read(route, 4, 0), gic.read(route + 4, 4, 0)), (Some(0x34_5678), Some(0x12)));
    // An SGI to affinity 0x12.34.56, CPUs 0x70 to 0x7f, the ninth of these.
    for frame in [GICR, GICR + 0x2_0000] {
        assert!(gic.write(frame + SGIS + 0x80, 4, 0xffff, 0).is_some());
    }
    let sgi = 0x12 << 48 | 0x34 << 32 | 0x56 << 16 | 0x7 << 44 | 5 << 24 | 1 << 8;
    assert!(gic.icc_write(1, IccRegister::Sgi1r, sgi, 0).is_some());
    assert_eq!(gic.read(GICR + SGIS + 0x200, 4, 0), Some(1 << 5));
    assert_eq!(gic.read(GICR + 0x2_0000 + SGIS + 0x200, 4, 0), Some(0));
    // One that names nobody, and one to everybody else.
    for sgi in [0x12 << 48 | 0x35 << 32 | 0x56 << 16 | 0x7 << 44 | 6 << 24 | 1 << 8, 1 << 40 | 7 << 24] {
        assert!(gic.icc_write(1, IccRegister::Sgi1r, sgi, 0).is_some());
    }
    assert_eq!(gic.read(GICR + SGIS + 0x200, 4, 0), Some(1 << 5 | 1 << 7));
    assert_eq!(gic.read(GICR + 0x2_0000 + SGIS + 0x200, 4, 0), Some(0));
}

/// A gate, and how a guest closes it.
type Gate = (&'static str, fn(&Guest));

/// Everything on the way must be open: take one thing away each time.
#[test]
fn an_interrupt_needs_every_gate_open() {
    let closed: [Gate; 8] = [
        ("the interrupt", |guest| drop(guest.write(GICD + 0x184, 1 << 8))),
        ("group 1 at the distributor", |guest| drop(guest.write(GICD, 1))),
        ("the redistributor", |guest| drop(guest.write(GICR + 0x14, 2))),
        ("the priority mask", |guest| drop(guest.icc(0, IccRegister::Pmr, 0xa0))),
        ("group 1 at the CPU", |guest| drop(guest.icc(0, IccRegister::Igrpen1, 0))),
        ("the route", |guest| drop(guest.write(GICD + 0x6000 + 8 * 40, 1))),
        ("the group", |guest| drop(guest.write(GICD + 0x84, 0))),
        ("the pending state", |guest| drop(guest.write(GICD + 0x284, 1 << 8))),
    ];
    for (what, close) in closed {
        let guest = Guest::ready(1);
        guest.enable(40);
        guest.raise(40);
        assert_eq!(guest.gic.lines(0), IRQ);
        close(&guest);
        assert_eq!(guest.gic.lines(0), NONE, "{what}");
        assert_eq!(guest.take(0), SPURIOUS, "{what}");
    }
}

#[test]
fn one_signal_is_one_interrupt_whatever_its_trigger() {
    for edge in [0, 2 << 16] {
        let guest = Guest::ready(1);
        guest.write(GICD + 0xc08, edge);
        assert_eq!(guest.read(GICD + 0xc08), edge);
        guest.enable(40);
        guest.raise(40);
        guest.raise(40);
        assert_eq!(guest.state(40), (true, false));
        assert_eq!((guest.see(0, IccRegister::Hppir1), guest.take(0)), (40, 40));
        assert_eq!((guest.state(40), guest.gic.lines(0)), ((false, true), NONE));
        assert_eq!(guest.see(0, IccRegister::Rpr), 0xa0);
        // While it is active it is not signalled again, and what comes is not lost.
        guest.raise(40);
        assert_eq!((guest.state(40), guest.gic.lines(0)), ((true, true), NONE));
        guest.end(0, 40);
        assert_eq!((guest.state(40), guest.gic.lines(0)), ((true, false), IRQ));
        assert_eq!(guest.take(0), 40);
        guest.end(0, 40);
        assert_eq!((guest.state(40), guest.gic.lines(0)), ((false, false), NONE));
        assert_eq!((guest.take(0), guest.see(0, IccRegister::Rpr)), (SPURIOUS, 0xff));
    }
}

#[test]
fn only_shared_interrupts_can_be_raised() {
    let guest = Guest::ready(1);
    for intid in [0, 15, 27, 31, 1020, 1023, 1024, 4096, 8192, u32::MAX] {
        guest.raise(intid);
    }
    assert!((1..32).all(|word| guest.read(GICD + 0x200 + 4 * word) == 0));
    assert_eq!(guest.read(GICR + SGIS + 0x200), 0);
    guest.enable(1019);
    guest.raise(1019);
    assert_eq!(guest.take(0), 1019);
}

#[test]
fn the_most_urgent_comes_first_and_interrupts_the_others() {
    let guest = Guest::ready(1);
    for (intid, priority) in [(40, 0xa0), (41, 0xa0), (42, 0x80), (43, 0x87), (44, 0x20)] {
        guest.enable(intid);
        guest.set_priority(intid, priority);
    }
    assert_eq!(guest.gic.read(GICD + 0x400 + 43, 1, 0), Some(0x80), "five bits are there");
    for intid in [43, 41, 40] {
        guest.raise(intid);
    }
    assert_eq!(guest.take(0), 43);
    assert_eq!(guest.gic.lines(0), NONE, "the others are less urgent");
    guest.raise(42);
    assert_eq!(guest.gic.lines(0), NONE, "as urgent is not more urgent");
    guest.raise(44);
    assert_eq!((guest.gic.lines(0), guest.take(0), guest.see(0, IccRegister::Rpr)), (IRQ, 44, 0x20));
    assert_eq!(guest.see(0, IccRegister::Ap1r0), 1 << 4 | 1 << 16);
    guest.end(0, 44);
    guest.end(0, 43);
    for intid in [42, 40, 41] {
        assert_eq!(guest.take(0), intid);
        guest.end(0, intid);
    }
    assert_eq!(guest.take(0), SPURIOUS);
}

#[test]
fn the_binary_point_says_who_may_interrupt() {
    // Priorities that differ in bit 5 only: with a point of 6 they are one group.
    for (register, point, ctlr, preempts) in [
        (IccRegister::Bpr1, 5, 0, true),
        (IccRegister::Bpr1, 6, 0, false),
        // BPR0 counts from one bit lower, and is BPR1 when CBPR says so.
        (IccRegister::Bpr0, 4, 1, true),
        (IccRegister::Bpr0, 5, 1, false),
        // Nothing is left that could be compared.
        (IccRegister::Bpr0, 7, 1, false),
    ] {
        let guest = Guest::ready(1);
        guest.icc(0, IccRegister::Ctlr, ctlr);
        guest.icc(0, register, point);
        for (intid, priority) in [(40, 0xa0), (41, 0x80)] {
            guest.enable(intid);
            guest.set_priority(intid, priority);
        }
        guest.raise(40);
        assert_eq!(guest.take(0), 40);
        guest.raise(41);
        assert_eq!(guest.gic.lines(0).irq, preempts, "{register:?} {point}");
        assert_eq!(guest.see(0, IccRegister::Hppir1), 41);
    }
    let guest = Guest::ready(1);
    guest.icc(0, IccRegister::Bpr1, 0);
    guest.icc(0, IccRegister::Bpr0, 0);
    assert_eq!((guest.see(0, IccRegister::Bpr0), guest.see(0, IccRegister::Bpr1)), (2, 3), "the least");
    guest.icc(0, IccRegister::Ctlr, 1);
    guest.icc(0, IccRegister::Bpr1, 7);
    assert_eq!(guest.see(0, IccRegister::Bpr1), 3, "BPR0 and one");
}

#[test]
fn the_end_can_be_split_in_two() {
    let guest = Guest::ready(1);
    guest.icc(0, IccRegister::Ctlr, 2);
    guest.enable(40);
    guest.raise(40);
    assert_eq!(guest.take(0), 40);
    guest.raise(40);
    guest.end(0, 40);
    assert_eq!((guest.state(40), guest.see(0, IccRegister::Rpr)), ((true, true), 0xff));
    assert_eq!(guest.gic.lines(0), NONE, "still active");
    guest.icc(0, IccRegister::Dir, 40);
    assert_eq!((guest.state(40), guest.gic.lines(0)), ((true, false), IRQ));
    // Without the split, DIR does nothing.
    assert_eq!(guest.take(0), 40);
    guest.icc(0, IccRegister::Ctlr, 0);
    guest.icc(0, IccRegister::Dir, 40);
    assert_eq!(guest.state(40), (false, true));
}

#[test]
fn group_0_is_signalled_as_fiq() {
    let guest = Guest::ready(1);
    guest.write(GICD, 3);
    guest.write(GICD + 0x84, !(1 << 8));
    guest.enable(40);
    guest.enable(41);
    guest.raise(40);
    assert_eq!(guest.gic.lines(0), NONE, "group 0 is off at the CPU");
    guest.icc(0, IccRegister::Igrpen0, 1);
    assert_eq!(guest.gic.lines(0), FIQ);
    guest.raise(41);
    assert_eq!((guest.take(0), guest.see(0, IccRegister::Hppir1)), (SPURIOUS, SPURIOUS));
    assert_eq!((guest.see(0, IccRegister::Hppir0), guest.see(0, IccRegister::Iar0)), (40, 40));
    // The end of the other group is not its end.
    guest.end(0, 40);
    assert_eq!((guest.state(40), guest.see(0, IccRegister::Ap0r0)), ((false, true), 1 << 20));
    guest.icc(0, IccRegister::Eoir0, 40);
    assert_eq!((guest.state(40), guest.gic.lines(0), guest.take(0)), ((false, false), IRQ, 41));
}

#[test]
fn sgis_go_where_they_are_sent() {
    let guest = Guest::ready(20);
    for cpu in 0..20 {
        guest.write(GICR + cpu * 0x2_0000 + SGIS + 0x100, 0xffff);
    }
    let pending = |guest: &Guest| -> Vec<u32> { (0..20).filter(|cpu| guest.gic.lines(*cpu).irq).collect() };
    assert_eq!(guest.gic.wait(17, 0), Wait::Asleep(None));
    // CPUs 16 to 19 are in the second range of 16.
    assert_eq!(guest.icc(3, IccRegister::Sgi1r, 4 << 24 | 1 << 44 | 0b1010), [17]);
    assert_eq!((pending(&guest), guest.gic.lines(17), guest.gic.lines(19)), (vec![17, 19], IRQ, IRQ));
    assert_eq!((guest.take(17), guest.take(19)), (4, 4));
    guest.icc(3, IccRegister::Sgi1r, 9 << 24 | 0b1001);
    assert_eq!(pending(&guest), [0, 3], "the sender may be meant, too");
    assert_eq!((guest.take(0), guest.take(3)), (9, 9));
}

#[test]
fn sgis_are_of_a_group() {
    let guest = Guest::ready(2);
    let sgis = GICR + 0x2_0000 + SGIS;
    guest.write(sgis + 0x80, 0xffff_0001);
    for (register, sgi, pending) in [
        (IccRegister::Sgi1r, 0_u64, 1_u64),
        (IccRegister::Sgi1r, 1, 0),
        (IccRegister::Sgi0r, 0, 0),
        (IccRegister::Sgi0r, 1, 2),
        (IccRegister::Asgi1r, 0, 0),
        (IccRegister::Asgi1r, 1, 2),
    ] {
        guest.icc(0, register, sgi << 24 | 2);
        assert_eq!(guest.read(sgis + 0x200), pending, "{register:?} {sgi}");
        guest.write(sgis + 0x280, 0xffff);
    }
}

#[test]
fn a_timer_interrupts_until_it_is_quiet() {
    let mut guest = Guest::ready(2);
    for (timer, intid) in [(Timer::Virtual, 27), (Timer::Physical, 30)] {
        let own = GICR + 0x2_0000 + SGIS;
        guest.write(own + 0x100, 1 << intid);
        let (before, at) = (guest.now, guest.now + 100);
        assert_eq!(guest.gic.set_timer(1, timer, Some(at), before), Woken(vec![]));
        assert_eq!(guest.gic.wait(1, before), Wait::Asleep(Some(at)));
        assert_eq!(guest.gic.look_at_clock(at - 1), Woken(vec![]));
        assert_eq!(guest.gic.look_at_clock(at), Woken(vec![1]));
        // Time that runs backwards, as it does when two CPUs ask at once, takes nothing back.
        assert_eq!(guest.gic.look_at_clock(before), Woken(vec![1]));
        assert_eq!((guest.gic.wait(1, before), guest.gic.lines(0)), (Wait::Over, NONE));
        guest.now = at;
        assert_eq!(guest.take(1), intid);
        assert_eq!(guest.read(own + 0x200), 1 << intid, "the line is still up");
        guest.end(1, intid);
        assert_eq!((guest.gic.lines(1), guest.take(1)), (IRQ, intid));
        let _ = guest.gic.set_timer(1, timer, None, guest.now);
        guest.end(1, intid);
        assert_eq!((guest.gic.lines(1), guest.read(own + 0x200)), (NONE, 0));
    }
}

#[test]
fn a_reset_of_a_cpu_closes_its_interface() {
    let guest = Guest::ready(1);
    guest.enable(40);
    guest.raise(40);
    assert_eq!(guest.gic.lines(0), IRQ);
    let _ = guest.gic.set_timer(0, Timer::Virtual, Some(0), 0);
    guest.gic.reset_cpu(0, 0);
    assert_eq!((guest.gic.lines(0), guest.see(0, IccRegister::Pmr)), (NONE, 0));
    assert_eq!((guest.read(GICR + SGIS + 0x200), guest.state(40)), (0, (true, false)));
}

#[test]
fn accesses_of_the_wrong_width_do_nothing() {
    let guest = Guest::ready(1);
    let gic = &guest.gic;
    for len in [1, 2, 8] {
        for addr in [GICD, GICD + 4, GICD + 0x104, GICR + 0x14, GICR + SGIS + 0x100] {
            assert_eq!(gic.read(addr & !7, len, 0), Some(0), "{addr:#x} {len}");
            assert!(gic.write(addr & !7, len, u64::MAX, 0).is_some());
        }
    }
    assert_eq!((guest.read(GICD), guest.read(GICD + 0x104), guest.read(GICR + 0x14)), (0x52, 0, 0));
    assert_eq!(gic.read(GICD + 0x420, 2, 0), Some(0));
    assert_eq!(gic.read(GICD + 0x421, 1, 0), Some(0xa0));
    // Next to the frames, and behind the redistributors of the vCPUs that are there.
    for addr in [GICD - 1, GICD + 0x1_0000, GICR - 4, GICR + 0x2_0000, 0, u64::MAX] {
        assert_eq!((gic.read(addr, 4, 0), gic.write(addr, 4, 0, 0)), (None, None), "{addr:#x}");
    }
    let roomy = Gic::new(GicLayout { redistributors_size: 0x8_0000, ..layout(1) }, &[0]);
    assert_eq!(roomy.read(GICR + 8, 4, 0), Some(0x10), "the last one");
    assert_eq!((roomy.read(GICR + 0x2_0008, 4, 0), roomy.read(GICR + 0x2_0014, 4, 0)), (Some(0), Some(0)));
}

#[test]
fn what_cannot_be_read_or_written_is_not_there() {
    let guest = Guest::ready(1);
    for register in IccRegister::ALL {
        use IccRegister::{Asgi1r, Dir, Eoir0, Eoir1, Hppir0, Hppir1, Iar0, Iar1, Rpr, Sgi0r, Sgi1r};
        let write_only = matches!(register, Eoir0 | Eoir1 | Dir | Sgi0r | Sgi1r | Asgi1r);
        let read_only = matches!(register, Iar0 | Iar1 | Hppir0 | Hppir1 | Rpr);
        assert_eq!(guest.gic.icc_read(0, register, 0).is_none(), write_only, "{register:?}");
        assert_eq!(guest.gic.icc_write(0, register, 0, 0).is_none(), read_only, "{register:?}");
        // A CPU that is not there has none.
        assert!(register == Iar0 || register == Iar1 || guest.gic.icc_read(1, register, 0).is_none());
        assert_eq!(guest.gic.icc_write(1, register, 0, 0), None);
    }
    assert_eq!((guest.gic.lines(1), guest.gic.wait(1, 0)), (NONE, Wait::Asleep(None)));
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// One call with any arguments, of a kind that leaves the gates open more often than not.
fn any_call(gic: &Gic, cpus: u32, random: &mut u64, now: u64) {
    let cpu = next(random) as u32 % cpus;
    let value = next(random);
    let often = next(random) % 8 != 0;
    match next(random) % 10 {
        0 | 1 => drop(gic.raise(next(random) as u32 % if often { 128 } else { 1100 }, now)),
        2 => {
            let timer = if value & 1 == 0 { Timer::Virtual } else { Timer::Physical };
            let from = (value & 2 == 0).then_some(now + value % 8);
            drop(gic.set_timer(cpu, timer, from, now));
        }
        3 | 4 => {
            let register = IccRegister::ALL[next(random) as usize % IccRegister::ALL.len()];
            let value = match register {
                IccRegister::Pmr if often => value | 0x80,
                IccRegister::Igrpen0 | IccRegister::Igrpen1 if often => 1,
                IccRegister::Ap0r0 | IccRegister::Ap1r0 if often => 0,
                _ => value,
            };
            drop(gic.icc_write(cpu, register, value, now));
        }
        5 if value % 16 == 0 => gic.reset_cpu(cpu, now),
        op => {
            let len = [1, 2, 4, 4, 4, 4, 4, 8][next(random) as usize % 8];
            let base = match next(random) % 4 {
                0 => GICR + u64::from(cpu) * 0x2_0000,
                1 => GICR + u64::from(cpu) * 0x2_0000 + SGIS,
                _ => GICD,
            };
            let offset = match next(random) % 8 {
                0 => next(random) % 0x1_0000,
                1 => 0x6000 + next(random) % 0x400,
                2 => 0x400 + next(random) % 0x80,
                3 => 0,
                4 => 0x14,
                5 => 0x100 + next(random) % 0x10,
                _ => 0x80 * (1 + next(random) % 7) + next(random) % 0x10,
            };
            let addr = (base + offset) / len * len;
            let value = match offset {
                0 if often => 3,
                0x14 if often => 0,
                // A route to nobody would be the rule.
                0x6000.. => value % u64::from(cpus),
                _ => value,
            };
            if op == 9 {
                assert!(gic.read(addr, len as u8, now).is_some());
            } else {
                assert!(gic.write(addr, len as u8, value, now).is_some());
            }
        }
    }
}

/// Any calls: nothing panics, and what is signalled and taken is what the registers say.
#[test]
fn any_accesses() {
    const CPUS: u32 = 3;
    let rounds = if cfg!(debug_assertions) { 40 } else { 1000 };
    let (mut taken, mut signalled, mut preempted) = (0, 0, 0);
    for seed in 1..=rounds {
        let mut random = u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15);
        let guest = if seed % 4 == 0 { Guest::new(CPUS) } else { Guest::ready(CPUS) };
        let gic = &guest.gic;
        let mut now = 0;
        for _ in 0..200 {
            now += next(&mut random) % 3;
            any_call(gic, CPUS, &mut random, now);
            let cpu = next(&mut random) as u32 % CPUS;
            drop(gic.look_at_clock(now));
            let want = expected(gic, cpu, cpu.into(), now);
            let lines = want.map_or(NONE, |(_, one)| if one { IRQ } else { FIQ });
            assert_eq!(gic.lines(cpu), lines, "seed {seed}: {want:?}");
            assert_eq!(gic.wait(cpu, now) == Wait::Over, want.is_some());
            signalled += u32::from(want.is_some());
            if next(&mut random) % 2 == 0 {
                let running = gic.icc_read(cpu, IccRegister::Rpr, now).unwrap();
                let one = gic.icc_read(cpu, IccRegister::Iar1, now).unwrap();
                let want_one = want.filter(|(_, one)| *one).map_or(SPURIOUS, |(intid, _)| intid.into());
                assert_eq!(one, want_one, "seed {seed}");
                taken += u32::from(one != SPURIOUS);
                preempted += u32::from(one != SPURIOUS && running != 0xff);
                if one != SPURIOUS && next(&mut random) % 8 != 0 {
                    guest.end(cpu, one);
                }
            }
        }
    }
    let least = rounds as u32;
    assert!(
        signalled > taken && taken > 2 * least && preempted > least / 20,
        "{signalled} signalled, {taken} taken, {preempted} of them while another ran"
    );
}

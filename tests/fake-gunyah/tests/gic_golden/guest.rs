//! Guests of random accesses to their GIC.

use conformance::asm::{Program, SystemRegister, Width};
use conformance::interrupts::Gic;

/// Where QEMU's machine `virt` has these.
pub(crate) const GIC: Gic = Gic { distributor: 0x0800_0000, redistributors: 0x080a_0000 };
pub(crate) const UART: u64 = 0x0900_0000;
/// Behind where that machine puts its devicetree.
pub(crate) const RAM: u64 = 0x4020_0000;
/// Where the guest keeps the numbers that it took.
const KEPT: u64 = RAM + 0x10_0000;
const GICD: u64 = GIC.distributor;
const SGIS: u64 = GIC.redistributors + 0x1_0000;

/// What a guest does, for people.
pub(crate) enum Note {
    Does(String),
    /// Four bytes, the lowest first.
    Prints(String),
}

const fn icc(crm: u32, op2: u32) -> SystemRegister {
    SystemRegister::new(3, 0, 12, crm, op2)
}

const PMR: SystemRegister = SystemRegister::new(3, 0, 4, 6, 0);
const ISR: SystemRegister = SystemRegister::new(3, 0, 12, 1, 0);
/// Of group 0 and group 1.
const IAR: [SystemRegister; 2] = [icc(8, 0), icc(12, 0)];
const EOIR: [SystemRegister; 2] = [icc(8, 1), icc(12, 1)];
const BPR: [SystemRegister; 2] = [icc(8, 3), icc(12, 3)];
const DIR: SystemRegister = icc(11, 1);
const SGI1R: SystemRegister = icc(11, 5);
const CTLR: SystemRegister = icc(12, 4);
const IGRPEN0: SystemRegister = icc(12, 6);

/// What is printed after each step.
const WATCHED: [(&str, SystemRegister); 9] = [
    ("HPPIR0", icc(8, 2)),
    ("HPPIR1", icc(12, 2)),
    ("RPR", icc(11, 3)),
    ("AP0R0", icc(8, 4)),
    ("AP1R0", icc(9, 0)),
    ("PMR", PMR),
    ("BPR0", BPR[0]),
    ("BPR1", BPR[1]),
    ("ISR", ISR),
];

/// Registers of a bit for each interrupt: name, offset.
const BITS: [(&str, u64); 7] = [
    ("IGROUPR", 0x080),
    ("ISENABLER", 0x100),
    ("ICENABLER", 0x180),
    ("ISPENDR", 0x200),
    ("ICPENDR", 0x280),
    ("ISACTIVER", 0x300),
    ("ICACTIVER", 0x380),
];

struct Writer {
    program: Program,
    notes: Vec<Note>,
    random: u64,
    /// Where the numbers of the interrupts that it runs are kept, and their groups. The last one ends first.
    running: Vec<(u64, usize)>,
    kept: u64,
}

impl Writer {
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A number with about a quarter of its bits set.
    fn few_bits(&mut self) -> u64 {
        self.next() & self.next() & 0xffff_ffff
    }

    /// Prints a register.
    fn print(&mut self, register: u32, what: String) {
        self.program.mov(9, UART);
        for byte in 0..4 {
            match byte {
                0 => self.program.add(10, register, 0),
                _ => self.program.shift_right(10, register, 8 * byte),
            };
            self.program.store(Width::Word, 10, 9);
        }
        self.notes.push(Note::Prints(what));
    }

    fn store(&mut self, width: Width, addr: u64, value: u64) {
        self.program.store_at(width, addr, value);
        self.notes.push(Note::Does(format!("{value:#x} to {addr:#x}, {} bytes", width.bytes())));
    }

    fn set(&mut self, what: &str, register: SystemRegister, value: u64) {
        self.program.mov(0, value).write_register(register, 0).isb();
        self.notes.push(Note::Does(format!("{value:#x} to {what}")));
    }

    /// One change.
    fn step(&mut self) {
        let word = self.next() % 5;
        let base = if word == 0 { SGIS } else { GICD };
        let idle = self.running.is_empty();
        let intid = 32 * word + self.next() % 32;
        let (value, often) = (self.next(), self.next() % 4 != 0);
        match self.next() % 22 {
            // Groups and binary points may only change while nothing runs.
            0 if !idle => {}
            n @ 0..=8 => {
                let (_, offset) = BITS[[0, 1, 1, 2, 3, 3, 4, 5, 6][n as usize]];
                if n < 7 || !often {
                    let bits = if n == 0 { value & 0xffff_ffff } else { self.few_bits() };
                    self.store(Width::Word, base + 4 * word + offset, bits);
                }
            }
            9 | 10 => self.store(Width::Byte, base + 0x400 + intid, value & 0xf8),
            11 => self.store(Width::Word, base + 0x400 + intid / 4 * 4, value & 0xf8f8_f8f8),
            12 if word > 0 => {
                let route = [0, 0, 0, 1, 0x100][value as usize % 5];
                self.store(Width::Double, GICD + 0x6000 + 8 * intid, route);
            }
            13 if !often => self.store(Width::Word, GICD, (value % 4) | 0x10),
            14 => self.set("PMR", PMR, [0xff, 0xf0, 0x80, 0x40, 0xff][value as usize % 5]),
            15 if idle => {
                let group = value as usize / 8 % 2;
                self.set(["BPR0", "BPR1"][group], BPR[group], value % 8);
            }
            16 if idle => self.set("CTLR", CTLR, value % 4),
            17 | 18 => {
                let group = usize::from(often);
                let at = KEPT + 8 * self.kept;
                self.kept += 1;
                self.program.read_register(1, IAR[group]).dsb().mov(8, at).store(Width::Double, 1, 8);
                self.print(1, format!("IAR{group}"));
                self.running.push((at, group));
            }
            19 | 20 => {
                if let Some((at, group)) = self.running.pop() {
                    self.program.mov(8, at).load(Width::Double, 1, 8);
                    self.program.write_register(EOIR[group], 1).isb().write_register(DIR, 1).isb();
                    self.notes.push(Note::Does(format!("EOIR{group} and DIR")));
                }
            }
            21 => self.set("SGI1R", SGI1R, (value % 16) << 24 | 1),
            _ => {}
        }
    }

    /// Prints some of what can be read.
    fn look(&mut self) {
        for _ in 0..3 {
            let word = self.next() % 5;
            let base = if word == 0 { SGIS } else { GICD };
            let (what, addr) = match self.next() as usize % 9 {
                n if n < BITS.len() => (BITS[n].0, base + 4 * word + BITS[n].1),
                7 => ("IPRIORITYR", base + 0x400 + 32 * word + self.next() % 8 * 4),
                _ => ("CTLR", GICD),
            };
            self.program.mov(8, addr).load(Width::Word, 1, 8);
            self.print(1, format!("{what} at {addr:#x}"));
        }
        for (what, register) in WATCHED {
            self.program.read_register(1, register);
            self.print(1, what.to_owned());
        }
    }
}

/// A guest, and what it does.
pub(crate) fn random(seed: u64) -> (Vec<u8>, Vec<Note>) {
    let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut writer =
        Writer { program: Program::new(), notes: Vec::new(), random, running: Vec::new(), kept: 0 };
    writer.program.store_at(Width::Word, GICD, 0x13);
    GIC.set_up_cpu(&mut writer.program, 0);
    writer.set("IGRPEN0", IGRPEN0, 1);
    for intid in (32..160).step_by(4) {
        let priorities = writer.next() & 0x78f8_d8b8;
        writer.store(Width::Word, GICD + 0x400 + intid, priorities);
    }
    for _ in 0..300 {
        writer.step();
        writer.look();
    }
    writer.program.power_off();
    (writer.program.bytes(), writer.notes)
}

/// How many interrupts the guest took, by what it printed.
pub(crate) fn taken(notes: &[Note], output: &[u8]) -> usize {
    let printed = notes.iter().filter_map(|note| match note {
        Note::Prints(what) => Some(what),
        Note::Does(_) => None,
    });
    let words = output.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
    printed.zip(words).filter(|(what, word)| what.starts_with("IAR") && *word < 1020).count()
}

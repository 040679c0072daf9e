//! The interpreter against another implementation: random instructions of every class, with their outcomes as an emulator
//! of a full arm64 CPU had them. `a64_golden/generate` made the file and says how; `A64_GOLDEN=FILE` checks another one.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use fake_gunyah::a64::{Bus, Cpu, FaultKind, RamAccess, Stop};

const CODE: u64 = 0x4000_0000;
const CODE_SIZE: usize = 0x10000;
const START: usize = 0x8000;
const DATA: u64 = 0x5000_0000;
const DATA_SIZE: usize = 512;

/// The stream of numbers that the generator starts its cases with (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Registers (31 is the stack pointer), flags and data.
#[derive(Clone, PartialEq, Eq)]
struct State {
    x: [u64; 32],
    nzcv: u8,
    data: Vec<u8>,
}

const SPECIAL: [u64; 8] =
    [0, u64::MAX, 1 << 63, u64::MAX >> 1, 0x8000_0000, 0x7fff_ffff, 0xffff_ffff, 0xffff_ffff_8000_0000];

impl State {
    fn of(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut x = [0; 32];
        for slot in &mut x {
            let (how, v) = (random.next(), random.next());
            *slot = match how & 7 {
                0 => v & 0xff,
                1 => v & 0xffff_ffff,
                2 => (v & 0xff).wrapping_neg(),
                3 => SPECIAL[(v & 7) as usize],
                4 => 1 << (v & 63),
                5 => v as i32 as u64,
                _ => v,
            };
        }
        x[31] &= !15;
        let nzcv = (random.next() & 15) as u8;
        let data = (0..DATA_SIZE / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        Self { x, nzcv, data }
    }
}

/// Code full of BRK, and data.
struct Memory {
    code: Vec<u8>,
    data: Vec<u8>,
}

impl Memory {
    fn at(&mut self, addr: u64, len: usize) -> Option<&mut [u8]> {
        let (bytes, offset) = if addr >= DATA {
            (&mut self.data, addr - DATA)
        } else {
            (&mut self.code, addr.checked_sub(CODE)?)
        };
        let offset = usize::try_from(offset).ok()?;
        bytes.get_mut(offset..offset.checked_add(len)?)
    }
}

impl Bus for Memory {
    fn fetch(&mut self, addr: u64) -> Result<u32, RamAccess> {
        let bytes = self.at(addr, 4).ok_or(RamAccess::NotRam)?;
        Ok(u32::from_le_bytes(bytes.try_into().unwrap()))
    }

    fn load(&mut self, addr: u64, buf: &mut [u8]) -> RamAccess {
        match self.at(addr, buf.len()) {
            Some(bytes) => buf.copy_from_slice(bytes),
            None => return RamAccess::NotRam,
        }
        RamAccess::Done
    }

    fn store(&mut self, addr: u64, data: &[u8]) -> RamAccess {
        match self.at(addr, data.len()) {
            Some(bytes) => bytes.copy_from_slice(data),
            None => return RamAccess::NotRam,
        }
        RamAccess::Done
    }

    fn compare_exchange(&mut self, addr: u64, len: u8, current: u128, new: u128) -> Result<u128, RamAccess> {
        let bytes = self.at(addr, usize::from(len)).ok_or(RamAccess::NotRam)?;
        let mut old = [0; 16];
        old[..bytes.len()].copy_from_slice(bytes);
        let old = u128::from_le_bytes(old);
        if old == current {
            bytes.copy_from_slice(&new.to_le_bytes()[..usize::from(len)]);
        }
        Ok(old)
    }

    fn counter(&mut self) -> u64 {
        0
    }
}

/// Reads the file's little-endian numbers.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }

    fn number(&mut self, n: usize) -> u64 {
        self.bytes(n).iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
    }
}

struct Case {
    words: Vec<u32>,
    before: State,
    /// The state and the place in the code after it; `None` if the instruction is undefined.
    after: Option<(State, u64)>,
}

fn read_case(file: &mut Reader<'_>) -> Case {
    let mut before = State::of(file.number(8));
    let words = (0..file.number(1)).map(|_| file.number(4) as u32).collect();
    for _ in 0..file.number(1) {
        let reg = file.number(1) as usize;
        before.x[reg] = file.number(8);
    }
    let after = (file.number(1) == 0).then(|| {
        let mut after = before.clone();
        after.nzcv = file.number(1) as u8;
        let pc = file.number(4);
        for _ in 0..file.number(1) {
            let reg = file.number(1) as usize;
            after.x[reg] = file.number(8);
        }
        for _ in 0..file.number(1) {
            let at = file.number(2) as usize;
            after.data[at] = file.number(1) as u8;
        }
        (after, pc)
    });
    Case { words, before, after }
}

/// Runs a case: the state after it and the place in the code, or why it stopped.
fn run(case: &Case, memory: &mut Memory) -> Result<(State, u64), Stop> {
    let mut cpu = Cpu::new(0);
    for (n, value) in (0..31).zip(case.before.x) {
        cpu.set_x(n, value);
    }
    cpu.set_sp(case.before.x[31]);
    cpu.set_nzcv(case.before.nzcv);
    cpu.set_pc(CODE + START as u64);
    memory.data.clone_from(&case.before.data);
    for (i, word) in case.words.iter().enumerate() {
        memory.code[START + 4 * i..START + 4 * i + 4].copy_from_slice(&word.to_le_bytes());
    }
    let stop = cpu.run(memory, case.words.len() as u32);
    for i in 0..2 {
        let at = START + 4 * i;
        memory.code[at..at + 4].copy_from_slice(&brk(at).to_le_bytes());
    }
    if let Some(stop) = stop {
        return Err(stop);
    }
    let mut x = [0; 32];
    for (n, slot) in (0..31).zip(&mut x) {
        *slot = cpu.x(n);
    }
    x[31] = cpu.sp();
    let state = State { x, nzcv: cpu.nzcv(), data: memory.data.clone() };
    Ok((state, cpu.pc() - CODE))
}

fn brk(offset: usize) -> u32 {
    0xd420_0000 | (offset as u32 / 4) << 5
}

fn describe(name: &str, case: &Case, got: &Result<(State, u64), Stop>) -> String {
    let mut text = format!("{name} {:08x?}: ", case.words);
    match (&case.after, got) {
        (None, _) => text += "must be undefined",
        (Some(_), Err(stop)) => text += &format!("stopped with {stop:x?}"),
        (Some((want, want_pc)), Ok((got, got_pc))) => {
            if want_pc != got_pc {
                text += &format!("goes to {got_pc:x}, not {want_pc:x}; ");
            }
            if want.nzcv != got.nzcv {
                text += &format!("flags {:04b}, not {:04b}; ", got.nzcv, want.nzcv);
            }
            for n in 0..32 {
                if want.x[n] != got.x[n] {
                    text += &format!("x{n} {:x} -> {:x}, not {:x}; ", case.before.x[n], got.x[n], want.x[n]);
                }
            }
            if want.data != got.data {
                text += "memory differs";
            }
        }
    }
    text
}

#[test]
fn every_class_does_what_another_implementation_does() {
    let other = std::env::var("A64_GOLDEN").map(|name| std::fs::read(name).unwrap());
    let file = other.as_deref().unwrap_or(include_bytes!("a64_golden/golden.bin"));
    let mut memory = Memory {
        code: (0..CODE_SIZE / 4).flat_map(|i| brk(4 * i).to_le_bytes()).collect(),
        data: vec![0; DATA_SIZE],
    };
    let mut file = Reader(file);
    let (mut classes, mut cases, mut wrong) = (0, 0, Vec::new());
    while !file.0.is_empty() {
        let length = file.number(1) as usize;
        let name = String::from_utf8(file.bytes(length).to_vec()).unwrap();
        let count = file.number(2);
        let mut defined = 0;
        for _ in 0..count {
            let case = read_case(&mut file);
            let got = run(&case, &mut memory);
            let right = match (&case.after, &got) {
                (None, Err(Stop::Fault(fault))) => fault.kind == FaultKind::UnknownInstruction,
                (Some(want), Ok(got)) => want == got,
                _ => false,
            };
            defined += u64::from(case.after.is_some());
            if !right {
                wrong.push(describe(&name, &case, &got));
            }
        }
        assert!(defined * 5 >= count, "{name}: most cases are undefined, so the class is hardly tested");
        classes += 1;
        cases += count;
    }
    assert!(
        wrong.is_empty(),
        "{} of {cases} differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    assert!(classes >= 47 && cases >= 4000, "{classes} classes, {cases} cases");
}

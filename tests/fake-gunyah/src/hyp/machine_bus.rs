//! A vCPU's way to memory: guest RAM, with a cache for instructions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::machine::Machine;
use crate::a64::{Bus, RamAccess};

const LINE: usize = 64;
const LINES: usize = 128;
/// No line is there: lines are aligned, this is not.
const EMPTY: u64 = u64::MAX;

/// Guest RAM may be far away, in another process. Instructions are therefore fetched by the line and kept, which guests
/// must expect: they say IC when they change code, on whichever vCPU.
pub(super) struct MachineBus {
    machine: Arc<Machine>,
    lines: Box<[Line]>,
    generation: u64,
}

#[derive(Clone)]
struct Line {
    addr: u64,
    words: [u32; LINE / 4],
}

impl MachineBus {
    pub(super) fn new(machine: Arc<Machine>) -> Self {
        let lines = vec![Line { addr: EMPTY, words: [0; LINE / 4] }; LINES].into_boxed_slice();
        Self { machine, lines, generation: 0 }
    }

    /// Forgets all instructions, of this vCPU only.
    pub(super) fn forget(&mut self) {
        for line in &mut self.lines {
            line.addr = EMPTY;
        }
    }

    /// Fetches past the cache, where RAM is smaller than a line.
    fn fetch_one(&self, addr: u64) -> Result<u32, RamAccess> {
        let mut bytes = [0; 4];
        match self.machine.ram.fetch(addr, &mut bytes) {
            RamAccess::Done => Ok(u32::from_le_bytes(bytes)),
            other => Err(other),
        }
    }
}

impl Bus for MachineBus {
    fn fetch(&mut self, addr: u64) -> Result<u32, RamAccess> {
        let generation = self.machine.code_generation.load(Ordering::SeqCst);
        if generation != self.generation {
            self.generation = generation;
            self.forget();
        }
        let start = addr & !(LINE as u64 - 1);
        let index = (addr as usize / LINE) % LINES;
        let word = (addr as usize % LINE) / 4;
        match self.lines.get(index) {
            Some(line) if line.addr == start => {
                return line.words.get(word).copied().ok_or(RamAccess::NotRam);
            }
            _ => {}
        }
        let mut bytes = [0; LINE];
        if self.machine.ram.fetch(start, &mut bytes) != RamAccess::Done {
            return self.fetch_one(addr);
        }
        let mut line = Line { addr: start, words: [0; LINE / 4] };
        for (word, chunk) in line.words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = chunk.try_into().map(u32::from_le_bytes).unwrap_or(0);
        }
        let found = line.words.get(word).copied().ok_or(RamAccess::NotRam);
        if let Some(slot) = self.lines.get_mut(index) {
            *slot = line;
        }
        found
    }

    fn load(&mut self, addr: u64, buf: &mut [u8]) -> RamAccess {
        self.machine.ram.load(addr, buf)
    }

    fn store(&mut self, addr: u64, data: &[u8]) -> RamAccess {
        self.machine.ram.store(addr, data)
    }

    fn compare_exchange(&mut self, addr: u64, len: u8, current: u128, new: u128) -> Result<u128, RamAccess> {
        self.machine.ram.compare_exchange(addr, len, current, new)
    }

    fn counter(&mut self) -> u64 {
        self.machine.counter()
    }

    fn forget_instructions(&mut self) {
        self.machine.forget_instructions();
    }
}

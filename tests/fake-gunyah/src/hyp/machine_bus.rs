//! A vCPU's way to memory and to the interrupt controller: guest RAM, with a cache for instructions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::machine::Machine;
use crate::a64::{Bus, IccRegister, Interrupts, RamAccess, Timer};

const LINE: usize = 64;
const LINES: usize = 128;
/// No line is there: lines are aligned, this is not.
const EMPTY: u64 = u64::MAX;

/// Guest RAM may be far away, in another process. Instructions are therefore fetched by the line and kept, which guests
/// must expect: they say IC when they change code, on whichever vCPU.
pub(super) struct MachineBus {
    machine: Arc<Machine>,
    id: u32,
    /// When each timer starts to interrupt, unless it has been seen to.
    timers: [Option<u64>; 2],
    lines: Box<[Line]>,
    generation: u64,
}

#[derive(Clone)]
struct Line {
    addr: u64,
    words: [u32; LINE / 4],
}

impl MachineBus {
    pub(super) fn new(machine: Arc<Machine>, id: u32) -> Self {
        let lines = vec![Line { addr: EMPTY, words: [0; LINE / 4] }; LINES].into_boxed_slice();
        Self { machine, id, timers: [None; 2], lines, generation: 0 }
    }

    /// Forgets all instructions, of this vCPU only.
    pub(super) fn forget(&mut self) {
        for line in &mut self.lines {
            line.addr = EMPTY;
        }
    }

    /// A load from the interrupt controller's frames. `None`: it is not from there.
    pub(super) fn gic_frame_read(&self, addr: u64, len: u8) -> Option<u64> {
        self.machine.gic.as_ref()?.read(addr, len, self.machine.counter())
    }

    /// A store to the interrupt controller's frames. False: it is not to there.
    pub(super) fn gic_frame_write(&self, addr: u64, len: u8, value: u64) -> bool {
        let Some(gic) = &self.machine.gic else { return false };
        gic.write(addr, len, value, self.machine.counter()).map(|woken| self.machine.wake(woken)).is_some()
    }

    /// The vCPU comes out of reset.
    pub(super) fn reset_interrupts(&mut self) {
        self.timers = [None; 2];
        if let Some(gic) = &self.machine.gic {
            gic.reset_cpu(self.id, self.machine.counter());
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

    fn interrupts(&mut self) -> Interrupts {
        let Some(gic) = &self.machine.gic else { return Interrupts::default() };
        // Only while a timer is to go off is the clock looked at.
        if let Some(next) = self.timers.iter().flatten().min() {
            let now = self.machine.counter();
            if now >= *next {
                for timer in &mut self.timers {
                    *timer = timer.filter(|from| *from > now);
                }
                self.machine.wake(gic.look_at_clock(now));
            }
        }
        gic.lines(self.id)
    }

    fn icc_read(&mut self, register: IccRegister) -> Option<u64> {
        self.machine.gic.as_ref()?.icc_read(self.id, register, self.machine.counter())
    }

    fn icc_write(&mut self, register: IccRegister, value: u64) -> Option<()> {
        let woken = self.machine.gic.as_ref()?.icc_write(self.id, register, value, self.machine.counter())?;
        self.machine.wake(woken);
        Some(())
    }

    fn set_timer(&mut self, timer: Timer, from: Option<u64>) -> bool {
        let Some(gic) = &self.machine.gic else { return from.is_none() };
        let [virtual_timer, physical_timer] = &mut self.timers;
        match timer {
            Timer::Virtual => *virtual_timer = from,
            Timer::Physical => *physical_timer = from,
        }
        self.machine.wake(gic.set_timer(self.id, timer, from, self.machine.counter()));
        true
    }
}

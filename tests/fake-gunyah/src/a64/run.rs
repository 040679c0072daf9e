//! The loop: fetch, decode, execute; and the completion of MMIO.

use super::alu::bits;
use super::cpu::Pending;
use super::exception::{self, EXTERNAL_ABORT, INSTRUCTION_ABORT, PC_ALIGNMENT, UNDEFINED, syndrome};
use super::mem::widen;
use super::stop::{Exec, Fault, Stop, Trap, UNKNOWN};
use super::{Bus, Cpu, RamAccess, branch, dp_imm, dp_reg, mem};

/// How one step ended.
enum Step {
    /// On to the next instruction.
    Next,
    /// The same, but look for interrupts first.
    Look,
    Stop(Stop),
}

impl From<Option<Stop>> for Step {
    fn from(stop: Option<Stop>) -> Self {
        stop.map_or(Self::Next, Self::Stop)
    }
}

impl Cpu {
    /// Executes up to `instructions` instructions. `None` says that all of them were; else, why not.
    ///
    /// After an MMIO stop, answer it first: running on without an answer tries the access again.
    pub fn run<B: Bus + ?Sized>(&mut self, bus: &mut B, instructions: u32) -> Option<Stop> {
        self.pending = None;
        let mut left = instructions;
        while left > 0 {
            if let Some(stop) = exception::interrupt(self, bus) {
                return Some(stop);
            }
            match self.run_to_a_look(bus, left) {
                Ok(rest) => left = rest,
                Err(stop) => return Some(stop),
            }
        }
        None
    }

    /// Executes instructions until one may have let an interrupt in; says how many are left then.
    fn run_to_a_look<B: Bus + ?Sized>(&mut self, bus: &mut B, instructions: u32) -> Result<u32, Stop> {
        // What is not the rule is kept out of the way: this loop is what the interpreter's speed hangs on.
        for left in (0..instructions).rev() {
            let pc = self.pc;
            let fetched = if pc & 3 == 0 { bus.fetch(pc) } else { Err(RamAccess::Denied) };
            let step = match fetched {
                Ok(word) => {
                    self.next_pc = pc.wrapping_add(4);
                    match execute(self, bus, word) {
                        Ok(()) => {
                            self.pc = self.next_pc;
                            continue;
                        }
                        Err(trap) => self.trapped(word, trap),
                    }
                }
                Err(access) => self.not_fetched(access),
            };
            match step {
                Step::Next => {}
                Step::Look => return Ok(left),
                Step::Stop(stop) => return Err(stop),
            }
        }
        Ok(0)
    }

    /// There is no instruction, and what memory said.
    #[cold]
    #[inline(never)]
    fn not_fetched(&mut self, access: RamAccess) -> Step {
        let pc = self.pc;
        if pc & 3 != 0 {
            return exception::take(self, 0, syndrome(PC_ALIGNMENT, 0), Some(pc), pc).into();
        }
        match access {
            RamAccess::NotMapped => Step::Stop(Stop::PageFault { addr: pc, write: false }),
            _ => {
                let esr = syndrome(INSTRUCTION_ABORT, EXTERNAL_ABORT);
                exception::take(self, 0, esr, Some(pc), pc).into()
            }
        }
    }

    /// What becomes of an instruction that did not simply end.
    #[cold]
    #[inline(never)]
    fn trapped(&mut self, word: u32, trap: Trap) -> Step {
        let pc = self.pc;
        let next = pc.wrapping_add(4);
        match trap {
            Trap::Look => {
                self.pc = self.next_pc;
                Step::Look
            }
            Trap::After(stop) => {
                self.pc = next;
                Step::Stop(stop)
            }
            Trap::At(stop) => Step::Stop(stop),
            Trap::Fault(kind) => Step::Stop(Stop::Fault(Fault { pc, word, kind })),
            Trap::Exception { esr, far, next: after } => {
                exception::take(self, word, esr, far, if after { next } else { pc }).into()
            }
        }
    }

    /// Whether an MMIO access waits for its answer.
    pub fn mmio_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Ends the MMIO access: a load gets the low bytes of `value`, extended as its instruction says; a store is done.
    /// Without a pending access this does nothing.
    pub fn complete_mmio(&mut self, value: u64) {
        match self.pending.take() {
            Some(Pending::Load { rt, len, signed, sf }) => self.set_x(rt, widen(value, len, signed, sf)),
            Some(Pending::Store) => {}
            None => return,
        }
        self.pc = self.pc.wrapping_add(4);
    }

    /// Forgets the MMIO access, so that the instruction is executed again.
    pub fn retry_mmio(&mut self) {
        self.pending = None;
    }

    /// Ends the MMIO access to `addr` with a synchronous external abort for the guest. The stop is a fault if the guest has
    /// no vectors. Without a pending access this does nothing.
    pub fn abort_mmio(&mut self, addr: u64) -> Option<Stop> {
        let write = self.pending.take()? == Pending::Store;
        match exception::data_abort(addr, EXTERNAL_ABORT, write) {
            Trap::Exception { esr, far, .. } => {
                let pc = self.pc;
                exception::take(self, 0, esr, far, pc)
            }
            _ => None,
        }
    }
}

/// Decodes the main groups. The loop is the only caller; left alone, some builds make a call of it.
#[inline(always)]
fn execute<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, word: u32) -> Exec {
    match bits(word, 28, 25) {
        0b1000 | 0b1001 => dp_imm::exec(cpu, word),
        0b1010 | 0b1011 => branch::exec(cpu, bus, word),
        0b0100 | 0b0110 | 0b1100 | 0b1110 => mem::exec(cpu, bus, word),
        0b0101 | 0b1101 => dp_reg::exec(cpu, word),
        // UDF is the one encoding that is undefined for ever: the guest asked for the exception.
        0b0000 if word >> 16 == 0 => {
            Err(Trap::Exception { esr: syndrome(UNDEFINED, 0), far: None, next: false })
        }
        _ => Err(UNKNOWN),
    }
}

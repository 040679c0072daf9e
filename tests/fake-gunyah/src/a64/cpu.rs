//! The registers of one CPU.

use super::alu::Nzcv;
use super::sysreg::System;

/// One arm64 CPU at EL1 with the MMU off: general registers, PSTATE and the system registers that small guests use.
///
/// It holds no memory: [`Cpu::run`] is given a [`super::Bus`].
#[derive(Clone, Debug)]
pub struct Cpu {
    x: [u64; 31],
    pub(super) sp_el0: u64,
    pub(super) sp_el1: u64,
    /// PSTATE.SP: false = SP_EL0, true = SP_EL1.
    pub(super) spsel: bool,
    pub(super) pc: u64,
    /// Where the instruction being executed goes on; branches change it.
    pub(super) next_pc: u64,
    pub(super) nzcv: Nzcv,
    /// PSTATE.{D,A,I,F} as bits 3 to 0.
    pub(super) daif: u8,
    pub(super) system: System,
    pub(super) monitor: Option<Monitor>,
    pub(super) pending: Option<Pending>,
}

/// What the last load-exclusive marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Monitor {
    pub(super) addr: u64,
    pub(super) len: u8,
    pub(super) value: u128,
}

/// The MMIO access that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// A load into `rt`.
    Load { rt: u32, len: u8, signed: bool, sf: bool },
    /// A store.
    Store,
}

impl Cpu {
    /// A CPU as it comes out of reset at EL1h, with all interrupts masked. `affinity` is its number, which `MPIDR_EL1`
    /// shows in its affinity fields (aff3 in bits 39..32, aff2 to aff0 in bits 23..0).
    pub fn new(affinity: u64) -> Self {
        Self {
            x: [0; 31],
            sp_el0: 0,
            sp_el1: 0,
            spsel: true,
            pc: 0,
            next_pc: 0,
            nzcv: 0,
            daif: 0xf,
            system: System::new(affinity),
            monitor: None,
            pending: None,
        }
    }

    /// Register `Xn`; 31 and above read as zero.
    pub fn x(&self, n: u32) -> u64 {
        self.x.get(n as usize).copied().unwrap_or(0)
    }

    /// Sets register `Xn`; 31 and above are ignored.
    pub fn set_x(&mut self, n: u32, value: u64) {
        if let Some(slot) = self.x.get_mut(n as usize) {
            *slot = value;
        }
    }

    /// The program counter.
    pub fn pc(&self) -> u64 {
        self.pc
    }

    /// Sets the program counter.
    pub fn set_pc(&mut self, pc: u64) {
        self.pc = pc;
    }

    /// The stack pointer in use.
    pub fn sp(&self) -> u64 {
        if self.spsel { self.sp_el1 } else { self.sp_el0 }
    }

    /// Sets the stack pointer in use.
    pub fn set_sp(&mut self, value: u64) {
        if self.spsel {
            self.sp_el1 = value;
        } else {
            self.sp_el0 = value;
        }
    }

    /// Sets the stack pointers of EL0 and EL1, whichever is in use.
    pub fn set_stack_pointers(&mut self, sp_el0: u64, sp_el1: u64) {
        self.sp_el0 = sp_el0;
        self.sp_el1 = sp_el1;
    }

    /// PSTATE's interrupt masks: D, A, I, F as bits 3 to 0.
    pub fn daif(&self) -> u8 {
        self.daif
    }

    /// The condition flags: N, Z, C, V as bits 3 to 0.
    pub fn nzcv(&self) -> u8 {
        self.nzcv
    }

    /// Sets the condition flags.
    pub fn set_nzcv(&mut self, nzcv: u8) {
        self.nzcv = nzcv & 0xf;
    }

    /// Register `Xn`, or the stack pointer for 31.
    pub(super) fn x_or_sp(&self, n: u32) -> u64 {
        if n == 31 { self.sp() } else { self.x(n) }
    }

    /// Sets `Xn`, or the stack pointer for 31.
    pub(super) fn set_x_or_sp(&mut self, n: u32, value: u64) {
        if n == 31 {
            self.set_sp(value);
        } else {
            self.set_x(n, value);
        }
    }
}

//! An A64 interpreter for small bare-metal guests.
//!
//! It executes what compilers make of integer code, and what such guests do to the system: all integer data processing,
//! loads and stores in every addressing mode, exclusives and LSE atomics, branches, the usual system registers,
//! exceptions and interrupts at EL1, the generic timers. There is no floating point, no SIMD, no MMU, no EL0; the
//! identification registers say so, and an instruction that needs one of them is a [`Fault`], never a wrong result.
//!
//! The interrupt controller is the [`Bus`]'s; without one, its registers do not exist and the timers can only be polled.
//!
//! With the MMU off every data access is a Device access, and so must be aligned; an unaligned one is an alignment fault
//! for the guest, as on hardware. Compile guests with `-mstrict-align` (rustc: `-C target-feature=+strict-align`).
//! Atomics are kinder than hardware: there they need Normal memory, here they work on RAM.
//!
//! A load or store outside RAM stops the CPU with [`Stop::MmioRead`] or [`Stop::MmioWrite`], if it is one of those that
//! hardware can describe to a hypervisor: one general register, no write-back, no exclusive or atomic.
//!
//! The interpreter is safe code without state of its own outside [`Cpu`]; the same CPU and memory always give the same
//! result, and no instruction word makes it panic.

mod alu;
mod branch;
mod bus;
mod cpu;
mod dp_imm;
mod dp_reg;
mod exception;
mod icc;
mod mem;
mod mem_atomic;
mod run;
mod stop;
mod sysreg;
mod system;

pub use bus::{Bus, Interrupts, RamAccess, Timer};
pub use cpu::Cpu;
pub use icc::IccRegister;
pub use stop::{Fault, FaultKind, Stop};

/// How often the system counter ticks in a second; `CNTFRQ_EL0` says the same.
pub const COUNTER_HZ: u64 = 1_000_000_000;

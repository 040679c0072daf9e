//! What the interpreter needs from the world around the CPU.

use super::IccRegister;

/// How an access to guest RAM went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RamAccess {
    /// All bytes were transferred.
    Done,
    /// There is no RAM at the address (or not for all of the bytes): a load or store becomes an MMIO exit.
    NotRam,
    /// There is RAM, and the guest may not do this to it: the guest takes a synchronous external abort.
    Denied,
    /// There will be RAM, and it is not mapped yet: the vCPU stops with a page fault and tries again when it next runs.
    NotMapped,
}

/// The interrupts that an interrupt controller signals to a CPU: the levels of its two inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupts {
    /// Taken while PSTATE.I is clear.
    pub irq: bool,
    /// Taken while PSTATE.F is clear, before an IRQ.
    pub fiq: bool,
}

/// The timers that a CPU has at EL1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// `CNTV_*`.
    Virtual,
    /// `CNTP_*`.
    Physical,
}

/// The CPU's view of memory, time and interrupts.
///
/// Addresses are guest physical ones (IPAs): the MMU is off. The methods with a default are those of an interrupt controller;
/// as they stand there is none.
pub trait Bus {
    /// Fetches the instruction at `addr`, a multiple of 4.
    ///
    /// An implementation may answer from a cache until [`Bus::forget_instructions`] is called.
    ///
    /// # Errors
    ///
    /// Why the memory cannot be executed; never [`RamAccess::Done`].
    fn fetch(&mut self, addr: u64) -> Result<u32, RamAccess>;
    /// Loads `buf.len()` bytes: 1, 2, 4, 8 or 16, naturally aligned, as one access.
    fn load(&mut self, addr: u64, buf: &mut [u8]) -> RamAccess;
    /// Stores `data.len()` bytes: 1, 2, 4, 8 or 16, naturally aligned, as one access.
    fn store(&mut self, addr: u64, data: &[u8]) -> RamAccess;
    /// If the `len` bytes at `addr` hold `current`, stores `new`, as one access; gives what was there before.
    ///
    /// # Errors
    ///
    /// Why the memory cannot be accessed; never [`RamAccess::Done`].
    fn compare_exchange(&mut self, addr: u64, len: u8, current: u128, new: u128) -> Result<u128, RamAccess>;
    /// The system counter, which `CNTVCT_EL0` and `CNTPCT_EL0` show; it counts [`super::COUNTER_HZ`] per second.
    fn counter(&mut self) -> u64;
    /// The guest invalidated instruction caches: later fetches, on every CPU, see what is in memory now.
    fn forget_instructions(&mut self) {}
    /// What the interrupt controller signals to this CPU now.
    ///
    /// Asked when a run begins, and after every instruction that may let an interrupt in. What arrives from
    /// elsewhere in the middle of a run is therefore taken when the next one begins, which the architecture allows.
    fn interrupts(&mut self) -> Interrupts {
        Interrupts::default()
    }
    /// Reads a register of the GIC's CPU interface. `None`: there is none, or it cannot be read.
    fn icc_read(&mut self, register: IccRegister) -> Option<u64> {
        let _ = register;
        None
    }
    /// Writes a register of the GIC's CPU interface. `None`: there is none, or it cannot be written.
    fn icc_write(&mut self, register: IccRegister, value: u64) -> Option<()> {
        let _ = (register, value);
        None
    }
    /// A timer was set: its interrupt is there when the counter has reached `from`, until it is set anew; never for
    /// `None`. False: nothing could take that interrupt.
    fn set_timer(&mut self, timer: Timer, from: Option<u64>) -> bool {
        let _ = timer;
        from.is_none()
    }
}

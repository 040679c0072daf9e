//! What the interpreter needs from the world around the CPU.

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

/// The CPU's view of memory and time.
///
/// Addresses are guest physical ones (IPAs): the MMU is off.
pub trait Bus {
    /// Fetches the instruction at `addr`, a multiple of 4.
    ///
    /// An implementation may answer from a cache until [`Bus::forget_instructions`] is called.
    fn fetch(&mut self, addr: u64) -> Result<u32, RamAccess>;
    /// Loads `buf.len()` bytes: 1, 2, 4, 8 or 16, naturally aligned, as one access.
    fn load(&mut self, addr: u64, buf: &mut [u8]) -> RamAccess;
    /// Stores `data.len()` bytes: 1, 2, 4, 8 or 16, naturally aligned, as one access.
    fn store(&mut self, addr: u64, data: &[u8]) -> RamAccess;
    /// If the `len` bytes at `addr` hold `current`, stores `new`, as one access; gives what was there before.
    fn compare_exchange(&mut self, addr: u64, len: u8, current: u128, new: u128) -> Result<u128, RamAccess>;
    /// The system counter, which `CNTVCT_EL0` and `CNTPCT_EL0` show; it counts [`super::COUNTER_HZ`] per second.
    fn counter(&mut self) -> u64;
    /// The guest invalidated instruction caches: later fetches, on every CPU, see what is in memory now.
    fn forget_instructions(&mut self) {}
}

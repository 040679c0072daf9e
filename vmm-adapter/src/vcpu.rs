//! A virtual CPU.

use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::error::Result;
use crate::io::IoHandler;

/// Why [`Vcpu::run`] came back.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuExit {
    /// A [kick](Kicker::kick), or a signal for the thread.
    Interrupted,
    /// The guest turned itself off, or the host ended it.
    PowerOff(ExitDetails),
    /// The guest wants to start again. A new VM does that, on every backend: lent memory cannot be filled again.
    Reset(ExitDetails),
    /// The guest, or the hypervisor for it, gave up.
    Crashed(ExitDetails),
}

/// What the hypervisor said about a VM's end. Everything it gave is kept, for bug reports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ExitDetails {
    /// What it means.
    pub cause: ExitCause,
    /// The number of the exit type. Gunyah: 0 asked for, 1 SYSTEM_OFF, 2 SYSTEM_RESET, 3 SYSTEM_RESET2, 4 watchdog,
    /// 5 hypervisor or software error, 6 asynchronous hardware error, 7 stopped by the host. KVM, its numbers of exits: 8 shutdown (a
    /// triple fault), 9 the processor refused to enter, 17 an internal error, 24 a system event, 28 an access that the processor does not
    /// describe, with the address of the instruction as the reason. `None` when there was none.
    pub raw_type: Option<u16>,
    /// How many bytes of reason there were. May be more than the eight that arrive.
    pub reason_size: u32,
    /// The first eight bytes of the reason, zeros where there were fewer.
    pub reason: [u8; 8],
}

impl ExitDetails {
    /// The bytes of the reason that were sent and arrived.
    pub fn reason(&self) -> &[u8] {
        let len = usize::try_from(self.reason_size).map_or(8, |size| size.min(8));
        self.reason.get(..len).unwrap_or_default()
    }
}

impl fmt::Display for ExitDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if let Some(raw) = self.raw_type {
            write!(f, " (exit type {raw}, {} bytes of reason:", self.reason_size)?;
            for byte in self.reason() {
                write!(f, " {byte:02x}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl Debug for ExitDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExitDetails({self})")
    }
}

/// Why a VM ended.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitCause {
    /// The guest turned itself off.
    SystemOff,
    /// The guest reset itself.
    SystemReset,
    /// The guest asked to be ended, with a code of its own: 0 normal, 1 software error, 2 unknown, 3 bus error, 4 device
    /// error.
    GuestAsked(u16),
    /// The guest's watchdog bit.
    Watchdog,
    /// An error of the hypervisor, or of the guest's software that the hypervisor cannot get over.
    Fault,
    /// An asynchronous hardware error.
    Hardware,
    /// The host stopped the VM.
    StoppedByHost,
    /// The VM could not be loaded.
    LoadFailed,
    /// The hypervisor's word for it is not known; see [`ExitDetails::raw_type`].
    Unknown,
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SystemOff => "the guest turned itself off",
            Self::SystemReset => "the guest reset itself",
            Self::GuestAsked(code) => return write!(f, "the guest asked to be ended with code {code}"),
            Self::Watchdog => "the guest's watchdog bit",
            Self::Fault => "hypervisor or software error",
            Self::Hardware => "asynchronous hardware error",
            Self::StoppedByHost => "the host stopped the VM",
            Self::LoadFailed => "the VM could not be loaded",
            Self::Unknown => "the VM ended for an unknown reason",
        })
    }
}

/// A virtual CPU. It belongs to the thread that runs it.
///
/// Dropping it takes the vCPU out of the VM, as far as the hypervisor lets it.
pub trait Vcpu: Debug + Send {
    /// Its number, from 0.
    fn id(&self) -> u32;

    /// Runs the guest, handing its I/O to `io`, until the VMM must decide something.
    ///
    /// Every vCPU's thread can be started at once: a vCPU that is off waits inside.
    /// After the VM's end every call gives the same exit again, on every vCPU.
    ///
    /// A guest that does what cannot be carried out for it is [`VcpuExit::Crashed`], and the end of its VM. On arm64 that may be an
    /// access to a device by an instruction that the processor does not describe: of a pair of registers, or with write-back. Drivers
    /// that go by the rules, Linux's for example, have no such instructions.
    ///
    /// # Errors
    /// - [`WrongState`](crate::Error::WrongState): the VM is not started, or its start failed.
    /// - [`UnknownExit`](crate::Error::UnknownExit): the kernel gave a reason that is not known.
    /// - [`Backend`](crate::Error::Backend): the kernel refused or answered nonsense (a width of 200 bytes, say); or the
    ///   guest touches memory that the kernel cannot provide, again and again.
    fn run(&mut self, io: &dyn IoHandler) -> Result<VcpuExit>;

    /// A handle that ends [`Vcpu::run`] from another thread. Any phase.
    fn kicker(&self) -> Arc<dyn Kicker>;

    /// How many answers to the guest's loads an interruption may have cost so far: an upper bound. Any phase.
    ///
    /// Gunyah's kernels drop an answer when a signal arrives between a vCPU thread's entry into the kernel and the guest's
    /// first instruction; the guest then reads 0. Kicks keep away from that moment, unless the thread does not get to run
    /// there for long. Where the hypervisor has no such window this is 0.
    fn answers_possibly_lost(&self) -> u64;

    /// Register access, where there is [`Feature::Registers`](crate::Feature::Registers).
    fn registers(&mut self) -> Option<&mut dyn Registers>;
}

/// Ends a [`Vcpu::run`] from another thread.
pub trait Kicker: Debug + Send + Sync {
    /// Makes the current or the next `run` give [`VcpuExit::Interrupted`], once. Any number of kicks before that count as
    /// one. It is never lost, and it may be called from a signal handler.
    fn kick(&self);
}

/// Access to a vCPU's registers, by the backend's own numbers. Any phase, while the vCPU does not run.
///
/// KVM: the module `kvm::registers` has the numbers; values have 32 bits or 64. Before the start there are what a new vCPU
/// has; from the start on vCPU 0 has the entry and the devicetree's address, which overwrite what was set before in those registers,
/// and on x86_64 in all but the model-specific ones. Gunyah has no registers: [`Vcpu::registers`] is `None`.
pub trait Registers {
    /// Reads a register. One of 32 bits is in the low half.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): there is no such register, or it is wider than 64 bits.
    /// - [`Backend`](crate::Error::Backend): KVM refused. On arm64 ENOENT (or EINVAL from older kernels) is its word for a register that
    ///   does not exist.
    fn get(&mut self, id: u64) -> Result<u64>;

    /// Writes a register. Of one of 32 bits the low half of `value` counts.
    ///
    /// # Errors
    /// As [`Registers::get`], and [`Backend`](crate::Error::Backend) with EINVAL for a value that the processor does not take.
    fn set(&mut self, id: u64, value: u64) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_print_what_arrived() {
        let details = ExitDetails {
            cause: ExitCause::Fault,
            raw_type: Some(5),
            reason_size: 16,
            reason: [1, 2, 3, 4, 5, 6, 7, 8],
        };
        assert_eq!(
            details.to_string(),
            "hypervisor or software error (exit type 5, 16 bytes of reason: 01 02 03 04 05 06 07 08)"
        );
        let none =
            ExitDetails { cause: ExitCause::LoadFailed, raw_type: None, reason_size: 0, reason: [0; 8] };
        assert_eq!(none.to_string(), "the VM could not be loaded");
        assert_eq!(none.reason(), []);
    }
}

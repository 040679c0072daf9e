//! Why a vCPU stopped running.

use std::fmt;

/// Why [`VcpuFd::run`](crate::VcpuFd::run) returned. A plain value: nothing in it refers to the run page.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuExit {
    /// The guest loads from an address without memory.
    ///
    /// Answer with [`VcpuFd::complete_mmio_read`](crate::VcpuFd::complete_mmio_read) before the next `run`.
    MmioRead {
        /// The guest physical address.
        addr: u64,
        /// The width in bytes: 1, 2, 4 or 8.
        len: usize,
    },
    /// The guest stores to an address without memory, or to memory that it may not write.
    ///
    /// Nothing needs to be answered.
    MmioWrite {
        /// The guest physical address.
        addr: u64,
        /// The bytes stored, in the order of their addresses; the first `len` count, the others are 0.
        data: [u8; 8],
        /// The width in bytes: 1, 2, 4 or 8.
        len: usize,
    },
    /// The guest touched memory that the kernel could not provide (v17, android15, android16).
    ///
    /// Running again executes the instruction again; the kernels take no other answer. See
    /// [`VcpuFd::run`](crate::VcpuFd::run) for what happens when the fault repeats.
    PageFault {
        /// The guest physical address.
        addr: u64,
        /// Why the kernel's own attempt failed, as a positive errno: ENOENT nothing is mapped there, EPERM a store to
        /// read-only memory or memory that the host still maps, ENOMEM the limit of locked memory or the hypervisor's
        /// page tables.
        attempt: i32,
    },
    /// The VM has ended. Every vCPU gets this, and every later `run` returns it again.
    Status(VmStatus),
    /// The guest did not stop by itself: a [kick](crate::KickHandle::kick) or another signal ended `run`.
    Interrupted,
    /// The kernel gave an exit reason that this crate does not know; 0 when it gave none.
    Unknown(u32),
}

/// How a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmStatus {
    /// The Resource Manager could not load the VM. Seen from early kernels only; later ones fail the start.
    LoadFailed,
    /// The VM exited.
    Exited(ExitInfo),
    /// The VM is in a state from which it cannot run, such as a failed start.
    Crashed(ExitInfo),
}

/// What the Resource Manager said about the VM's exit. All zero when it said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitInfo {
    /// The kind of exit.
    pub kind: ExitType,
    /// The number behind [`ExitInfo::kind`].
    pub raw: u16,
    /// How many bytes of reason the Resource Manager sent. May be more than the eight that reach user space.
    pub reason_size: u32,
    /// The first bytes of the reason; see [`ExitInfo::reason`] for those that count.
    pub reason_bytes: [u8; 8],
}

impl ExitInfo {
    pub(crate) fn new(raw: u16, reason_size: u32, reason_bytes: [u8; 8]) -> Self {
        Self { kind: ExitType::from(raw), raw, reason_size, reason_bytes }
    }

    /// The bytes of the reason that were sent and arrived: at most eight.
    pub fn reason(&self) -> &[u8] {
        let len = usize::try_from(self.reason_size).map_or(8, |size| size.min(8));
        self.reason_bytes.get(..len).unwrap_or_default()
    }

    /// The first word of the reason, if one was sent.
    pub fn reason_word(&self) -> Option<u32> {
        self.reason().first_chunk().map(|word| u32::from_le_bytes(*word))
    }

    /// For [`ExitType::VmExit`], the code that the guest gave, if it gave one.
    pub fn guest_code(&self) -> Option<GuestExitCode> {
        if self.kind != ExitType::VmExit {
            return None;
        }
        self.reason_word().map(|word| GuestExitCode { flags: word as u16, code: (word >> 16) as u16 })
    }
}

/// What a guest says when it asks the Resource Manager to end its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestExitCode {
    /// Flags: bit 0 asks for a restart.
    pub flags: u16,
    /// 0 normal, 1 software error, 2 unknown, 3 bus error, 4 device error.
    pub code: u16,
}

/// The kinds of VM exit of the Resource Manager.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitType {
    /// 0: the guest asked the Resource Manager to end it; see [`ExitInfo::guest_code`].
    VmExit,
    /// 1: the guest turned itself off (PSCI SYSTEM_OFF).
    SystemOff,
    /// 2: the guest reset itself (PSCI SYSTEM_RESET).
    SystemReset,
    /// 3: the guest reset itself (PSCI SYSTEM_RESET2). Sends 16 bytes of reason, of which 8 arrive.
    SystemReset2,
    /// 4: the guest's watchdog bit.
    WatchdogBite,
    /// 5: an error of the hypervisor or of software, such as a vCPU that cannot go on.
    HypervisorError,
    /// 6: an asynchronous hardware error.
    HardwareError,
    /// 7: the host stopped the VM.
    ForceStopped,
    /// A number that this crate does not know.
    Other(u16),
}

impl From<u16> for ExitType {
    fn from(raw: u16) -> Self {
        match raw {
            0 => Self::VmExit,
            1 => Self::SystemOff,
            2 => Self::SystemReset,
            3 => Self::SystemReset2,
            4 => Self::WatchdogBite,
            5 => Self::HypervisorError,
            6 => Self::HardwareError,
            7 => Self::ForceStopped,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for ExitType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VmExit => "the guest asked to end",
            Self::SystemOff => "the guest turned itself off",
            Self::SystemReset | Self::SystemReset2 => "the guest reset itself",
            Self::WatchdogBite => "the guest's watchdog bit",
            Self::HypervisorError => "hypervisor or software error",
            Self::HardwareError => "asynchronous hardware error",
            Self::ForceStopped => "stopped by the host",
            Self::Other(raw) => return write!(f, "exit type {raw}"),
        })
    }
}

impl fmt::Display for VmStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadFailed => f.write_str("the VM could not be loaded"),
            Self::Exited(info) => write!(f, "the VM exited: {}", info.kind),
            Self::Crashed(_) => f.write_str("the VM crashed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_never_longer_than_what_arrived() {
        let info = ExitInfo::new(3, 16, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(info.reason(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(info.kind, ExitType::SystemReset2);
        assert_eq!(ExitInfo::new(1, 0, [9; 8]).reason(), []);
        assert_eq!(ExitInfo::new(1, u32::MAX, [9; 8]).reason().len(), 8);
        assert_eq!(ExitInfo::new(1, 3, [9; 8]).reason_word(), None);
    }

    #[test]
    fn a_guests_exit_code_is_split() {
        let info = ExitInfo::new(0, 4, [1, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(info.guest_code(), Some(GuestExitCode { flags: 1, code: 4 }));
        assert_eq!(ExitInfo::new(1, 4, [1, 0, 4, 0, 0, 0, 0, 0]).guest_code(), None);
    }

    #[test]
    fn every_number_is_kept() {
        for raw in 0..=u16::MAX {
            let kind = ExitType::from(raw);
            assert_eq!(matches!(kind, ExitType::Other(_)), raw > 7);
        }
    }
}

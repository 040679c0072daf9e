//! What a host has, found out feature by feature.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use crate::ops;

/// A Gunyah ABI by where it ships. For people and logs; code asks [`Features`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The mailing lists from v11 to v13.
    V11,
    /// Early snapshots of android14-6.1.
    Android14Early,
    /// android14-6.1 as shipped.
    Android14,
    /// android15-6.6.
    Android15,
    /// android16-6.12.
    Android16,
    /// The guest-memory form of the mailing lists, v15 to v17.
    V17,
    /// The vendor ABI of kernels 5.10 and 5.15 (ioctl type 0xB2): recognised, not driven.
    Vendor,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V11 => "v11",
            Self::Android14Early => "android14-early",
            Self::Android14 => "android14",
            Self::Android15 => "android15",
            Self::Android16 => "android16",
            Self::V17 => "v17",
            Self::Vendor => "vendor",
        })
    }
}

/// One thing that a host may have.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Guest memory from the caller's own mappings: every flavour but v17.
    UserMemory,
    /// Guest memory from file descriptors of its own: v17.
    GuestMemory,
    /// Lending user memory: the Android flavours.
    Lend,
    /// A firmware region, for protected VMs: the Android flavours.
    Firmware,
    /// Initial registers: v17, android15, android16.
    BootContext,
    /// Taking pages back from a running guest: android15 and android16.
    Reclaim,
    /// Guest memory from a reserved contiguous region: android16.
    Cma,
    /// Choosing who authenticates the VM: android16.
    AuthType,
    /// Asking for extensions by number: android16, but for its first builds.
    CheckExtension,
    /// The vCPU can be told not to wake up for its timer (extension 0): android16.
    VcpuTimerWakeup,
}

impl Feature {
    const ALL: [(Self, &'static str); 10] = [
        (Self::UserMemory, "user-memory"),
        (Self::GuestMemory, "guest-memory"),
        (Self::Lend, "lend"),
        (Self::Firmware, "firmware"),
        (Self::BootContext, "boot-context"),
        (Self::Reclaim, "reclaim"),
        (Self::Cma, "cma"),
        (Self::AuthType, "auth-type"),
        (Self::CheckExtension, "check-extension"),
        (Self::VcpuTimerWakeup, "vcpu-timer-wakeup"),
    ];

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// What this host has, as it answered on the file descriptors in use.
///
/// Hosts mix features of several flavours, so decide by features; [`Features::flavour`] is a name for logs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Features {
    bits: u32,
    early: bool,
}

impl Features {
    /// Whether the host has `feature`.
    pub const fn has(&self, feature: Feature) -> bool {
        self.bits & feature.bit() != 0
    }

    /// Every feature the host has.
    pub fn iter(&self) -> impl Iterator<Item = Feature> + '_ {
        Feature::ALL.iter().map(|(feature, _)| *feature).filter(|feature| self.has(*feature))
    }

    /// The flavour that these features resemble most.
    pub const fn flavour(&self) -> Flavour {
        if self.has(Feature::Cma) {
            Flavour::Android16
        } else if self.has(Feature::Reclaim) {
            Flavour::Android15
        } else if self.has(Feature::GuestMemory) {
            Flavour::V17
        } else if self.has(Feature::BootContext) {
            // The first builds of android15 had no reclaim call yet.
            if self.has(Feature::UserMemory) { Flavour::Android15 } else { Flavour::V17 }
        } else if self.early {
            Flavour::Android14Early
        } else if self.has(Feature::Lend) {
            Flavour::Android14
        } else {
            Flavour::V11
        }
    }

    /// Whether memory may be added while the VM runs (v17, android15, android16): guest memory where the host has it, else
    /// user memory.
    ///
    /// The earlier kernels take such memory and never show it to the guest.
    pub const fn memory_after_start(&self) -> bool {
        self.has(Feature::BootContext)
    }

    /// Whether user memory may be added while the VM runs (android15, android16).
    ///
    /// Not on a host that has guest memory beside it. Such hosts were seen; they hand user memory to the Resource Manager as
    /// parcels, which only a start does, and whether they look at what comes later is not known.
    pub const fn user_memory_after_start(&self) -> bool {
        self.has(Feature::UserMemory) && self.has(Feature::BootContext) && !self.has(Feature::GuestMemory)
    }

    /// Whether an MMIO access can be answered by a fault in the guest (v17, android15, android16).
    ///
    /// There is no ioctl to ask for this; the kernels that have boot registers have it.
    pub const fn mmio_fault(&self) -> bool {
        self.has(Feature::BootContext)
    }

    /// Whether an MMIO access can be answered by running the instruction again (v17).
    ///
    /// The Android kernels refuse that answer with EINVAL, so only guest memory counts as a sign of it.
    pub const fn mmio_retry(&self) -> bool {
        self.has(Feature::BootContext) && self.has(Feature::GuestMemory)
    }

    /// Whether guest memory is provided on touch, so that page-fault exits happen (v17, android15, android16).
    pub const fn page_faults(&self) -> bool {
        self.has(Feature::BootContext)
    }

    /// Whether removing an ioeventfd may remove others at its address: android14, and the last kernels of the v11 form, which
    /// cannot be told from v11.
    pub(crate) const fn removal_takes_siblings(&self) -> bool {
        !self.early && !self.memory_after_start()
    }

    /// Early android14 kernels keep locks held after a failed call.
    pub(crate) const fn failures_are_final(&self) -> bool {
        self.early
    }

    /// Asks the VM's file descriptor. Every question changes nothing: nine ioctls, of which eight carry a null pointer.
    pub(crate) fn detect(device: DeviceFeatures, vm: BorrowedFd<'_>) -> Self {
        let mut bits = 0;
        let mut note = |feature: Feature, present: bool| {
            if present {
                bits |= feature.bit();
            }
        };
        note(Feature::GuestMemory, device.guest_memory && present(ops::VM_MAP_MEM.probe(vm)));
        note(Feature::UserMemory, present(ops::SET_USER_MEM_REGION.probe(vm)));
        note(Feature::BootContext, present(ops::SET_BOOT_CONTEXT.probe(vm)));
        note(Feature::Lend, present(ops::LEND_USER_MEM.probe(vm)));
        note(Feature::Firmware, present(ops::SET_FW_CONFIG.probe(vm)));
        note(Feature::Reclaim, present(ops::RECLAIM_REGION.probe(vm)));
        note(Feature::Cma, present(ops::MAP_CMA_MEM.probe(vm)));
        note(Feature::AuthType, present(ops::SET_AUTH_TYPE.probe(vm)));
        if let Ok(answer) = ops::CHECK_EXTENSION.call(vm, ops::EXTENSION_VCPU_TIMER_WAKEUP) {
            note(Feature::CheckExtension, true);
            note(Feature::VcpuTimerWakeup, answer > 0);
        }
        Self { bits, early: device.tentative }
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.flavour())?;
        let names = Feature::ALL.iter().filter(|(feature, _)| self.has(*feature)).map(|(_, name)| *name);
        for (index, name) in names.enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

/// Whether the answer to a null pointer says that the ioctl exists.
///
/// EFAULT: the copy failed. EPERM: the check of the caller comes before the copy. EOPNOTSUPP: the ioctl is there, the
/// hypervisor is too old for it. A missing ioctl is ENOTTY, or ENODEV on one vendor's 6.1 kernel.
fn present(answer: io::Result<i32>) -> bool {
    matches!(
        answer.map_err(|error| error.raw_os_error()),
        Err(Some(libc::EFAULT | libc::EPERM | libc::EOPNOTSUPP | libc::EINTR))
    )
}

/// What the device's file descriptor answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeviceFeatures {
    /// Unknown ioctls give EINVAL: the vendor ABI.
    pub(crate) vendor: bool,
    /// Guest memory can be created.
    pub(crate) guest_memory: bool,
    /// The call that only the early android14 kernels have.
    tentative: bool,
}

impl DeviceFeatures {
    /// Asks the device's file descriptor: one to three ioctls that change nothing.
    pub(crate) fn detect(device: BorrowedFd<'_>) -> Self {
        let unknown = ops::UNKNOWN.call(device, 0).map_err(|error| error.raw_os_error());
        if unknown == Err(Some(libc::EINVAL)) {
            return Self { vendor: true, guest_memory: false, tentative: false };
        }
        Self {
            vendor: false,
            guest_memory: present(ops::CREATE_GUEST_MEM.probe(device)),
            tentative: ops::TENTATIVE.call(device, 0).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(list: &[Feature]) -> Features {
        Features { bits: list.iter().fold(0, |bits, feature| bits | feature.bit()), early: false }
    }

    #[test]
    fn each_feature_has_its_own_bit() {
        let all = Feature::ALL.iter().fold(0, |bits, (feature, _)| bits | feature.bit());
        assert_eq!(all.count_ones() as usize, Feature::ALL.len());
    }

    #[test]
    fn a_mixed_host_is_named_after_its_guest_memory() {
        use Feature::{BootContext, GuestMemory, Lend, UserMemory};
        let mixed = features(&[GuestMemory, UserMemory, Lend, BootContext]);
        assert_eq!(mixed.flavour(), Flavour::V17);
        assert!(mixed.has(Lend) && mixed.mmio_retry());
        assert!(mixed.memory_after_start() && !mixed.user_memory_after_start());
        assert!(features(&[UserMemory, BootContext]).user_memory_after_start());
        assert_eq!(mixed.to_string(), "v17 (user-memory, guest-memory, lend, boot-context)");
    }

    #[test]
    fn the_first_android15_builds_are_named_without_reclaim() {
        use Feature::{BootContext, Firmware, Lend, UserMemory};
        assert_eq!(features(&[UserMemory, Lend, Firmware, BootContext]).flavour(), Flavour::Android15);
        assert_eq!(features(&[UserMemory, Lend, Firmware]).flavour(), Flavour::Android14);
        assert_eq!(features(&[UserMemory]).flavour(), Flavour::V11);
    }
}

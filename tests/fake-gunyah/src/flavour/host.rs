//! Hosts that were seen running and are no flavour of their own.

use std::fmt;
use std::str::FromStr;

use super::{Differences, Flavour, Pinning, SharedExec, v17};

/// A host that was seen running. Its kernel, its Resource Manager and their builds come from different places.
///
/// Both are the open hypervisor and Resource Manager of December 2023 under a Linux host driver of the v17 line, as they ran
/// under emulation:
///
/// | asked | answered |
/// |---|---|
/// | user memory, shared and lent, beside guest memory files | yes; no firmware call |
/// | the vCPU calls | as in v17 |
/// | `SET_BOOT_CONTEXT` | 0, and then `VM_START` is `EOPNOTSUPP` |
/// | an image (the parcel with the devicetree) that is shared | the production build: `VM_START` is `ENODEV`; the debug build takes it |
/// | a shared region beside lent memory | needs an `shm` vdevice with its label |
/// | an image whose label is not 0 | a `no-map` buffer over it in the guest's `/reserved-memory` |
/// | a devicetree of more than 16 KiB with the Resource Manager's nodes | the start fails (with what errno was not noted: `EINVAL` here) |
/// | `RUN` at the moment the VM ends | now and then `EBUSY`; here each time, once for each vCPU of which the hypervisor is asked |
///
/// When user memory reaches the guest was not noted. It is taken to be given at the start, whole, as labels and parcels suggest: what is
/// added later is then lost, which is the worse case for a VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// With the production build of the Resource Manager.
    Open2023,
    /// With the debug build.
    Open2023Debug,
}

impl Host {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Open2023, Self::Open2023Debug];

    /// The name, as `--host` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open2023 => "open-2023",
            Self::Open2023Debug => "open-2023-debug",
        }
    }

    /// The flavour that it resembles most.
    #[must_use]
    pub fn flavour(self) -> Flavour {
        Flavour::V17
    }

    /// What this host does where hosts differ.
    #[must_use]
    pub fn differences(self) -> Differences {
        Differences {
            user_memory: true,
            lend: true,
            pinning: Pinning::AtOnce,
            shared_exec: SharedExec::AsAsked,
            rm_takes_boot_context: false,
            rm_takes_shared_image: self == Self::Open2023Debug,
            rm_largest_tree: Some(16 << 10),
            busy_at_end: true,
            ..v17::DIFFERENCES
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no host's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no host is called {0:?}; there are open-2023 and open-2023-debug")]
pub struct UnknownHost(String);

impl FromStr for Host {
    type Err = UnknownHost;

    fn from_str(name: &str) -> Result<Self, UnknownHost> {
        Self::ALL.into_iter().find(|host| host.name() == name).ok_or_else(|| UnknownHost(name.to_owned()))
    }
}

//! The Gunyah backend, on every flavour that `gunyah-ioctls` drives.
//!
//! What differs between flavours, as the [capabilities](crate::Capabilities) of a VM tell it:
//!
//! | | v11 | android14(-early) | android15 | android16 | v17 |
//! |---|---|---|---|---|---|
//! | [`PlainVm`](Feature::PlainVm) | yes | yes | no: shared memory is never executable | yes | no: every VM is isolated |
//! | [`PrivateMemory`](Feature::PrivateMemory) | no | yes | yes | yes | yes |
//! | [`OwnMemory`](Feature::OwnMemory), [`ReadOnlyMemory`](Feature::ReadOnlyMemory) | yes | yes | yes | yes | no: [`Vm::allocate`] |
//! | [`Firmware`](Feature::Firmware) | no | yes | yes | yes | no |
//! | [`BootContext`](Feature::BootContext), [`MmioFault`](Feature::MmioFault), [`Reclaim`](Feature::Reclaim) | no | no | yes | yes | yes |
//! | [`TrustedVm`](Feature::TrustedVm), [`ReservedMemory`](Feature::ReservedMemory) | no | no | no | yes | no |
//!
//! android14's plain VMs depend on its Resource Manager: [`VmKind::Any`] is the safe choice.
//!
//! The kernels take a region's access rights, and the hypervisor keeps the guest to them; crosvm, for one, gives Gunyah no read-only
//! regions, so hardly anybody has tried that on phones.
//!
//! No flavour has registers, dirty-page tracking, or memory that comes back.

mod error;
mod exit;
mod functions;
mod memory;
mod policy;
mod reclaim;
mod sys;
mod tree;
mod vcpu;
mod vm;

use std::path::Path;
use std::sync::Arc;

use crate::caps::{Backend, Capabilities, Feature, GuestArch};
use crate::config::{VmConfig, VmKind};
use crate::error::Result;
use crate::hypervisor::Hypervisor;
use crate::vm::Vm;

pub use policy::{MEMORY_POLICIES, MemoryModel, MemoryPolicy};

/// As [`crate::set_kick_signal`].
pub(crate) fn set_kick_signal(signal: i32) -> Result<()> {
    gunyah_ioctls::set_kick_signal(signal).map_err(error::backend("set_kick_signal"))
}

/// Gunyah on this host.
#[derive(Debug)]
pub struct Gunyah {
    device: Arc<gunyah_ioctls::Gunyah>,
    capabilities: Capabilities,
}

impl Gunyah {
    /// Where the kernel puts the device.
    pub const DEFAULT_PATH: &str = gunyah_ioctls::Gunyah::DEFAULT_PATH;

    /// Opens [`Gunyah::DEFAULT_PATH`].
    ///
    /// # Errors
    /// As [`Gunyah::open_path`].
    pub fn open() -> Result<Self> {
        Self::open_path(Self::DEFAULT_PATH)
    }

    /// Opens the device at `path`. Whether it is a Gunyah device is found out by [`Hypervisor::create_vm`].
    ///
    /// # Errors
    /// [`Backend`](crate::Error::Backend), with the errno of `open`: ENOENT for a node that is not there, EACCES for one
    /// that may not be opened.
    pub fn open_path(path: impl AsRef<Path>) -> Result<Self> {
        gunyah_ioctls::Gunyah::new_with_path(path).map(Self::from).map_err(error::backend("open"))
    }
}

impl From<gunyah_ioctls::Gunyah> for Gunyah {
    /// Takes a device that is open already.
    fn from(device: gunyah_ioctls::Gunyah) -> Self {
        let capabilities = Capabilities::new(
            Backend::Gunyah,
            GuestArch::Arm64,
            SOMEWHERE,
            VmConfig::DEFAULT_MAX_VCPUS,
            VmConfig::DEFAULT_GUEST_PHYS_BITS,
        );
        Self { device: Arc::new(device), capabilities }
    }
}

impl Hypervisor for Gunyah {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Makes a VM and finds out what the host has, on the VM that will be used.
    ///
    /// A device that is no Gunyah, and the vendor ABI that cannot run other guests than the vendor's, are found here:
    /// [`Backend`](crate::Error::Backend), and the source says which.
    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        config.check()?;
        let fd = self.device.create_vm().map_err(error::backend("create_vm"))?;
        let capabilities = capabilities(fd.features(), config);
        let mut config = config.clone();
        if config.kind == VmKind::Any {
            // On the VM that will be used: one made only to ask would leak on early android14 kernels.
            let lends = capabilities.has(Feature::PrivateMemory);
            config.kind = if lends { VmKind::Protected } else { VmKind::Plain };
        }
        match config.kind {
            VmKind::Any | VmKind::Plain => capabilities.require(Feature::PlainVm)?,
            VmKind::Protected => capabilities.require(Feature::PrivateMemory)?,
            VmKind::ProtectedFirmware { .. } => capabilities.require(Feature::Firmware)?,
            VmKind::Trusted { .. } => capabilities.require(Feature::TrustedVm)?,
        }
        if config.reserved_memory.is_some() {
            capabilities.require(Feature::ReservedMemory)?;
        }
        Ok(Arc::new(vm::GunyahVm::new(Arc::clone(&self.device), fd, config, capabilities)))
    }
}

/// What at least one flavour has. Which one a host is turns out when a VM can be asked.
const SOMEWHERE: [Feature; 12] = [
    Feature::PlainVm,
    Feature::ReadOnlyMemory,
    Feature::OwnMemory,
    Feature::PrivateMemory,
    Feature::Firmware,
    Feature::BootContext,
    Feature::MmioFault,
    Feature::MsiPool,
    Feature::TrustedVm,
    Feature::ReservedMemory,
    Feature::Reclaim,
    Feature::GuestPower,
];

/// What a VM of this host offers.
fn capabilities(host: &gunyah_ioctls::Features, config: &VmConfig) -> Capabilities {
    use gunyah_ioctls::Feature as Host;
    let user_memory = host.has(Host::UserMemory);
    // android15 takes shared memory, and then no instruction can be fetched from it. A v17 host that takes user memory
    // too was seen: whether its Resource Manager starts a shared image depends on how it was built, so it is no promise.
    let shared_code = user_memory && (!host.has(Host::BootContext) || host.has(Host::Cma));
    let offered = [
        (Feature::PlainVm, shared_code),
        // Only what the VMM has mapped itself can be made read-only.
        (Feature::ReadOnlyMemory, user_memory),
        (Feature::OwnMemory, user_memory),
        (Feature::PrivateMemory, host.has(Host::Lend) || host.has(Host::GuestMemory)),
        (Feature::Firmware, host.has(Host::Firmware)),
        (Feature::BootContext, host.has(Host::BootContext)),
        (Feature::MmioFault, host.mmio_fault()),
        (Feature::MsiPool, true),
        (Feature::TrustedVm, host.has(Host::AuthType)),
        (Feature::ReservedMemory, host.has(Host::Cma)),
        (Feature::Reclaim, host.has(Host::Reclaim) || !user_memory),
        (Feature::GuestPower, true),
    ];
    let features = offered.into_iter().filter(|(_, has)| *has).map(|(feature, _)| feature);
    Capabilities::new(Backend::Gunyah, GuestArch::Arm64, features, config.max_vcpus, config.guest_phys_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_a_backend() {
        let kvm_only = [Feature::Registers, Feature::Unmap, Feature::DirtyLog, Feature::PortIo];
        let elsewhere: Vec<_> =
            Feature::ALL.into_iter().filter(|feature| !SOMEWHERE.contains(feature)).collect();
        assert_eq!(elsewhere, kvm_only);
    }
}

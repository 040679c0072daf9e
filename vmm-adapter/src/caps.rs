//! What a backend can do, asked before it is needed.

use std::fmt;

use crate::error::{Error, Result};

/// A hypervisor that this crate drives.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Gunyah, by way of `/dev/gunyah`.
    Gunyah,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gunyah => "Gunyah",
        })
    }
}

/// An optional ability of a backend.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// vCPU registers can be read and written ([`Vcpu::registers`](crate::Vcpu::registers)).
    Registers,
    /// Guest memory can be taken back while the VM exists ([`Vm::unmap`](crate::Vm::unmap)).
    Unmap,
    /// VMs whose memory the host sees ([`VmKind::Plain`](crate::VmKind::Plain)).
    PlainVm,
    /// Memory that the guest may not write ([`MemoryRegion::read_only`](crate::MemoryRegion::read_only)).
    ReadOnlyMemory,
    /// Memory that the VMM has mapped itself ([`Vm::map`](crate::Vm::map)).
    OwnMemory,
    /// Memory that the host loses when the VM starts ([`Sharing::Private`](crate::Sharing::Private)).
    PrivateMemory,
    /// A protected VM with a firmware image of its own ([`VmKind::ProtectedFirmware`](crate::VmKind)).
    Firmware,
    /// An entry point other than the start of the main region ([`BootContext::entry`](crate::BootContext)).
    BootContext,
    /// Dirty-page tracking ([`Vm::dirty_log`](crate::Vm::dirty_log)).
    DirtyLog,
    /// An MMIO access that no device claims becomes a fault in the guest.
    MmioFault,
    /// The VMM can start the guest again in the same VM.
    Reset,
}

impl Feature {
    /// Every feature that this crate knows, in the order of their declaration.
    pub const ALL: [Self; 11] = [
        Self::Registers,
        Self::Unmap,
        Self::PlainVm,
        Self::ReadOnlyMemory,
        Self::OwnMemory,
        Self::PrivateMemory,
        Self::Firmware,
        Self::BootContext,
        Self::DirtyLog,
        Self::MmioFault,
        Self::Reset,
    ];

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Registers => "access to vCPU registers",
            Self::Unmap => "taking guest memory back",
            Self::PlainVm => "VMs whose memory the host sees",
            Self::ReadOnlyMemory => "read-only guest memory",
            Self::OwnMemory => "guest memory from the VMM's own mappings",
            Self::PrivateMemory => "memory that the host cannot reach (lent)",
            Self::Firmware => "protected VMs with firmware",
            Self::BootContext => "an entry point other than the start of the main memory region",
            Self::DirtyLog => "dirty-page tracking",
            Self::MmioFault => "guest faults for unclaimed MMIO",
            Self::Reset => "reset in place",
        })
    }
}

/// What a hypervisor, or one VM of it, offers.
///
/// A feature that is missing here is missing in all three ways in which a lack is said: this set, the facet that is
/// `None`, and [`Error::Unsupported`] from the method.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    backend: Backend,
    bits: u32,
    max_vcpus: u32,
    guest_phys_bits: u8,
}

impl Capabilities {
    /// A set with these features.
    pub fn new(backend: Backend, features: &[Feature], max_vcpus: u32, guest_phys_bits: u8) -> Self {
        let bits = features.iter().fold(0, |bits, feature| bits | feature.bit());
        Self { backend, bits, max_vcpus, guest_phys_bits }
    }

    /// Whose they are.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether `feature` is offered.
    pub fn has(&self, feature: Feature) -> bool {
        self.bits & feature.bit() != 0
    }

    /// Every feature that is offered.
    pub fn iter(&self) -> impl Iterator<Item = Feature> + '_ {
        Feature::ALL.into_iter().filter(|feature| self.has(*feature))
    }

    /// Nothing if `feature` is offered, [`Error::Unsupported`] if not.
    pub fn require(&self, feature: Feature) -> Result<()> {
        if self.has(feature) { Ok(()) } else { Err(Error::Unsupported { backend: self.backend, feature }) }
    }

    /// The most vCPUs that one VM can have.
    ///
    /// Gunyah has no way to ask: there it is [`VmConfig::max_vcpus`](crate::VmConfig::max_vcpus).
    pub fn max_vcpus(&self) -> u32 {
        self.max_vcpus
    }

    /// The width of a guest physical address in bits.
    ///
    /// Gunyah has no way to ask: there it is [`VmConfig::guest_phys_bits`](crate::VmConfig::guest_phys_bits).
    pub fn guest_phys_bits(&self) -> u8 {
        self.guest_phys_bits
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capabilities")
            .field("backend", &self.backend)
            .field("features", &self.iter().collect::<Vec<_>>())
            .field("max_vcpus", &self.max_vcpus)
            .field("guest_phys_bits", &self.guest_phys_bits)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_has_a_bit_of_its_own_and_is_listed() {
        let bits = Feature::ALL.iter().fold(0, |bits, feature| bits | feature.bit());
        assert_eq!(bits.count_ones() as usize, Feature::ALL.len());
        for (index, feature) in Feature::ALL.into_iter().enumerate() {
            assert_eq!(feature as usize, index);
        }
    }

    #[test]
    fn what_is_not_offered_is_an_error_that_says_so() {
        let caps = Capabilities::new(Backend::Gunyah, &[Feature::OwnMemory], 4, 40);
        caps.require(Feature::OwnMemory).unwrap();
        let error = caps.require(Feature::DirtyLog).unwrap_err();
        assert_eq!(error.to_string(), "Gunyah on this host does not offer dirty-page tracking");
        assert_eq!(caps.iter().collect::<Vec<_>>(), [Feature::OwnMemory]);
    }
}

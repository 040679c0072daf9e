//! What a backend can do, asked before it is needed.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A hypervisor that this crate knows, whether or not its backend is compiled in.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Gunyah, by way of `/dev/gunyah`: the feature `gunyah`.
    Gunyah,
    /// KVM, by way of `/dev/kvm`: the feature `kvm`.
    Kvm,
}

impl Backend {
    /// Every backend that this crate knows, the one to be preferred first.
    pub const ALL: [Self; 2] = [Self::Gunyah, Self::Kvm];

    /// The name that [`FromStr`] takes, which is that of the crate's feature: `gunyah`, `kvm`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gunyah => "gunyah",
            Self::Kvm => "kvm",
        }
    }

    /// Whether this crate was built with it.
    pub fn is_compiled(self) -> bool {
        match self {
            Self::Gunyah => cfg!(feature = "gunyah"),
            Self::Kvm => {
                cfg!(all(feature = "kvm", any(target_arch = "aarch64", target_arch = "x86_64")))
            }
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gunyah => "Gunyah",
            Self::Kvm => "KVM",
        })
    }
}

impl FromStr for Backend {
    type Err = Error;

    /// Takes [`Backend::name`].
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|backend| backend.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid("Backend", format!("there is no backend {name:?}, there are: {names}"))
        })
    }
}

/// What kind of processor a guest sees.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestArch {
    /// arm64: GICv3, PSCI, a devicetree ([`fdt`](crate::fdt)). Every guest of Gunyah, and of KVM on arm64.
    Arm64,
    /// x86_64: local and I/O APIC, and whatever tables the VMM writes. Guests of KVM on x86_64.
    X86_64,
}

impl fmt::Display for GuestArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Arm64 => "arm64",
            Self::X86_64 => "x86_64",
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
    /// Memory that the guest may not write ([`MemoryRegion::read_only`](crate::MemoryRegion::read_only)). Not without
    /// [`Feature::OwnMemory`]: what [`Vm::allocate`](crate::Vm::allocate) makes can be written.
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
    /// Message-signalled interrupts by way of a GICv2m frame ([`VmConfig::msi`](crate::VmConfig::msi)).
    MsiPool,
    /// VMs of Qualcomm's trusted kind ([`VmKind::Trusted`](crate::VmKind::Trusted)).
    TrustedVm,
    /// Guest memory from a region that the host has reserved ([`VmConfig::reserved_memory`](crate::VmConfig::reserved_memory)).
    ReservedMemory,
    /// Pages can be taken back from a running guest, for a balloon ([`Vm::reclaim`](crate::Vm::reclaim)).
    Reclaim,
    /// The guest accesses ports ([`IoHandler::pio_read`](crate::IoHandler::pio_read)): x86_64.
    PortIo,
    /// The hypervisor serves the guest's calls for power-off and reset, and the power of its CPUs (PSCI): arm64. Elsewhere that is
    /// the business of the VMM's devices.
    GuestPower,
}

impl Feature {
    /// Every feature that this crate knows, in the order of their declaration.
    pub const ALL: [Self; 16] = [
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
        Self::MsiPool,
        Self::TrustedVm,
        Self::ReservedMemory,
        Self::Reclaim,
        Self::PortIo,
        Self::GuestPower,
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
            Self::MsiPool => "a pool of message-signalled interrupts (GICv2m)",
            Self::TrustedVm => "trusted VMs",
            Self::ReservedMemory => "guest memory from a reserved region",
            Self::Reclaim => "taking pages back from a running guest",
            Self::PortIo => "port I/O",
            Self::GuestPower => "the guest's calls for power-off and reset (PSCI)",
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
    guest_arch: GuestArch,
    bits: u32,
    max_vcpus: u32,
    guest_phys_bits: u8,
}

impl Capabilities {
    /// A set with these features.
    pub fn new(
        backend: Backend,
        guest_arch: GuestArch,
        features: impl IntoIterator<Item = Feature>,
        max_vcpus: u32,
        guest_phys_bits: u8,
    ) -> Self {
        let bits = features.into_iter().fold(0, |bits, feature| bits | feature.bit());
        Self { backend, guest_arch, bits, max_vcpus, guest_phys_bits }
    }

    /// The same, for a VM whose addresses are as wide as its configuration says.
    #[cfg(feature = "kvm")]
    pub(crate) fn with_guest_phys_bits(self, guest_phys_bits: u8) -> Self {
        Self { guest_phys_bits, ..self }
    }

    /// Whose they are.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// What kind of processor the guest sees.
    pub fn guest_arch(&self) -> GuestArch {
        self.guest_arch
    }

    /// Whether `feature` is offered.
    pub fn has(&self, feature: Feature) -> bool {
        self.bits & feature.bit() != 0
    }

    /// Every feature that is offered.
    pub fn iter(&self) -> impl Iterator<Item = Feature> + '_ {
        Feature::ALL.into_iter().filter(|feature| self.has(*feature))
    }

    /// Nothing if `feature` is offered.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it is not.
    pub fn require(&self, feature: Feature) -> Result<()> {
        if self.has(feature) { Ok(()) } else { Err(Error::Unsupported { backend: self.backend, feature }) }
    }

    /// The most vCPUs that one VM can have.
    ///
    /// KVM tells. Gunyah has no way to ask: there it is [`VmConfig::max_vcpus`](crate::VmConfig::max_vcpus).
    pub fn max_vcpus(&self) -> u32 {
        self.max_vcpus
    }

    /// The width of a guest physical address in bits.
    ///
    /// KVM tells, and a VM may have fewer if its configuration says so. Gunyah has no way to ask: there it is
    /// [`VmConfig::guest_phys_bits`](crate::VmConfig::guest_phys_bits).
    pub fn guest_phys_bits(&self) -> u8 {
        self.guest_phys_bits
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capabilities")
            .field("backend", &self.backend)
            .field("guest_arch", &self.guest_arch)
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
    fn a_backend_is_found_by_its_name() {
        for backend in Backend::ALL {
            assert_eq!(backend.name().parse::<Backend>().unwrap(), backend);
        }
        let error = "xen".parse::<Backend>().unwrap_err().to_string();
        assert!(error.contains("no backend \"xen\", there are: gunyah, kvm"), "{error}");
    }

    #[test]
    fn what_is_not_offered_is_an_error_that_says_so() {
        let caps = Capabilities::new(Backend::Gunyah, GuestArch::Arm64, [Feature::OwnMemory], 4, 40);
        caps.require(Feature::OwnMemory).unwrap();
        let error = caps.require(Feature::DirtyLog).unwrap_err();
        assert_eq!(error.to_string(), "Gunyah on this host does not offer dirty-page tracking");
        assert_eq!(caps.iter().collect::<Vec<_>>(), [Feature::OwnMemory]);
    }
}

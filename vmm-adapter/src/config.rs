//! What must be known when a VM is made.

use std::path::PathBuf;

use vm_memory::GuestAddress;

use crate::error::{Error, Result};

/// What the guest is protected from.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VmKind {
    /// The host sees all of the guest's memory ([`Feature::PlainVm`](crate::Feature::PlainVm)).
    #[default]
    Plain,
    /// The host loses the guest's private memory at the start ([`Feature::PrivateMemory`](crate::Feature)).
    Protected,
    /// What the host is most sure to run: [`VmKind::Protected`] where memory can be lent, [`VmKind::Plain`] elsewhere.
    ///
    /// Decided when the VM is made; [`Vm::config`](crate::Vm::config) then tells which. On Gunyah a host that can lend
    /// often runs no plain VM: production Resource Managers refuse a shared image at the start (ENODEV), and users of
    /// android14 phones report the same.
    Any,
    /// As [`VmKind::Protected`], and a firmware image in guest memory runs first
    /// ([`Feature::Firmware`](crate::Feature)).
    ProtectedFirmware {
        /// Where the firmware lies in guest memory.
        addr: GuestAddress,
        /// Its size in bytes.
        size: u64,
    },
    /// As [`VmKind::Protected`], and the trusted firmware checks the image before it runs
    /// ([`Feature::TrustedVm`](crate::Feature::TrustedVm)): android16 only.
    ///
    /// The image is the main region, most often [reserved memory](VmConfig::reserved_memory). Every kernel that was read answers the
    /// choice of this kind by EINVAL, also where it has taken it, and no VM was seen to start: expect
    /// [`Vm::start`](crate::Vm::start) to fail.
    Trusted {
        /// The VM's id, fixed by the platform.
        vm_id: u16,
        /// The peripheral (PAS) id of the image.
        peripheral_id: u32,
    },
}

impl VmKind {
    /// Whether the host loses private memory. No for [`VmKind::Any`], which is none yet.
    pub fn is_protected(&self) -> bool {
        !matches!(self, Self::Plain | Self::Any)
    }
}

/// How an interrupt line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// By a change: each signal is one interrupt.
    Edge,
    /// By a state. On Gunyah nothing tells the host that the guest is done: signal again while the state lasts.
    Level,
}

/// An interrupt line that a device may use, declared before the VM is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IrqLine {
    /// The number of the shared peripheral interrupt (SPI): the interrupt's INTID less 32.
    pub spi: u32,
    /// How it signals.
    pub trigger: Trigger,
}

impl IrqLine {
    /// The numbers that an SPI can have: 0 to 987.
    pub const COUNT: u32 = 988;

    /// A line that signals by a change.
    pub const fn edge(spi: u32) -> Self {
        Self { spi, trigger: Trigger::Edge }
    }

    /// A line that signals by a state.
    pub const fn level(spi: u32) -> Self {
        Self { spi, trigger: Trigger::Level }
    }
}

/// A fixed set of lines for message-signalled interrupts, by way of a GICv2m frame.
///
/// The lines `base .. base + count` are declared as edge lines, beside [`VmConfig::irq_lines`], and the tree shows the
/// frame to the guest. The frame itself is a device of the VMM, [`MsiFrame`](crate::MsiFrame): a guest's write of an INTID
/// (SPI + 32) to its offset 0x40 is a signal on that line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiPool {
    /// The first SPI.
    pub base: u32,
    /// How many.
    pub count: u32,
    /// Where the guest finds the frame, 4 KiB.
    pub frame: GuestAddress,
}

/// Where the guest finds its interrupt controller, a GICv3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicLayout {
    /// The distributor, 64 KiB.
    pub distributor: GuestAddress,
    /// The first redistributor; one of 128 KiB for each vCPU, one behind the other.
    pub redistributors: GuestAddress,
}

impl GicLayout {
    /// Bytes of the distributor.
    pub const DISTRIBUTOR_SIZE: u64 = 0x1_0000;
    /// Bytes of one vCPU's redistributor.
    pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

    /// The distributor at 0x3fff_0000, and the redistributors of `vcpus` vCPUs right below it: what Gunyah's VMMs use.
    pub fn below_1gib(vcpus: u32) -> Self {
        const DISTRIBUTOR: u64 = 0x3fff_0000;
        let redistributors =
            DISTRIBUTOR.saturating_sub(u64::from(vcpus).saturating_mul(Self::REDISTRIBUTOR_SIZE));
        Self { distributor: GuestAddress(DISTRIBUTOR), redistributors: GuestAddress(redistributors) }
    }
}

/// Everything that must be known when a VM is made.
///
/// Interrupt lines, the interrupt controller and the kind of VM are parts of the description that the hypervisor reads
/// at the start. They cannot be added later.
///
/// ```
/// use vmm_adapter::{IrqLine, VmConfig};
/// let config = VmConfig::new(2).with_irq_line(IrqLine::edge(0));
/// config.check()?;
/// # Ok::<(), vmm_adapter::Error>(())
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// What the guest is protected from.
    pub kind: VmKind,
    /// How many vCPUs the VM has: their numbers are 0 .. `vcpus`.
    pub vcpus: u32,
    /// Every line that a device may ever use, but for those of [`VmConfig::msi`].
    pub irq_lines: Vec<IrqLine>,
    /// Lines for message-signalled interrupts.
    pub msi: Option<MsiPool>,
    /// Where the guest finds its interrupt controller.
    pub gic: GicLayout,
    /// The most vCPUs to allow, where the hypervisor cannot be asked: on Gunyah. KVM's own limit is
    /// [`Capabilities::max_vcpus`](crate::Capabilities::max_vcpus), and this one does not count there.
    pub max_vcpus: u32,
    /// The width of a guest physical address in bits, where the hypervisor cannot be asked.
    pub guest_phys_bits: u8,
    /// The device node of a reserved region of the host's memory, `/dev/<region>`, from which the main region is to come
    /// ([`Feature::ReservedMemory`](crate::Feature::ReservedMemory)). [`Vm::allocate`](crate::Vm::allocate) takes it from there.
    pub reserved_memory: Option<PathBuf>,
    /// The largest piece of memory to give in one region, in bytes, where the host is known better than by this crate's table
    /// ([`gunyah::MEMORY_POLICIES`](crate::gunyah::MEMORY_POLICIES)). [`Vm::largest_region`](crate::Vm::largest_region) tells it.
    pub largest_region: Option<u64>,
}

impl VmConfig {
    /// The limit on vCPUs where no hypervisor can be asked: a choice of this crate, to be overridden where the host is
    /// known to allow more.
    pub const DEFAULT_MAX_VCPUS: u32 = 64;
    /// The width of a guest physical address where no hypervisor can be asked: what VMMs on Gunyah use.
    pub const DEFAULT_GUEST_PHYS_BITS: u8 = 40;

    /// A plain VM with `vcpus` vCPUs, no interrupt lines, and the interrupt controller below 1 GiB.
    pub fn new(vcpus: u32) -> Self {
        Self {
            kind: VmKind::Plain,
            vcpus,
            irq_lines: Vec::new(),
            msi: None,
            gic: GicLayout::below_1gib(vcpus),
            max_vcpus: Self::DEFAULT_MAX_VCPUS,
            guest_phys_bits: Self::DEFAULT_GUEST_PHYS_BITS,
            reserved_memory: None,
            largest_region: None,
        }
    }

    /// Sets the kind of VM.
    #[must_use]
    pub fn with_kind(mut self, kind: VmKind) -> Self {
        self.kind = kind;
        self
    }

    /// Declares one more interrupt line.
    #[must_use]
    pub fn with_irq_line(mut self, line: IrqLine) -> Self {
        self.irq_lines.push(line);
        self
    }

    /// Declares the lines for message-signalled interrupts.
    #[must_use]
    pub fn with_msi(mut self, pool: MsiPool) -> Self {
        self.msi = Some(pool);
        self
    }

    /// Puts the interrupt controller elsewhere.
    #[must_use]
    pub fn with_gic(mut self, gic: GicLayout) -> Self {
        self.gic = gic;
        self
    }

    /// Every declared line, those of the MSI pool included.
    pub fn lines(&self) -> impl Iterator<Item = IrqLine> + '_ {
        let pool = self.msi.map_or(0..0, |pool| pool.base..pool.base.saturating_add(pool.count));
        self.irq_lines.iter().copied().chain(pool.map(IrqLine::edge))
    }

    /// The declared line with this number.
    pub fn line(&self, spi: u32) -> Option<IrqLine> {
        self.lines().find(|line| line.spi == spi)
    }

    /// The first address behind guest physical memory.
    pub fn guest_phys_end(&self) -> u64 {
        1_u64.checked_shl(u32::from(self.guest_phys_bits)).unwrap_or(u64::MAX)
    }

    /// Checks what can be checked without a hypervisor, as one that cannot be asked does it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`]: no vCPUs or too many; a line's number beyond 987 or declared twice; an interrupt
    /// controller that overlaps itself or lies outside the guest's address space; a firmware that is empty or lies outside it;
    /// regions of no size.
    pub fn check(&self) -> Result<()> {
        self.check_for(self.max_vcpus)
    }

    /// The same for a hypervisor that has told its limit.
    pub(crate) fn check_for(&self, max_vcpus: u32) -> Result<()> {
        const OP: &str = "create_vm";
        if self.vcpus == 0 || self.vcpus > max_vcpus {
            let why = format!("{} vCPUs were asked for, 1 to {max_vcpus} are possible", self.vcpus);
            return Err(Error::invalid(OP, why));
        }
        self.check_lines(OP)?;
        self.check_gic(OP)?;
        if self.largest_region.is_some_and(|size| size == 0 || size % crate::memory::PIECE != 0) {
            return Err(Error::invalid(OP, "the largest region is not a multiple of 2 MiB"));
        }
        match self.kind {
            VmKind::ProtectedFirmware { size: 0, .. } => Err(Error::invalid(OP, "the firmware's size is 0")),
            VmKind::ProtectedFirmware { addr, size }
                if addr.0.checked_add(size).is_none_or(|end| end > self.guest_phys_end()) =>
            {
                let why = format!("the firmware at {:#x} + {size:#x} is beyond guest memory", addr.0);
                Err(Error::invalid(OP, why))
            }
            _ => Ok(()),
        }
    }

    fn check_lines(&self, op: &'static str) -> Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        for line in self.lines() {
            if line.spi >= IrqLine::COUNT {
                let why = format!(
                    "interrupt line {} does not exist, they go from 0 to {}",
                    line.spi,
                    IrqLine::COUNT - 1
                );
                return Err(Error::invalid(op, why));
            }
            if !seen.insert(line.spi) {
                return Err(Error::invalid(op, format!("interrupt line {} is declared twice", line.spi)));
            }
        }
        Ok(())
    }

    fn check_gic(&self, op: &'static str) -> Result<()> {
        let distributor = (self.gic.distributor.0, GicLayout::DISTRIBUTOR_SIZE);
        let redistributors =
            (self.gic.redistributors.0, u64::from(self.vcpus).saturating_mul(GicLayout::REDISTRIBUTOR_SIZE));
        for (start, size) in [distributor, redistributors] {
            if start % GicLayout::DISTRIBUTOR_SIZE != 0 {
                return Err(Error::invalid(op, format!("the GIC at {start:#x} is not aligned to 64 KiB")));
            }
            if start.checked_add(size).is_none_or(|end| end > self.guest_phys_end()) {
                let why =
                    format!("the GIC at {start:#x} is beyond {} bits of guest address", self.guest_phys_bits);
                return Err(Error::invalid(op, why));
            }
        }
        if distributor.0 < redistributors.0 + redistributors.1
            && redistributors.0 < distributor.0 + distributor.1
        {
            return Err(Error::invalid(op, "the GIC's redistributors overlap its distributor"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(config: &VmConfig) -> String {
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn a_fresh_config_is_good() {
        for vcpus in [1, 2, 8, 64] {
            VmConfig::new(vcpus).check().unwrap();
        }
    }

    #[test]
    fn the_number_of_vcpus_has_limits() {
        assert!(why(&VmConfig::new(0)).contains("0 vCPUs were asked for, 1 to 64"));
        assert!(why(&VmConfig::new(65)).contains("65 vCPUs"));
        let mut config = VmConfig::new(65);
        config.max_vcpus = 128;
        config.check().unwrap();
    }

    #[test]
    fn lines_are_declared_once_and_exist() {
        let twice = VmConfig::new(1).with_irq_line(IrqLine::edge(3)).with_irq_line(IrqLine::level(3));
        assert!(why(&twice).contains("interrupt line 3 is declared twice"));
        assert!(why(&VmConfig::new(1).with_irq_line(IrqLine::edge(988))).contains("line 988 does not exist"));
        VmConfig::new(1).with_irq_line(IrqLine::edge(987)).check().unwrap();
    }

    #[test]
    fn the_msi_pool_is_made_of_edge_lines() {
        let pool = MsiPool { base: 64, count: 32, frame: GuestAddress(0x1100_0000) };
        let config = VmConfig::new(1).with_irq_line(IrqLine::level(1)).with_msi(pool);
        assert_eq!(config.lines().count(), 33);
        assert_eq!(config.line(95), Some(IrqLine::edge(95)));
        assert_eq!(config.line(96), None);
        assert!(why(&config.clone().with_irq_line(IrqLine::edge(70))).contains("70 is declared twice"));
        let huge = VmConfig::new(1).with_msi(MsiPool { count: u32::MAX, ..pool });
        assert!(why(&huge).contains("988 does not exist"));
    }

    #[test]
    fn the_firmware_must_fit() {
        let config = |addr, size| {
            VmConfig::new(1).with_kind(VmKind::ProtectedFirmware { addr: GuestAddress(addr), size })
        };
        assert!(why(&config(0, 0)).contains("size is 0"));
        assert!(why(&config(u64::MAX, 0x1000)).contains("beyond"));
        assert!(why(&config((1 << 40) - 0x1000, 0x2000)).contains("beyond"));
        config((1 << 40) - 0x1000, 0x1000).check().unwrap();
    }

    #[test]
    fn the_gic_must_fit() {
        let gic = GicLayout { distributor: GuestAddress(0x1_0000), redistributors: GuestAddress(0x1_0000) };
        assert!(why(&VmConfig::new(1).with_gic(gic)).contains("overlap"));
        let gic = GicLayout { distributor: GuestAddress(0x1000), ..gic };
        assert!(why(&VmConfig::new(1).with_gic(gic)).contains("not aligned"));
        let gic = GicLayout { distributor: GuestAddress(1 << 40), ..gic };
        assert!(why(&VmConfig::new(1).with_gic(gic)).contains("40 bits"));
    }
}

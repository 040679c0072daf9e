//! What Cloud Hypervisor lacks for a hypervisor that wants the guest described before it starts. Beside these types there are a few
//! methods, each with a default that leaves other backends as they are: [`Vm::is_protected`](super::vm::Vm::is_protected),
//! [`describe`](super::vm::Vm::describe), [`fdt_slack`](super::vm::Vm::fdt_slack), [`start`](super::vm::Vm::start),
//! [`Vcpu::is_initialised`](super::cpu::Vcpu::is_initialised) and [`kicker`](super::cpu::Vcpu::kicker).

use super::gic::VgicConfig;

/// Whether the host loses the guest's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protection {
    /// As the host is most sure to run it.
    #[default]
    Auto,
    /// The host sees all memory.
    Never,
    /// The host sees the DMA pool only.
    Always,
}

/// An interrupt line of a device without messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyLine {
    /// The SPI, as [`LegacyIrqSourceConfig::pin`](super::vm::LegacyIrqSourceConfig) has it.
    pub pin: u32,
    /// Whether it signals by a state. The devicetree has to say the same.
    pub level: bool,
}

/// The lines behind the GICv2m frame, whose place is [`VgicConfig::msi_addr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiLines {
    /// The INTID of the first, as `arm,msi-base-spi` has it: its SPI and 32.
    pub first_intid: u32,
    /// How many.
    pub count: u32,
}

/// What a hypervisor of this kind has to know when it makes the VM.
#[derive(Clone, Debug)]
pub struct GuestDescription {
    /// How many vCPUs the VM has. All of them are created before the start; there are no others later.
    pub vcpus: u32,
    /// Whether the host loses the guest's memory.
    pub protection: Protection,
    /// Guest address and size in bytes of the memory that host and guest share in a protected VM. It is given as a region of its own.
    pub dma_pool: Option<(u64, u64)>,
    /// What [`Vm::create_vgic`](super::vm::Vm::create_vgic) will be told.
    pub vgic: VgicConfig,
    /// Every line that a device without messages may use.
    pub lines: Vec<LegacyLine>,
    /// Every line that messages may use.
    pub msi: Option<MsiLines>,
}

/// Where the guest starts, and the devicetree that describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootContext {
    /// The first instruction.
    pub entry: u64,
    /// The devicetree's guest address.
    pub fdt: u64,
    /// Bytes from there that belong to the tree, the room behind it included.
    pub fdt_size: u64,
}

/// Ends a [`Vcpu::run`](super::cpu::Vcpu::run) from another thread.
pub trait VcpuKicker: Send + Sync {
    /// Makes the current or the next run give [`VmExit::Ignore`](super::cpu::VmExit::Ignore). It is never lost, so nothing has to be
    /// sent twice. It may be called from a signal handler.
    fn kick(&self);
}

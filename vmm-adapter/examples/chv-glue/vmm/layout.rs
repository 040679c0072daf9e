//! Where things are, in Cloud Hypervisor's manner: devices and the interrupt controller below RAM at 1 GiB.
//!
//! One thing is otherwise there: the payload is at the start of RAM, and the devicetree behind it. Hosts up to android14 can enter
//! nowhere else.

use crate::hypervisor::gic::VgicConfig;

/// Guest RAM. The payload is at its start.
pub(crate) const RAM: u64 = 0x4000_0000;
pub(crate) const RAM_SIZE: usize = 4 << 20;
/// The devicetree, in the same region.
pub(crate) const FDT: u64 = RAM + 0x20_0000;
/// What host and guest share in a protected VM.
pub(crate) const DMA_POOL: u64 = RAM + RAM_SIZE as u64;
pub(crate) const DMA_POOL_SIZE: usize = 2 << 20;

/// The panel: see [`panel`].
pub(crate) const PANEL: u64 = 0x0900_0000;
/// Where the guest tells which interrupts it takes.
pub(crate) const MAILBOX: u64 = 0x0900_1000;
/// The card with a table of messages.
pub(crate) const CARD: u64 = 0x1000_0000;
/// Bytes of each of them.
pub(crate) const DEVICE_SIZE: u64 = 0x1000;

/// Registers of the panel, which stands for whatever a VMM emulates.
pub(crate) mod panel {
    /// Loads of any width: bytes of this number.
    pub(crate) const ID: u64 = 0x00;
    /// Stored, 64 bits: what the guest read there.
    pub(crate) const SEEN: u64 = 0x08;
    /// Loaded, 32 bits: how many interrupts the guest has told of.
    pub(crate) const TAKEN: u64 = 0x10;
    /// Stored, 32 bits: the number of a CPU that is up.
    pub(crate) const CPU: u64 = 0x18;
    /// Stored, 32 bits: the panel is to raise its interrupt.
    pub(crate) const RAISE: u64 = 0x20;
    /// Stored, 64 bits: the guest address of a line of text in the DMA pool.
    pub(crate) const TEXT: u64 = 0x28;
    /// Doorbells with ioevents: any store; 32 bits of 1; 64 bits of 1.
    pub(crate) const NOTIFY_ANY: u64 = 0x40;
    pub(crate) const NOTIFY_32: u64 = 0x48;
    pub(crate) const NOTIFY_64: u64 = 0x50;
    /// Loaded, 32 bits: how often the doorbells rang without an exit.
    pub(crate) const RANG: u64 = 0x58;

    pub(crate) const ID_VALUE: u64 = 0x1122_3344_5566_7788;
    /// What [`NOTIFY_32`] and [`NOTIFY_64`] match.
    pub(crate) const MATCH: u32 = 1;
}

/// The panel's line: an SPI.
pub(crate) const PANEL_PIN: u32 = 3;
/// The lines of messages, as Cloud Hypervisor has them: from INTID 128 on. It has 64; the tree would get too large with so many.
pub(crate) const MSI_FIRST_INTID: u32 = 128;
pub(crate) const MSI_COUNT: u32 = 8;

const DISTRIBUTOR: u64 = 0x08ff_0000;
const DISTRIBUTOR_SIZE: u64 = 0x1_0000;
const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
const MSI_FRAME_SIZE: u64 = 0x1000;
const IRQS: u32 = 256;

/// The interrupt controller: the redistributors are right below the distributor, and the frame for messages below them.
pub(crate) fn vgic(vcpus: u32) -> VgicConfig {
    let redists_size = REDISTRIBUTOR_SIZE * u64::from(vcpus);
    let redists_addr = DISTRIBUTOR - redists_size;
    VgicConfig {
        vcpu_count: vcpus.into(),
        dist_addr: DISTRIBUTOR,
        dist_size: DISTRIBUTOR_SIZE,
        redists_addr,
        redists_size,
        msi_addr: redists_addr - 0x1_0000,
        msi_size: MSI_FRAME_SIZE,
        nr_irqs: IRQS,
    }
}

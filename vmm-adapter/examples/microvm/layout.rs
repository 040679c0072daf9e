//! Where things are in the guest's address space.
//!
//! All devices lie below 1 GiB, where Gunyah hands MMIO to the host, and memory starts at 2 GiB.

use vmm_adapter::IrqLine;

/// Memory. The payload is at its start, the devicetree at its end.
pub(crate) const RAM: u64 = 0x8000_0000;

pub(crate) const SERIAL: u64 = 0x1000_0000;
pub(crate) const SERIAL_SIZE: u64 = 8;
pub(crate) const SERIAL_IRQ: IrqLine = IrqLine::edge(0);

pub(crate) const RTC: u64 = 0x1000_1000;
pub(crate) const RTC_SIZE: u64 = 0x1000;

/// Only there with the built-in guest.
pub(crate) const TEST_DEVICE: u64 = 0x1000_2000;
pub(crate) const TEST_DEVICE_SIZE: u64 = 0x28;

/// The virtio devices, a page for each.
const VIRTIO: u64 = 0x1001_0000;
const VIRTIO_STEP: u64 = 0x1000;
const VIRTIO_SPI: u32 = 1;
/// As many virtio devices as there can be.
pub(crate) const VIRTIO_MOST: u32 = 32;

/// Where virtio device `index` is, and its interrupt.
pub(crate) fn virtio(index: u32) -> (u64, IrqLine) {
    let addr = VIRTIO.saturating_add(VIRTIO_STEP.saturating_mul(u64::from(index)));
    (addr, IrqLine::edge(VIRTIO_SPI.saturating_add(index)))
}

/// What the DMA pool of a protected guest is aligned to.
pub(crate) const DMA_POOL_ALIGNMENT: u64 = 2 << 20;

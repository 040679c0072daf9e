//! The registers of a virtio device on MMIO, version 2. The guest's accesses come on the threads of its vCPUs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_adapter::{IoOutcome, MmioDevice};

use super::dma::Dma;
use super::engine::Engine;
use super::queues::Ring;
use super::{Broken, Device};

/// Bytes of registers: the transport's, and a configuration space of 256 bytes.
pub(crate) const SIZE: u64 = 0x200;
/// The register that a driver's notifications go to.
pub(crate) const QUEUE_NOTIFY: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// Nobody's in particular.
const VENDOR: u32 = u32::from_le_bytes(*b"rvmm");
const CONFIG: u64 = VIRTIO_MMIO_CONFIG as u64;

/// The registers of one device.
pub(crate) struct Mmio {
    engine: Arc<Engine>,
    kind: u32,
    features: u64,
    config: Vec<u8>,
    registers: Mutex<Registers>,
}

/// What the driver has written.
#[derive(Debug, Default)]
struct Registers {
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<Setup>,
}

/// A queue, as far as the driver has set it up.
#[derive(Clone, Copy, Debug, Default)]
struct Setup {
    max: u16,
    size: u32,
    ready: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

impl Mmio {
    /// The registers of `device`, which `engine` is made of with `make`.
    pub(crate) fn new(
        device: Box<dyn Device>,
        dma: &Dma,
        make: impl FnOnce(Box<dyn Device>) -> Engine,
    ) -> Self {
        let mut features = device.features()
            | 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC;
        if dma.is_restricted() {
            // Tells the driver to use the addresses that its platform gives it: those of the DMA pool.
            features |= 1 << VIRTIO_F_ACCESS_PLATFORM;
        }
        let queues = device.queue_sizes().iter().map(|max| Setup { max: *max, ..Setup::default() }).collect();
        Self {
            kind: device.kind(),
            features,
            config: device.config(),
            registers: Mutex::new(Registers { queues, ..Registers::default() }),
            engine: Arc::new(make(device)),
        }
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_register(&self, offset: u32) -> u32 {
        // Without the lock: drivers read it at each interrupt.
        if offset == VIRTIO_MMIO_INTERRUPT_STATUS {
            return self.engine.interrupt.status();
        }
        let registers = self.lock();
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.kind,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.features, registers.device_features_sel),
            VIRTIO_MMIO_QUEUE_NUM_MAX => registers.queue().map_or(0, |queue| u32::from(queue.max)),
            VIRTIO_MMIO_QUEUE_READY => registers.queue().map_or(0, |queue| u32::from(queue.ready)),
            VIRTIO_MMIO_STATUS if self.engine.needs_reset() && registers.status != 0 => {
                registers.status | VIRTIO_CONFIG_S_NEEDS_RESET
            }
            VIRTIO_MMIO_STATUS => registers.status,
            // There is no shared memory: all of its lengths and addresses are -1.
            VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            // The configuration never changes, so its generation stays 0. Everything else is write-only or not there.
            _ => 0,
        }
    }

    fn write_register(&self, offset: u32, value: u32) {
        match offset {
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                self.engine.counters.notify_exits.add(1);
                // One event for all queues, so the number does not matter. A full counter wakes the thread as well.
                let _ = self.engine.kick.write(1);
                return;
            }
            VIRTIO_MMIO_INTERRUPT_ACK => return self.engine.interrupt.acknowledge(value),
            _ => {}
        }
        let mut registers = self.lock();
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => registers.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => registers.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES if registers.status & VIRTIO_CONFIG_S_FEATURES_OK == 0 => {
                let sel = registers.driver_features_sel;
                set_half(&mut registers.driver_features, sel, value);
            }
            VIRTIO_MMIO_QUEUE_SEL => registers.queue_sel = value,
            VIRTIO_MMIO_STATUS => self.set_status(&mut registers, value),
            VIRTIO_MMIO_QUEUE_READY if value == 0 && registers.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 => {
                // A running queue cannot be stopped alone, as VIRTIO_F_RING_RESET is not offered; and a driver that
                // takes it away must not find it used. So all stop.
                self.engine.reset();
                registers.queues.iter_mut().for_each(Setup::clear);
            }
            _ if registers.status & VIRTIO_CONFIG_S_DRIVER_OK == 0 => {
                if let Some(queue) = registers.queue_mut() {
                    queue.write(offset, value);
                }
            }
            // A driver must not change what the device uses.
            _ => {}
        }
    }

    fn set_status(&self, registers: &mut Registers, value: u32) {
        if value == 0 {
            self.engine.reset();
            registers.status = 0;
            registers.driver_features = 0;
            registers.queues.iter_mut().for_each(Setup::clear);
            return;
        }
        // A driver only ever adds bits; the device's own is not its to set.
        let mut status = registers.status | value & !VIRTIO_CONFIG_S_NEEDS_RESET;
        let new = status & !registers.status;
        if new & VIRTIO_CONFIG_S_FEATURES_OK != 0 && !self.accepts(registers.driver_features) {
            status &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        registers.status = status;
        if new & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            match self.rings(registers) {
                Ok(rings) => self.engine.start(rings, registers.driver_features),
                Err(broken) => self.engine.fail(&broken.0),
            }
        }
    }

    /// Whether the device can work with a driver that chose these features.
    fn accepts(&self, chosen: u64) -> bool {
        if chosen & !self.features != 0 || chosen & 1 << VIRTIO_F_VERSION_1 == 0 {
            return false;
        }
        let platform = 1 << VIRTIO_F_ACCESS_PLATFORM;
        if self.features & platform != 0 && chosen & platform == 0 {
            self.engine.fail(
                "the guest's driver does not take VIRTIO_F_ACCESS_PLATFORM, so it would hand out memory that is lent to \
                 the guest and that no device can reach: its kernel is too old for a protected VM",
            );
            return false;
        }
        true
    }

    /// The queues that the driver has set up, checked.
    fn rings(&self, registers: &Registers) -> Result<Vec<Ring>, Broken> {
        if registers.status & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            return Err(Broken::new("the driver goes on although its choice of features was not accepted"));
        }
        let event_idx = registers.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        registers.queues.iter().map(|setup| setup.ring(&self.engine.dma, event_idx)).collect()
    }
}

impl Registers {
    fn queue(&self) -> Option<&Setup> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    fn queue_mut(&mut self) -> Option<&mut Setup> {
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }
}

impl Setup {
    fn clear(&mut self) {
        *self = Self { max: self.max, ..Self::default() };
    }

    fn write(&mut self, offset: u32, value: u32) {
        match offset {
            VIRTIO_MMIO_QUEUE_READY => self.ready = value == 1,
            // The addresses and the size of a queue that is ready are fixed.
            _ if self.ready => {}
            VIRTIO_MMIO_QUEUE_NUM => self.size = value,
            VIRTIO_MMIO_QUEUE_DESC_LOW => set_half(&mut self.descriptors, 0, value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_half(&mut self.descriptors, 1, value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_half(&mut self.driver, 0, value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_half(&mut self.driver, 1, value),
            VIRTIO_MMIO_QUEUE_USED_LOW => set_half(&mut self.device, 0, value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => set_half(&mut self.device, 1, value),
            _ => {}
        }
    }

    fn ring(&self, dma: &Dma, event_idx: bool) -> Result<Ring, Broken> {
        if !self.ready {
            return Err(Broken::new("the driver did not set up all queues"));
        }
        let refused = |what| move |_| Broken(format!("the driver gave a queue {what}"));
        let mut queue = Queue::new(self.max).map_err(refused("that the device cannot have"))?;
        let size = u16::try_from(self.size).unwrap_or_default();
        queue.try_set_size(size).map_err(refused("of a size that is no power of two or too large"))?;
        let entries = u64::from(size);
        // The sizes are the standard's: 16 bytes for a descriptor, 2 and 8 for an entry of the rings and 6 beside.
        for (addr, len) in
            [(self.descriptors, 16 * entries), (self.driver, 2 * entries + 6), (self.device, 8 * entries + 6)]
        {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            if !dma.memory().check_range(GuestAddress(addr), len) {
                return Err(dma.out_of_reach("a queue", GuestAddress(addr)));
            }
        }
        let aligned = refused("at an address that is not aligned");
        queue
            .try_set_desc_table_address(GuestAddress(self.descriptors))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(self.driver)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(self.device)))
            .map_err(aligned)?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(Ring::new(queue))
    }
}

impl MmioDevice for Mmio {
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
        if let Some(at) = offset.checked_sub(CONFIG) {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            for (slot, byte) in data.iter_mut().zip(self.config.iter().skip(at)) {
                *slot = *byte;
            }
            return IoOutcome::Handled;
        }
        match (u32::try_from(offset), <&mut [u8; 4]>::try_from(data)) {
            (Ok(offset), Ok(word)) if offset % 4 == 0 => {
                *word = self.read_register(offset).to_le_bytes();
                IoOutcome::Handled
            }
            _ => IoOutcome::Unclaimed,
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome {
        if offset >= CONFIG {
            // Nothing in any of our configuration spaces can be written.
            return IoOutcome::Handled;
        }
        match (u32::try_from(offset), <[u8; 4]>::try_from(data)) {
            (Ok(offset), Ok(word)) if offset % 4 == 0 => {
                self.write_register(offset, u32::from_le_bytes(word));
                IoOutcome::Handled
            }
            _ => IoOutcome::Unclaimed,
        }
    }
}

/// The lower or the upper half. There are no others.
fn half(value: u64, sel: u32) -> u32 {
    match sel {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, sel: u32, half: u32) {
    match sel {
        0 => *value = *value >> 32 << 32 | u64::from(half),
        1 => *value = *value & u64::from(u32::MAX) | u64::from(half) << 32,
        _ => {}
    }
}

#[cfg(test)]
mod tests;

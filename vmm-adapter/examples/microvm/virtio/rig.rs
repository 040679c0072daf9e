//! For tests: a driver, made of virtio-queue's mock of one and the device's registers, and the device on its thread.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_adapter::{MmioDevice, SharedMemory};
use vmm_sys_util::eventfd::EventFd;

use super::Device;
use super::dma::Dma;
use super::engine::Engine;
use super::mmio::Mmio;
use super::worker::Worker;

/// Memory that devices reach, and lent memory behind it.
pub(crate) const MEMORY: u64 = 0x8000_0000;
pub(crate) const MEMORY_SIZE: usize = 1 << 20;
pub(crate) const LENT: u64 = MEMORY + MEMORY_SIZE as u64;
/// Where the buffers of requests are.
pub(crate) const BUFFERS: u64 = MEMORY + 0x4_0000;
const QUEUE_STEP: u64 = 0x1_0000;
/// The mock's own used ring begins within its available ring.
const USED: u64 = 0x8000;
/// A test that waits this long hangs.
const WATCHDOG: Duration = Duration::from_secs(60);

/// The mock of a driver borrows its memory, so it stays until the tests end. Here leak checkers find it.
static KEPT: Mutex<Vec<&'static SharedMemory>> = Mutex::new(Vec::new());

fn used_ring(queue: usize) -> GuestAddress {
    GuestAddress(MEMORY + queue as u64 * QUEUE_STEP + USED)
}

/// A buffer of a request.
pub(crate) enum Part<'a> {
    /// What the device reads.
    Give(&'a [u8]),
    /// Room for what the device writes.
    Take(u32),
}

pub(crate) struct Rig {
    pub(crate) memory: &'static SharedMemory,
    pub(crate) mmio: Mmio,
    pub(crate) irqfd: EventFd,
    pub(crate) queues: Vec<MockSplitQueue<'static, SharedMemory>>,
    seen: Vec<u16>,
    sizes: Vec<u16>,
    _worker: Worker,
}

impl Rig {
    /// The device, not yet started. With `restricted` there is lent memory too.
    pub(crate) fn new(device: impl Device + 'static, restricted: bool) -> Self {
        let memory: &'static SharedMemory =
            Box::leak(Box::new(SharedMemory::from_ranges(&[(GuestAddress(MEMORY), MEMORY_SIZE)]).unwrap()));
        KEPT.lock().unwrap().push(memory);
        let lent = std::iter::once(LENT..LENT + (1 << 20)).filter(|_| restricted).collect();
        let dma = Dma::test(memory.clone(), lent);
        let irqfd = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let (theirs, kick) = (irqfd.try_clone().unwrap(), EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let sizes = device.queue_sizes().to_vec();
        let mmio = Mmio::new(Box::new(device), &dma, |device| {
            Engine::new("test".to_owned(), device, dma.clone(), theirs, kick)
        });
        let worker = Worker::spawn(Arc::clone(mmio.engine())).unwrap();
        Self { memory, mmio, irqfd, queues: Vec::new(), seen: Vec::new(), sizes, _worker: worker }
    }

    /// A device that its driver has started with all features.
    pub(crate) fn started(device: impl Device + 'static) -> Self {
        let mut rig = Self::new(device, false);
        rig.start(u64::MAX);
        rig
    }

    pub(crate) fn get(&self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.mmio.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    pub(crate) fn set(&self, offset: u64, value: u32) {
        self.mmio.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn offered(&self) -> u64 {
        self.set(0x14, 0);
        let low = self.get(0x10);
        self.set(0x14, 1);
        u64::from(self.get(0x10)) << 32 | u64::from(low)
    }

    /// Chooses those of these features that are offered. The device's word on it is in the status.
    pub(crate) fn choose(&self, features: u64) {
        let features = features & self.offered();
        for value in [0, 1, 3] {
            self.set(0x70, value);
        }
        self.set(0x24, 0);
        self.set(0x20, features as u32);
        self.set(0x24, 1);
        self.set(0x20, (features >> 32) as u32);
        self.set(0x70, 11);
    }

    pub(crate) fn set_up_queue(&self, index: u32, size: u32, table: u64, avail: u64, used: u64) {
        self.set(0x30, index);
        self.set(0x38, size);
        for (offset, addr) in [(0x80, table), (0x90, avail), (0xa0, used)] {
            self.set(offset, addr as u32);
            self.set(offset + 4, (addr >> 32) as u32);
        }
        self.set(0x44, 1);
    }

    /// From reset to ready, with those of these features that are offered but for EVENT_IDX, with which the mock does
    /// not go.
    pub(crate) fn start(&mut self, features: u64) {
        self.choose(features & !(1 << 29) | 1 << 32);
        self.memory.write_slice(&vec![0; 0x4_0000], GuestAddress(MEMORY)).unwrap();
        let starts = (MEMORY..).step_by(QUEUE_STEP as usize);
        self.queues = starts
            .zip(&self.sizes)
            .map(|(start, size)| MockSplitQueue::create(self.memory, GuestAddress(start), *size))
            .collect();
        self.seen = vec![0; self.queues.len()];
        for (index, queue) in self.queues.iter().enumerate() {
            let size = u32::from(self.sizes[index]);
            let (table, avail) = (queue.desc_table_addr().0, queue.avail_addr().0);
            self.set_up_queue(index as u32, size, table, avail, used_ring(index).0);
        }
        self.set(0x70, 15);
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.get(0x70) & 64 != 0
    }

    /// Puts a request into a queue, with its buffers at `at`, and notifies.
    pub(crate) fn offer(&mut self, queue: usize, at: u64, parts: &[Part<'_>]) {
        let mut descriptors = Vec::new();
        let mut addr = at;
        for (index, part) in parts.iter().enumerate() {
            let next = if index + 1 < parts.len() { VRING_DESC_F_NEXT as u16 } else { 0 };
            let (len, flags) = match part {
                Part::Give(data) => {
                    self.memory.write_slice(data, GuestAddress(addr)).unwrap();
                    (data.len() as u32, next)
                }
                Part::Take(len) => (*len, next | VRING_DESC_F_WRITE as u16),
            };
            descriptors.push((addr, len, flags, index as u16 + 1));
            addr += u64::from(len);
        }
        self.offer_descriptors(queue, &descriptors);
    }

    /// The same with descriptors as they are given: address, length, flags, next.
    pub(crate) fn offer_descriptors(&mut self, queue: usize, descriptors: &[(u64, u32, u16, u16)]) {
        let raw: Vec<_> = descriptors
            .iter()
            .map(|(addr, len, flags, next)| RawDescriptor::from(Descriptor::new(*addr, *len, *flags, *next)))
            .collect();
        for (index, descriptor) in raw.iter().enumerate() {
            self.queues[queue].desc_table().store(index as u16, *descriptor).unwrap();
        }
        // The mock's own accesses to the indices are no atomic ones: the device would see them half written.
        let at = GuestAddress(self.queues[queue].avail_addr().0 + 2);
        let index: u16 = self.memory.load(at, Ordering::Relaxed).unwrap();
        let ring = self.queues[queue].avail().ring();
        ring.ref_at(usize::from(index % self.sizes[queue])).unwrap().store(0);
        self.memory.store(index.wrapping_add(1), at, Ordering::Release).unwrap();
        self.set(0x50, queue as u32);
    }

    /// How many buffers the device has used, modulo 65536.
    pub(crate) fn used_index(&self, queue: usize) -> u16 {
        self.memory.load(used_ring(queue).unchecked_add(2), Ordering::Acquire).unwrap()
    }

    /// The length of the next used buffer, or `None` when the device needs a reset instead.
    pub(crate) fn used(&mut self, queue: usize) -> Option<u32> {
        let deadline = Instant::now() + WATCHDOG;
        while self.used_index(queue) == self.seen[queue] {
            if self.needs_reset() {
                return None;
            }
            assert!(Instant::now() < deadline, "nothing was used");
            std::thread::yield_now();
        }
        let at = u64::from(self.seen[queue] % self.sizes[queue]);
        self.seen[queue] = self.seen[queue].wrapping_add(1);
        // Behind the flags and the index, entries of two words, of which the second is the length.
        Some(self.memory.read_obj(used_ring(queue).unchecked_add(4 + 8 * at + 4)).unwrap())
    }

    /// One request from start to end: what the device wrote, as long as it said.
    pub(crate) fn request(&mut self, queue: usize, parts: &[Part<'_>]) -> Option<Vec<u8>> {
        self.offer(queue, BUFFERS, parts);
        let len = self.used(queue)? as usize;
        let given: usize =
            parts.iter().map(|part| if let Part::Give(data) = part { data.len() } else { 0 }).sum();
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(BUFFERS + given as u64)).unwrap();
        Some(data)
    }

    /// Waits until the device has looked at everything.
    pub(crate) fn settle(&self) {
        let engine = self.mmio.engine();
        let before = engine.counters.wakeups.get();
        self.set(0x50, 0);
        let deadline = Instant::now() + WATCHDOG;
        while engine.counters.wakeups.get() == before {
            assert!(Instant::now() < deadline, "the device sleeps");
            std::thread::yield_now();
        }
        assert!(!engine.has_panicked(), "the device panicked");
    }
}

/// Numbers that look random and are the same each time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.roll() >> 33) % n
    }
}

/// Gives a device what no driver would: random descriptors, rings and requests, for many rounds. It must neither panic nor
/// write where nothing was given to it, and must work again after a reset.
pub(crate) fn torment(rig: &mut Rig, rounds: u32, mut header: impl FnMut(&mut Dice) -> Vec<u8>) {
    const UNTOUCHED: u64 = MEMORY + 0xf_0000;
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let guard = vec![0x5a; 0x1_0000];
    rig.memory.write_slice(&guard, GuestAddress(UNTOUCHED)).unwrap();
    for _ in 0..rounds {
        rig.start(dice.roll());
        for queue in 0..rig.queues.len() {
            let size = u64::from(rig.sizes[queue]);
            for index in 0..size.min(8) {
                let addr = match dice.below(12) {
                    0 => LENT - dice.below(64).min(1),
                    1 => dice.roll(),
                    2 => 0,
                    3 => u64::MAX - dice.below(8),
                    _ => BUFFERS + dice.below(0x1000),
                };
                let len = match dice.below(8) {
                    0 => 0,
                    1 => u32::MAX - dice.below(4) as u32,
                    2 => dice.below(64) as u32,
                    _ => dice.below(0x1000) as u32,
                };
                // Mostly the flags that mean something; in rare cases all of them.
                let flags = if dice.below(10) == 0 { dice.roll() as u16 } else { dice.below(4) as u16 };
                let most = if dice.below(10) == 0 { 1 << 16 } else { 8 };
                let next = dice.below(most) as u16;
                let descriptor = RawDescriptor::from(Descriptor::new(addr, len, flags, next));
                rig.queues[queue].desc_table().store(index as u16, descriptor).unwrap();
            }
            let bytes = header(&mut dice);
            rig.memory.write_slice(&bytes, GuestAddress(BUFFERS + dice.below(0x1000))).unwrap();
            rig.memory.write_slice(&bytes, GuestAddress(BUFFERS)).unwrap();
            let avail = rig.queues[queue].avail();
            for entry in 0..size.min(8) {
                let head = if dice.below(20) == 0 { dice.roll() as u16 } else { dice.below(8) as u16 };
                avail.ring().ref_at(entry as usize).unwrap().store(head);
            }
            avail.idx().store(if dice.below(20) == 0 { dice.roll() as u16 } else { dice.below(8) as u16 });
            rig.set(0x50, dice.roll() as u32);
        }
        // Registers too, at any offset, but for the status.
        for _ in 0..4 {
            let offset = dice.below(0x180);
            let mut word = [0; 8];
            rig.mmio.read(offset, &mut word[..[1, 2, 4, 8][dice.below(4) as usize]]);
            if offset & !3 != 0x70 && dice.below(4) == 0 {
                rig.set(offset & !3, dice.roll() as u32);
            }
        }
        rig.settle();
    }
    let mut now = vec![0; guard.len()];
    rig.memory.read_slice(&mut now, GuestAddress(UNTOUCHED)).unwrap();
    assert!(now == guard, "something was written where nothing was given");
}

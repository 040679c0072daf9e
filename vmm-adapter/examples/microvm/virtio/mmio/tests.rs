//! The registers, as a driver finds them.

use event_manager::{EventOps, Events};

use super::super::Progress;
use super::super::entropy::Entropy;
use super::super::queues::Queues;
use super::super::rig::{LENT, MEMORY, Part, Rig};
use super::*;

#[test]
fn a_driver_finds_the_device() {
    let rig = Rig::new(Entropy, false);
    assert_eq!([0, 4, 8].map(|offset| rig.get(offset)), [0x7472_6976, 2, 4]);
    assert_eq!(rig.offered(), 1 << 32 | 1 << 28 | 1 << 29);
    rig.set(0x30, 0);
    assert_eq!(rig.get(0x34), 8);
    rig.set(0x30, 1);
    assert_eq!(rig.get(0x34), 0, "there is no second queue");
    assert_eq!((rig.get(0xb0), rig.get(0xfc)), (u32::MAX, 0));
    rig.set(0x14, 2);
    assert_eq!(rig.get(0x10), 0, "there are no more features");
}

#[test]
fn registers_are_words() {
    let rig = Rig::new(Entropy, false);
    for (offset, len) in [(0, 1), (0, 2), (0, 8), (2, 4), (1, 4)] {
        assert_eq!(rig.mmio.read(offset, &mut [0; 8][..len]), IoOutcome::Unclaimed, "{offset} {len}");
        assert_eq!(rig.mmio.write(offset, &[0; 8][..len]), IoOutcome::Unclaimed);
    }
    for len in [1, 2, 4, 8] {
        assert_eq!(rig.mmio.read(0x100, &mut [0; 8][..len]), IoOutcome::Handled);
    }
}

#[test]
fn features_that_are_not_offered_or_too_few_are_refused() {
    let rig = Rig::new(Entropy, false);
    rig.choose(0);
    assert_eq!(rig.get(0x70), 3, "without VERSION_1");
    rig.choose(1 << 32);
    assert_eq!(rig.get(0x70), 11);
    rig.set(0x70, 0);
    for (offset, value) in [(0x70, 3), (0x24, 1), (0x20, 1 | 1 << 20), (0x70, 11)] {
        rig.set(offset, value);
    }
    assert_eq!(rig.get(0x70), 3, "bit 52 was not offered");
    assert!(!rig.needs_reset());
}

#[test]
fn protected_guests_must_use_the_pool() {
    let mut rig = Rig::new(Entropy, true);
    assert_ne!(rig.offered() & 1 << 33, 0);
    rig.choose(1 << 32);
    assert_eq!(rig.get(0x70), 3 | 64, "without ACCESS_PLATFORM");
    rig.choose(1 << 32 | 1 << 33);
    rig.set_up_queue(0, 8, LENT, MEMORY, MEMORY + 0x100);
    rig.set(0x70, 15);
    assert!(rig.needs_reset());
    rig.start(u64::MAX);
    assert!(!rig.needs_reset());
    assert_eq!(rig.request(0, &[Part::Take(16)]).unwrap().len(), 16);
}

#[test]
fn what_is_lent_is_named() {
    let rig = Rig::new(Entropy, true);
    let why = rig.mmio.engine().dma.out_of_reach("a queue", GuestAddress(LENT)).0;
    assert!(why.contains("CONFIG_DMA_RESTRICTED_POOL") && why.contains("lent"), "{why}");
    let why = rig.mmio.engine().dma.out_of_reach("a queue", GuestAddress(1)).0;
    assert!(why.contains("where it has no memory"), "{why}");
}

#[test]
fn queues_that_cannot_be_break_the_device_until_a_reset() {
    let mut rig = Rig::new(Entropy, false);
    let good = (8, MEMORY, MEMORY + 0x100, MEMORY + 0x200);
    for (size, table, avail, used) in [
        (0, good.1, good.2, good.3),
        (3, good.1, good.2, good.3),
        (16, good.1, good.2, good.3),
        (1 << 16, good.1, good.2, good.3),
        (8, good.1 + 8, good.2, good.3),
        (8, good.1, good.2 + 1, good.3),
        (8, good.1, good.2, good.3 + 2),
        (8, 0, good.2, good.3),
        (8, good.1, LENT - 2, good.3),
        (8, good.1, good.2, u64::MAX - 3),
    ] {
        rig.choose(1 << 32);
        rig.set_up_queue(0, size, table, avail, used);
        rig.set(0x70, 15);
        assert!(rig.needs_reset(), "{size} {table:#x} {avail:#x} {used:#x}");
        assert_ne!(rig.get(0x60) & 2, 0, "the driver is told");
    }
    rig.choose(1 << 32);
    rig.set(0x70, 15);
    assert!(rig.needs_reset(), "no queue");
    rig.set(0x70, 0);
    rig.set(0x70, 15);
    assert!(rig.needs_reset(), "no features");
    rig.start(u64::MAX);
    assert_eq!((rig.get(0x70), rig.get(0x44)), (15, 1));
}

#[test]
fn a_reset_forgets_everything() {
    let mut rig = Rig::started(Entropy);
    rig.request(0, &[Part::Take(16)]).unwrap();
    rig.set(0x70, 0);
    assert_eq!([0x70, 0x60, 0x44].map(|offset| rig.get(offset)), [0; 3]);
    // What is offered now is not looked at.
    rig.offer(0, super::super::rig::BUFFERS, &[Part::Take(16)]);
    rig.settle();
    assert_eq!(rig.used_index(0), 1);
}

#[test]
fn a_running_queue_is_not_changed_and_can_be_stopped() {
    let mut rig = Rig::started(Entropy);
    rig.set(0x80, LENT as u32);
    rig.set(0x38, 4);
    assert_eq!(rig.request(0, &[Part::Take(16)]).unwrap().len(), 16);
    rig.set(0x44, 0);
    assert_eq!(rig.get(0x44), 0);
    rig.offer(0, super::super::rig::BUFFERS, &[Part::Take(16)]);
    rig.settle();
    assert_eq!(rig.used_index(0), 1, "nothing is used any more");
}

#[test]
fn each_used_buffer_is_an_interrupt() {
    let mut rig = Rig::started(Entropy);
    for _ in 0..20 {
        rig.request(0, &[Part::Take(1)]).unwrap();
        while rig.irqfd.read().is_err() {
            std::thread::yield_now();
        }
        assert_eq!(rig.get(0x60), 1);
        rig.set(0x64, 1);
        assert_eq!(rig.get(0x60), 0);
    }
}

/// A device that cannot do its work.
struct Faulty(bool);

impl Device for Faulty {
    fn kind(&self) -> u32 {
        42
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8]
    }

    fn process(
        &mut self,
        queues: &mut Queues<'_>,
        _: Option<Events>,
        _: &mut EventOps<'_>,
    ) -> Result<Progress, Broken> {
        if queues.pop(0)?.is_none() {
            return Ok(Progress::Idle);
        }
        assert!(!self.0, "a bug of the device");
        Err(Broken::new("no luck"))
    }
}

#[test]
fn a_device_that_fails_can_be_reset_and_one_that_panics_stays_off() {
    for panics in [false, true] {
        let mut rig = Rig::new(Faulty(panics), false);
        for round in 0..2 {
            rig.start(u64::MAX);
            assert_eq!(rig.needs_reset(), panics && round > 0, "{panics} {round}");
            assert_eq!(rig.request(0, &[Part::Take(1)]), None);
            assert!(rig.needs_reset());
            // The interrupt follows the status.
            while rig.get(0x60) & 2 == 0 {
                std::thread::yield_now();
            }
        }
    }
}

//! The devices by address.

use vm_memory::GuestAddress;
use vmm_adapter::{IoHandler, IoOutcome};

/// A device behind a range of addresses. Offsets count from the range's start.
pub(crate) trait Device: Send + Sync {
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome;
    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome;
}

struct Entry<'a> {
    start: u64,
    size: u64,
    device: &'a dyn Device,
}

/// The devices by address. Few, so they are looked through in order.
#[derive(Default)]
pub(crate) struct Bus<'a> {
    entries: Vec<Entry<'a>>,
}

impl<'a> Bus<'a> {
    pub(crate) fn add(&mut self, start: u64, size: u64, device: &'a dyn Device) {
        self.entries.push(Entry { start, size, device });
    }

    /// The device that holds all of an access, and the offset in it.
    fn find(&self, addr: u64, len: usize) -> Option<(&'a dyn Device, u64)> {
        self.entries.iter().find_map(|entry| {
            let offset = addr.checked_sub(entry.start)?;
            let end = offset.checked_add(len as u64)?;
            (end <= entry.size).then_some((entry.device, offset))
        })
    }
}

impl IoHandler for Bus<'_> {
    fn mmio_read(&self, addr: GuestAddress, data: &mut [u8]) -> IoOutcome {
        match self.find(addr.0, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => IoOutcome::Unclaimed,
        }
    }

    fn mmio_write(&self, addr: GuestAddress, data: &[u8]) -> IoOutcome {
        match self.find(addr.0, data.len()) {
            Some((device, offset)) => device.write(offset, data),
            None => IoOutcome::Unclaimed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Device for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
            data.fill(offset as u8);
            IoOutcome::Handled
        }

        fn write(&self, _offset: u64, _data: &[u8]) -> IoOutcome {
            IoOutcome::Handled
        }
    }

    #[test]
    fn an_access_must_lie_wholly_in_a_device() {
        let mut bus = Bus::default();
        bus.add(0x1000, 8, &Echo);
        bus.add(0x1008, 8, &Echo);
        let read = |addr, len: usize| {
            let mut data = [0; 8];
            let outcome = bus.mmio_read(GuestAddress(addr), &mut data[..len]);
            (outcome, data[0])
        };
        assert_eq!(read(0x1004, 4), (IoOutcome::Handled, 4));
        assert_eq!(read(0x1008, 8), (IoOutcome::Handled, 0));
        for (addr, len) in [(0x0fff, 1), (0x1010, 1), (0x1004, 8), (0x1006, 4), (u64::MAX, 8)] {
            assert_eq!(read(addr, len).0, IoOutcome::Unclaimed, "{addr:#x} {len}");
            assert_eq!(bus.mmio_write(GuestAddress(addr), &[0; 8][..len]), IoOutcome::Unclaimed);
        }
    }
}

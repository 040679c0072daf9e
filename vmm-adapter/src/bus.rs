//! The VMM's devices by address.

use std::fmt;
use std::sync::Arc;

use vm_memory::GuestAddress;

use crate::error::{Error, Result};
use crate::io::{IoHandler, IoOutcome};

/// A device behind a range of addresses. Offsets count from the range's start; an access lies wholly in the range.
///
/// Calls come from the threads that run vCPUs, several at a time.
pub trait MmioDevice: Send + Sync {
    /// The guest loads. `data` comes filled with zeros.
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome;

    /// The guest stores.
    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome;
}

impl<T: MmioDevice + ?Sized> MmioDevice for &T {
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
        (**self).read(offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome {
        (**self).write(offset, data)
    }
}

impl<T: MmioDevice + ?Sized> MmioDevice for Arc<T> {
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
        (**self).read(offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome {
        (**self).write(offset, data)
    }
}

struct Entry<'a> {
    start: u64,
    /// The last address.
    last: u64,
    device: Box<dyn MmioDevice + 'a>,
}

/// The VMM's devices by address: what [`Vcpu::run`](crate::Vcpu::run) wants.
///
/// Finding a device takes a binary search, so it costs about the same with one device and with hundreds. Devices are added
/// before the vCPUs run; an access outside of all of them, or across the end of one, is
/// [`Unclaimed`](IoOutcome::Unclaimed).
///
/// ```
/// use vm_memory::GuestAddress;
/// use vmm_adapter::{Bus, IoHandler, IoOutcome, MmioDevice};
///
/// struct Id;
/// impl MmioDevice for Id {
///     fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
///         data.fill(offset as u8);
///         IoOutcome::Handled
///     }
///     fn write(&self, _offset: u64, _data: &[u8]) -> IoOutcome {
///         IoOutcome::Handled
///     }
/// }
///
/// let mut bus = Bus::new();
/// bus.add(GuestAddress(0x1000_0000), 0x100, Id)?;
/// let mut data = [0; 2];
/// assert_eq!(bus.mmio_read(GuestAddress(0x1000_0004), &mut data), IoOutcome::Handled);
/// assert_eq!(data, [4, 4]);
/// assert!(bus.add(GuestAddress(0x1000_00ff), 1, Id).is_err());
/// # Ok::<(), vmm_adapter::Error>(())
/// ```
#[derive(Default)]
pub struct Bus<'a> {
    /// By their addresses; none overlaps another.
    entries: Vec<Entry<'a>>,
}

impl<'a> Bus<'a> {
    /// A bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a device at `size` bytes from `addr` on: one of its own, a reference, or an [`Arc`].
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Error::InvalidArgument): the range is empty, wraps around, or overlaps another device.
    pub fn add(&mut self, addr: GuestAddress, size: u64, device: impl MmioDevice + 'a) -> Result<()> {
        const OP: &str = "Bus::add";
        let start = addr.0;
        let last = size.checked_sub(1).and_then(|rest| start.checked_add(rest));
        let Some(last) = last else {
            return Err(Error::invalid(
                OP,
                format!("{size:#x} bytes at {start:#x} are empty or wrap around"),
            ));
        };
        let at = self.entries.partition_point(|entry| entry.last < start);
        if let Some(other) = self.entries.get(at).filter(|other| other.start <= last) {
            let why = format!(
                "{start:#x}..={last:#x} overlaps the device at {:#x}..={:#x}",
                other.start, other.last
            );
            return Err(Error::invalid(OP, why));
        }
        self.entries.insert(at, Entry { start, last, device: Box::new(device) });
        Ok(())
    }

    /// The device that holds all of an access, and the offset in it.
    fn find(&self, addr: u64, len: usize) -> Option<(&(dyn MmioDevice + 'a), u64)> {
        let last = addr.checked_add(u64::try_from(len).ok()?.checked_sub(1)?)?;
        let entry = self.entries.get(self.entries.partition_point(|entry| entry.last < addr))?;
        (entry.start <= addr && last <= entry.last).then(|| (&*entry.device, addr - entry.start))
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

impl fmt::Debug for Bus<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.entries.iter().map(|entry| entry.start..=entry.last);
        f.debug_list().entries(ranges).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows its number and the offset.
    struct Echo(u8);

    impl MmioDevice for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
            data.fill(offset as u8);
            data[0] = self.0;
            IoOutcome::Handled
        }

        fn write(&self, _offset: u64, _data: &[u8]) -> IoOutcome {
            IoOutcome::Handled
        }
    }

    fn read(bus: &Bus<'_>, addr: u64, len: usize) -> (IoOutcome, u8, u8) {
        let mut data = [0; 8];
        let outcome = bus.mmio_read(GuestAddress(addr), &mut data[..len]);
        (outcome, data[0], data[1])
    }

    #[test]
    fn an_access_must_lie_wholly_in_a_device() {
        let (second, third) = (Arc::new(Echo(2)), Echo(3));
        let mut bus = Bus::new();
        bus.add(GuestAddress(0x1008), 8, Arc::clone(&second)).unwrap();
        bus.add(GuestAddress(0x1000), 8, Echo(1)).unwrap();
        bus.add(GuestAddress(u64::MAX - 7), 8, &third).unwrap();
        assert_eq!(read(&bus, 0x1004, 4), (IoOutcome::Handled, 1, 4));
        assert_eq!(read(&bus, 0x1008, 8), (IoOutcome::Handled, 2, 0));
        assert_eq!(read(&bus, u64::MAX - 1, 2), (IoOutcome::Handled, 3, 6));
        for (addr, len) in [(0x0fff, 1), (0x1010, 1), (0x1004, 8), (0x1006, 4), (u64::MAX, 8), (0x1000, 0)] {
            assert_eq!(read(&bus, addr, len).0, IoOutcome::Unclaimed, "{addr:#x} {len}");
            assert_eq!(bus.mmio_write(GuestAddress(addr), &[0; 8][..len]), IoOutcome::Unclaimed);
        }
        assert_eq!(Bus::new().mmio_write(GuestAddress(0), &[0]), IoOutcome::Unclaimed);
    }

    #[test]
    fn devices_do_not_overlap() {
        let mut bus = Bus::new();
        for (addr, size) in [(0x1000, 0x10), (0x3000, 0x10), (0x2000, 0x1000)] {
            bus.add(GuestAddress(addr), size, Echo(0)).unwrap();
        }
        for (addr, size) in
            [(0x0fff, 2), (0x100f, 1), (0x1000, 0x10), (0, 0x4000), (0x2fff, 1), (5, 0), (u64::MAX, 2)]
        {
            let error = bus.add(GuestAddress(addr), size, Echo(0)).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{addr:#x} {size:#x}");
        }
        assert_eq!(format!("{bus:?}"), "[4096..=4111, 8192..=12287, 12288..=12303]");
    }

    #[test]
    fn every_device_is_found_among_many() {
        let mut bus = Bus::new();
        // In an order that is none.
        for n in (0..256_u64).map(|n| n * 83 % 256) {
            bus.add(GuestAddress(0x1000 * n), 0x1000, Echo(n as u8)).unwrap();
        }
        for n in 0..256_u64 {
            for offset in [0, 0x7ff, 0xffe] {
                let found = read(&bus, 0x1000 * n + offset, 2);
                assert_eq!(found, (IoOutcome::Handled, n as u8, offset as u8));
            }
        }
    }
}

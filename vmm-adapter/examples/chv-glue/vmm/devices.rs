//! What the guest's accesses come to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::bail;
use conformance::interrupts::{SPECIAL, mailbox};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Log;
use super::interrupt::InterruptGroup;
use super::layout::{DEVICE_SIZE, PANEL, panel};
use crate::hypervisor::vm::{DataMatch, HypervisorVmError, IoEventAddress, Result, Vm, VmOps};

/// A device of [`DEVICE_SIZE`] bytes.
pub(super) trait Device: Send + Sync {
    fn read(&self, offset: u64, data: &mut [u8]) -> anyhow::Result<()>;
    fn write(&self, offset: u64, data: &[u8]) -> anyhow::Result<()>;
}

/// The number in the bytes of an access.
pub(super) fn number(data: &[u8]) -> u64 {
    data.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Puts a number into the bytes of an access.
pub(super) fn answer(data: &mut [u8], value: u64) {
    for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
        *to = from;
    }
}

/// The devices by their addresses, and the memory that they may touch.
pub(super) struct Bus {
    pub(super) devices: BTreeMap<u64, Arc<dyn Device>>,
    pub(super) memory: GuestMemoryMmap,
    pub(super) log: Log,
}

impl Bus {
    fn find(&self, gpa: u64) -> Option<(&dyn Device, u64)> {
        let (base, device) = self.devices.range(..=gpa).next_back()?;
        let offset = gpa - base;
        (offset < DEVICE_SIZE).then_some((&**device, offset))
    }
}

impl VmOps for Bus {
    fn guest_mem_write(&self, gpa: u64, buf: &[u8]) -> Result<usize> {
        let wrote = self.memory.write_slice(buf, GuestAddress(gpa));
        wrote.map(|()| buf.len()).map_err(|error| HypervisorVmError::GuestMemory(error.into()))
    }

    fn guest_mem_read(&self, gpa: u64, buf: &mut [u8]) -> Result<usize> {
        let read = self.memory.read_slice(buf, GuestAddress(gpa));
        read.map(|()| buf.len()).map_err(|error| HypervisorVmError::GuestMemory(error.into()))
    }

    fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> Result<()> {
        match self.find(gpa) {
            Some((device, offset)) => device.read(offset, data).map_err(HypervisorVmError::Mmio),
            None => {
                (self.log)(format!("nobody is at {gpa:#x}: the load gives ones"));
                data.fill(0xff);
                Ok(())
            }
        }
    }

    fn mmio_write(&self, gpa: u64, data: &[u8]) -> Result<()> {
        match self.find(gpa) {
            Some((device, offset)) => device.write(offset, data).map_err(HypervisorVmError::Mmio),
            None => {
                (self.log)(format!("nobody is at {gpa:#x}: the store is dropped"));
                Ok(())
            }
        }
    }
}

/// Where the guest tells of its interrupts.
pub(super) struct Mailbox {
    pub(super) taken: Arc<AtomicU64>,
    pub(super) log: Log,
}

impl Device for Mailbox {
    fn read(&self, _offset: u64, data: &mut [u8]) -> anyhow::Result<()> {
        data.fill(0);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> anyhow::Result<()> {
        let value = number(data);
        match offset % mailbox::SIZE {
            mailbox::TAKEN if value < SPECIAL.into() => {
                (self.log)(format!("guest: takes interrupt {value}"));
                self.taken.fetch_add(1, Ordering::SeqCst);
            }
            mailbox::TAKEN => {}
            mailbox::EXCEPTION => bail!("the guest has an exception, ESR_EL1 is {value:#x}"),
            _ => {}
        }
        Ok(())
    }
}

/// The panel: see [`panel`].
pub(super) struct Panel {
    taken: Arc<AtomicU64>,
    cpus: AtomicU64,
    interrupt: InterruptGroup,
    doorbells: [(u64, Option<DataMatch>, EventFd); 3],
    rang: Mutex<u64>,
    memory: GuestMemoryMmap,
    log: Log,
}

impl Panel {
    /// Puts its doorbells into the VM, too.
    pub(super) fn new(
        vm: &dyn Vm,
        interrupt: InterruptGroup,
        taken: Arc<AtomicU64>,
        memory: GuestMemoryMmap,
        log: Log,
    ) -> anyhow::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let doorbells = [
            (panel::NOTIFY_ANY, None, event()?),
            (panel::NOTIFY_32, Some(DataMatch::DataMatch32(panel::MATCH)), event()?),
            (panel::NOTIFY_64, Some(DataMatch::DataMatch64(panel::MATCH.into())), event()?),
        ];
        for (offset, datamatch, event) in &doorbells {
            vm.register_ioevent(event, &IoEventAddress::Mmio(PANEL + offset), *datamatch)?;
        }
        Ok(Self { taken, cpus: AtomicU64::new(0), interrupt, doorbells, rang: Mutex::default(), memory, log })
    }

    fn rang(&self) -> u64 {
        let mut rang = self.rang.lock().unwrap_or_else(PoisonError::into_inner);
        // An empty counter is an error.
        *rang += self.doorbells.iter().filter_map(|(_, _, event)| event.read().ok()).sum::<u64>();
        *rang
    }

    /// The guest's text, up to its end.
    fn text(&self, addr: u64) -> anyhow::Result<String> {
        let mut bytes = [0; 64];
        self.memory.read_slice(&mut bytes, GuestAddress(addr))?;
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

impl Device for Panel {
    fn read(&self, offset: u64, data: &mut [u8]) -> anyhow::Result<()> {
        let value = match offset {
            panel::ID => panel::ID_VALUE,
            panel::TAKEN => self.taken.load(Ordering::SeqCst),
            panel::CPU => self.cpus.load(Ordering::SeqCst),
            panel::RANG => self.rang(),
            _ => 0,
        };
        answer(data, value);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> anyhow::Result<()> {
        let value = number(data);
        match offset {
            panel::SEEN => (self.log)(format!("guest: reads {value:#x}")),
            panel::CPU => {
                (self.log)(format!("guest: CPU {value} is up"));
                self.cpus.fetch_add(1, Ordering::SeqCst);
            }
            panel::RAISE => self.interrupt.trigger(0)?,
            panel::TEXT => match self.text(value) {
                Ok(text) => (self.log)(format!("guest: {text:?}, from {value:#x}")),
                // Not the VMM's trouble: the guest hands out memory that is its own.
                Err(error) => (self.log)(format!("devices cannot reach {value:#x}: {error}")),
            },
            _ => (self.log)(format!("guest: stores {value:#x} to {offset:#x} of the panel, an exit")),
        }
        Ok(())
    }
}

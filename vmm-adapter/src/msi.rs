//! Message-signalled interrupts by a GICv2m frame.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::MmioDevice;
use crate::config::{IrqLine, MsiPool};
use crate::error::{Error, Result};
use crate::io::IoOutcome;
use crate::vm::Vm;

/// The number of the first shared peripheral interrupt, as the guest's messages count.
const FIRST_SPI: u32 = 32;

/// Registers of the frame, by their offsets.
mod register {
    pub(super) const TYPER: u64 = 0x008;
    pub(super) const SETSPI: u64 = 0x040;
}

/// A GICv2m frame: the guest's PCI devices interrupt by storing a number to it.
///
/// Gunyah's interrupt controller has no ITS, so messages have no other way to the guest. The frame is a device of the VMM: a
/// store traps, and signals the line whose number was stored. The lines are those of the VM's
/// [`MsiPool`]: there can be no more, since Gunyah learns of lines from the devicetree, before the start.
/// [`fdt::write`](crate::fdt::write) describes the frame; PCI host bridges name
/// [`fdt::MSI_PHANDLE`](crate::fdt::MSI_PHANDLE) as their `msi-parent`.
///
/// Put it on the [`Bus`](crate::Bus), at [`MsiPool::frame`] and with [`MsiFrame::SIZE`] bytes. Devices that the VMM emulates need no store: they call [`MsiFrame::signal`] with the data that the guest's driver wrote
/// into their MSI-X table.
#[derive(Debug)]
pub struct MsiFrame {
    pool: MsiPool,
    lines: Vec<Line>,
    vm: Weak<dyn Vm>,
    allocated: Mutex<u32>,
    stray: AtomicU64,
}

struct Line {
    line: IrqLine,
    event: EventFd,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.line)
    }
}

/// What a device stores, and where, to interrupt the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// The guest physical address, for the MSI-X table's address words.
    pub addr: GuestAddress,
    /// The value of 32 bits.
    pub data: u32,
}

impl MsiFrame {
    /// Bytes that the frame takes in the guest's address space.
    pub const SIZE: u64 = 0x1000;

    /// Binds every line of the VM's pool: on Gunyah to the doorbells that the tree declares, on KVM to the interrupt controller.
    /// Configuring and running; what is signalled before the start is lost. The frame does not keep the VM.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): the VM was made without a pool, or one of its lines is bound
    ///   already.
    /// - [`WrongState`](crate::Error::WrongState): the VM has ended.
    /// - [`Backend`](crate::Error::Backend): what [`Vm::register_irqfd`] answers, or no more file descriptors (EMFILE): each line
    ///   has one.
    ///
    /// Nothing stays bound then. That a hypervisor has no pools ([`Feature::MsiPool`](crate::Feature::MsiPool)), as KVM on x86_64, is
    /// said when the VM is made.
    pub fn new(vm: &Arc<dyn Vm>) -> Result<Self> {
        let Some(pool) = vm.config().msi else {
            return Err(Error::invalid("MsiFrame::new", "the VM has no MsiPool"));
        };
        let mut frame = Self {
            pool,
            lines: Vec::new(),
            vm: Arc::downgrade(vm),
            allocated: Mutex::new(0),
            stray: AtomicU64::new(0),
        };
        for spi in pool.base..pool.base.saturating_add(pool.count) {
            let line = IrqLine::edge(spi);
            let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
                .map_err(|source| Error::Backend { op: "eventfd", source: Box::new(source) })?;
            vm.register_irqfd(&event, line)?;
            frame.lines.push(Line { line, event });
        }
        Ok(frame)
    }

    /// Takes `count` vectors in a row out of the pool: their numbers for [`MsiFrame::message`]. `None`: so many are not left.
    ///
    /// For VMMs that hand out vectors themselves. A Linux guest does so itself, by the devicetree, and needs no call.
    pub fn allocate(&self, count: u32) -> Option<Range<u32>> {
        let mut allocated = self.allocated.lock().unwrap_or_else(PoisonError::into_inner);
        let end = allocated.checked_add(count).filter(|end| *end <= self.pool.count)?;
        Some(std::mem::replace(&mut *allocated, end)..end)
    }

    /// The message of a vector of the pool, counted from 0.
    pub fn message(&self, vector: u32) -> Option<MsiMessage> {
        (vector < self.pool.count).then(|| MsiMessage {
            addr: GuestAddress(self.pool.frame.0.saturating_add(register::SETSPI)),
            data: FIRST_SPI.saturating_add(self.pool.base).saturating_add(vector),
        })
    }

    /// Interrupts the guest as a store of `data` would. `false`: no line of the pool has this number, and nothing happens but
    /// that [`MsiFrame::stray`] counts it.
    pub fn signal(&self, data: u32) -> bool {
        let number = data.checked_sub(FIRST_SPI).and_then(|spi| spi.checked_sub(self.pool.base));
        let line = number.and_then(|number| self.lines.get(usize::try_from(number).ok()?));
        match line {
            // The counter is full only if nobody reads it, and then it says enough.
            Some(line) => drop(line.event.write(1)),
            None => drop(self.stray.fetch_add(1, Ordering::Relaxed)),
        }
        line.is_some()
    }

    /// How many messages had a number that is not in the pool.
    pub fn stray(&self) -> u64 {
        self.stray.load(Ordering::Relaxed)
    }
}

/// A store to SETSPI counts when it is of 32 bits; other stores are dropped, and registers that do not exist read as zero, as
/// in hardware.
impl MmioDevice for MsiFrame {
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
        let value = match offset {
            register::TYPER => FIRST_SPI.saturating_add(self.pool.base) << 16 | self.pool.count,
            // All others, the identification (0xfcc) among them.
            _ => 0,
        };
        for (to, from) in data.iter_mut().zip(value.to_le_bytes().into_iter().chain([0; 4])) {
            *to = from;
        }
        IoOutcome::Handled
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome {
        if let (register::SETSPI, Ok(data)) = (offset, data.try_into()) {
            self.signal(u32::from_le_bytes(data));
        }
        IoOutcome::Handled
    }
}

impl Drop for MsiFrame {
    fn drop(&mut self) {
        let Some(vm) = self.vm.upgrade() else { return };
        for line in &self.lines {
            // There is nobody to tell.
            let _ = vm.unregister_irqfd(&line.event, line.line);
        }
    }
}

//! Doorbells as interrupts, and irqfd and ioeventfd as KVM has them.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::levels::Levels;
use super::vm::KvmVm;
use super::{Refused, refused, sys};
use crate::errno::Errno;
use crate::rm::{Doorbell, Trigger};

/// The interrupts behind the doorbells.
pub(super) struct Lines {
    bells: HashMap<u32, Line>,
    /// What rings an edge-triggered doorbell from inside this process.
    ringers: Mutex<HashMap<u32, EventFd>>,
    levels: OnceLock<Levels>,
}

/// One interrupt: its SPI and how the guest understands it.
#[derive(Clone, Copy, Debug)]
struct Line {
    spi: u32,
    level: bool,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("bells", &self.bells).finish_non_exhaustive()
    }
}

impl Lines {
    /// `None`: an interrupt is none of these SPIs.
    pub(super) fn new(doorbells: &[Doorbell], spis: Range<u32>) -> Option<Self> {
        let mut bells = HashMap::new();
        for bell in doorbells {
            let intid = bell.intid();
            let level = bell.interrupt.is_some_and(|interrupt| interrupt.trigger == Trigger::Level);
            let spi = spis.contains(&intid).then(|| intid - spis.start)?;
            bells.insert(bell.label, Line { spi, level });
        }
        Some(Self { bells, ringers: Mutex::default(), levels: OnceLock::new() })
    }

    /// Prepares the level-triggered ones. The VM must have its GIC.
    pub(super) fn set_up(&self, vm: &VmFd) -> Result<(), Refused> {
        let levels = self.bells.iter().filter(|(_, line)| line.level);
        if let Some(levels) = Levels::new(vm, levels.map(|(label, line)| (*label, line.spi)))? {
            let _ = self.levels.set(levels);
        }
        Ok(())
    }

    /// The highest interrupt number in use.
    pub(super) fn highest(&self) -> u32 {
        self.bells.values().map(|line| line.spi + 32).max().unwrap_or(0)
    }
}

impl KvmVm {
    /// KVM rings the doorbell `label` for each signal of the eventfd, if it is edge-triggered.
    pub(crate) fn add_irqfd(&self, label: u32, eventfd: BorrowedFd<'_>) -> Result<(), Refused> {
        let line = self.line(label)?;
        let eventfd = &*sys::as_event_fd(&eventfd);
        if line.level {
            return Err(Refused { what: "a level-triggered doorbell", errno: Errno::EOPNOTSUPP });
        }
        self.fd.register_irqfd(eventfd, line.spi).map_err(refused("bind an irqfd"))
    }

    pub(crate) fn remove_irqfd(&self, label: u32, eventfd: BorrowedFd<'_>) {
        if let Ok(line) = self.line(label) {
            let _ = self.fd.unregister_irqfd(&sys::as_event_fd(&eventfd), line.spi);
        }
    }

    fn line(&self, label: u32) -> Result<Line, Refused> {
        let missing = Refused { what: "no doorbell has this label", errno: Errno::ENOENT };
        self.lines.bells.get(&label).copied().ok_or(missing)
    }

    /// Rings a doorbell.
    pub(crate) fn ring(&self, label: u32) {
        if let Some(levels) = self.lines.levels.get() {
            levels.ring(label);
        }
        let mut ringers = self.lines.ringers.lock().unwrap_or_else(PoisonError::into_inner);
        if !ringers.contains_key(&label) {
            let Ok(ringer) = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC) else { return };
            if self.add_irqfd(label, sys::borrow(&ringer)).is_ok() {
                ringers.insert(label, ringer);
            }
        }
        if let Some(ringer) = ringers.get(&label) {
            let _ = ringer.write(1);
        }
    }

    /// KVM signals the eventfd for stores to `addr`: of any length and value, or of this length with this value.
    pub(crate) fn add_ioeventfd(
        &self,
        eventfd: BorrowedFd<'_>,
        addr: u64,
        only: Option<(u32, u64)>,
    ) -> Result<(), Refused> {
        let eventfd = &*sys::as_event_fd(&eventfd);
        let at = IoEventAddress::Mmio(addr);
        match only {
            None => self.fd.register_ioevent(eventfd, &at, NoDatamatch),
            Some((8, value)) => self.fd.register_ioevent(eventfd, &at, value),
            Some((4, value)) => self.fd.register_ioevent(eventfd, &at, value as u32),
            Some((2, value)) => self.fd.register_ioevent(eventfd, &at, value as u16),
            Some((_, value)) => self.fd.register_ioevent(eventfd, &at, value as u8),
        }
        .map_err(refused("bind an ioeventfd"))
    }

    pub(crate) fn remove_ioeventfd(&self, eventfd: BorrowedFd<'_>, addr: u64, only: Option<(u32, u64)>) {
        let eventfd = &*sys::as_event_fd(&eventfd);
        let at = IoEventAddress::Mmio(addr);
        let _ = match only {
            None => self.fd.unregister_ioevent(eventfd, &at, NoDatamatch),
            Some((8, value)) => self.fd.unregister_ioevent(eventfd, &at, value),
            Some((4, value)) => self.fd.unregister_ioevent(eventfd, &at, value as u32),
            Some((2, value)) => self.fd.unregister_ioevent(eventfd, &at, value as u16),
            Some((_, value)) => self.fd.unregister_ioevent(eventfd, &at, value as u8),
        };
    }
}

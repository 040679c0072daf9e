//! A card that interrupts by messages, with a table as MSI-X has it and a thread of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::Log;
use super::devices::{Device, answer, number};
use super::interrupt::InterruptGroup;
use crate::hypervisor::vm::{InterruptSourceConfig, MsiIrqSourceConfig};

/// How many vectors it has.
pub(crate) const VECTORS: u32 = 2;

/// Bytes of an entry of the table, which is at the start: address (64 bits), data and control (32 bits each).
pub(crate) const ENTRY: u64 = 16;
/// Of an entry.
pub(crate) const DATA: u64 = 8;
/// Of an entry: bit 0 masks the vector.
pub(crate) const CONTROL: u64 = 12;
/// A store of a vector's number makes the card signal it.
pub(crate) const START: u64 = 0x100;
/// Loaded, 32 bits: how many signals it has sent.
pub(crate) const SENT: u64 = 0x108;

/// The card.
pub(super) struct Card {
    group: Arc<InterruptGroup>,
    table: Mutex<[Entry; VECTORS as usize]>,
    work: Mutex<Option<Sender<u32>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    sent: Arc<AtomicU64>,
    log: Log,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    addr: u64,
    data: u32,
    masked: bool,
}

impl Card {
    pub(super) fn new(group: InterruptGroup, log: Log) -> anyhow::Result<Self> {
        let group = Arc::new(group);
        let (work, jobs) = channel();
        let sent = Arc::new(AtomicU64::new(0));
        let (its_group, its_log, its_sent) = (Arc::clone(&group), Arc::clone(&log), Arc::clone(&sent));
        let thread = thread::Builder::new().name("card".into()).spawn(move || {
            for vector in jobs {
                its_log(format!("card: signals vector {vector}"));
                if let Err(error) = its_group.trigger(vector) {
                    its_log(format!("card: {error:#}"));
                }
                its_sent.fetch_add(1, Ordering::SeqCst);
            }
        })?;
        let masked = Entry { masked: true, ..Entry::default() };
        Ok(Self {
            group,
            table: Mutex::new([masked; VECTORS as usize]),
            work: Mutex::new(Some(work)),
            thread: Mutex::new(Some(thread)),
            sent,
            log,
        })
    }

    fn update(&self, vector: u64, field: u64, value: u64) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = usize::try_from(vector).ok().and_then(|vector| table.get_mut(vector)) else {
            return;
        };
        match field {
            0 => entry.addr = value,
            DATA => entry.data = value as u32,
            CONTROL => entry.masked = value & 1 == 1,
            _ => return,
        }
        // A driver masks a vector while it changes its message.
        if entry.masked && field != CONTROL {
            return;
        }
        let Entry { addr, data, masked } = *entry;
        let (high_addr, low_addr) = ((addr >> 32) as u32, addr as u32);
        let to = InterruptSourceConfig::MsiIrq(MsiIrqSourceConfig { high_addr, low_addr, data, devid: 0 });
        match self.group.update(vector as u32, to, masked) {
            Ok(()) if masked => {}
            Ok(()) => (self.log)(format!("card: vector {vector} is INTID {data}")),
            // A guest's mistake is the guest's trouble.
            Err(error) => (self.log)(format!("card: vector {vector}: {error:#}")),
        }
    }
}

impl Device for Card {
    fn read(&self, offset: u64, data: &mut [u8]) -> anyhow::Result<()> {
        answer(data, if offset == SENT { self.sent.load(Ordering::SeqCst) } else { 0 });
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> anyhow::Result<()> {
        let value = number(data);
        if offset != START {
            self.update(offset / ENTRY, offset % ENTRY, value);
        } else if let Some(work) = &*self.work.lock().unwrap_or_else(PoisonError::into_inner) {
            work.send(value as u32)?;
        }
        Ok(())
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // Without work the thread ends.
        self.work.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            // It does not panic, and nobody could do anything about it here.
            let _ = thread.join();
        }
    }
}

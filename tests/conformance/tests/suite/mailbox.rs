//! The device of the guests in this suite.

use std::sync::Mutex;

use vm_memory::GuestAddress;
use vmm_adapter::{IoHandler, IoOutcome};

/// Where the mailbox is. Nothing else is anywhere.
pub const MAILBOX: u64 = 0x1000_3000;
pub const SIZE: u64 = 0x1000;
/// An address where nothing is.
pub const NOWHERE: u64 = 0x2000_0000;

/// A store of the guest: address, width in bytes, value.
pub type Store = (u64, usize, u64);

/// Keeps what the guest stores, and answers its loads by a function of address and width.
pub struct Mailbox<F> {
    stores: Mutex<Vec<Store>>,
    answer: F,
}

impl<F: Fn(u64, usize) -> u64 + Sync> Mailbox<F> {
    pub fn new(answer: F) -> Self {
        Self { stores: Mutex::default(), answer }
    }

    pub fn stores(&self) -> Vec<Store> {
        self.stores.lock().unwrap().clone()
    }
}

impl<F: Fn(u64, usize) -> u64 + Sync> IoHandler for Mailbox<F> {
    fn mmio_read(&self, addr: GuestAddress, data: &mut [u8]) -> IoOutcome {
        if !(MAILBOX..MAILBOX + SIZE).contains(&addr.0) {
            return IoOutcome::Unclaimed;
        }
        let value = (self.answer)(addr.0, data.len()).to_le_bytes();
        data.copy_from_slice(&value[..data.len()]);
        IoOutcome::Handled
    }

    fn mmio_write(&self, addr: GuestAddress, data: &[u8]) -> IoOutcome {
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        self.stores.lock().unwrap().push((addr.0, data.len(), u64::from_le_bytes(value)));
        if (MAILBOX..MAILBOX + SIZE).contains(&addr.0) { IoOutcome::Handled } else { IoOutcome::Unclaimed }
    }
}

/// A mailbox that answers 0.
pub fn mailbox() -> Mailbox<impl Fn(u64, usize) -> u64 + Sync> {
    Mailbox::new(|_, _| 0)
}

//! The guest's memory as KVM has it.
//!
//! Changing KVM's memory waits for vCPUs that are in the kernel, and a vCPU that waits for a page there waits for the driver. So
//! no lock is held meanwhile that the driver needs to give a page.

use std::sync::{Arc, MutexGuard, PoisonError};

use gunyah_bindings::v11;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};

use super::vm::KvmVm;
use super::{Refused, refused, sys};
use crate::errno::Errno;
use crate::transport::adopt::{GuestSide, Terms};
use crate::transport::ram::{Host, Slot};

/// The slots, by their number; a free one can be used again.
#[derive(Debug, Default)]
pub(super) struct Memory {
    slots: Vec<Option<Given>>,
}

/// Memory that the guest has.
#[derive(Clone, Debug)]
struct Given {
    guest_addr: u64,
    size: u64,
    /// Where it is here.
    address: u64,
    /// What was mapped here for it, if the program's own mapping would not do.
    side: Option<Arc<GuestSide>>,
    /// It is being taken back: no page of it is given any more.
    closing: bool,
}

/// A place in the guest's memory.
pub(super) struct Place {
    side: Option<Arc<GuestSide>>,
    /// Where in it the page begins.
    page: u64,
    /// The guest address.
    pub(super) ipa: u64,
    pub(super) closing: bool,
}

impl Given {
    fn place(&self, offset: u64) -> Option<Place> {
        let page = offset - offset % crate::transport::sys::page_size() as u64;
        (offset < self.size).then(|| Place {
            side: self.side.clone(),
            page,
            ipa: self.guest_addr + offset,
            closing: self.closing,
        })
    }
}

impl Place {
    /// The vCPU that waits for this page gets out of the guest instead.
    pub(super) fn refuse(&self) {
        if let Some(side) = &self.side {
            side.refuse(self.page);
        }
    }

    /// It may ask for it again.
    pub(super) fn end_refusal(&self) {
        if let Some(side) = &self.side {
            side.end_refusal(self.page);
        }
    }
}

impl KvmVm {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the guest memory: at once, or if its pages come one by one, the right to ask for them.
    pub(crate) fn add_memory(&self, slot: &Slot) -> Result<(), Refused> {
        let on_demand = slot.present.is_some();
        let demand = match &self.demand {
            Some(demand) if on_demand => Some(demand.uffd()),
            _ => None,
        };
        let writable = slot.access & v11::GH_MEM_ALLOW_WRITE != 0;
        let terms = Terms { lent: slot.lent, writable, demand };
        let side = match &slot.host {
            Host::Adopted(source) => GuestSide::new(source, terms).map(Some),
            Host::File(file, offset) => GuestSide::of_file(file, *offset, slot.size, terms).map(Some),
            // The program keeps it mapped: that is the contract of a fake in its own process.
            Host::Here(_) if !slot.lent && !on_demand => Ok(None),
            Host::Here(_) | Host::There { .. } => Err(Errno::EFAULT),
        };
        let side = side.map_err(|errno| Refused { what: "map the guest's memory", errno })?;
        let address = match (&side, &slot.host) {
            (Some(side), _) => side.address(),
            (None, Host::Here(address)) => *address as u64,
            (None, _) => return Err(Refused { what: "map the guest's memory", errno: Errno::EFAULT }),
        };
        if slot.access & (v11::GH_MEM_ALLOW_READ | v11::GH_MEM_ALLOW_EXEC) == 0 {
            // KVM knows no memory that cannot be read. To the guest there is none.
            return Ok(());
        }
        let (guest_addr, size) = (slot.guest_addr, slot.size);
        let given = Given { guest_addr, size, address, side: side.map(Arc::new), closing: false };
        let number = self.memory().add(given);
        let region = kvm_userspace_memory_region {
            slot: number as u32,
            flags: if writable { 0 } else { KVM_MEM_READONLY },
            guest_phys_addr: slot.guest_addr,
            memory_size: slot.size,
            userspace_addr: address,
        };
        sys::set_memory(&self.fd, region).map_err(refused("give the guest memory")).inspect_err(|_| {
            drop(self.memory().remove(number));
        })
    }

    /// Takes the memory at an address back.
    pub(crate) fn remove_memory(&self, guest_addr: u64) {
        self.remove_where(|given| given.guest_addr == guest_addr);
    }

    /// Takes all memory back. The guest cannot run any more.
    pub(crate) fn release_memory(&self) {
        if let Some(demand) = &self.demand {
            demand.stop();
        }
        self.remove_where(|_| true);
    }

    fn remove_where(&self, which: impl Fn(&Given) -> bool) {
        let mut going = Vec::new();
        for (number, slot) in self.memory().slots.iter_mut().enumerate() {
            if let Some(given) = slot.as_mut().filter(|given| which(given)) {
                given.closing = true;
                going.push(number);
            }
        }
        for number in going {
            let nothing = kvm_userspace_memory_region { slot: number as u32, ..Default::default() };
            let _ = sys::set_memory(&self.fd, nothing);
            // Only now nobody can wait for a page of it.
            let given = self.memory().remove(number);
            drop(given);
        }
    }

    /// The place of a guest address.
    pub(super) fn place(&self, ipa: u64) -> Option<Place> {
        let memory = self.memory();
        memory.slots.iter().flatten().find_map(|given| given.place(ipa.checked_sub(given.guest_addr)?))
    }

    /// The place of an address of ours.
    pub(super) fn place_of(&self, addr: u64) -> Option<Place> {
        let memory = self.memory();
        memory.slots.iter().flatten().find_map(|given| given.place(addr.checked_sub(given.address)?))
    }

    /// The guest gets the page at `ipa`.
    pub(crate) fn give_page(&self, ipa: u64) -> Result<(), Refused> {
        match self.place(ipa) {
            Some(Place { side: Some(side), page, closing: false, .. }) => {
                side.give(page).map_err(|errno| Refused { what: "give the guest a page", errno })
            }
            _ => Ok(()),
        }
    }

    /// The guest loses the page at `ipa`.
    pub(crate) fn take_page(&self, ipa: u64) {
        if let Some(Place { side: Some(side), page, .. }) = self.place(ipa) {
            side.take(page);
        }
    }
}

impl Memory {
    fn add(&mut self, given: Given) -> usize {
        let free = self.slots.iter().position(Option::is_none);
        match free.and_then(|number| Some((number, self.slots.get_mut(number)?))) {
            Some((number, slot)) => {
                *slot = Some(given);
                number
            }
            None => {
                self.slots.push(Some(given));
                self.slots.len() - 1
            }
        }
    }

    fn remove(&mut self, number: usize) -> Option<Given> {
        self.slots.get_mut(number)?.take()
    }
}

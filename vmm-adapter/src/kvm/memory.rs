//! Slots of guest memory.

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use super::{error, sys};
use crate::error::{Error, Result};
use crate::memory::MemoryRegion;

/// What every slot has, beside the region in [`Declared`](crate::setup::Declared) that has the same place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) tracked: bool,
}

/// The slots in use, in the order of the regions.
#[derive(Debug, Default)]
pub(super) struct Slots(Vec<Slot>);

impl Slots {
    /// Gives the guest a region.
    pub(super) fn add(&mut self, op: &'static str, vm: &VmFd, region: &MemoryRegion) -> Result<()> {
        let number = (0..).find(|number| self.0.iter().all(|slot| slot.number != *number));
        let slot =
            Slot { number: number.ok_or_else(|| Error::invalid(op, "too many regions"))?, tracked: false };
        set(op, vm, region, slot, region.size())?;
        self.0.push(slot);
        Ok(())
    }

    pub(super) fn get(&self, index: usize) -> Option<Slot> {
        self.0.get(index).copied()
    }

    /// Begins or ends the tracking of writes.
    pub(super) fn track(
        &mut self,
        op: &'static str,
        vm: &VmFd,
        region: &MemoryRegion,
        index: usize,
        tracked: bool,
    ) -> Result<()> {
        if let Some(slot) = self.0.get_mut(index).filter(|slot| slot.tracked != tracked) {
            let changed = Slot { tracked, ..*slot };
            set(op, vm, region, changed, region.size())?;
            *slot = changed;
        }
        Ok(())
    }

    /// Takes a region back from the guest.
    pub(super) fn remove(
        &mut self,
        op: &'static str,
        vm: &VmFd,
        region: &MemoryRegion,
        index: usize,
    ) -> Result<()> {
        if let Some(slot) = self.get(index) {
            set(op, vm, region, slot, 0)?;
            self.0.remove(index);
        }
        Ok(())
    }
}

fn set(op: &'static str, vm: &VmFd, region: &MemoryRegion, slot: Slot, size: u64) -> Result<()> {
    let mut flags = 0;
    if !region.is_writable() {
        flags |= KVM_MEM_READONLY;
    }
    if slot.tracked {
        flags |= KVM_MEM_LOG_DIRTY_PAGES;
    }
    let argument = kvm_userspace_memory_region {
        slot: slot.number,
        flags,
        guest_phys_addr: region.addr().0,
        memory_size: size,
        userspace_addr: region
            .host_addr()
            .ok_or_else(|| Error::invalid(op, "the memory was private memory of another VM"))?,
    };
    sys::set_memory(vm, &argument).map_err(error::ioctl(op, "KVM_SET_USER_MEMORY_REGION"))
}

//! Guest RAM: memory of the program that made the VM, as the guest reaches it.
#![expect(unsafe_code, reason = "guest RAM is memory that user space and vCPUs access at the same time")]

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use gunyah_bindings::v11;

use super::adopt::Source;
use super::guest_file::GuestFile;
use super::sys;
use crate::errno::Errno;
use crate::hyp::kvm::{KvmVm, Refused};
use crate::hyp::machine::{GuestRam, RamAccess};

/// Where a region's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Host {
    /// In this process, at this address. The program keeps them mapped as long as the VM exists: that is the contract
    /// of a fake in its own process.
    Here(usize),
    /// In another process.
    There { tgid: u32, addr: u64 },
    /// In a file of the driver's, from this offset on.
    File(Arc<GuestFile>, u64),
    /// In a program, and mapped here too.
    Adopted(Arc<Source>),
}

/// One region as the guest sees it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) guest_addr: u64,
    pub(crate) size: u64,
    pub(crate) access: u32,
    pub(crate) host: Host,
    /// The host loses what the guest gets.
    #[cfg_attr(not(all(feature = "kvm", target_arch = "aarch64")), expect(dead_code, reason = "KVM's"))]
    pub(crate) lent: bool,
    /// A bit per page that the guest has been given. `None`: all of them.
    pub(crate) present: Option<Box<[AtomicU64]>>,
}

impl Slot {
    fn offset(&self, ipa: u64, len: usize) -> Option<u64> {
        let offset = ipa.checked_sub(self.guest_addr)?;
        (offset.checked_add(len as u64)? <= self.size).then_some(offset)
    }

    fn bit(&self, offset: u64) -> Option<(&AtomicU64, u64)> {
        let page = offset / sys::page_size() as u64;
        let word = self.present.as_ref()?.get(usize::try_from(page / 64).ok()?)?;
        Some((word, 1 << (page % 64)))
    }

    fn is_present(&self, offset: u64) -> bool {
        self.present.is_none()
            || self.bit(offset).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Whose memory it is, and where. What the program promises about its memory it promises for the guest's accesses only,
    /// so others go through the kernel, which looks.
    fn process(&self, offset: u64) -> Option<(u32, u64)> {
        match &self.host {
            Host::Here(base) => Some((std::process::id(), (*base as u64).wrapping_add(offset))),
            Host::There { tgid, addr } => Some((*tgid, addr.wrapping_add(offset))),
            Host::File(..) | Host::Adopted(_) => None,
        }
    }

    /// The address in this process, if the bytes are here.
    fn pointer(&self, offset: u64) -> Option<*mut u8> {
        let base = match &self.host {
            Host::Here(base) => *base as *mut u8,
            Host::There { .. } => return None,
            Host::File(file, at) => file.mapping().base().as_ptr().wrapping_add(usize::try_from(*at).ok()?),
            Host::Adopted(source) => source.address() as *mut u8,
        };
        Some(base.wrapping_add(usize::try_from(offset).ok()?))
    }
}

/// A VM's RAM.
#[derive(Debug, Default)]
pub(crate) struct Ram {
    slots: RwLock<Vec<Slot>>,
    /// Who has the guest's memory, if that is not this.
    kvm: OnceLock<Arc<KvmVm>>,
    /// Makes one access of what the machine cannot do in one.
    one_at_a_time: Mutex<()>,
}

/// Loads naturally aligned bytes in one access where the machine can, else one by one.
///
/// # Safety
/// `buf.len()` bytes at `from` are mapped. Others may write them meanwhile.
unsafe fn load(from: *mut u8, buf: &mut [u8]) {
    let one = |from: *mut u8| {
        // SAFETY: inside the caller's range; a byte is always aligned.
        unsafe { AtomicU8::from_ptr(from) }.load(Ordering::Relaxed)
    };
    macro_rules! whole {
        ($atomic:ty) => {{
            // SAFETY: the range is the caller's, and aligned as the match below has found.
            let value = unsafe { <$atomic>::from_ptr(from.cast()) }.load(Ordering::Acquire);
            buf.copy_from_slice(&value.to_ne_bytes());
        }};
    }
    match (buf.len(), (from as usize).trailing_zeros()) {
        (2, 1..) => whole!(AtomicU16),
        (4, 2..) => whole!(AtomicU32),
        (8, 3..) => whole!(AtomicU64),
        (16.., 3..) => {
            for (i, word) in buf.chunks_mut(8).enumerate() {
                // SAFETY: a part of the caller's range.
                unsafe { load(from.wrapping_add(8 * i), word) };
            }
        }
        _ => buf.iter_mut().enumerate().for_each(|(i, byte)| *byte = one(from.wrapping_add(i))),
    }
}

/// Stores naturally aligned bytes in one access where the machine can, else one by one.
///
/// # Safety
/// `data.len()` bytes at `to` are mapped and writable. Others may access them meanwhile.
unsafe fn store(to: *mut u8, data: &[u8]) {
    macro_rules! whole {
        ($atomic:ty, $int:ty) => {
            if let Ok(bytes) = data.try_into() {
                // SAFETY: the range is the caller's, and aligned as the match below has found.
                unsafe { <$atomic>::from_ptr(to.cast()) }
                    .store(<$int>::from_ne_bytes(bytes), Ordering::Release);
            }
        };
    }
    match (data.len(), (to as usize).trailing_zeros()) {
        (2, 1..) => whole!(AtomicU16, u16),
        (4, 2..) => whole!(AtomicU32, u32),
        (8, 3..) => whole!(AtomicU64, u64),
        (16.., 3..) => {
            for (i, word) in data.chunks(8).enumerate() {
                // SAFETY: a part of the caller's range.
                unsafe { store(to.wrapping_add(8 * i), word) };
            }
        }
        _ => {
            for (i, byte) in data.iter().enumerate() {
                // SAFETY: inside the caller's range; a byte is always aligned.
                unsafe { AtomicU8::from_ptr(to.wrapping_add(i)) }.store(*byte, Ordering::Relaxed);
            }
        }
    }
}

impl Ram {
    pub(crate) fn add(&self, slot: Slot) -> Result<(), Refused> {
        // No lock is held here and below: see `hyp::kvm::memory`.
        if let Some(kvm) = self.kvm.get() {
            kvm.add_memory(&slot)?;
        }
        self.slots.write().unwrap_or_else(PoisonError::into_inner).push(slot);
        Ok(())
    }

    /// Takes a range of addresses away from the guest.
    pub(crate) fn remove(&self, guest_addr: u64) {
        self.slots
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|slot| slot.guest_addr != guest_addr);
        if let Some(kvm) = self.kvm.get() {
            kvm.remove_memory(guest_addr);
        }
    }

    pub(crate) fn clear(&self) {
        if let Some(kvm) = self.kvm.get() {
            kvm.release_memory();
        }
        self.slots.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The guest runs on KVM, which has its memory from now on.
    pub(crate) fn hand_over(&self, kvm: &Arc<KvmVm>) -> Result<(), Refused> {
        let slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.iter().try_for_each(|slot| kvm.add_memory(slot))?;
        let _ = self.kvm.set(Arc::clone(kvm));
        let page = sys::page_size() as u64;
        for slot in slots.iter().filter(|slot| slot.present.is_some()) {
            let present = (0..slot.size).step_by(page as usize).filter(|offset| slot.is_present(*offset));
            present.into_iter().try_for_each(|offset| kvm.give_page(slot.guest_addr + offset))?;
        }
        Ok(())
    }

    /// The guest has been given the page at `ipa`: it can go on.
    pub(crate) fn let_go_on(&self, ipa: u64) -> Result<(), Errno> {
        match self.kvm.get() {
            Some(kvm) => kvm.give_page(ipa).map_err(|refused| refused.errno),
            None => Ok(()),
        }
    }

    /// Gives the guest the page at `ipa`; true if it did not have it.
    pub(crate) fn give_page(&self, ipa: u64) -> bool {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let Some((slot, offset)) = slots.iter().find_map(|slot| Some((slot, slot.offset(ipa, 1)?))) else {
            return false;
        };
        slot.bit(offset).is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }

    /// Takes pages back from the guest that lie in a range; gives their number.
    pub(crate) fn take_pages(&self, from: u64, to: u64) -> u64 {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let page = sys::page_size() as u64;
        let mut taken = 0;
        for slot in slots.iter() {
            let first = from.saturating_sub(slot.guest_addr) / page;
            let end = to.saturating_sub(slot.guest_addr).min(slot.size).div_ceil(page);
            let pages = (first..end).filter(|number| {
                let bit = slot.bit(number * page);
                let had = bit.is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0);
                if let (true, Some(kvm)) = (had, self.kvm.get()) {
                    kvm.take_page(slot.guest_addr + number * page);
                }
                had
            });
            taken += pages.count() as u64;
        }
        taken
    }

    /// Reads guest memory whatever the guest may do, or has been given. False: the host has none there.
    pub(crate) fn peek(&self, ipa: u64, buf: &mut [u8]) -> bool {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let found = slots.iter().find_map(|slot| Some((slot, slot.offset(ipa, buf.len())?)));
        found.is_some_and(|(slot, offset)| match slot.process(offset) {
            Some((tgid, addr)) => sys::process_read(tgid, addr, buf).is_ok(),
            None => read(slot, offset, buf),
        })
    }

    /// Writes guest memory whatever the guest may do, or has been given.
    pub(crate) fn poke(&self, ipa: u64, data: &[u8]) -> bool {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let found = slots.iter().find_map(|slot| Some((slot, slot.offset(ipa, data.len())?)));
        found.is_some_and(|(slot, offset)| match slot.process(offset) {
            Some((tgid, addr)) => sys::process_write(tgid, addr, data).is_ok(),
            None => write(slot, offset, data),
        })
    }

    fn with<T>(
        &self,
        ipa: u64,
        len: usize,
        needs: u32,
        access: impl FnOnce(&Slot, u64) -> Result<T, RamAccess>,
    ) -> Result<T, RamAccess> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let found = slots.iter().find_map(|slot| Some((slot, slot.offset(ipa, len)?)));
        let (slot, offset) = found.ok_or(RamAccess::NotRam)?;
        if slot.access & needs == 0 {
            return Err(RamAccess::Denied);
        }
        if !slot.is_present(offset) {
            return Err(RamAccess::NotMapped);
        }
        access(slot, offset)
    }
}

fn read(slot: &Slot, offset: u64, buf: &mut [u8]) -> bool {
    match (slot.pointer(offset), &slot.host) {
        (Some(from), _) => {
            // SAFETY: the range lies in the slot, which is mapped: by the program's contract, or by us.
            unsafe { load(from, buf) };
            true
        }
        (None, Host::There { tgid, addr }) => {
            sys::process_read(*tgid, addr.wrapping_add(offset), buf).is_ok()
        }
        (None, _) => false,
    }
}

fn write(slot: &Slot, offset: u64, data: &[u8]) -> bool {
    match (slot.pointer(offset), &slot.host) {
        (Some(to), _) => {
            // SAFETY: as in `read`; a region that the guest may write is writable, which was looked at when it was added.
            unsafe { store(to, data) };
            true
        }
        (None, Host::There { tgid, addr }) => {
            sys::process_write(*tgid, addr.wrapping_add(offset), data).is_ok()
        }
        (None, _) => false,
    }
}

impl Ram {
    fn load_with(&self, ipa: u64, buf: &mut [u8], needs: u32) -> RamAccess {
        let loaded = self.with(ipa, buf.len(), needs, |slot, offset| {
            if read(slot, offset, buf) { Ok(()) } else { Err(RamAccess::Denied) }
        });
        loaded.err().unwrap_or(RamAccess::Done)
    }
}

impl GuestRam for Ram {
    fn load(&self, ipa: u64, buf: &mut [u8]) -> RamAccess {
        self.load_with(ipa, buf, v11::GH_MEM_ALLOW_READ)
    }

    fn fetch(&self, ipa: u64, buf: &mut [u8]) -> RamAccess {
        self.load_with(ipa, buf, v11::GH_MEM_ALLOW_EXEC)
    }

    fn store(&self, ipa: u64, data: &[u8]) -> RamAccess {
        let stored = self.with(ipa, data.len(), v11::GH_MEM_ALLOW_WRITE, |slot, offset| {
            if write(slot, offset, data) { Ok(()) } else { Err(RamAccess::Denied) }
        });
        stored.err().unwrap_or(RamAccess::Done)
    }

    fn compare_exchange(&self, ipa: u64, len: u8, current: u128, new: u128) -> Result<u128, RamAccess> {
        let size = usize::from(len);
        self.with(ipa, size, v11::GH_MEM_ALLOW_WRITE, |slot, offset| {
            if let (Some(place), 1 | 2 | 4 | 8) = (slot.pointer(offset), len) {
                if place as usize % size == 0 {
                    // SAFETY: in the slot, which is mapped and writable, and aligned as just looked at.
                    return Ok(unsafe { exchange(place, len, current, new) });
                }
            }
            // Too wide, or far away: one vCPU at a time. The host's own threads are not kept out.
            let _one = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
            let mut old = [0u8; 16];
            let bytes = old.get_mut(..size).ok_or(RamAccess::Denied)?;
            if !read(slot, offset, bytes) {
                return Err(RamAccess::Denied);
            }
            let old = u128::from_le_bytes(old);
            if old == current {
                let new = new.to_le_bytes();
                let bytes = new.get(..size).ok_or(RamAccess::Denied)?;
                if !write(slot, offset, bytes) {
                    return Err(RamAccess::Denied);
                }
            }
            Ok(old)
        })
    }
}

/// One compare-and-exchange of `len` bytes.
///
/// # Safety
/// `len` (1, 2, 4 or 8) bytes at `place` are mapped, writable and aligned.
unsafe fn exchange(place: *mut u8, len: u8, current: u128, new: u128) -> u128 {
    macro_rules! exchange {
        ($atomic:ty, $int:ty) => {{
            // SAFETY: the caller's.
            let place = unsafe { <$atomic>::from_ptr(place.cast()) };
            let done =
                place.compare_exchange(current as $int, new as $int, Ordering::SeqCst, Ordering::SeqCst);
            done.unwrap_or_else(|old| old).into()
        }};
    }
    match len {
        1 => exchange!(AtomicU8, u8),
        2 => exchange!(AtomicU16, u16),
        4 => exchange!(AtomicU32, u32),
        _ => exchange!(AtomicU64, u64),
    }
}

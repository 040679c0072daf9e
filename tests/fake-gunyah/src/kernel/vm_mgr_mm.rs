//! A VM's memory: the regions that user space gives.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, MutexGuard, PoisonError};

use gunyah_bindings::v11;

use super::adoption::Adoption;
use super::guest_memfd::FileRange;
use super::uapi::Arg;
use super::vm_mgr::Vm;
use super::{Answer, Undo};
use crate::errno::Errno;
use crate::flavour::{Pinning, SharedExec};
use crate::rm::{Parcel, Range};
use crate::transport::adopt::Source;
use crate::transport::call::{Call, Reply};
use crate::transport::ram::{Host, Slot};
use crate::transport::sys;

const ACCESS: u32 = v11::GH_MEM_ALLOW_READ | v11::GH_MEM_ALLOW_WRITE | v11::GH_MEM_ALLOW_EXEC;

/// Whether the host keeps access to what it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// It does.
    Share,
    /// It does not.
    Lend,
}

/// One region, or the binding of a part of a file.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// A binding of a guest memory file has none.
    label: Option<u32>,
    access: u32,
    pub(crate) guest_addr: u64,
    pub(crate) size: u64,
    pub(crate) transfer: Transfer,
    /// The guest gets a page when it touches it; else all of them at the start.
    pub(crate) on_demand: bool,
    host: HostMemory,
}

/// Whose memory a region is.
#[derive(Clone, Debug)]
enum HostMemory {
    /// This process's, at an address.
    Here(u64),
    /// Another process's.
    There(u32, u64),
    /// Another process's or this one's, mapped here a second time.
    Adopted(Arc<Source>),
    /// A file's.
    File(FileRange),
}

impl Region {
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        // Kernels that don't see a wrap-around compare with wrapped ends, too.
        self.guest_addr < other.guest_addr.wrapping_add(other.size)
            && other.guest_addr < self.guest_addr.wrapping_add(self.size)
    }

    /// The region as the Resource Manager sees it; the image is the one with the devicetree at `dtb`.
    pub(crate) fn parcel(&self, dtb: u64) -> Parcel {
        Parcel {
            label: self.label.filter(|_| !self.on_demand),
            range: Range { address: self.guest_addr, size: self.size },
            lent: self.transfer == Transfer::Lend,
            image: self.holds(dtb, 1),
        }
    }

    /// A piece of a guest memory file that is shared, which has to be asked for.
    pub(crate) fn is_forced_share(&self) -> bool {
        self.label.is_none() && self.transfer == Transfer::Share
    }

    /// Whether it is user memory.
    fn is_users(&self) -> bool {
        !matches!(self.host, HostMemory::File(_))
    }

    /// The region as the guest's RAM; `shared_exec`: the guest may execute from shared user memory.
    fn slot(&self, shared_exec: bool) -> Slot {
        let pages = usize::try_from(self.size / sys::page_size() as u64).unwrap_or(usize::MAX);
        // Nobody has more than this, and some ask for it.
        let words = pages.div_ceil(64).min(1 << 22);
        let present = || (0..words).map(|_| AtomicU64::new(0)).collect();
        let executable = self.transfer == Transfer::Lend || (self.is_users() && shared_exec);
        Slot {
            guest_addr: self.guest_addr,
            size: self.size,
            access: if executable { self.access } else { self.access & !v11::GH_MEM_ALLOW_EXEC },
            host: match &self.host {
                HostMemory::Here(addr) => Host::Here(*addr as usize),
                HostMemory::There(tgid, addr) => Host::There { tgid: *tgid, addr: *addr },
                HostMemory::Adopted(source) => Host::Adopted(Arc::clone(source)),
                HostMemory::File(range) => range.host(),
            },
            lent: self.transfer == Transfer::Lend,
            present: self.on_demand.then(present),
        }
    }

    /// A binding of a part of a file. One with a label is given at the start, whole.
    pub(crate) fn of_file(
        label: Option<u32>,
        guest_addr: u64,
        size: u64,
        access: u32,
        transfer: Transfer,
        range: FileRange,
    ) -> Self {
        let on_demand = label.is_none();
        Self { label, access, guest_addr, size, transfer, on_demand, host: HostMemory::File(range) }
    }

    /// Where the bytes come from, if that is a file of the driver's.
    pub(crate) fn file_range(&self) -> Option<&FileRange> {
        match &self.host {
            HostMemory::File(range) => Some(range),
            _ => None,
        }
    }

    /// Whether two bindings have bytes of a file in common.
    pub(crate) fn shares_file_range(&self, other: &Self) -> bool {
        match (&self.host, &other.host) {
            (HostMemory::File(a), HostMemory::File(b)) => a.overlaps(self.size, b, other.size),
            _ => false,
        }
    }

    /// Whether the `size` bytes at `guest_addr` are a part of this binding, and come from `range`.
    pub(crate) fn is_bound_to(&self, guest_addr: u64, size: u64, range: &FileRange) -> bool {
        match &self.host {
            HostMemory::File(own) => {
                self.holds(guest_addr, size)
                    && own.continues_as(range, guest_addr.wrapping_sub(self.guest_addr))
            }
            _ => false,
        }
    }

    /// Drops the first `size` bytes of a binding.
    pub(crate) fn cut_front(&mut self, size: u64) {
        self.guest_addr = self.guest_addr.wrapping_add(size);
        self.size = self.size.saturating_sub(size);
        if let HostMemory::File(range) = &mut self.host {
            range.advance(size);
        }
    }

    /// Whether `len` bytes at `addr` lie in it.
    pub(crate) fn holds(&self, addr: u64, len: u64) -> bool {
        addr >= self.guest_addr
            && addr.checked_add(len).is_some_and(|end| end <= self.guest_addr.saturating_add(self.size))
    }
}

/// The regions, and how many bytes of them count as locked.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) regions: Vec<Region>,
    pub(crate) locked: u64,
    /// How many may.
    pub(crate) limit: u64,
}

impl Memory {
    pub(crate) fn clear(&mut self) {
        self.regions.clear();
        self.locked = 0;
    }
}

impl Vm {
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.mm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `SET_USER_MEM_REGION` and `LEND_USER_MEM`.
    pub(crate) fn set_user_memory(
        self: &Arc<Self>,
        call: &Call<'_>,
        arg: u64,
        transfer: Transfer,
    ) -> Result<Answer, Errno> {
        let kernel = self.kernel();
        let differences = &kernel.differences;
        if differences.owner_check {
            self.check_owner(call)?;
        }
        if differences.memory_feature_check && !kernel.hypervisor.memory_extents {
            return Err(Errno::EOPNOTSUPP);
        }
        let arg = v11::gh_userspace_memory_region::copy_from_user(&call.caller, arg)?;
        if arg.flags & !ACCESS != 0 {
            return Err(Errno::EINVAL);
        }
        let page = sys::page_size() as u64;
        let aligned = [arg.memory_size, arg.guest_phys_addr, arg.userspace_addr];
        if arg.memory_size == 0 || aligned.iter().any(|value| value % page != 0) {
            return Err(Errno::EINVAL);
        }
        let wraps = arg.guest_phys_addr.checked_add(arg.memory_size).is_none();
        if wraps && differences.region_wrap_check {
            return Err(Errno::EOVERFLOW);
        }
        let mut region = Region {
            label: Some(arg.label),
            access: arg.flags,
            guest_addr: arg.guest_phys_addr,
            size: arg.memory_size,
            transfer,
            on_demand: differences.pinning == Pinning::OnDemand,
            // Known when nothing else is wrong any more.
            host: HostMemory::Here(0),
        };
        // The driver's wait has no end at all; here a signal ends it.
        drop(self.mm_wedge.lock_interruptible(call)?);
        let mut memory = self.memory();
        let same_label = |other: &Region| differences.unique_labels && other.label == region.label;
        if memory.regions.iter().any(|other| same_label(other) || other.overlaps(&region)) {
            return Err(Errno::EEXIST);
        }
        match differences.pinning {
            Pinning::None | Pinning::OnDemand => {}
            Pinning::AtOnceForWriting => pin(call, &arg, true)?,
            Pinning::AtOnce => {
                if memory.locked.saturating_add(region.size) > self.memlock_limit(call) {
                    return Err(Errno::ENOMEM);
                }
                pin(call, &arg, region.access & v11::GH_MEM_ALLOW_WRITE != 0)?;
            }
        }
        region.host = match self.adopt(call, &arg, transfer, region.on_demand)? {
            Adoption::NotNeeded if call.caller.local => HostMemory::Here(arg.userspace_addr),
            Adoption::NotNeeded => HostMemory::There(call.caller.tgid(), arg.userspace_addr),
            Adoption::Done(source) => HostMemory::Adopted(source),
            Adoption::StartOver(again) => {
                return Ok(Answer { reply: Reply::Again(again), undo: Undo::None });
            }
        };
        match differences.pinning {
            Pinning::None | Pinning::AtOnceForWriting => {}
            Pinning::OnDemand => memory.limit = self.memlock_limit(call),
            Pinning::AtOnce => memory.locked += region.size,
        }
        let guest_addr = region.guest_addr;
        let slot = region.on_demand.then(|| self.slot_of(&region));
        memory.regions.push(region);
        drop(memory);
        if let Some(slot) = slot {
            self.give_slot(slot).inspect_err(|_| self.forget_region(guest_addr))?;
        }
        let vm = Arc::clone(self);
        let undo = Undo::Do(Box::new(move || vm.forget_region(guest_addr)));
        Ok(Answer { undo, ..Answer::value(0) })
    }

    /// The caller never heard of a region that was just added: it isn't there.
    pub(crate) fn forget_region(&self, guest_addr: u64) {
        self.memory().regions.retain(|other| other.guest_addr != guest_addr);
        self.ram().remove(guest_addr);
    }

    /// `RECLAIM_REGION`: takes pages back that the guest has been given. It may fault them in again.
    pub(crate) fn reclaim(&self, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        self.check_owner(call)?;
        let range = v11::gh_vm_dtb_config::copy_from_user(&call.caller, arg)?;
        let page = sys::page_size() as u64;
        if range.guest_phys_addr % page != 0 || range.size % page != 0 {
            return Err(Errno::EINVAL);
        }
        // The address space is there from the start to the release, also when the VM has exited meanwhile.
        if !self.has_started() {
            return Err(Errno::ENODEV);
        }
        // The last page is computed as the number of pages minus one: none at all becomes all there are.
        let end = match range.size {
            0 => u64::MAX,
            size => range.guest_phys_addr.saturating_add(size),
        };
        let taken = self.ram().take_pages(range.guest_phys_addr, end);
        let mut memory = self.memory();
        memory.locked = memory.locked.saturating_sub(taken * page);
        Ok(Answer::value(0))
    }

    /// The region that holds `len` bytes at a guest address.
    pub(crate) fn region_of(&self, addr: u64, len: u64) -> Option<Region> {
        self.memory().regions.iter().find(|region| region.holds(addr, len)).cloned()
    }

    /// A region as the guest's RAM.
    pub(crate) fn slot_of(&self, region: &Region) -> Slot {
        let shared_exec = match self.kernel().differences.shared_exec {
            SharedExec::AsAsked => true,
            SharedExec::Never => false,
            SharedExec::UnprotectedVms => !self.is_protected(),
        };
        region.slot(shared_exec)
    }

    /// At start: what was pinned becomes the guest's. What is added later never does.
    ///
    /// Only now it is known which kind of VM this is, so what the guest gets page by page is looked at again.
    pub(crate) fn give_memory(&self) -> Result<(), Errno> {
        let slots: Vec<_> = self.memory().regions.iter().map(|region| self.slot_of(region)).collect();
        if let (false, Some(errno)) = (slots.is_empty(), self.kernel().memory_failure) {
            return Err(errno);
        }
        for slot in slots {
            self.ram().remove(slot.guest_addr);
            self.give_slot(slot)?;
        }
        Ok(())
    }

    /// Makes it the guest's: whole, or a page at a time.
    pub(crate) fn give_slot(&self, slot: Slot) -> Result<(), Errno> {
        self.ram().add(slot).map_err(|refused| {
            self.kernel().observer.note(|| refused.to_string());
            refused.errno
        })
    }

    /// The guest finds a region at another address than user space asked for.
    pub(crate) fn move_region(&self, from: u64, to: u64) -> Result<(), Errno> {
        let mut memory = self.memory();
        if let Some(region) = memory.regions.iter_mut().find(|region| region.guest_addr == from) {
            self.ram().remove(from);
            region.guest_addr = to;
            self.give_slot(self.slot_of(region))?;
        }
        Ok(())
    }

    /// Tries to give the guest the page at `addr`, as demand paging does.
    pub(crate) fn demand_page(&self, addr: u64, write: bool) -> Result<(), Errno> {
        if !self.is_running() {
            return Err(Errno::ENODEV);
        }
        // What was given at the start is no binding that could be found here.
        let region = self.region_of(addr, 1).filter(|region| region.on_demand).ok_or(Errno::ENOENT)?;
        if write && region.access & v11::GH_MEM_ALLOW_WRITE == 0 {
            return Err(Errno::EPERM);
        }
        self.give_page(addr)
    }

    /// Gives the guest the page at `addr`, which counts as locked from then on.
    fn give_page(&self, addr: u64) -> Result<(), Errno> {
        let page = sys::page_size() as u64;
        // Memory lent for good counts; a file of the driver's own is not the caller's memory.
        let counted = self.region_of(addr, 1).is_some_and(|region| region.is_users());
        if self.ram().give_page(addr) && counted {
            let mut memory = self.memory();
            if memory.locked.saturating_add(page) > memory.limit {
                drop(memory);
                self.ram().take_pages(addr - addr % page, addr - addr % page + 1);
                return Err(Errno::ENOMEM);
            }
            memory.locked += page;
        }
        self.ram().let_go_on(addr - addr % page)
    }

    /// At start: with demand paging, the devicetree's pages are the first that the guest is given.
    pub(crate) fn give_dtb(&self, dtb: &v11::gh_vm_dtb_config) -> Result<(), Errno> {
        if !self.kernel().differences.demand_paging {
            return Ok(());
        }
        let page = sys::page_size() as u64;
        (0..dtb.size.div_ceil(page)).try_for_each(|n| self.give_page(dtb.guest_phys_addr + n * page))
    }

    /// How many bytes the caller may lock.
    fn memlock_limit(&self, call: &Call<'_>) -> u64 {
        self.kernel().memlock.unwrap_or_else(|| {
            if call.caller.may_lock_any() {
                u64::MAX
            } else {
                sys::memlock_limit(call.caller.tgid()).unwrap_or(u64::MAX)
            }
        })
    }
}

/// Pins a region's pages: all of them, or none.
fn pin(call: &Call<'_>, region: &v11::gh_userspace_memory_region, writable: bool) -> Result<(), Errno> {
    if call.caller.is_mapped(region.userspace_addr, region.memory_size, writable) {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

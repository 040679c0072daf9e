//! Memory that comes from a file of the driver's own: guest memory (v17) and contiguous memory (android16).

use std::os::fd::RawFd;
use std::sync::Arc;

use gunyah_bindings::{android, v17};

use super::uapi::Arg;
use super::vm_mgr::Vm;
use super::vm_mgr_mm::{Region, Transfer};
use super::{Answer, Kernel, Kind, Object, Undo};
use crate::errno::Errno;
use crate::transport::call::{Call, Reply};
use crate::transport::files::NewFile;
use crate::transport::guest_file::GuestFile;
use crate::transport::ram::Host;
use crate::transport::sys;

/// A file of memory.
pub(crate) struct GuestMem {
    pub(crate) number: u64,
    size: u64,
    file: Option<Arc<GuestFile>>,
    /// It is contiguous memory.
    cma: bool,
    allow_hugepage: bool,
}

/// The size and alignment of a huge page.
const HUGE: u64 = 2 << 20;

/// Where a binding comes from: what an unmap must name.
#[derive(Clone, Debug)]
pub(crate) struct FileRange {
    memory: Arc<GuestFile>,
    offset: u64,
    flags: u32,
}

fn aligned(values: &[u64], to: u64) -> bool {
    values.iter().all(|value| value % to == 0)
}

impl Kernel {
    /// `CREATE_GUEST_MEM`.
    pub(crate) fn create_guest_mem(&self, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        const FLAGS: u64 = v17::GUNYAH_GHMF_CLOEXEC | v17::GUNYAH_GHMF_ALLOW_HUGEPAGE;
        let arg = v17::gunyah_create_mem_args::copy_from_user(&call.caller, arg)?;
        if arg.flags & !FLAGS != 0 || !aligned(&[arg.size], sys::page_size() as u64) {
            return Err(Errno::EINVAL);
        }
        let allow_hugepage = arg.flags & v17::GUNYAH_GHMF_ALLOW_HUGEPAGE != 0;
        let reply =
            self.new_memory(arg.size, false, allow_hugepage, arg.flags & v17::GUNYAH_GHMF_CLOEXEC != 0)?;
        Ok(Answer { reply, undo: Undo::None })
    }

    /// `CREATE_CMA_MEM_FD`, on the node of a region of contiguous memory.
    pub(crate) fn create_cma_mem(&self, size: u64) -> Result<Answer, Errno> {
        Ok(Answer { reply: self.new_memory(size, true, false, true)?, undo: Undo::None })
    }

    fn new_memory(&self, size: u64, cma: bool, allow_hugepage: bool, cloexec: bool) -> Result<Reply, Errno> {
        let file = self.files.create(size)?;
        let number = self.next_token();
        // Nothing can be mapped of an empty file.
        let NewFile { theirs, id, mapping, ours } = file;
        let file = (size > 0).then(|| Arc::new(GuestFile::new(ours, mapping)));
        let memory = GuestMem { number, size, file, cma, allow_hugepage };
        self.add_object(id, Object::new(Kind::GuestMem(memory)));
        Ok(Reply::Fd { fd: theirs, cloexec })
    }

    /// `fallocate` of guest memory. `None`: contiguous memory, which has none of its own.
    pub(crate) fn fallocate_memory(&self, memory: &GuestMem, call: &Call<'_>) -> Option<Result<(), Errno>> {
        const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const KNOWN: i32 = KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        let [_, mode, offset, len, ..] = call.notif.args;
        let mode = mode as i32;
        let file = memory.file.as_ref().filter(|_| !memory.cma)?;
        Some(if mode & KEEP_SIZE == 0 || mode & !KNOWN != 0 {
            Err(Errno::EOPNOTSUPP)
        } else if len == 0
            || !aligned(&[offset, len], sys::page_size() as u64)
            || offset.checked_add(len).is_none_or(|end| end > memory.size)
        {
            Err(Errno::EINVAL)
        } else if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 {
            self.vms_that_are().iter().for_each(|vm| vm.take_file_pages(file, offset, len));
            file.punch(offset, len)
        } else {
            file.fill(offset, len)
        })
    }

    /// The memory file behind one of the caller's descriptors.
    fn memory_file(&self, call: &Call<'_>, fd: RawFd) -> Result<Arc<Object>, Errno> {
        let id = call.caller.file_id(fd).map_err(|_| Errno::EBADF)?;
        self.object(id).filter(|object| matches!(object.kind, Kind::GuestMem(_))).ok_or(Errno::EINVAL)
    }
}

impl Vm {
    /// `VM_MAP_MEM`: binds part of a guest memory file to a guest address, or ends that.
    pub(crate) fn map_mem(self: &Arc<Self>, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        use v17::gunyah_map_flags as F;
        let arg = v17::gunyah_map_mem_args::copy_from_user(&call.caller, arg)?;
        let flags = arg.flags.0;
        let allow = F::GUNYAH_MEM_ALLOW_READ.0 | F::GUNYAH_MEM_ALLOW_WRITE.0 | F::GUNYAH_MEM_ALLOW_EXEC.0;
        if flags & !(F::GUNYAH_MEM_ACCESS_MASK.0 | allow | F::GUNYAH_MEM_UNMAP.0) != 0 {
            return Err(Errno::EINVAL);
        }
        let access = flags & F::GUNYAH_MEM_ACCESS_MASK.0;
        if flags & allow == 0 || access > F::GUNYAH_MEM_FORCE_SHARE.0 {
            return Err(Errno::EINVAL);
        }
        // A descriptor that is not open is no guest memory file either.
        let object = self.kernel().memory_file(call, arg.guest_mem_fd as RawFd).map_err(|_| Errno::EINVAL)?;
        let Kind::GuestMem(memory) = &object.kind else { return Err(Errno::EINVAL) };
        let align = if memory.allow_hugepage { HUGE } else { sys::page_size() as u64 };
        if memory.cma || arg.size == 0 || !aligned(&[arg.guest_addr, arg.offset, arg.size], align) {
            return Err(Errno::EINVAL);
        }
        let file = memory.file.as_ref().ok_or(Errno::EINVAL)?;
        let range =
            FileRange { memory: Arc::clone(file), offset: arg.offset, flags: flags & !F::GUNYAH_MEM_UNMAP.0 };
        if flags & F::GUNYAH_MEM_UNMAP.0 != 0 {
            return self.unmap(arg.guest_addr, arg.size, &range);
        }
        let transfer = if access == F::GUNYAH_MEM_FORCE_SHARE.0 { Transfer::Share } else { Transfer::Lend };
        // The same three bits as in a region, four places up.
        self.bind_file(Region::of_file(None, arg.guest_addr, arg.size, (flags & allow) >> 4, transfer, range))
    }

    /// `MAP_CMA_MEM`.
    pub(crate) fn map_cma_mem(self: &Arc<Self>, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        use android::gunyah_map_flags as F;
        self.check_owner(call)?;
        let arg = android::gunyah_map_cma_mem_args::copy_from_user(&call.caller, arg)?;
        let flags = arg.flags.0;
        let allow = F::GUNYAH_MEM_ALLOW_READ.0 | F::GUNYAH_MEM_ALLOW_WRITE.0 | F::GUNYAH_MEM_ALLOW_EXEC.0;
        if flags & !(F::GUNYAH_MEM_ACCESS_MASK.0 | allow) != 0
            || arg.size == 0
            || !aligned(&[arg.guest_addr, arg.offset, arg.size], sys::page_size() as u64)
        {
            return Err(Errno::EINVAL);
        }
        let object = self.kernel().memory_file(call, arg.guest_mem_fd as RawFd)?;
        let Kind::GuestMem(memory) = &object.kind else { return Err(Errno::EINVAL) };
        let fits = arg.offset.checked_add(arg.size).is_some_and(|end| end <= memory.size);
        let file = memory.file.as_ref().filter(|_| memory.cma && fits).ok_or(Errno::EINVAL)?;
        let lent = flags & F::GUNYAH_MEM_ACCESS_MASK.0 == F::GUNYAH_MEM_FORCE_LEND.0;
        let transfer = if lent { Transfer::Lend } else { Transfer::Share };
        let range = FileRange { memory: Arc::clone(file), offset: arg.offset, flags };
        let label = Some(arg.label);
        self.bind_file(Region::of_file(label, arg.guest_addr, arg.size, flags & allow, transfer, range))
    }

    /// Takes pages back that the guest has been given of a part of a file.
    fn take_file_pages(&self, file: &Arc<GuestFile>, offset: u64, len: u64) {
        let part = offset..offset.saturating_add(len);
        for region in &self.memory().regions {
            let place = region.file_range().and_then(|range| range.place_of(region.size, file, &part));
            if let Some((from, to)) = place {
                self.ram().take_pages(region.guest_addr + from, region.guest_addr + to);
            }
        }
    }

    fn bind_file(self: &Arc<Self>, region: Region) -> Result<Answer, Errno> {
        let mut memory = self.memory();
        if memory.regions.iter().any(|other| other.overlaps(&region) || other.shares_file_range(&region)) {
            return Err(Errno::EEXIST);
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

    /// Ends a binding, or cuts a piece off one of its ends.
    fn unmap(&self, guest_addr: u64, size: u64, range: &FileRange) -> Result<Answer, Errno> {
        let mut memory = self.memory();
        let found = memory.regions.iter_mut().find(|region| region.is_bound_to(guest_addr, size, range));
        let region = found.ok_or(Errno::ENOENT)?;
        let (old, end) = (region.guest_addr, region.guest_addr.wrapping_add(region.size));
        let (at_start, at_end) = (guest_addr == old, guest_addr.wrapping_add(size) == end);
        match (at_start, at_end) {
            (false, false) => return Err(Errno::EINVAL),
            (true, true) => memory.regions.retain(|region| region.guest_addr != old),
            (true, false) => region.cut_front(size),
            (false, true) => region.size -= size,
        }
        let rest = if at_start { old.wrapping_add(size) } else { old };
        let rest =
            memory.regions.iter().find(|region| region.guest_addr == rest).map(|region| self.slot_of(region));
        drop(memory);
        self.ram().remove(old);
        if let Some(slot) = rest {
            self.give_slot(slot)?;
        }
        Ok(Answer::value(0))
    }
}

impl FileRange {
    /// The bytes from `by` on.
    pub(crate) fn advance(&mut self, by: u64) {
        self.offset = self.offset.wrapping_add(by);
    }

    pub(crate) fn host(&self) -> Host {
        Host::File(Arc::clone(&self.memory), self.offset)
    }

    /// Whether `other`, which begins `ahead` bytes later, continues this range.
    pub(crate) fn continues_as(&self, other: &Self, ahead: u64) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
            && self.flags == other.flags
            && self.offset.wrapping_add(ahead) == other.offset
    }

    /// Where `part` of the file lies in this range of `len` bytes: how far from its start, from and to.
    fn place_of(&self, len: u64, file: &Arc<GuestFile>, part: &std::ops::Range<u64>) -> Option<(u64, u64)> {
        let start = part.start.max(self.offset);
        let end = part.end.min(self.offset.saturating_add(len));
        (Arc::ptr_eq(&self.memory, file) && start < end).then(|| (start - self.offset, end - self.offset))
    }

    /// Whether two ranges have bytes of one file in common.
    pub(crate) fn overlaps(&self, len: u64, other: &Self, other_len: u64) -> bool {
        Arc::ptr_eq(&self.memory, &other.memory)
            && self.offset < other.offset.saturating_add(other_len)
            && other.offset < self.offset.saturating_add(len)
    }
}

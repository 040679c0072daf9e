//! Giving the guest memory, and taking it back.

use std::os::fd::{AsFd, AsRawFd};

use gunyah_bindings::{android, v11, v17};

use super::VmFd;
use crate::book::{Binding, Book, Phase};
use crate::cma::{CmaMapping, CmaMemory};
use crate::error::{Error, Result};
use crate::features::Feature;
use crate::guest_memory::{GuestMemory, GuestMemoryMapping};
use crate::memory::{UserMemoryRegion, check_range};
use crate::ops;
use crate::sys::{In, Op};

impl VmFd {
    /// Gives the guest a region of this process's memory, shared with the host (every flavour but v17).
    ///
    /// Before the start; android15 and android16 take regions later, too
    /// ([`Features::user_memory_after_start`](crate::Features::user_memory_after_start)). A region cannot be changed or taken away. Up to
    /// android14 all its pages are pinned here; android15 and android16 pin them when the guest touches them.
    ///
    /// # Safety
    ///
    /// `userspace_addr..userspace_addr + memory_size` is memory that the caller has set aside for this guest: the
    /// guest writes it at any time, so no Rust reference to it may exist, and it must not be unmapped, or used
    /// for something else, before the VM is released.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: not aligned to pages, empty, wrapping around, label or guest addresses in use.
    /// [`Error::WrongPhase`]: the guest would never see it, or the start failed. [`Error::VmUnusable`]. [`Error::NotInAbi`].
    /// [`Error::Ioctl`]: EPERM another process created the VM, EOPNOTSUPP the hypervisor is too old, ENOMEM the limit of
    /// locked memory or no contiguous kernel memory for the list of pages, EFAULT the range is not mapped, EINTR.
    #[expect(unsafe_code, reason = "the guest writes the memory")]
    pub unsafe fn set_user_memory_region(&self, region: &UserMemoryRegion) -> Result<()> {
        self.add_user_memory(Feature::UserMemory, ops::SET_USER_MEM_REGION, region)
    }

    /// Gives the guest a region of this process's memory, which the host cannot access while the VM exists (android14-early,
    /// android14, android15, android16).
    ///
    /// As [`VmFd::set_user_memory_region`] otherwise. What the guest needs from the start (payload, devicetree) is written
    /// before the VM starts.
    ///
    /// # Safety
    ///
    /// As for [`VmFd::set_user_memory_region`]; and once the VM has started nobody in this process may touch the memory: a
    /// SIGBUS, or worse.
    ///
    /// # Errors
    ///
    /// As [`VmFd::set_user_memory_region`].
    #[expect(unsafe_code, reason = "the guest writes the memory, and the host must not touch it")]
    pub unsafe fn lend_user_memory(&self, region: &UserMemoryRegion) -> Result<()> {
        self.add_user_memory(Feature::Lend, ops::LEND_USER_MEM, region)
    }

    fn add_user_memory(
        &self,
        feature: Feature,
        op: Op<In<v11::gh_userspace_memory_region>>,
        region: &UserMemoryRegion,
    ) -> Result<()> {
        self.inner.require(feature, op)?;
        region.check(op.name)?;
        let mut book = self.inner.book();
        self.memory_phase(&book, op, self.inner.features.user_memory_after_start())?;
        book.check_range(op.name, region.guest_phys_addr, region.memory_size, Some(region.label))?;
        op.call(self.as_fd(), &region.argument()).map_err(|error| self.inner.error(op, error))?;
        book.add_range(region.guest_phys_addr, region.memory_size, Some(region.label));
        Ok(())
    }

    /// Whether memory can be added now; `late`: also to a VM that has started.
    fn memory_phase<A>(&self, book: &Book, op: Op<A>, late: bool) -> Result<()> {
        book.usable(op.name)?;
        if book.phase == Phase::Started && late {
            return Ok(());
        }
        book.configuring(
            op.name,
            "the VM has started: this kernel would take the memory and never show it to the guest",
        )
    }

    /// Maps a piece of guest memory into the VM (v17). Before and after the start; not after one that failed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: not aligned to pages (to 2 MiB with huge pages), empty, not inside the memory, in use.
    /// [`Error::WrongPhase`]: the start failed; or it succeeded, on a host that never shows later memory to the guest
    /// ([`Features::memory_after_start`](crate::Features::memory_after_start)). [`Error::VmUnusable`]. [`Error::NotInAbi`].
    /// [`Error::Ioctl`]: EINVAL the kernel cannot lend memory that is mapped as it is
    /// (needs `rodata=full`), EEXIST bound already, ENOMEM.
    pub fn map_guest_memory(&self, memory: &GuestMemory, mapping: &GuestMemoryMapping) -> Result<()> {
        let op = ops::VM_MAP_MEM;
        self.inner.require(Feature::GuestMemory, op)?;
        memory.check_mapping(mapping)?;
        let flags = mapping.flags();
        let binding = Binding {
            memory: memory.id(),
            offset: mapping.offset,
            size: mapping.size,
            guest_addr: mapping.guest_addr,
            flags: flags.0,
        };
        let mut book = self.inner.book();
        self.memory_phase(&book, op, self.inner.features.memory_after_start())?;
        book.check_binding(op.name, &binding)?;
        self.map_mem(memory, &binding, flags)?;
        book.add_binding(binding);
        Ok(())
    }

    /// Takes a piece of guest memory away from the VM (v17): the whole piece that was mapped at `guest_addr`.
    ///
    /// Only whole pieces, because kernels get parts wrong. Every kernel read keeps the memory allocated until the host
    /// reboots; use [`GuestMemory::punch_hole`] to free it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when no piece of `memory` was mapped at `guest_addr`. [`Error::VmUnusable`].
    /// [`Error::NotInAbi`]. [`Error::Ioctl`]: ENOENT the kernel has no such mapping, ENOMEM.
    pub fn unmap_guest_memory(&self, memory: &GuestMemory, guest_addr: u64) -> Result<()> {
        let op = ops::VM_MAP_MEM;
        self.inner.require(Feature::GuestMemory, op)?;
        let mut book = self.inner.book();
        book.usable(op.name)?;
        let binding = book
            .binding(memory.id(), guest_addr)
            .ok_or_else(|| op.invalid("no piece of this guest memory was mapped at this address"))?;
        let flags = v17::gunyah_map_flags(binding.flags) | v17::gunyah_map_flags::GUNYAH_MEM_UNMAP;
        self.map_mem(memory, &binding, flags)?;
        book.remove_binding(&binding);
        Ok(())
    }

    fn map_mem(&self, memory: &GuestMemory, binding: &Binding, flags: v17::gunyah_map_flags) -> Result<()> {
        let op = ops::VM_MAP_MEM;
        let args = v17::gunyah_map_mem_args {
            guest_addr: binding.guest_addr,
            flags,
            guest_mem_fd: memory.as_fd().as_raw_fd() as u32,
            offset: binding.offset,
            size: binding.size,
        };
        op.call(self.as_fd(), &args).map(drop).map_err(|error| self.inner.error(op, error))
    }

    /// Gives the guest memory of a reserved region (android16), before the start.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: not aligned to pages, empty, wrapping around, label or guest addresses in use.
    /// [`Error::WrongPhase`] after the start. [`Error::VmUnusable`]. [`Error::NotInAbi`].
    /// [`Error::Ioctl`]: EPERM another process created the VM, EBADF no memory of a reserved region,
    /// EEXIST, ENOMEM.
    pub fn map_cma_memory(&self, memory: &CmaMemory, mapping: &CmaMapping) -> Result<()> {
        let op = ops::MAP_CMA_MEM;
        self.inner.require(Feature::Cma, op)?;
        mapping.check()?;
        let mut book = self.inner.book();
        book.usable(op.name)?;
        book.configuring(op.name, "the VM has started: reserved memory is given to it by its start only")?;
        book.check_range(op.name, mapping.guest_addr, mapping.size, Some(mapping.label))?;
        let args = android::gunyah_map_cma_mem_args {
            label: mapping.label,
            guest_addr: mapping.guest_addr,
            flags: mapping.flags(),
            guest_mem_fd: memory.as_fd().as_raw_fd() as u32,
            offset: mapping.offset,
            size: mapping.size,
        };
        op.call(self.as_fd(), &args).map_err(|error| self.inner.error(op, error))?;
        book.add_range(mapping.guest_addr, mapping.size, Some(mapping.label));
        Ok(())
    }

    /// Takes pages back from a running guest (android15, android16). The guest gets new ones when it touches the range again.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: not aligned to pages, empty, wrapping around. [`Error::WrongPhase`] before the start, or when
    /// it failed. [`Error::VmUnusable`]. [`Error::NotInAbi`]. [`Error::Ioctl`]: EAGAIN the page changed meanwhile, EBUSY the hypervisor is using it, EPERM
    /// another process created the VM.
    pub fn reclaim_region(&self, guest_phys_addr: u64, size: u64) -> Result<()> {
        let op = ops::RECLAIM_REGION;
        self.inner.require(Feature::Reclaim, op)?;
        check_range(op.name, guest_phys_addr, size)?;
        {
            let book = self.inner.book();
            book.usable(op.name)?;
            if book.phase != Phase::Started {
                return Err(Error::WrongPhase {
                    op: op.name,
                    why: "the VM has not started: there is nothing to take",
                });
            }
        }
        let range = android::gunyah_address_range { guest_phys_addr, size };
        op.call(self.as_fd(), &range).map(drop).map_err(|error| self.inner.error(op, error))
    }
}

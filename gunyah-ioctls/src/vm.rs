//! A VM.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use gunyah_bindings::{android, v11, v17};

use crate::book::{Binding, Book, Phase};
use crate::boot::{AuthType, BootRegister};
use crate::cma::{CmaMapping, CmaMemory};
use crate::error::{Error, Result};
use crate::exit::VmStatus;
use crate::features::{Feature, Features};
use crate::guest_memory::{GuestMemory, GuestMemoryMapping};
use crate::ioeventfd::{IoEventFd, IoEventMatch};
use crate::irqfd::{IrqFd, Trigger};
use crate::memory::{UserMemoryRegion, check_range};
use crate::ops;
use crate::sys::Op;
use crate::vcpu::VcpuFd;

/// The hypervisor counts devicetree sizes in pages of 4 KiB, whatever the host's page size is.
const GUNYAH_PAGE: u64 = 4096;

/// A VM's file descriptor, from [`Gunyah::create_vm`](crate::Gunyah::create_vm).
///
/// A VM is first configured, then started, and ends once. Memory, interrupts and vCPUs are declared before
/// the start; the devicetree names them to the Resource Manager.
///
/// Each vCPU's file descriptor keeps the VM alive in the kernel, too: the VM is released when the last of
/// them all is closed. v11 and android14 release it a little later, in the background; the others inside the last close, which
/// can then take as long as resetting the VM takes.
///
/// A child process after `fork` must not use a VM of its parent: most kernels refuse (EPERM), and a vCPU run there
/// loses an answer.
pub struct VmFd {
    inner: Arc<VmInner>,
}

pub(crate) struct VmInner {
    pub(crate) fd: OwnedFd,
    pub(crate) features: Features,
    book: Mutex<Book>,
    pub(crate) status: Arc<OnceLock<VmStatus>>,
}

impl VmInner {
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing panics while it holds the lock, and the book is consistent between its calls.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn error<A>(&self, op: Op<A>, error: io::Error) -> Error {
        op.error(error, Some(self.features.flavour()))
    }

    fn require<A>(&self, feature: Feature, op: Op<A>) -> Result<()> {
        if self.features.has(feature) {
            Ok(())
        } else {
            Err(Error::NotInAbi { op: op.name, flavour: self.features.flavour() })
        }
    }
}

impl VmFd {
    pub(crate) fn new(fd: OwnedFd, features: Features) -> Self {
        let inner =
            VmInner { fd, features, book: Mutex::new(Book::new()), status: Arc::new(OnceLock::new()) };
        Self { inner: Arc::new(inner) }
    }

    /// What the host has, as found out on this VM.
    pub fn features(&self) -> &Features {
        &self.inner.features
    }

    /// Gives the guest a region of this process's memory, shared with the host (every flavour but v17).
    ///
    /// Before the start; android15 and android16 take regions later, too. A region cannot be changed or taken away. Up to
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
    /// [`Error::WrongPhase`]: the guest would never see it. [`Error::NotInAbi`].
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
        op: Op<crate::sys::In<v11::gh_userspace_memory_region>>,
        region: &UserMemoryRegion,
    ) -> Result<()> {
        self.inner.require(feature, op)?;
        region.check(op.name)?;
        let mut book = self.inner.book();
        self.memory_phase(&book, op)?;
        book.check_range(op.name, region.guest_phys_addr, region.memory_size, Some(region.label))?;
        op.call(self.as_fd(), &region.argument()).map_err(|error| self.inner.error(op, error))?;
        book.add_range(region.guest_phys_addr, region.memory_size, Some(region.label));
        Ok(())
    }

    fn memory_phase<A>(&self, book: &Book, op: Op<A>) -> Result<()> {
        book.usable(op.name)?;
        if book.phase == Phase::Started && self.inner.features.memory_after_start() {
            return Ok(());
        }
        book.configuring(
            op.name,
            "the VM has started: this kernel would take the memory and never show it to the guest",
        )
    }

    /// Maps a piece of guest memory into the VM (v17). Before and after the start.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: not aligned to pages (to 2 MiB with huge pages), empty, not inside the memory, in use.
    /// [`Error::NotInAbi`]. [`Error::Ioctl`]: EINVAL the kernel cannot lend memory that is mapped as it is
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
        self.memory_phase(&book, op)?;
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
    /// [`Error::InvalidArgument`] when no piece of `memory` was mapped at `guest_addr`. [`Error::NotInAbi`].
    /// [`Error::Ioctl`]: ENOENT the kernel has no such mapping, ENOMEM.
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
    /// [`Error::NotInAbi`]. [`Error::Ioctl`]: EPERM another process created the VM, EBADF no memory of a reserved region,
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
    /// [`Error::InvalidArgument`]: not aligned to pages, empty, wrapping around. [`Error::WrongPhase`] before the start.
    /// [`Error::NotInAbi`]. [`Error::Ioctl`]: EAGAIN the page changed meanwhile, EBUSY the hypervisor is using it, EPERM
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

    /// Says where the devicetree is, before the start. Every flavour. The last call counts.
    ///
    /// `size` is in bytes, a multiple of 4096: some kernels count in whole pages and would cut the rest off. Leave room
    /// after the tree, since the Resource Manager adds nodes to it in place. The range must be inside one region, and the
    /// payload in the same one; the kernel checks that at the start only.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: the size is below 4096 or no multiple of it, or the range wraps around.
    /// [`Error::WrongPhase`] after the start, when the kernel would ignore it. [`Error::Ioctl`].
    pub fn set_dtb_config(&self, guest_phys_addr: u64, size: u64) -> Result<()> {
        let op = ops::SET_DTB_CONFIG;
        if size < GUNYAH_PAGE {
            return Err(op.invalid(
                "the devicetree's size is below a page of 4096 bytes, and some kernels take that as 0",
            ));
        }
        if size % GUNYAH_PAGE != 0 {
            return Err(op.invalid(
                "the devicetree's size is not a multiple of 4096, and some kernels cut off the rest",
            ));
        }
        if guest_phys_addr.checked_add(size).is_none() {
            return Err(op.invalid("guest address + size of the devicetree wraps around"));
        }
        let book = self.inner.book();
        book.usable(op.name)?;
        book.configuring(op.name, "the VM has started: the kernel would ignore it")?;
        let config = v11::gh_vm_dtb_config { guest_phys_addr, size };
        op.call(self.as_fd(), &config).map(drop).map_err(|error| self.inner.error(op, error))
    }

    /// Says where the firmware of a protected VM is, before the start (android14-early, android14, android15, android16).
    ///
    /// The VM becomes a protected one of Android. The range must be inside a region; the kernel checks that at the start.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: empty or wrapping around. [`Error::WrongPhase`] after the start. [`Error::NotInAbi`].
    /// [`Error::Ioctl`].
    pub fn set_firmware_config(&self, guest_phys_addr: u64, size: u64) -> Result<()> {
        let op = ops::SET_FW_CONFIG;
        self.inner.require(Feature::Firmware, op)?;
        if size == 0 || guest_phys_addr.checked_add(size).is_none() {
            return Err(op.invalid("the firmware's range is empty or wraps around"));
        }
        let book = self.inner.book();
        book.usable(op.name)?;
        book.configuring(op.name, "the VM has started: the kernel would ignore it")?;
        let config = android::gunyah_vm_firmware_config { guest_phys_addr, size };
        op.call(self.as_fd(), &config).map(drop).map_err(|error| self.inner.error(op, error))
    }

    /// Sets a register with which the boot vCPU starts (v17, android15, android16).
    ///
    /// Without it the guest starts at the beginning of the region that holds the devicetree, with X0 = the devicetree's
    /// address. Prefer that where it fits: a Resource Manager of 2023 takes this call and then fails the start with
    /// EOPNOTSUPP. VMs with firmware ignore it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a register that does not exist. [`Error::WrongPhase`] after the start.
    /// [`Error::NotInAbi`]. [`Error::Ioctl`]: EINVAL first kernels cannot store some values (those with their top bits or
    /// low bits set in certain ways; addresses are fine), EINTR, ENOMEM.
    pub fn set_boot_context(&self, register: BootRegister, value: u64) -> Result<()> {
        let op = ops::SET_BOOT_CONTEXT;
        self.inner.require(Feature::BootContext, op)?;
        let reg = register.number()?;
        let book = self.inner.book();
        book.usable(op.name)?;
        book.configuring(op.name, "the VM has started")?;
        let context = v17::gunyah_vm_boot_context { reg, reserved: 0, value };
        op.call(self.as_fd(), &context).map(drop).map_err(|error| self.inner.error(op, error))
    }

    /// Chooses who vouches for the VM's image, before the start (android16).
    ///
    /// # Errors
    ///
    /// [`Error::WrongPhase`] after the start. [`Error::NotInAbi`]. [`Error::Ioctl`]: EOPNOTSUPP or ENOENT the kernel was
    /// built without it, EINVAL; for a trusted VM, every kernel read ends with EINVAL even when it has taken the choice.
    pub fn set_auth_type(&self, auth: &AuthType) -> Result<()> {
        let op = ops::SET_AUTH_TYPE;
        self.inner.require(Feature::AuthType, op)?;
        let book = self.inner.book();
        book.usable(op.name)?;
        book.configuring(op.name, "the VM has started")?;
        let trusted;
        let desc = match *auth {
            AuthType::AndroidProtectedVm => {
                android::gunyah_auth_desc { type_: android::GUNYAH_AUTH_ANDROID_PVM, arg_size: 0, arg: 0 }
            }
            AuthType::QualcommTrustedVm { vm_id, peripheral_id, guest_phys_addr, size } => {
                trusted = android::gunyah_qtvm_auth_arg { vm_id, peripheral_id, guest_phys_addr, size };
                android::gunyah_auth_desc {
                    type_: android::GUNYAH_AUTH_QCOM_TRUSTED_VM,
                    arg_size: size_of::<android::gunyah_qtvm_auth_arg>() as u32,
                    arg: std::ptr::from_ref(&trusted).expose_provenance() as u64,
                }
            }
        };
        op.call(self.as_fd(), &desc).map(drop).map_err(|error| self.inner.error(op, error))
    }

    /// Asks whether the host has an extension, by number (android16). A number that the kernel does not know is `false`.
    ///
    /// # Errors
    ///
    /// [`Error::NotInAbi`]. [`Error::Ioctl`].
    pub fn check_extension(&self, number: u32) -> Result<bool> {
        let op = ops::CHECK_EXTENSION;
        self.inner.require(Feature::CheckExtension, op)?;
        let answer = op.call(self.as_fd(), number.into()).map_err(|error| self.inner.error(op, error))?;
        Ok(answer > 0)
    }

    /// Starts the VM. Every flavour.
    ///
    /// From now [`VcpuFd::run`] runs the guest; before, it is ENODEV. Starting a running VM again does nothing. A start that
    /// failed is final (but for EINTR, after which it may be tried again): close the VM and create a new one.
    ///
    /// # Errors
    ///
    /// [`Error::WrongPhase`] after a start that failed. [`Error::Ioctl`]: EINVAL or ENOENT the devicetree (or the firmware)
    /// is not inside one region; ENODEV the Resource Manager refuses the devicetree or its addresses; EPERM the memory
    /// cannot be given; ENOMEM the limit of locked memory, or the Resource Manager has none left; EBUSY, EOPNOTSUPP,
    /// EBADMSG, EIO, E2BIG what the Resource Manager said.
    pub fn start(&self) -> Result<()> {
        let op = ops::VM_START;
        let mut book = self.inner.book();
        book.usable(op.name)?;
        if book.phase == Phase::StartFailed {
            return Err(Book::start_failed(op.name));
        }
        match op.call(self.as_fd(), 0) {
            Ok(_) => {
                book.phase = Phase::Started;
                Ok(())
            }
            Err(error) => {
                if error.raw_os_error() != Some(libc::EINTR) && book.phase == Phase::Configuring {
                    book.phase = Phase::StartFailed;
                    if self.inner.features.failures_are_final() {
                        book.unusable = Some("a failed GH_VM_START breaks this early kernel's lock");
                    }
                }
                Err(self.inner.error(op, error))
            }
        }
    }

    /// Adds vCPU `id` and maps its run page. Every flavour.
    ///
    /// The id is the vCPU's place, from 0, among the CPUs of the guest's devicetree; one that is not there can never run
    /// (ENODEV). Add vCPUs before the start, and run each on a thread of its own.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: the VM has a vCPU with this id (android16 would not notice). [`Error::VmUnusable`].
    /// [`Error::Ioctl`]: ENOENT the kernel was built without vCPUs, EOPNOTSUPP the hypervisor has none, EMFILE, ENFILE, ENOMEM.
    /// [`Error::ShortRunPage`], [`Error::Os`]: the run page cannot be mapped.
    pub fn add_vcpu(&self, id: u32) -> Result<VcpuFd> {
        let (fd, handle) = self.inner.add_vcpu_function(id)?;
        VcpuFd::new(fd, handle, &self.inner)
    }

    /// Makes writes to the eventfd `fd` ring the doorbell `label` of the guest. Every flavour.
    ///
    /// The guest's devicetree must declare a doorbell with this label and trigger, or nothing ever happens. `fd` is a plain
    /// eventfd (no semaphore); the kernel never reads its counter, so write 1 for each interrupt. Writes before the
    /// start are dropped. The kernel keeps its own reference to the eventfd, but some kernels use it after the VM is gone if
    /// the VM was never started: stop writing before closing such a VM.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: the VM has an irqfd with this label (android16 would not notice). [`Error::VmUnusable`].
    /// [`Error::Ioctl`]: EINVAL not an eventfd, EBADF, ENOENT the kernel was built without irqfds, ENOMEM.
    pub fn add_irqfd(&self, fd: impl AsFd, label: u32, trigger: Trigger) -> Result<IrqFd> {
        self.inner.add_function(IrqFd::function(fd, label, trigger)?).map(IrqFd::new)
    }

    /// Makes stores of the guest to `addr` signal the eventfd `fd`, without an exit. Every flavour.
    ///
    /// Only stores to exactly this address.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: a width that is not 1, 2, 4 or 8, a value that does not fit it, an address
    /// that wraps around, or another ioeventfd that matches the same stores. [`Error::VmUnusable`].
    /// [`Error::Ioctl`]: EINVAL not an eventfd, EBADF, ENOENT the kernel was built without ioeventfds, ENOMEM.
    pub fn add_ioeventfd(&self, fd: impl AsFd, addr: u64, matching: IoEventMatch) -> Result<IoEventFd> {
        self.inner.add_function(IoEventFd::function(fd, addr, matching)?).map(IoEventFd::new)
    }

    /// How the VM ended, once one of its vCPUs has reported it.
    pub fn exit_status(&self) -> Option<VmStatus> {
        self.inner.status.get().copied()
    }
}

impl AsFd for VmFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }
}

impl fmt::Debug for VmInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm").field("fd", &self.fd).field("features", &self.features).finish_non_exhaustive()
    }
}

impl fmt::Debug for VmFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmFd")
            .field("fd", &self.inner.fd)
            .field("features", &self.inner.features)
            .field("exit_status", &self.exit_status())
            .finish_non_exhaustive()
    }
}

//! A VM.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::book::{Book, Phase};
use crate::error::{Error, Result};
use crate::exit::VmStatus;
use crate::features::{Feature, Features};
use crate::ioeventfd::{IoEventFd, IoEventMatch};
use crate::irqfd::{IrqFd, Trigger};
use crate::ops;
use crate::sys::Op;
use crate::vcpu::VcpuFd;

mod boot;
mod memory;

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
    /// [`Error::WrongPhase`] after a start that failed; [`Error::VmUnusable`] on android14-early then, whose kernels would
    /// hang. [`Error::Ioctl`]: EINVAL or ENOENT the devicetree (or the firmware) is not inside one region; ENODEV the Resource
    /// Manager refuses the devicetree or its addresses, or the VM has ended already; EPERM the memory
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
        self.inner.add_function(IrqFd::function(fd, label, trigger)?, None).map(IrqFd::new)
    }

    /// Makes stores of the guest to `addr` signal the eventfd `fd`, without an exit. Every flavour.
    ///
    /// Only stores to exactly this address. The kernel keeps its own reference to the eventfd: `fd` may be closed. On v11 and
    /// android14 the [`IoEventFd`] holds a file descriptor of its own, too, to put the ioeventfd back when the kernel removes
    /// it together with another.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: a width that is not 1, 2, 4 or 8, a value that does not fit it, an address
    /// that wraps around, or another ioeventfd that matches the same stores. [`Error::VmUnusable`].
    /// [`Error::Ioctl`]: EINVAL not an eventfd, EBADF, ENOENT the kernel was built without ioeventfds, ENOMEM.
    /// [`Error::Os`]: no file descriptor is left for the one that is held (v11, android14).
    pub fn add_ioeventfd(&self, fd: impl AsFd, addr: u64, matching: IoEventMatch) -> Result<IoEventFd> {
        let held =
            if self.inner.features.removal_takes_siblings() { Some(IoEventFd::hold(&fd)?) } else { None };
        let fd = held.as_ref().map_or(fd.as_fd(), AsFd::as_fd);
        let function = IoEventFd::function(fd, addr, matching)?;
        self.inner.add_function(function, held).map(IoEventFd::new)
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

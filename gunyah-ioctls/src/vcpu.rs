//! A vCPU: running the guest, and answering what it asks.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gunyah_bindings::v17;

use crate::error::{Error, Result};
use crate::exit::{ExitInfo, VcpuExit, VmStatus};
use crate::features::Features;
use crate::function::{Function, FunctionHandle};
use crate::kick::{KickHandle, Shared, ThreadBinding};
use crate::run_page::RunPage;
use crate::vm::VmInner;
use crate::{ops, sys};

/// How often, and in what steps, a run that the kernel calls busy at the VM's end is tried again: a fifth of a second.
const BUSY_TRIES: u32 = 200;
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// A vCPU's file descriptor and its run page, from [`VmFd::add_vcpu`](crate::VmFd::add_vcpu).
///
/// May be sent to another thread, and is used by one at a time. Dropping it removes the vCPU from its VM, silently; the id
/// can then be added again.
pub struct VcpuFd {
    // Dropped first: the vCPU is removed while its file is still open.
    handle: FunctionHandle,
    shared: Arc<Shared>,
    fd: OwnedFd,
    binding: Option<ThreadBinding>,
    pending: Pending,
    nonsense: Nonsense,
    features: Features,
    status: Arc<OnceLock<VmStatus>>,
    fault: Repeated,
    lost: u64,
    not_sync: PhantomData<Cell<()>>,
}

/// What the guest waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    /// Nothing.
    Nothing,
    /// A store was reported; it counts as done unless it is failed or retried.
    Write,
    /// A load of so many bytes, not answered yet.
    Read(u8),
    /// The answer lies in the run page and has not been taken by the kernel.
    Answered,
    /// An MMIO exit made no sense, so there is no answer to it.
    Broken,
}

/// A value that the run page must not hold.
#[derive(Clone, Copy, Debug)]
struct Nonsense {
    field: &'static str,
    value: u64,
}

/// A page fault that repeats.
#[derive(Clone, Copy, Debug, Default)]
struct Repeated {
    addr: u64,
    times: u32,
}

impl VcpuFd {
    /// How many page faults in a row on one address [`VcpuFd::run`] reports before it fails.
    pub const PAGE_FAULT_LIMIT: u32 = 1000;

    pub(crate) fn new(fd: OwnedFd, handle: FunctionHandle, vm: &Arc<VmInner>) -> Result<Self> {
        let page = RunPage::map(fd.as_fd(), vm.features.flavour())?;
        Ok(Self {
            handle,
            shared: Arc::new(Shared::new(page)),
            fd,
            binding: None,
            pending: Pending::Nothing,
            nonsense: Nonsense { field: "", value: 0 },
            features: vm.features,
            status: Arc::clone(&vm.status),
            fault: Repeated::default(),
            lost: 0,
            not_sync: PhantomData,
        })
    }

    /// The vCPU's id.
    pub fn id(&self) -> u32 {
        if let Function::Vcpu(arg) = self.handle.function() { arg.id } else { 0 }
    }

    /// Runs the guest until it needs something, or until a kick or a signal.
    ///
    /// Blocks while the guest runs and while it sleeps. The first call on a thread unblocks the kick signal there; see
    /// [`set_kick_signal`](crate::set_kick_signal) and, against other signals, [`block_other_signals`](crate::block_other_signals).
    ///
    /// Every exit of the guest is returned exactly once, also one that a signal overtook. Whatever the call returns, calling
    /// it again is right: after [`VcpuExit::Interrupted`] an answer that was given and not yet taken by the guest is still
    /// on its way. Once the VM has ended, every call returns [`VcpuExit::Status`] without entering the kernel.
    ///
    /// # Errors
    ///
    /// [`Error::UnansweredRead`] when the last exit was a read without an answer. [`Error::InvalidRunPage`] when what the
    /// kernel reports makes no sense. [`Error::PageFaultLoop`] after [`VcpuFd::PAGE_FAULT_LIMIT`] page faults
    /// in a row on one address; calling again starts a new count. [`Error::Os`] when the thread cannot be prepared for
    /// kicks. [`Error::Ioctl`]: ENODEV the VM has not started, or its devicetree has no CPU with this id, or the vCPU
    /// was removed; EPERM the caller is not the process that created the VM (the kernel drops an outstanding answer
    /// then); EBUSY the VM has been ending for long; ENOMEM, EACCES, EINVAL what the hypervisor said.
    #[inline]
    pub fn run(&mut self) -> Result<VcpuExit> {
        let answering = match self.pending {
            Pending::Nothing | Pending::Write => false,
            Pending::Answered => true,
            Pending::Read(_) | Pending::Broken => return Err(self.refuse()),
        };
        if let Some(status) = self.status.get() {
            return Ok(VcpuExit::Status(*status));
        }
        if !self.binding.as_ref().is_some_and(ThreadBinding::is_current) {
            self.bind()?;
        }
        if !self.shared.enter(answering) {
            return Ok(VcpuExit::Interrupted);
        }
        let ran = sys::vcpu_run(self.fd.as_fd());
        self.shared.leave();
        let reason = self.shared.page.exit_reason();
        match ran {
            Ok(()) => {}
            // The kernel lets a signal overtake a finished exit: it is in the page, and it is not reported again.
            Err(libc::EINTR | libc::EAGAIN) if reason != 0 => {}
            Err(errno) => return self.not_run(errno, answering),
        }
        self.pending = Pending::Nothing;
        match reason {
            v17::GUNYAH_VCPU_EXIT_MMIO => self.mmio_exit(),
            other => self.other_exit(other),
        }
    }

    #[inline]
    fn mmio_exit(&mut self) -> Result<VcpuExit> {
        self.fault.times = 0;
        let page = &self.shared.page;
        let (addr, len, is_write) = (page.mmio_addr(), page.mmio_len(), page.mmio_is_write());
        let mask = match len {
            1 => 0xff,
            2 => 0xffff,
            4 => 0xffff_ffff,
            8 => u64::MAX,
            _ => return self.broken("mmio.len", len.into()),
        };
        let len = len as usize;
        match is_write {
            0 => {
                self.pending = Pending::Read(len as u8);
                Ok(VcpuExit::MmioRead { addr, len })
            }
            1 => {
                self.pending = Pending::Write;
                // What lies behind the stored bytes is of an earlier exit.
                let data = (page.mmio_data() & mask).to_le_bytes();
                Ok(VcpuExit::MmioWrite { addr, data, len })
            }
            other => self.broken("mmio.is_write", other.into()),
        }
    }

    #[cold]
    fn broken(&mut self, field: &'static str, value: u64) -> Result<VcpuExit> {
        self.pending = Pending::Broken;
        self.nonsense = Nonsense { field, value };
        Err(self.refuse())
    }

    /// Why the vCPU cannot run now.
    #[cold]
    fn refuse(&self) -> Error {
        if self.pending == Pending::Broken {
            let Nonsense { field, value } = self.nonsense;
            Error::InvalidRunPage { field, value }
        } else {
            Error::UnansweredRead
        }
    }

    #[cold]
    fn other_exit(&mut self, reason: u32) -> Result<VcpuExit> {
        match reason {
            v17::GUNYAH_VCPU_EXIT_STATUS => self.status_exit(),
            v17::GUNYAH_VCPU_EXIT_PAGE_FAULT => self.page_fault_exit(),
            // Once a vCPU has reported the end of its VM, the kernel answers at once and leaves the page alone.
            0 => Ok(self.status.get().map_or(VcpuExit::Unknown(0), |status| VcpuExit::Status(*status))),
            other => {
                self.fault.times = 0;
                Ok(VcpuExit::Unknown(other))
            }
        }
    }

    fn status_exit(&mut self) -> Result<VcpuExit> {
        let page = &self.shared.page;
        let info = ExitInfo::new(page.exit_type(), page.reason_size(), page.reason());
        let status = match page.status() {
            1 => VmStatus::LoadFailed,
            2 => VmStatus::Exited(info),
            3 => VmStatus::Crashed(info),
            other => return Err(Error::InvalidRunPage { field: "status.status", value: other.into() }),
        };
        Ok(VcpuExit::Status(*self.status.get_or_init(|| status)))
    }

    fn page_fault_exit(&mut self) -> Result<VcpuExit> {
        let page = &self.shared.page;
        let (addr, attempt) = (page.fault_addr(), page.fault_attempt().saturating_neg());
        if self.fault.times == 0 || self.fault.addr != addr {
            self.fault = Repeated { addr, times: 0 };
        }
        if self.fault.times >= Self::PAGE_FAULT_LIMIT {
            let times = std::mem::take(&mut self.fault.times);
            return Err(Error::PageFaultLoop { addr, attempt, times });
        }
        self.fault.times = self.fault.times.saturating_add(1);
        Ok(VcpuExit::PageFault { addr, attempt })
    }

    /// `VCPU_RUN` failed and the page holds no exit.
    #[cold]
    fn not_run(&mut self, errno: i32, answering: bool) -> Result<VcpuExit> {
        match errno {
            libc::EINTR | libc::EAGAIN => {
                // Of a kick, another signal, or a teardown of the vCPU: all end `run`.
                self.shared.take_kick();
                self.consumed(answering);
                Ok(VcpuExit::Interrupted)
            }
            libc::EBUSY => {
                let lost = self.lost;
                self.consumed(answering);
                let exit = self.busy();
                if let Ok(VcpuExit::Status(_)) = exit {
                    // No guest is left that could miss it.
                    self.lost = lost;
                }
                exit
            }
            // There is no vCPU that could have taken the answer.
            libc::ENODEV => Err(self.error(errno)),
            _ => {
                self.consumed(answering);
                Err(self.error(errno))
            }
        }
    }

    /// The kernel has taken the answer, and may not have handed it to the guest.
    fn consumed(&mut self, answering: bool) {
        if answering {
            self.pending = Pending::Nothing;
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// Runs again, for a while, a vCPU whose VM is just ending.
    fn busy(&mut self) -> Result<VcpuExit> {
        for _ in 0..BUSY_TRIES {
            std::thread::sleep(BUSY_PAUSE);
            if let Some(status) = self.status.get() {
                return Ok(VcpuExit::Status(*status));
            }
            if !self.shared.enter(false) {
                return Ok(VcpuExit::Interrupted);
            }
            let ran = sys::vcpu_run(self.fd.as_fd());
            self.shared.leave();
            let reason = self.shared.page.exit_reason();
            return match (ran, reason) {
                (Err(libc::EBUSY), _) => continue,
                (Ok(()) | Err(libc::EINTR | libc::EAGAIN), v17::GUNYAH_VCPU_EXIT_MMIO) => self.mmio_exit(),
                (Ok(()), _) => self.other_exit(reason),
                (Err(libc::EINTR | libc::EAGAIN), 1..) => self.other_exit(reason),
                (Err(errno), _) => self.not_run(errno, false),
            };
        }
        Err(self.error(libc::EBUSY))
    }

    fn error(&self, errno: i32) -> Error {
        ops::VCPU_RUN.error(io::Error::from_raw_os_error(errno), Some(self.features.flavour()))
    }

    /// Prepares the calling thread, when it is not the one that ran the vCPU last.
    #[cold]
    fn bind(&mut self) -> Result<()> {
        let binding = ThreadBinding::new()?;
        self.shared.bind(&binding);
        self.binding = Some(binding);
        Ok(())
    }

    /// Answers the guest's load: `data` holds its bytes in the order of their addresses.
    ///
    /// The guest gets them when the vCPU runs again.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the last exit was no read, when it is answered already, or when `data` is not exactly as
    /// long as the read.
    #[inline]
    pub fn complete_mmio_read(&mut self, data: &[u8]) -> Result<()> {
        // One width at a time, so that no copy of variable length is left.
        let value = match (self.pending, data) {
            (Pending::Read(1), &[byte]) => byte.into(),
            (Pending::Read(2), &[a, b]) => u16::from_le_bytes([a, b]).into(),
            (Pending::Read(4), &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]).into(),
            (Pending::Read(8), &[a, b, c, d, e, f, g, h]) => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => return Err(self.wrong_answer()),
        };
        self.shared.page.set_mmio_data(value);
        self.pending = Pending::Answered;
        Ok(())
    }

    #[cold]
    fn wrong_answer(&self) -> Error {
        let why = match self.pending {
            Pending::Read(_) => "the answer is not as long as the guest's read",
            _ => "no read of the guest waits for an answer",
        };
        Error::InvalidArgument { op: "complete_mmio_read", why }
    }

    /// Answers the guest's load or store with a fault: it takes a synchronous external abort (v17, android15, android16).
    ///
    /// # Errors
    ///
    /// [`Error::NotInAbi`] on other hosts: answer a load with all ones there, and ignore a store.
    /// [`Error::InvalidArgument`] when the last exit was no MMIO access or is answered already.
    pub fn fail_mmio(&mut self) -> Result<()> {
        self.resume("resume action FAULT", self.features.mmio_fault(), v17::GUNYAH_VCPU_RESUME_FAULT)
    }

    /// Answers the guest's load or store by having it execute the instruction again (v17).
    ///
    /// The kernel first tries once to bring the page in. For an access to an address at which memory has just been mapped.
    ///
    /// # Errors
    ///
    /// [`Error::NotInAbi`] on other hosts; android15 and android16 would refuse it with EINVAL.
    /// [`Error::InvalidArgument`] when the last exit was no MMIO access or is answered already.
    pub fn retry_mmio(&mut self) -> Result<()> {
        self.resume("resume action RETRY", self.features.mmio_retry(), v17::GUNYAH_VCPU_RESUME_RETRY)
    }

    fn resume(&mut self, op: &'static str, in_abi: bool, action: u8) -> Result<()> {
        if !in_abi {
            return Err(Error::NotInAbi { op, flavour: self.features.flavour() });
        }
        if !matches!(self.pending, Pending::Read(_) | Pending::Write) {
            return Err(Error::InvalidArgument {
                op,
                why: "no MMIO access of the guest waits for an answer",
            });
        }
        self.shared.page.set_mmio_resume(action);
        self.pending = Pending::Answered;
        Ok(())
    }

    /// A handle with which other threads and signal handlers end [`VcpuFd::run`].
    pub fn kick_handle(&self) -> KickHandle {
        KickHandle::new(&self.shared)
    }

    /// How often an answer to the guest may have been lost: an upper bound.
    ///
    /// Counts each `run` that carried an answer in and was interrupted, or failed, before the guest's next exit. The kernel
    /// drops the answer if the signal reached it between entering the kernel and entering the guest, and nothing tells this
    /// from a signal that came later, so most of what is counted was not lost. Kicks keep away from that window (see
    /// [`KickHandle`]); a count that matters comes from other signals on this thread.
    pub fn answers_possibly_lost(&self) -> u64 {
        self.lost
    }

    /// Removes the vCPU from its VM and closes it.
    ///
    /// v11 and android14-early answer success even when nothing was there to remove.
    ///
    /// # Errors
    ///
    /// [`Error::VmClosed`] when the VM's file descriptor is closed. [`Error::VmUnusable`]. [`Error::Ioctl`]: ENOENT the kernel has
    /// no such vCPU, ENOMEM, EINTR signals interrupted every try. With all but ENOENT the kernel still has it, and its id
    /// stays taken for as long as this VM exists.
    pub fn remove(self) -> Result<()> {
        self.handle.remove()
    }
}

impl AsFd for VcpuFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for VcpuFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuFd")
            .field("id", &self.id())
            .field("fd", &self.fd)
            .field("pending", &self.pending)
            .field("answers_possibly_lost", &self.lost)
            .finish_non_exhaustive()
    }
}

//! The VM manager: a VM's life from `CREATE_VM` over the start and the exit notification to the last close.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use gunyah_bindings::{exit, v11};

use super::adoption::Adoptions;
use super::boot::Boot;
use super::completion::{Completion, RunLock};
use super::function::Function;
use super::guest::Running;
use super::ioeventfd::Ioeventfd;
use super::ticket::Tickets;
use super::uapi::Arg;
use super::vcpu::Vcpu;
use super::vm_mgr_mm::{Memory, Transfer};
use super::{Answer, Kernel};
use crate::errno::Errno;
use crate::flavour::Teardown;
use crate::transport::call::Call;
use crate::transport::ram::Ram;

/// The Resource Manager's names for what a VM is doing.
#[allow(dead_code, reason = "the whole list is easier to read than what happens to be used")]
pub(crate) mod status {
    pub(crate) const NO_STATE: u32 = 0;
    pub(crate) const INIT: u32 = 1;
    pub(crate) const READY: u32 = 2;
    pub(crate) const RUNNING: u32 = 3;
    pub(crate) const PAUSED: u32 = 4;
    pub(crate) const LOAD: u32 = 5;
    pub(crate) const AUTH: u32 = 6;
    pub(crate) const INIT_FAILED: u32 = 8;
    pub(crate) const EXITED: u32 = 9;
    pub(crate) const RESETTING: u32 = 10;
    pub(crate) const RESET: u32 = 11;
}

/// How the VM exited, as the Resource Manager's notification said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExitInfo {
    pub(crate) exit_type: u16,
    /// As sent: may be more than the 8 bytes that are kept.
    pub(crate) reason_size: u32,
    pub(crate) reason: [u8; v11::GH_VM_MAX_EXIT_REASON_SIZE as usize],
}

/// One VM.
pub(crate) struct Vm {
    pub(crate) number: u64,
    kernel: Arc<Kernel>,
    /// The process that made it.
    pub(crate) owner: u32,
    /// Its file and its vCPUs' files.
    users: Mutex<u32>,
    /// Changed under `status_lock` only, read without it where the driver does so.
    vm_status: AtomicU32,
    status_lock: RwLock<ExitInfo>,
    vmid_held: AtomicBool,
    /// The image was shared at the start: an unprotected VM.
    unprotected: AtomicBool,
    /// The Resource Manager sent the exit notification, or was asked to stop the VM.
    ever_started: AtomicBool,
    pub(crate) mm: Mutex<Memory>,
    ram: Arc<Ram>,
    dtb: Mutex<v11::gh_vm_dtb_config>,
    boot: Mutex<Boot>,
    pub(crate) fn_lock: RunLock,
    /// Taken for ever where a failed start has broken the status' lock for writers, or left the memory's lock held.
    status_wedge: RunLock,
    pub(crate) mm_wedge: RunLock,
    functions: Mutex<Vec<Arc<Function>>>,
    tickets: Mutex<Tickets>,
    mmio_handlers: Mutex<Vec<Arc<Ioeventfd>>>,
    notifiers: Mutex<Vec<Arc<Vcpu>>>,
    irqs: Mutex<HashMap<u32, Arc<Completion>>>,
    pub(crate) guest: OnceLock<Running>,
    pub(crate) adoptions: Adoptions,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vm {
    pub(crate) fn new(kernel: &Arc<Kernel>, number: u64, owner: u32) -> Arc<Self> {
        Arc::new(Self {
            number,
            kernel: Arc::clone(kernel),
            owner,
            users: Mutex::new(1),
            vm_status: AtomicU32::new(status::NO_STATE),
            status_lock: RwLock::default(),
            vmid_held: AtomicBool::new(kernel.differences.vmid_at_create),
            unprotected: AtomicBool::new(false),
            ever_started: AtomicBool::new(false),
            mm: Mutex::default(),
            ram: Arc::default(),
            dtb: Mutex::default(),
            boot: Mutex::default(),
            fn_lock: RunLock::default(),
            status_wedge: RunLock::default(),
            mm_wedge: RunLock::default(),
            functions: Mutex::default(),
            tickets: Mutex::default(),
            mmio_handlers: Mutex::default(),
            notifiers: Mutex::default(),
            irqs: Mutex::default(),
            guest: OnceLock::new(),
            adoptions: Adoptions::default(),
        })
    }

    pub(crate) fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }
    pub(crate) fn functions(&self) -> MutexGuard<'_, Vec<Arc<Function>>> {
        lock(&self.functions)
    }
    pub(crate) fn tickets(&self) -> MutexGuard<'_, Tickets> {
        lock(&self.tickets)
    }
    pub(crate) fn mmio_handlers(&self) -> MutexGuard<'_, Vec<Arc<Ioeventfd>>> {
        lock(&self.mmio_handlers)
    }
    pub(crate) fn notifiers(&self) -> MutexGuard<'_, Vec<Arc<Vcpu>>> {
        lock(&self.notifiers)
    }
    pub(crate) fn ram(&self) -> Arc<Ram> {
        Arc::clone(&self.ram)
    }
    pub(crate) fn boot(&self) -> MutexGuard<'_, Boot> {
        lock(&self.boot)
    }
    pub(crate) fn dtb(&self) -> v11::gh_vm_dtb_config {
        *lock(&self.dtb)
    }

    /// One more user, unless the last one is gone.
    pub(crate) fn get(&self) -> bool {
        let mut users = lock(&self.users);
        if *users > 0 {
            *users += 1;
        }
        *users > 0
    }

    /// One user less; the last one's leaving ends the VM.
    pub(crate) fn put(self: &Arc<Self>) {
        let mut users = lock(&self.users);
        *users = users.saturating_sub(1);
        if *users > 0 {
            return;
        }
        drop(users);
        let vm = Arc::clone(self);
        match self.kernel.differences.teardown {
            Teardown::AtOnce => vm.free(),
            Teardown::Later => {
                if let Err(error) = std::thread::Builder::new().spawn(move || vm.free()) {
                    self.kernel.observer.note(|| format!("VM {}: no thread to end it: {error}", self.number));
                    self.free();
                }
            }
        }
    }

    pub(crate) fn status(&self) -> u32 {
        self.vm_status.load(Ordering::Acquire)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.vm_status.load(Ordering::Acquire) == status::RUNNING
    }

    /// Whether a start has succeeded, whatever came later.
    pub(crate) fn has_started(&self) -> bool {
        self.ever_started.load(Ordering::Acquire)
    }

    /// Whether the VM is a protected one. Until the start has looked, it is.
    pub(crate) fn is_protected(&self) -> bool {
        !self.unprotected.load(Ordering::Acquire)
    }

    /// The status and the exit info; waits for the end of a start in progress.
    pub(crate) fn read_status(&self, call: &Call<'_>) -> (u32, ExitInfo) {
        let info = if let Ok(info) = self.status_lock.try_read() {
            *info
        } else {
            call.may_sleep();
            *self.status_lock.read().unwrap_or_else(PoisonError::into_inner)
        };
        (self.vm_status.load(Ordering::Acquire), info)
    }

    /// Whether `RUN` and memory calls are allowed to this process.
    pub(crate) fn check_owner(&self, call: &Call<'_>) -> Result<(), Errno> {
        let ours = crate::transport::sys::is_thread_of(self.owner, call.caller.tid);
        if ours { Ok(()) } else { Err(Errno::EPERM) }
    }

    pub(crate) fn request_irq(&self, vcpu: u32, ready: &Arc<Completion>) {
        lock(&self.irqs).insert(vcpu, Arc::clone(ready));
    }

    pub(crate) fn free_irq(&self, vcpu: u32) {
        lock(&self.irqs).remove(&vcpu);
    }

    /// The hypervisor raises a vCPU's wake-up interrupt.
    pub(crate) fn wake(&self, id: u32) {
        if self.kernel.faults.loses_wakeup() {
            return;
        }
        if let Some(ready) = lock(&self.irqs).get(&id) {
            ready.complete();
        }
    }

    /// Wakes every vCPU: something that a script may wait for has happened.
    pub(crate) fn wake_all(&self) {
        lock(&self.irqs).values().for_each(|ready| ready.complete());
    }

    /// `SET_DTB_CONFIG`: the last one before the start counts.
    pub(crate) fn set_dtb_config(&self, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        let config = v11::gh_vm_dtb_config::copy_from_user(&call.caller, arg)?;
        if self.kernel.differences.dtb_wrap_check {
            let page = crate::transport::sys::page_size() as u64;
            let rounded = config.size.checked_next_multiple_of(page);
            if rounded.and_then(|size| config.guest_phys_addr.checked_add(size)).is_none() {
                return Err(Errno::EOVERFLOW);
            }
        }
        *lock(&self.dtb) = config;
        Ok(Answer::value(0))
    }

    /// `VM_START`.
    pub(crate) fn start(self: &Arc<Self>, call: &Call<'_>) -> Result<Answer, Errno> {
        drop(self.status_wedge.lock_interruptible(call)?);
        let mut info = if let Ok(info) = self.status_lock.try_write() {
            info
        } else {
            call.may_sleep();
            self.status_lock.write().unwrap_or_else(PoisonError::into_inner)
        };
        match self.vm_status.load(Ordering::Acquire) {
            status::RUNNING => return Ok(Answer::value(0)),
            status::NO_STATE => {}
            _ => return Err(Errno::ENODEV),
        }
        *info = ExitInfo::default();
        match self.start_locked(call) {
            Ok(()) => {
                self.vm_status.store(status::RUNNING, Ordering::Release);
                Ok(Answer::value(0))
            }
            Err(errno) => {
                if self.kernel.differences.failed_start_wedges {
                    // Nobody unlocks this any more. The VM can still be closed.
                    std::mem::forget(self.status_wedge.lock(None));
                }
                if self.kernel.differences.failed_start_is_load_failed {
                    self.vm_status.store(status::INIT_FAILED, Ordering::Release);
                }
                Err(errno)
            }
        }
    }

    fn start_locked(self: &Arc<Self>, call: &Call<'_>) -> Result<(), Errno> {
        self.ever_started.store(true, Ordering::Release);
        self.vmid_held.store(true, Ordering::Release);
        self.vm_status.store(status::LOAD, Ordering::Release);
        let dtb = self.dtb();
        let image = self.region_of(dtb.guest_phys_addr, dtb.size);
        let shared = image.is_some_and(|image| image.transfer == Transfer::Share);
        self.unprotected.store(shared, Ordering::Release);
        self.give_memory().inspect_err(|_| {
            if self.kernel.differences.failed_start_wedges {
                std::mem::forget(self.mm_wedge.lock(None));
            }
        })?;
        self.find_firmware()?;
        let parts = self.kernel.guest.load(self)?;
        self.vm_status.store(status::READY, Ordering::Release);
        if self.guest.set(parts.running).is_err() {
            return Err(Errno::ENODEV);
        }
        self.bind_ioeventfds();
        for resource in parts.resources {
            self.add_resource(resource, call);
        }
        if parts.all_doorbells {
            self.add_all_doorbells();
        }
        if let Some(errno) = self.kernel.start_failure {
            return Err(errno);
        }
        Ok(())
    }

    /// A doorbell rings.
    pub(crate) fn ring(&self, label: u32) {
        self.kernel.observer.doorbell(label);
        if let Some(guest) = self.guest.get() {
            guest.ring(self, label);
        }
    }

    /// The Resource Manager's "exited" notification: first the VM manager, then the vCPUs.
    pub(crate) fn rm_exited(&self, exit_type: u16, reason: &[u8]) {
        let mut kept = [0; v11::GH_VM_MAX_EXIT_REASON_SIZE as usize];
        for (to, from) in kept.iter_mut().zip(reason) {
            *to = *from;
        }
        {
            let mut info = self.status_lock.write().unwrap_or_else(PoisonError::into_inner);
            self.vm_status.store(status::EXITED, Ordering::Release);
            *info = ExitInfo { exit_type, reason_size: reason.len() as u32, reason: kept };
        }
        for vcpu in self.notifiers().iter() {
            vcpu.rm_exited();
        }
    }

    /// The VM ends from outside.
    pub(crate) fn die(&self, exit_type: u16, reason: &[u8]) {
        if let Some(guest) = self.guest.get() {
            guest.stop();
        }
        self.rm_exited(exit_type, reason);
    }

    /// The end: the guest is stopped, the functions go, the memory comes back.
    fn free(self: &Arc<Self>) {
        if self.is_running() {
            if let Some(guest) = self.guest.get() {
                guest.stop();
            }
            self.rm_exited(exit::FORCE_STOPPED, &[]);
        }
        let functions: Vec<_> = self.functions().drain(..).collect();
        for function in functions {
            function.unbind(self, None);
        }
        self.drop_resources();
        let started = self.has_started();
        if started || !self.kernel.differences.never_started_leaks {
            self.vmid_held.store(false, Ordering::Release);
        } else {
            self.kernel.observer.leaked_vm();
        }
        for fault in self.guest.get().map(Running::faults).unwrap_or_default() {
            self.kernel.observer.note(|| fault.clone());
        }
        self.ram.clear();
        lock(&self.mm).clear();
        self.kernel.vm_gone(self.number);
    }
}

//! The driver: one file per idea, named after the real one's, so that the two can be read side by side.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::errno::Errno;
use crate::fake::fault::Faults;
use crate::flavour::{Differences, Flavour};
use crate::transport::call::Reply;
use crate::transport::files::Files;
use crate::transport::sys::{self, FileId};

#[cfg_attr(not(all(feature = "kvm", target_arch = "aarch64")), path = "adoption_absent.rs")]
mod adoption;
mod attention;
mod boot;
mod completion;
mod device;
mod dispatch;
mod function;
pub(crate) mod guest;
mod guest_memfd;
mod ioeventfd;
mod irqfd;
mod object;
pub(crate) mod observer;
mod ticket;
pub(crate) mod uapi;
mod vcpu;
mod vcpu_exit;
pub(crate) mod vm_mgr;
mod vm_mgr_mm;

use guest::Guests;
use irqfd::Irqfd;
use object::{Kind, Object};
use observer::{Exit, Observer, Target};
use vm_mgr::Vm;

/// What a call answers, and what to do if the caller never hears it.
pub(crate) struct Answer {
    reply: Reply,
    undo: Undo,
}

impl Answer {
    fn value(value: i64) -> Self {
        Self { reply: Reply::Value(value), undo: Undo::None }
    }
}

/// What to do if nobody hears the answer: the caller was killed, or its table of descriptors is full. (On kernels before
/// 5.19 a signal can take the caller away, too; its next try then finds things as they were.)
enum Undo {
    None,
    Do(Box<dyn FnOnce() + Send>),
    /// `RUN` takes nothing back: an exit that nobody heard of is what happens on real hosts, too.
    Run(Option<Exit>),
}

/// What the hypervisor can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hypervisor {
    pub(crate) vcpu: bool,
    pub(crate) memory_extents: bool,
}

/// The whole kernel side of one fake.
pub(crate) struct Kernel {
    pub(crate) flavour: Flavour,
    pub(crate) differences: Differences,
    pub(crate) hypervisor: Hypervisor,
    pub(crate) devices: Vec<PathBuf>,
    /// Nodes of contiguous memory, with the size of each region.
    pub(crate) cma_nodes: Vec<(PathBuf, u64)>,
    pub(crate) guest: Guests,
    /// Bytes that may be locked, instead of the caller's limit.
    pub(crate) memlock: Option<u64>,
    /// `VM_START` fails with this after the resources were handed out.
    pub(crate) start_failure: Option<Errno>,
    /// The Resource Manager refuses every parcel of memory.
    pub(crate) memory_failure: Option<Errno>,
    pub(crate) faults: Faults,
    pub(crate) files: Files,
    /// The eventfds of all irqfds.
    pub(crate) doorbells: OwnedFd,
    pub(crate) observer: Observer,
    irqfds: Mutex<HashMap<u64, Weak<Irqfd>>>,
    objects: Mutex<HashMap<FileId, Arc<Object>>>,
    vms: Mutex<Vec<Arc<Vm>>>,
    tokens: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a [`Kernel`] is made of.
pub(crate) struct Settings {
    pub(crate) flavour: Flavour,
    pub(crate) differences: Differences,
    pub(crate) hypervisor: Hypervisor,
    pub(crate) devices: Vec<PathBuf>,
    /// Nodes of contiguous memory, with the size of each region.
    pub(crate) cma_nodes: Vec<(PathBuf, u64)>,
    pub(crate) guest: Guests,
    pub(crate) memlock: Option<u64>,
    pub(crate) start_failure: Option<Errno>,
    pub(crate) memory_failure: Option<Errno>,
    pub(crate) faults: Faults,
    pub(crate) observer: Observer,
}

impl Kernel {
    pub(crate) fn new(settings: Settings) -> Result<Arc<Self>, Errno> {
        let Settings {
            flavour,
            differences,
            hypervisor,
            devices,
            cma_nodes,
            guest,
            memlock,
            start_failure,
            memory_failure,
            faults,
            observer,
        } = settings;
        Ok(Arc::new(Self {
            flavour,
            differences,
            hypervisor,
            devices,
            cma_nodes,
            guest,
            memlock,
            start_failure,
            memory_failure,
            faults,
            files: Files::new()?,
            doorbells: sys::epoll()?,
            observer,
            irqfds: Mutex::default(),
            objects: Mutex::default(),
            vms: Mutex::default(),
            tokens: AtomicU64::new(1),
        }))
    }

    fn next_token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    fn add_object(&self, id: FileId, object: Object) {
        lock(&self.objects).insert(id, Arc::new(object));
    }

    fn object(&self, id: FileId) -> Option<Arc<Object>> {
        lock(&self.objects).get(&id).cloned()
    }

    fn add_vm(&self, vm: &Arc<Vm>) {
        lock(&self.vms).push(Arc::clone(vm));
    }

    fn vm_gone(&self, number: u64) {
        lock(&self.vms).retain(|vm| vm.number != number);
    }

    /// The VMs that are there.
    fn vms_that_are(&self) -> Vec<Arc<Vm>> {
        lock(&self.vms).clone()
    }

    /// The VM made last that is still there.
    pub(crate) fn latest_vm(&self) -> Option<Arc<Vm>> {
        lock(&self.vms).last().cloned()
    }

    /// What is open now, and VMs whose files are closed but whose end has not come yet.
    pub(crate) fn open_objects(&self) -> Vec<Target> {
        let mut open: Vec<Target> = lock(&self.objects).values().map(|object| object.target()).collect();
        for vm in lock(&self.vms).iter() {
            let target = Target::Vm(vm.number);
            if !open.contains(&target) {
                open.push(target);
            }
        }
        open.sort_unstable();
        open
    }

    /// Whether user space has closed everything. The end of a VM may still be to come.
    pub(crate) fn all_closed(&self) -> bool {
        lock(&self.objects).is_empty()
    }

    /// Whether nothing is left, not even in the driver.
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.objects).is_empty() && lock(&self.vms).is_empty()
    }

    /// Ends everything that user space has left open.
    pub(crate) fn shut_down(&self) {
        let objects: Vec<_> = lock(&self.objects).drain().collect();
        for (_, object) in objects {
            object.put();
        }
    }

    /// Files have been closed for the last time.
    pub(crate) fn files_closed(&self) {
        for id in self.files.closed() {
            let object = lock(&self.objects).remove(&id);
            if let Some(object) = object {
                object.put();
            }
        }
    }

    fn watch_doorbell(&self, token: u64, irqfd: &Arc<Irqfd>) {
        lock(&self.irqfds).insert(token, Arc::downgrade(irqfd));
    }

    fn unwatch_doorbell(&self, token: u64) {
        lock(&self.irqfds).remove(&token);
    }

    /// Eventfds of irqfds have been written to.
    pub(crate) fn doorbells_rung(&self) {
        self.doorbells_rung_except(None);
    }

    fn doorbells_rung_except(&self, except: Option<u64>) {
        for token in sys::epoll_ready(self.doorbells.as_fd()) {
            let irqfd = lock(&self.irqfds).get(&token).and_then(Weak::upgrade);
            if let (Some(irqfd), true) = (irqfd, except != Some(token)) {
                irqfd.signalled();
            }
        }
    }
}

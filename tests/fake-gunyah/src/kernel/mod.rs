//! The driver: one file per idea, named after the real one's, so that the two can be read side by side.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gunyah_bindings::{android, v11, v17, vendor};

use crate::errno::Errno;
use crate::fake::fault::{Effect, Faults};
use crate::flavour::{Differences, Flavour};
use crate::transport::call::{Call, Delivered, Reply};
use crate::transport::files::Files;
use crate::transport::sys::{self, FileId};

mod boot;
mod completion;
mod device;
mod function;
pub(crate) mod guest;
mod guest_memfd;
mod ioeventfd;
mod irqfd;
pub(crate) mod observer;
mod ticket;
pub(crate) mod uapi;
mod vcpu;
pub(crate) mod vm_mgr;
mod vm_mgr_mm;

use guest::Guests;
use guest_memfd::GuestMem;
use irqfd::Irqfd;
use observer::{Exit, Observer, Target};
use vcpu::Vcpu;
use vm_mgr::Vm;
use vm_mgr_mm::Transfer;

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

/// What a file descriptor of ours stands for.
pub(crate) struct Object {
    kind: Kind,
    /// The file itself, and the calls in progress on it.
    users: Mutex<u32>,
}

enum Kind {
    Device,
    Vm(Arc<Vm>),
    Vcpu(Arc<Vcpu>),
    GuestMem(GuestMem),
    /// The node of a region of contiguous memory, with its size.
    CmaNode(u64),
    /// A VM of the vendors' interface, which nothing here can boot.
    VendorVm,
}

impl Object {
    fn new(kind: Kind) -> Self {
        Self { kind, users: Mutex::new(1) }
    }
    fn vm(vm: &Arc<Vm>) -> Self {
        Self::new(Kind::Vm(Arc::clone(vm)))
    }
    fn vcpu(vcpu: &Arc<Vcpu>) -> Self {
        Self::new(Kind::Vcpu(Arc::clone(vcpu)))
    }

    fn target(&self) -> Target {
        match &self.kind {
            Kind::Device => Target::Device,
            Kind::Vm(vm) => Target::Vm(vm.number),
            Kind::Vcpu(vcpu) => Target::Vcpu(vcpu.vm.number, vcpu.label),
            Kind::GuestMem(memory) => Target::Memory(memory.number),
            Kind::CmaNode(_) => Target::Device,
            Kind::VendorVm => Target::Vm(0),
        }
    }

    /// A call on the file begins.
    fn get(&self) -> bool {
        let mut users = lock(&self.users);
        if *users > 0 {
            *users += 1;
        }
        *users > 0
    }

    /// A call has ended, or the file was closed for the last time. With the last user the file is released.
    fn put(&self) {
        let mut users = lock(&self.users);
        *users = users.saturating_sub(1);
        if *users > 0 {
            return;
        }
        drop(users);
        match &self.kind {
            Kind::Device | Kind::GuestMem(_) | Kind::CmaNode(_) | Kind::VendorVm => {}
            Kind::Vm(vm) => vm.put(),
            Kind::Vcpu(vcpu) => vcpu.vm.put(),
        }
    }
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

    /// Serves one system call.
    pub(crate) fn system_call(self: &Arc<Self>, call: &Call<'_>) {
        let args = call.notif.args;
        let nr = libc::c_long::from(call.notif.nr);
        let open = |dirfd: RawFd, path, flags| {
            let open = device::Open { dirfd, path, flags };
            let answer = self.open(call, &open);
            self.finish(call, Target::Device, answer);
        };
        match nr {
            libc::SYS_ioctl => self.ioctl(call),
            libc::SYS_openat => open(args[0] as RawFd, args[1], args[2]),
            libc::SYS_openat2 => {
                let how = call.caller.read_array::<8>(args[2]).map_or(0, u64::from_le_bytes);
                let mask = (libc::O_ACCMODE | libc::O_PATH | libc::O_DIRECTORY) as u64;
                if how & mask == libc::O_RDWR as u64 {
                    open(args[0] as RawFd, args[1], how);
                } else {
                    call.reply(Reply::Continue);
                }
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => open(libc::AT_FDCWD, args[0], args[1]),
            _ => {
                call.reply(Reply::Continue);
            }
        }
    }

    fn ioctl(self: &Arc<Self>, call: &Call<'_>) {
        let fd = call.notif.args[0] as RawFd;
        let object = call.caller.file_id(fd).ok().and_then(|id| self.object(id));
        let object = object.filter(|object| object.get());
        let Some(object) = object else {
            call.reply(Reply::Continue);
            return;
        };
        self.observer.begin(call);
        let faults = self.faults.due(call.notif.args[1] as u32);
        let failure = faults.iter().find_map(|effect| before(&object, call, effect));
        let answer = failure.map_or_else(|| self.dispatch(&object, call), Err);
        faults.iter().for_each(|effect| after(&object, effect));
        self.finish(call, object.target(), Some(answer));
        object.put();
    }

    /// Which call it is. What this kernel does not have is answered as an unknown one.
    fn dispatch(self: &Arc<Self>, object: &Object, call: &Call<'_>) -> Result<Answer, Errno> {
        let [_, request, arg, ..] = call.notif.args;
        let request = request as u32;
        let have = &self.differences;
        match &object.kind {
            Kind::Device => match request {
                v11::GH_CREATE_VM if have.gunyah => self.create_vm(call, arg),
                v17::GUNYAH_CREATE_GUEST_MEM if have.guest_memory => self.create_guest_mem(call, arg),
                android::GUNYAH_ANDROID_TENTATIVE if have.tentative => Ok(Answer::value(0)),
                vendor::GH_VENDOR_CREATE_VM if !have.gunyah => self.create_vendor_vm(),
                _ => Err(have.absent),
            },
            Kind::Vm(vm) => match request {
                v11::GH_VM_SET_USER_MEM_REGION if have.user_memory => {
                    vm.set_user_memory(call, arg, Transfer::Share)
                }
                android::GUNYAH_VM_ANDROID_LEND_USER_MEM if have.lend => {
                    vm.set_user_memory(call, arg, Transfer::Lend)
                }
                android::GUNYAH_VM_ANDROID_SET_FW_CONFIG if have.firmware => vm.set_fw_config(call, arg),
                android::GUNYAH_VM_ANDROID_RECLAIM_REGION if have.reclaim => vm.reclaim(call, arg),
                android::GUNYAH_VM_ANDROID_MAP_CMA_MEM if have.cma => vm.map_cma_mem(call, arg),
                android::GUNYAH_VM_ANDROID_SET_AUTH_TYPE if have.auth_type => vm.set_auth_type(call, arg),
                android::GUNYAH_VM_ANDROID_CHECK_EXTENSION if have.check_extension => {
                    Ok(Vm::check_extension(arg))
                }
                v17::GUNYAH_VM_MAP_MEM if have.guest_memory => vm.map_mem(call, arg),
                v17::GUNYAH_VM_SET_BOOT_CONTEXT if have.boot_context => vm.set_boot_context(call, arg),
                v17::GUNYAH_VM_SET_DTB_CONFIG => vm.set_dtb_config(call, arg),
                v11::GH_VM_START => vm.start(call),
                v11::GH_VM_ADD_FUNCTION => vm.add_function(call, arg),
                v11::GH_VM_REMOVE_FUNCTION => vm.remove_function(call, arg),
                _ => Err(have.absent),
            },
            Kind::Vcpu(vcpu) => match request {
                v11::GH_VCPU_RUN => vcpu.run(call),
                v11::GH_VCPU_MMAP_SIZE => Ok(Answer::value(sys::page_size() as i64)),
                _ => Err(have.absent_on_vcpu),
            },
            Kind::CmaNode(size) => match request {
                android::GUNYAH_ANDROID_CREATE_CMA_MEM_FD => self.create_cma_mem(*size),
                _ => Err(Errno::ENOTTY),
            },
            Kind::GuestMem(_) => Err(Errno::ENOTTY),
            Kind::VendorVm => match request {
                // There is no image of any name here.
                vendor::GH_VM_SET_FW_NAME => call.caller.read_array::<16>(arg).and(Err(Errno::EINVAL)),
                _ => Err(Errno::EINVAL),
            },
        }
    }

    /// Answers a call, and takes back what it did if nobody hears the answer.
    fn finish(&self, call: &Call<'_>, target: Target, answer: Option<Result<Answer, Errno>>) {
        let (reply, undo) = match answer {
            None => (Reply::Continue, Undo::None),
            Some(Ok(answer)) => (answer.reply, answer.undo),
            Some(Err(errno)) => (Reply::Error(errno), Undo::None),
        };
        let ours = !matches!(reply, Reply::Continue);
        let installs = matches!(reply, Reply::Fd { .. });
        let delivered = call.reply(reply);
        let failed = match delivered {
            Delivered::Yes(value) => installs && value < 0,
            Delivered::Interrupted | Delivered::Gone => true,
        };
        let exit = match undo {
            Undo::Run(exit) => {
                if failed && exit.is_some() {
                    self.observer.exit_lost();
                }
                exit
            }
            Undo::Do(take_back) => {
                if failed {
                    take_back();
                }
                None
            }
            Undo::None => None,
        };
        if ours {
            self.observer.end(call, target, delivered, exit);
        }
    }
}

/// What a fault does before the driver sees the call: perhaps it never does.
fn before(object: &Object, call: &Call<'_>, effect: &Effect) -> Option<Errno> {
    match effect {
        Effect::Fail(errno) => return Some(*errno),
        Effect::Delay(by) => {
            call.may_sleep();
            std::thread::sleep(*by);
        }
        Effect::VmExit(exit_type, reason) => match &object.kind {
            Kind::Vm(vm) => vm.die(*exit_type, reason),
            Kind::Vcpu(vcpu) => vcpu.vm.die(*exit_type, reason),
            _ => {}
        },
        Effect::Page(..) => {}
    }
    None
}

/// What a fault does when the driver is done.
fn after(object: &Object, effect: &Effect) {
    if let (Kind::Vcpu(vcpu), Effect::Page(offset, bytes)) = (&object.kind, effect) {
        vcpu.scribble(*offset, bytes);
    }
}

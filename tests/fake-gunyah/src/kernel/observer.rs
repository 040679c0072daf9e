//! What the fake has seen: for tests to ask and for the trace to print.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::vm_mgr::ExitInfo;
use crate::errno::Errno;
use crate::hyp::script::Failures;
use crate::trace::{Decoded, Trace};
use crate::transport::call::{Call, Delivered};

/// How many calls the log keeps; older ones are dropped.
const LOG: usize = 16 << 10;
/// How many notes are kept.
const NOTES: usize = 1 << 10;

/// What a file descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Target {
    /// The device node.
    Device,
    /// A VM, by the number that the fake gave it.
    Vm(u64),
    /// A vCPU: its VM's number and its id.
    Vcpu(u64, u32),
    /// A file of guest memory, by the number that the fake gave it.
    Memory(u64),
}

/// What a `RUN` has put into the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Mmio { addr: u64, len: u32, write: Option<u64> },
    Status { status: u32, info: ExitInfo },
    PageFault { addr: u64, attempt: i32 },
}

/// One call that the fake has answered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CallRecord {
    /// The thread that made it.
    pub tid: u32,
    /// The file descriptor, as the caller numbers it; -1 for `open`.
    pub fd: i32,
    /// What the descriptor stands for.
    pub target: Target,
    /// The ioctl request, or 0 for `open`.
    pub request: u32,
    /// The value, the new descriptor, or the error. `None`: a signal took the caller away first.
    pub result: Option<Result<i64, Errno>>,
    pub(crate) decoded: Decoded,
    pub(crate) exit: Option<Exit>,
}

/// Where notices go.
pub(crate) type Notices = Arc<Mutex<dyn Write + Send>>;

/// Counts and records.
pub(crate) struct Observer {
    record: bool,
    trace: Option<Arc<Trace>>,
    notices: Option<Notices>,
    pub(crate) failures: Arc<Failures>,
    answers_lost: AtomicU64,
    exits_lost: AtomicU64,
    runs: AtomicU64,
    leaked_vms: AtomicU64,
    doorbells: Mutex<HashMap<u32, u64>>,
    calls: Mutex<VecDeque<CallRecord>>,
    pending: Mutex<HashMap<u64, Decoded>>,
    notes: Mutex<Vec<String>>,
    pub(crate) leftovers: Mutex<Vec<Target>>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Observer {
    pub(crate) fn new(record: bool, trace: Option<Arc<Trace>>, notices: Option<Notices>) -> Self {
        Self {
            record,
            trace,
            notices,
            failures: Arc::default(),
            answers_lost: AtomicU64::new(0),
            exits_lost: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            leaked_vms: AtomicU64::new(0),
            doorbells: Mutex::default(),
            calls: Mutex::default(),
            pending: Mutex::default(),
            notes: Mutex::default(),
            leftovers: Mutex::default(),
        }
    }

    fn watching(&self) -> bool {
        self.record || self.trace.is_some()
    }

    /// A call has come. Its arguments are read now: later the caller may have changed them.
    pub(crate) fn begin(&self, call: &Call<'_>) {
        if self.watching() {
            let decoded = Decoded::read(call);
            if decoded != Decoded::None {
                lock(&self.pending).insert(call.notif.id, decoded);
            }
        }
    }

    /// A call is going to be made again.
    pub(crate) fn forget(&self, call: &Call<'_>) {
        lock(&self.pending).remove(&call.notif.id);
    }

    /// A call has been answered.
    pub(crate) fn end(&self, call: &Call<'_>, target: Target, delivered: Delivered, exit: Option<Exit>) {
        if !self.watching() {
            return;
        }
        let is_ioctl = libc::c_long::from(call.notif.nr) == libc::SYS_ioctl;
        let [fd, request, ..] = call.notif.args;
        let record = CallRecord {
            tid: call.notif.tid,
            fd: if is_ioctl { fd as i32 } else { -1 },
            target,
            request: if is_ioctl { request as u32 } else { 0 },
            result: match delivered {
                Delivered::Interrupted | Delivered::Gone | Delivered::Again => None,
                Delivered::Yes(value) if value < 0 => Some(Err(Errno(-value as i32))),
                Delivered::Yes(value) => Some(Ok(value)),
            },
            decoded: lock(&self.pending).remove(&call.notif.id).unwrap_or_default(),
            exit,
        };
        if let Some(trace) = &self.trace {
            trace.print(&record);
        }
        if self.record {
            let mut calls = lock(&self.calls);
            if calls.len() == LOG {
                calls.pop_front();
            }
            calls.push_back(record);
        }
    }

    pub(crate) fn calls(&self) -> Vec<CallRecord> {
        lock(&self.calls).iter().cloned().collect()
    }

    /// Something that the driver would write to the kernel's log.
    pub(crate) fn note(&self, text: impl FnOnce() -> String) {
        let mut notes = lock(&self.notes);
        if notes.len() < NOTES {
            let text = text();
            if let Some(trace) = &self.trace {
                trace.note(&text);
            }
            notes.push(text);
        }
    }

    /// A note that the user should see at once.
    pub(crate) fn notice(&self, text: &str) {
        if let Some(out) = &self.notices {
            let _ = writeln!(lock(out), "fake-gunyah: {text}");
        }
        self.note(|| text.to_owned());
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        lock(&self.notes).clone()
    }

    pub(crate) fn doorbell(&self, label: u32) {
        *lock(&self.doorbells).entry(label).or_default() += 1;
    }

    pub(crate) fn doorbells(&self, label: u32) -> u64 {
        lock(&self.doorbells).get(&label).copied().unwrap_or(0)
    }

    pub(crate) fn run(&self) {
        self.runs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    pub(crate) fn answer_lost(&self) {
        self.answers_lost.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn answers_lost(&self) -> u64 {
        self.answers_lost.load(Ordering::Relaxed)
    }

    pub(crate) fn exit_lost(&self) {
        self.exits_lost.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn exits_lost(&self) -> u64 {
        self.exits_lost.load(Ordering::Relaxed)
    }

    pub(crate) fn leaked_vm(&self) {
        self.leaked_vms.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leaked_vms(&self) -> u64 {
        self.leaked_vms.load(Ordering::Relaxed)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device => f.write_str("the device"),
            Self::Vm(vm) => write!(f, "VM {vm}"),
            Self::Vcpu(vm, id) => write!(f, "vCPU {id} of VM {vm}"),
            Self::Memory(memory) => write!(f, "memory file {memory}"),
        }
    }
}

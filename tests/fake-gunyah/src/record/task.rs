//! What the recorder knows about each traced thread: its descriptors, its signal handlers, its run pages.
//!
//! Threads share these tables or have their own, as their `clone` flags say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::decode::Request;
use super::format::{Answer, Event, Object};
use super::page::PAGE_BYTES;

/// A table that threads may share.
pub(crate) type Shared<T> = Arc<Mutex<T>>;

pub(crate) fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn copy<T: Clone>(table: &Shared<T>) -> Shared<T> {
    Arc::new(Mutex::new(lock(table).clone()))
}

/// A descriptor that stands for an object.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    pub(crate) object: Object,
    pub(crate) cloexec: bool,
    /// What `/proc/PID/fd/N` points to. If that changes, the number has a new meaning that was missed.
    pub(crate) link: String,
}

/// Signal handlers that matter: where there is one, whether calls start over after it, and whether it is used once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handler {
    pub(crate) restarts: bool,
    pub(crate) once: bool,
}

/// Where a process has mapped a vCPU's run page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages(HashMap<Object, u64>);

impl Pages {
    pub(crate) fn mapped(&mut self, object: Object, addr: u64) {
        self.0.insert(object, addr);
    }

    pub(crate) fn unmapped(&mut self, addr: u64, len: u64) {
        self.0.retain(|_, page| *page < addr || *page >= addr.saturating_add(len));
    }

    pub(crate) fn of(&self, object: Object) -> Option<u64> {
        self.0.get(&object).copied()
    }
}

/// A traced thread.
pub(crate) struct Task {
    pub(crate) tgid: i32,
    /// Its number in the recording, given with its first event.
    pub(crate) index: Option<u32>,
    pub(crate) files: Shared<HashMap<i32, Descriptor>>,
    pub(crate) handlers: Shared<HashMap<i32, Handler>>,
    pub(crate) pages: Shared<Pages>,
    /// The call that it is in.
    pub(crate) call: Option<Call>,
    /// A call that a signal has interrupted; how it ends depends on what happens next.
    pub(crate) interrupted: Option<(Event, i64)>,
}

impl Task {
    /// The first thread of a new program.
    pub(crate) fn first(tid: i32) -> Self {
        Self {
            tgid: tid,
            index: None,
            files: Arc::default(),
            handlers: Arc::default(),
            pages: Arc::default(),
            call: None,
            interrupted: None,
        }
    }

    /// A thread or process that this one creates with these `clone` flags.
    pub(crate) fn child(&self, tid: i32, flags: u64) -> Self {
        let has = |flag: libc::c_int| flags & u64::from(flag as u32) != 0;
        Self {
            tgid: if has(libc::CLONE_THREAD) { self.tgid } else { tid },
            index: None,
            files: if has(libc::CLONE_FILES) { Arc::clone(&self.files) } else { copy(&self.files) },
            handlers: if has(libc::CLONE_SIGHAND) {
                Arc::clone(&self.handlers)
            } else {
                copy(&self.handlers)
            },
            pages: if has(libc::CLONE_VM) { Arc::clone(&self.pages) } else { copy(&self.pages) },
            call: None,
            interrupted: None,
        }
    }

    /// The same after an exec: a new memory, no handlers, and only the descriptors that survive one.
    pub(crate) fn executed(&mut self) {
        self.files = copy(&self.files);
        lock(&self.files).retain(|_, descriptor| !descriptor.cloexec);
        self.handlers = Arc::default();
        self.pages = Arc::default();
        self.call = None;
        self.interrupted = None;
    }

    pub(crate) fn own_files(&mut self) {
        self.files = copy(&self.files);
    }
}

/// A system call in progress.
pub(crate) struct Call {
    pub(crate) started: Instant,
    pub(crate) what: What,
}

/// What a call in progress is, as far as the recorder has to act when it returns.
pub(crate) enum What {
    Open {
        path: String,
    },
    Ioctl {
        object: Object,
        code: u32,
        request: Request,
        run: Option<RunEntry>,
    },
    Mmap {
        object: Object,
        len: u64,
        prot: u64,
        shared: bool,
        offset: u64,
    },
    Munmap {
        addr: u64,
        len: u64,
    },
    Dup {
        from: i32,
        cloexec: bool,
    },
    Close {
        fd: i32,
    },
    CloseRange {
        first: i32,
        last: i32,
        flags: u64,
    },
    Fallocate {
        object: Object,
        mode: u64,
        offset: u64,
        len: u64,
    },
    SetHandler {
        signal: i32,
        handler: Option<Handler>,
    },
    /// A new thread or process, with these flags.
    Clone {
        flags: u64,
    },
}

/// A vCPU's page at the moment of RUN.
pub(crate) struct RunEntry {
    pub(crate) addr: u64,
    pub(crate) page: [u8; PAGE_BYTES],
    pub(crate) answer: Answer,
}

//! One system call in progress: what the driver calls `current`.

use std::cell::{Cell, OnceCell};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::adopt::Again;
use super::memory::Caller;
use super::pending::Pending;
use super::pool::Pool;
use super::sys::{self, Notif, Resp};
use crate::errno::Errno;
use crate::hyp::Kicker;

/// A call that has given the lead away and may sleep. The leader wakes it when its caller gets a signal.
pub(crate) struct Sleeper {
    pub(crate) id: u64,
    pub(crate) tid: u32,
    pub(crate) local: bool,
    /// What to answer instead of sleeping on; 0 as long as there is no reason to.
    interrupted: AtomicU32,
    /// Scans in a row that saw a signal which may be another thread's.
    doubts: AtomicU32,
    thread: Thread,
    /// What the call waits for is not this thread.
    watch: Mutex<Option<Watch>>,
}

/// How to end what a call waits for outside of this program: a guest that runs.
pub(crate) struct Watch {
    pub(crate) kicker: Arc<dyn Kicker>,
    /// Whether it should end without any signal. Asked at every tick.
    pub(crate) wanted: Box<dyn Fn() -> bool + Send>,
}

/// As long as this exists the watch is kept.
pub(crate) struct Watching<'a>(&'a Sleeper);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        *self.0.watch() = None;
    }
}

impl Sleeper {
    pub(crate) fn interrupt(&self, errno: Errno) {
        self.interrupted.store(errno.0.unsigned_abs(), Ordering::Release);
        self.thread.unpark();
        if let Some(watch) = &*self.watch() {
            watch.kicker.kick();
        }
    }

    fn watch(&self) -> MutexGuard<'_, Option<Watch>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's timer tick.
    pub(crate) fn tick(&self) {
        if let Some(watch) = &*self.watch() {
            if (watch.wanted)() {
                watch.kicker.kick();
            }
        }
    }

    /// A look at the caller's signals.
    pub(crate) fn look(&self, pending: Pending) {
        match pending {
            Pending::No => self.doubts.store(0, Ordering::Relaxed),
            Pending::Yes => self.interrupt(Errno::ERESTARTSYS),
            // Another thread would have taken it meanwhile. A plain error: starting the call over is safe only if the
            // kernel agrees that this thread has a signal.
            Pending::Maybe if self.doubts.fetch_add(1, Ordering::Relaxed) >= 2 => {
                self.interrupt(Errno::EINTR)
            }
            Pending::Maybe => {}
        }
    }
}

/// How often a call that runs on looks for signals.
const LOOK: Duration = Duration::from_micros(100);

/// What a call answers.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A number, 0 or more.
    Value(i64),
    /// A new file descriptor, close-on-exec or not.
    Fd { fd: OwnedFd, cloexec: bool },
    /// Not for the fake: the kernel carries on as if there were no filter.
    Continue,
    /// An error.
    Error(Errno),
    /// None yet: the caller makes its call again.
    Again(Again),
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// The caller has it; a descriptor's number is known now.
    Yes(i64),
    /// The answer was "a signal has come": the caller sees `EINTR`, or its call starts over.
    Interrupted,
    /// The caller makes its call again, and knows nothing of this one.
    Again,
    /// The caller is gone: it was killed. (On kernels before 5.19: or a signal took it away.)
    Gone,
}

/// One system call in progress.
pub(crate) struct Call<'a> {
    pool: &'a Arc<Pool>,
    pub(crate) notif: Notif,
    pub(crate) caller: Caller,
    leading: Cell<bool>,
    looked: Cell<Instant>,
    sleeper: OnceCell<Arc<Sleeper>>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(pool: &'a Arc<Pool>, notif: Notif, own_tgid: u32) -> Self {
        let caller = Caller::new(notif.tid, own_tgid);
        Self {
            pool,
            notif,
            caller,
            leading: Cell::new(true),
            looked: Cell::new(Instant::now()),
            sleeper: OnceCell::new(),
        }
    }

    pub(crate) fn pool(&self) -> &'a Arc<Pool> {
        self.pool
    }

    /// Whether this thread still receives calls for all.
    pub(crate) fn leads(&self) -> bool {
        self.leading.get()
    }

    /// Whether a signal for the caller is pending, and what to answer then. Costs a few microseconds.
    pub(crate) fn signal_pending(&self) -> Option<Errno> {
        self.interrupted().or_else(|| {
            let pending = self.pool.signals(self.notif.id, self.notif.tid, self.caller.local);
            (pending == Pending::Yes).then_some(Errno::ERESTARTSYS)
        })
    }

    /// The same for a call that runs on: cheap, and late by a little.
    pub(crate) fn signal_seen(&self) -> Option<Errno> {
        if self.leading.get() && self.looked.get().elapsed() >= LOOK {
            self.looked.set(Instant::now());
            return self.signal_pending();
        }
        self.interrupted()
    }

    /// The same without a system call, once the lead is given away: the leader looks for signals, every millisecond.
    pub(crate) fn interrupted(&self) -> Option<Errno> {
        let errno = self.sleeper.get()?.interrupted.load(Ordering::Acquire);
        (errno != 0).then_some(Errno(errno as i32))
    }

    /// Prepares for work that may take long: from here on another thread receives calls.
    pub(crate) fn may_sleep(&self) {
        if self.leading.replace(false) {
            self.add_sleeper();
            self.pool.pass_lead();
        }
    }

    /// This call's thread never received calls for all.
    pub(crate) fn never_led(&self) {
        if self.leading.replace(false) {
            self.add_sleeper();
        }
    }

    /// The call is about to wait for something that only this can end: a signal for the caller does it from now on.
    pub(crate) fn watch(&self, watch: Watch) -> Option<Watching<'_>> {
        self.may_sleep();
        let sleeper = self.sleeper.get()?;
        *sleeper.watch() = Some(watch);
        Some(Watching(sleeper))
    }

    fn add_sleeper(&self) {
        let sleeper = Arc::new(Sleeper {
            id: self.notif.id,
            tid: self.notif.tid,
            local: self.caller.local,
            interrupted: AtomicU32::new(0),
            doubts: AtomicU32::new(0),
            thread: std::thread::current(),
            watch: Mutex::default(),
        });
        self.pool.add_sleeper(Arc::clone(&sleeper));
        let _ = self.sleeper.set(sleeper);
    }

    /// Sleeps until somebody unparks this thread or the caller gets a signal. May wake for no reason.
    pub(crate) fn sleep(&self) {
        self.may_sleep();
        if self.interrupted().is_none() {
            std::thread::park();
        }
    }

    /// Answers the call.
    pub(crate) fn reply(&self, reply: Reply) -> Delivered {
        let listener = self.pool.listener();
        let interrupted = matches!(reply, Reply::Error(Errno::ERESTARTSYS));
        let mut resp = Resp { id: self.notif.id, ..Resp::default() };
        let sent = match reply {
            Reply::Fd { fd, cloexec } => {
                sys::notif_add_fd(listener, resp.id, fd.as_fd(), cloexec).map(i64::from).or_else(|error| {
                    // The caller's table is full, say: that is its answer. Were it gone, this fails, too.
                    resp.error = -error.0;
                    sys::notif_send(listener, resp).map(|()| -i64::from(error.0))
                })
            }
            Reply::Value(value) => {
                resp.val = value;
                sys::notif_send(listener, resp).map(|()| value)
            }
            Reply::Continue => {
                resp.flags = sys::RESP_CONTINUE;
                sys::notif_send(listener, resp).map(|()| 0)
            }
            Reply::Error(error) => {
                resp.error = -error.0;
                sys::notif_send(listener, resp).map(|()| -i64::from(error.0))
            }
            Reply::Again(again) => {
                return match again.deliver(listener, &self.notif) {
                    true => Delivered::Again,
                    false => Delivered::Gone,
                };
            }
        };
        match sent {
            Err(_) => Delivered::Gone,
            Ok(_) if interrupted => Delivered::Interrupted,
            Ok(value) => Delivered::Yes(value),
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(sleeper) = self.sleeper.get() {
            self.pool.remove_sleeper(sleeper);
        }
    }
}

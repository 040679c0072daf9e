//! One system call in progress: what the driver calls `current`.

use std::cell::{Cell, OnceCell};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

use super::memory::Caller;
use super::pool::Pool;
use super::sys::{self, Notif, Resp};
use crate::errno::Errno;

/// A call that has given the lead away and may sleep. The leader wakes it when its caller gets a signal.
pub(crate) struct Sleeper {
    pub(crate) id: u64,
    pub(crate) tid: u32,
    interrupted: AtomicBool,
    thread: Thread,
}

impl Sleeper {
    pub(crate) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

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
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// The caller has it; a descriptor's number is known now.
    Yes(i64),
    /// A signal took the caller away first: it saw `EINTR`, or its call starts over.
    Interrupted,
}

/// One system call in progress.
pub(crate) struct Call<'a> {
    pool: &'a Arc<Pool>,
    pub(crate) notif: Notif,
    pub(crate) caller: Caller,
    leading: Cell<bool>,
    sleeper: OnceCell<Arc<Sleeper>>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(pool: &'a Arc<Pool>, notif: Notif, own_tgid: u32) -> Self {
        let caller = Caller::new(notif.tid, own_tgid);
        Self { pool, notif, caller, leading: Cell::new(true), sleeper: OnceCell::new() }
    }

    /// Whether this thread still receives calls for all.
    pub(crate) fn leads(&self) -> bool {
        self.leading.get()
    }

    /// Whether a signal for the caller is pending. The notification of an interrupted call is not valid any more.
    pub(crate) fn signal_pending(&self) -> bool {
        self.interrupted() || !sys::notif_valid(self.pool.listener(), self.notif.id)
    }

    /// The same without a system call, at most a millisecond late. Only of use once the lead is given away.
    pub(crate) fn interrupted(&self) -> bool {
        self.sleeper.get().is_some_and(|sleeper| sleeper.interrupted.load(Ordering::Acquire))
    }

    /// Prepares for work that may take long: from here on another thread receives calls.
    pub(crate) fn may_sleep(&self) {
        if !self.leading.replace(false) {
            return;
        }
        let sleeper = Arc::new(Sleeper {
            id: self.notif.id,
            tid: self.notif.tid,
            interrupted: AtomicBool::new(false),
            thread: std::thread::current(),
        });
        self.pool.add_sleeper(Arc::clone(&sleeper));
        let _ = self.sleeper.set(sleeper);
        self.pool.pass_lead();
    }

    /// Sleeps until somebody unparks this thread or the caller gets a signal. May wake for no reason.
    pub(crate) fn sleep(&self) {
        self.may_sleep();
        if !self.interrupted() {
            std::thread::park();
        }
    }

    /// Answers the call.
    pub(crate) fn reply(&self, reply: Reply) -> Delivered {
        let listener = self.pool.listener();
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
        };
        sent.map_or(Delivered::Interrupted, Delivered::Yes)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(sleeper) = self.sleeper.get() {
            self.pool.remove_sleeper(sleeper);
        }
    }
}

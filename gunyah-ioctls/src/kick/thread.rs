//! What a thread needs before it runs a vCPU: the kick signal let through, and a timer that sends it.

use std::cell::Cell;

use super::signal;
use crate::error::{Error, Result};
use crate::sys::{self, ThreadTimer};

thread_local! {
    static TID: Cell<i32> = const { Cell::new(0) };
}

/// The calling thread's id, from the kernel once per thread.
#[inline]
fn current_tid() -> i32 {
    let known = TID.get();
    if known != 0 { known } else { ask_tid() }
}

#[cold]
fn ask_tid() -> i32 {
    let tid = sys::gettid();
    TID.set(tid);
    tid
}

/// A vCPU's tie to the thread that runs it. Made anew when the vCPU is run by another thread.
#[derive(Debug)]
pub(crate) struct ThreadBinding {
    tid: i32,
    timer: ThreadTimer,
}

impl ThreadBinding {
    /// Ties to the calling thread.
    pub(crate) fn new() -> Result<Self> {
        let signal = signal::prepare()?;
        let tid = current_tid();
        let timer = ThreadTimer::new(tid, signal).map_err(|source| Error::Os {
            call: "timer_create",
            doing: "preparing deferred kicks",
            source,
        })?;
        Ok(Self { tid, timer })
    }

    /// Whether the calling thread is the one tied to.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        self.tid == current_tid()
    }

    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }

    pub(crate) fn timer_id(&self) -> i32 {
        self.timer.id()
    }
}

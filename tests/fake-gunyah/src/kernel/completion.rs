//! Sleeping: completions, and the lock that a signal can end the wait for.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use crate::errno::Errno;
use crate::transport::call::Call;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something to wait for; it may happen before anybody waits.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many waits may pass; the highest number stands for all of them.
    done: u32,
    waiting: Vec<Thread>,
}

impl Completion {
    /// Lets one wait pass.
    pub(crate) fn complete(&self) {
        let mut state = lock(&self.state);
        state.done = state.done.saturating_add(1);
        for thread in state.waiting.drain(..) {
            thread.unpark();
        }
    }

    /// Lets every wait pass until [`Completion::reinit`].
    pub(crate) fn complete_all(&self) {
        let mut state = lock(&self.state);
        state.done = u32::MAX;
        for thread in state.waiting.drain(..) {
            thread.unpark();
        }
    }

    /// Forgets what has been completed.
    pub(crate) fn reinit(&self) {
        lock(&self.state).done = 0;
    }

    /// Waits until it is completed or the caller gets a signal.
    pub(crate) fn wait_interruptible(&self, call: &Call<'_>) -> Result<(), Errno> {
        loop {
            {
                let mut state = lock(&self.state);
                if state.done > 0 {
                    if state.done != u32::MAX {
                        state.done -= 1;
                    }
                    return Ok(());
                }
                let me = std::thread::current();
                if !state.waiting.iter().any(|thread| thread.id() == me.id()) {
                    state.waiting.push(me);
                }
            }
            if let Some(errno) = call.interrupted() {
                let me = std::thread::current().id();
                lock(&self.state).waiting.retain(|thread| thread.id() != me);
                return Err(errno);
            }
            call.sleep();
        }
    }
}

/// A mutex that sleepers can be called away from.
#[derive(Debug, Default)]
pub(crate) struct RunLock {
    state: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    held: bool,
    waiting: Vec<Thread>,
}

/// Releases the lock when dropped.
#[derive(Debug)]
pub(crate) struct RunGuard<'a>(&'a RunLock);

impl RunLock {
    fn try_lock(&self) -> bool {
        let mut state = lock(&self.state);
        if state.held {
            let me = std::thread::current();
            if !state.waiting.iter().any(|thread| thread.id() == me.id()) {
                state.waiting.push(me);
            }
            return false;
        }
        state.held = true;
        true
    }

    fn forget_me(&self) {
        let me = std::thread::current().id();
        lock(&self.state).waiting.retain(|thread| thread.id() != me);
    }

    /// Takes the lock, unless a signal comes first.
    pub(crate) fn lock_interruptible(&self, call: &Call<'_>) -> Result<RunGuard<'_>, Errno> {
        while !self.try_lock() {
            if let Some(errno) = call.interrupted() {
                self.forget_me();
                return Err(errno);
            }
            call.sleep();
        }
        Ok(RunGuard(self))
    }

    /// Takes the lock however long it takes. `call` is the system call that waits, if any.
    pub(crate) fn lock(&self, call: Option<&Call<'_>>) -> RunGuard<'_> {
        while !self.try_lock() {
            if let Some(call) = call {
                call.may_sleep();
            }
            std::thread::park();
        }
        RunGuard(self)
    }
}

impl Drop for RunGuard<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.held = false;
        for thread in state.waiting.drain(..) {
            thread.unpark();
        }
    }
}

//! Wakes vCPUs that sleep when one of their timers goes off, as the hypervisor does.
//!
//! (A host that takes this upon itself, by `no-timer-wakeups`, does the same a level further up; a VMM cannot tell.)

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use super::machine::Machine;

/// One thread per machine, from the first alarm on. It sleeps until the earliest is due.
#[derive(Debug, Default)]
pub(super) struct Alarm(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By vCPU.
    due: BTreeMap<u32, Instant>,
    has_thread: bool,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Alarm {
    /// Sets or clears the alarm of vCPU `id`. False: the system gave no thread for it, and nothing will come.
    pub(super) fn set(&self, machine: &Arc<Machine>, id: u32, due: Option<Instant>) -> bool {
        let mut state = self.0.lock();
        // Later ones are found when the thread wakes for an earlier one.
        let is_next = due.is_some_and(|due| state.due.values().all(|other| due < *other));
        match due {
            Some(due) => drop(state.due.insert(id, due)),
            None => drop(state.due.remove(&id)),
        }
        if due.is_some() && !state.has_thread {
            let (shared, machine) = (Arc::clone(&self.0), Arc::downgrade(machine));
            let thread =
                thread::Builder::new().name("guest-timers".to_owned()).spawn(move || run(&shared, &machine));
            state.has_thread = thread.is_ok();
        }
        if is_next {
            self.0.changed.notify_all();
        }
        due.is_none() || state.has_thread
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

fn run(shared: &Shared, machine: &Weak<Machine>) {
    let mut state = shared.lock();
    while !state.ended {
        let Some(next) = state.due.values().min().copied() else {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            state.due.retain(|_, due| *due > next);
            drop(state);
            match machine.upgrade() {
                Some(machine) => machine.look_at_clock(),
                None => return,
            }
            state = shared.lock();
        } else {
            (state, _) = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

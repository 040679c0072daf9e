//! A thread for the calls on one file: what they do is bound to a thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use super::call::Call;
use super::pool::Pool;
use super::sys::{self, Notif};
use crate::errno::Errno;

/// What a lane does with a call.
pub(crate) type Work = Box<dyn FnOnce(&Call<'_>) + Send>;

enum Job {
    Serve(Notif, Work),
    Quit,
}

/// A thread that serves calls, one after the other.
pub(crate) struct Lane {
    pool: Weak<Pool>,
    jobs: Sender<Job>,
    load: Arc<Mutex<Load>>,
}

/// What a lane has to do.
#[derive(Default)]
struct Load {
    calls: usize,
    /// The thread that makes them.
    tid: u32,
}

/// All lanes of a pool.
#[derive(Default)]
pub(crate) struct Lanes {
    inner: Mutex<Inner>,
    fewer: Condvar,
    /// Calls that were handed over and are not done.
    busy: AtomicUsize,
}

#[derive(Default)]
struct Inner {
    alive: usize,
    stopped: bool,
    jobs: Vec<(Weak<Mutex<Load>>, Sender<Job>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    /// Starts a lane.
    pub(crate) fn start(pool: &Arc<Pool>) -> Result<Self, Errno> {
        let (jobs, todo) = channel();
        let load = Arc::<Mutex<Load>>::default();
        let mut inner = pool.lanes.lock();
        if inner.stopped {
            return Err(Errno::EINTR);
        }
        let body = {
            let (pool, load) = (Arc::clone(pool), Arc::clone(&load));
            move || {
                work(&pool, &todo, &load);
                pool.lanes.lock().alive -= 1;
                pool.lanes.fewer.notify_all();
            }
        };
        std::thread::Builder::new().name("fake-vcpu".into()).spawn(body)?;
        inner.alive += 1;
        inner.jobs.retain(|(lane, _)| lane.strong_count() > 0);
        inner.jobs.push((Arc::downgrade(&load), jobs.clone()));
        drop(inner);
        Ok(Self { pool: Arc::downgrade(pool), jobs, load })
    }

    /// Hands a call over. Given back when another thread's call is being served: that one would have to wait here, where no
    /// signal can end it.
    pub(crate) fn serve(&self, notif: Notif, work: Work) -> Result<(), Work> {
        let mut load = lock(&self.load);
        // A thread makes one call at a time: its last one is over, if not yet for the lane.
        if load.calls > 0 && load.tid != notif.tid {
            return Err(work);
        }
        let Some(pool) = self.pool.upgrade() else { return Err(work) };
        load.calls += 1;
        load.tid = notif.tid;
        drop(load);
        pool.lanes.busy.fetch_add(1, Ordering::AcqRel);
        match self.jobs.send(Job::Serve(notif, work)) {
            Ok(()) => Ok(()),
            Err(error) => match error.0 {
                Job::Serve(_, work) => Err(work),
                Job::Quit => Ok(()),
            },
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let _ = self.jobs.send(Job::Quit);
    }
}

fn work(pool: &Arc<Pool>, todo: &Receiver<Job>, load: &Mutex<Load>) {
    sys::block_signals();
    while let Ok(Job::Serve(notif, work)) = todo.recv() {
        let call = Call::new(pool, notif, std::process::id());
        call.never_led();
        work(&call);
        lock(load).calls -= 1;
        pool.lanes.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Whether a call is being served by a lane, or about to be: its caller's signals must be looked for.
    pub(crate) fn are_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    /// Ends all lanes, when the calls that they serve are over.
    pub(crate) fn stop(&self) {
        let mut inner = self.lock();
        inner.stopped = true;
        for (_, jobs) in inner.jobs.drain(..) {
            let _ = jobs.send(Job::Quit);
        }
        while inner.alive > 0 {
            inner = self.fewer.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

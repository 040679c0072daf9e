//! The threads that serve system calls.
//!
//! One thread leads: it waits for calls, for the last close of files and for eventfds, and serves what is short right
//! away. A call that is about to sleep gives the lead to another thread first, so each sleeping call has a thread of
//! its own, as in a kernel, and the driver can be written in the blocking style of the real one.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::call::{Call, Sleeper};
use super::lane::Lanes;
use super::pending::{Pending, Signals};
use super::sys;
use crate::errno::Errno;
use crate::kernel::Kernel;

/// How often the leader looks whether the callers of sleeping calls have got a signal: nothing tells it.
const SCAN: Duration = Duration::from_millis(1);

/// The threads, and what they share.
pub(crate) struct Pool {
    kernel: Arc<Kernel>,
    listener: OwnedFd,
    wake: OwnedFd,
    tgid: u32,
    /// Received calls wait for their answer whatever signals come.
    pub(crate) killable: bool,
    signals: Signals,
    lead: Mutex<Lead>,
    lead_changed: Condvar,
    sleepers: Mutex<Vec<Arc<Sleeper>>>,
    sleeping: AtomicUsize,
    stop: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) lanes: Lanes,
}

#[derive(Default)]
struct Lead {
    /// A thread leads.
    taken: bool,
    /// This many threads wait for the lead.
    idle: usize,
    /// The program has no thread left that could make a call.
    hung_up: bool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pool")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Starts serving the calls that arrive at `listener`.
    pub(crate) fn start(kernel: Arc<Kernel>, listener: OwnedFd, killable: bool) -> Result<Arc<Self>, Errno> {
        sys::set_sync_wake_up(listener.as_fd());
        let pool = Arc::new(Self {
            kernel,
            listener,
            wake: sys::eventfd()?,
            tgid: std::process::id(),
            killable,
            signals: Signals::new(std::process::id()),
            lead: Mutex::default(),
            lead_changed: Condvar::new(),
            sleepers: Mutex::default(),
            sleeping: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            threads: Mutex::default(),
            lanes: Lanes::default(),
        });
        pool.spawn()?;
        Ok(pool)
    }

    fn spawn(self: &Arc<Self>) -> Result<(), Errno> {
        let pool = Arc::clone(self);
        let thread = std::thread::Builder::new().name("fake-gunyah".into()).spawn(move || pool.work())?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn add_sleeper(&self, sleeper: Arc<Sleeper>) {
        let mut sleepers = lock(&self.sleepers);
        if self.stopping() {
            sleeper.interrupt(Errno::EINTR);
        }
        sleepers.push(sleeper);
        self.sleeping.store(sleepers.len(), Ordering::Release);
    }

    pub(crate) fn remove_sleeper(&self, sleeper: &Arc<Sleeper>) {
        let mut sleepers = lock(&self.sleepers);
        sleepers.retain(|other| !Arc::ptr_eq(other, sleeper));
        self.sleeping.store(sleepers.len(), Ordering::Release);
    }

    /// Lets another thread lead. Called by the leader only.
    pub(crate) fn pass_lead(self: &Arc<Self>) {
        let mut lead = lock(&self.lead);
        lead.taken = false;
        let idle = lead.idle;
        drop(lead);
        if idle > 0 {
            self.lead_changed.notify_one();
        } else if self.spawn().is_err() {
            // No more threads to be had: the next one that becomes free leads.
        }
    }

    /// A thread's life: wait for the lead, lead until a call takes long, finish that call, start over.
    fn work(self: Arc<Self>) {
        sys::block_signals();
        loop {
            let mut lead = lock(&self.lead);
            lead.idle += 1;
            while lead.taken && !self.stopping() {
                lead = self.lead_changed.wait(lead).unwrap_or_else(PoisonError::into_inner);
            }
            lead.idle -= 1;
            if self.stopping() {
                return;
            }
            lead.taken = true;
            let hung_up = lead.hung_up;
            drop(lead);
            self.lead(hung_up);
            if self.stopping() {
                return;
            }
        }
    }

    /// Receives and serves until a call has given the lead away, or all is over.
    fn lead(self: &Arc<Self>, mut hung_up: bool) {
        let mut scanned = Instant::now();
        let mut pause = SCAN;
        while !self.stopping() {
            // A lane's call counts from when it is handed over, which is before the lane says that it sleeps.
            let sleeping = self.sleeping.load(Ordering::Acquire) > 0 || self.lanes.are_busy();
            // The listener comes first: whatever happened before the call that it reports is then seen below.
            let mut fds = [
                self.listener.as_fd(),
                self.kernel.files.as_fd(),
                self.kernel.doorbells.as_fd(),
                self.wake.as_fd(),
            ]
            .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
            let [listener, files, doorbells, wake] = &mut fds;
            if hung_up {
                listener.fd = -1;
            }
            let _ = (files, doorbells, wake);
            sys::poll(&mut fds, if sleeping { SCAN.as_millis() as i32 } else { -1 });
            let [listener, files, doorbells, _] = fds.map(|fd| fd.revents);

            if files != 0 {
                self.kernel.files_closed();
            }
            if doorbells != 0 {
                self.kernel.doorbells_rung();
            }
            if sleeping && scanned.elapsed() >= pause {
                let start = Instant::now();
                self.scan();
                scanned = Instant::now();
                // With many sleepers, seldom enough to leave time for other things.
                pause = SCAN.max((scanned - start) * 8);
            }
            if listener & libc::POLLIN != 0 {
                if let Some(notif) = sys::notif_recv(self.listener.as_fd()) {
                    if !self.serve(notif) {
                        return;
                    }
                }
            } else if listener & (libc::POLLHUP | libc::POLLERR) != 0 {
                hung_up = true;
                lock(&self.lead).hung_up = true;
            }
        }
    }

    /// Serves one call; false if it gave the lead away.
    fn serve(self: &Arc<Self>, notif: sys::Notif) -> bool {
        if self.sleeping.load(Ordering::Acquire) > 0 {
            // A thread makes one call at a time: an older one of the same thread was interrupted.
            lock(&self.sleepers)
                .iter()
                .filter(|s| s.tid == notif.tid)
                .for_each(|s| s.interrupt(Errno::ERESTARTSYS));
        }
        let call = Call::new(self, notif, self.tgid);
        self.kernel.system_call(&call);
        call.leads()
    }

    /// Wakes the sleeping calls whose callers have got a signal, or are gone.
    fn scan(&self) {
        let sleepers = lock(&self.sleepers).clone();
        for sleeper in sleepers {
            sleeper.tick();
            sleeper.look(self.signals(sleeper.id, sleeper.tid, sleeper.local));
        }
    }

    /// Whether the caller of a call has a signal.
    pub(crate) fn signals(&self, id: u64, tid: u32, local: bool) -> Pending {
        if self.killable {
            return self.signals.of(tid, local);
        }
        // Without that, the signal has taken the caller away, and the call is not valid any more.
        if sys::notif_valid(self.listener.as_fd(), id) { Pending::No } else { Pending::Yes }
    }

    /// Waits until nothing can come from the program any more and all its files are closed, or for `limit`. False: some
    /// are still open.
    pub(crate) fn drain(&self, limit: Duration) -> bool {
        /// What is closed ends by itself. It may take a busy machine long to get there.
        const TEARDOWN: Duration = Duration::from_secs(20);
        let start = Instant::now();
        loop {
            // The leader would come to it, too. What the program has closed is closed now.
            self.kernel.files_closed();
            let closed = self.kernel.all_closed();
            let over = start.elapsed() >= limit;
            if closed && self.kernel.is_idle() && (over || lock(&self.lead).hung_up) {
                return true;
            }
            if over && (!closed || start.elapsed() >= TEARDOWN) {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Ends every thread. Calls in progress end as if interrupted; later ones fail with `ENOSYS`.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        sys::eventfd_signal(self.wake.as_fd());
        lock(&self.sleepers).iter().for_each(|sleeper| sleeper.interrupt(Errno::EINTR));
        loop {
            {
                let _lead = lock(&self.lead);
                self.lead_changed.notify_all();
            }
            let Some(thread) = lock(&self.threads).pop() else { break };
            let _ = thread.join();
        }
        self.lanes.stop();
    }
}

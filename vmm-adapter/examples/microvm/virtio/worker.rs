//! A device's thread: waits for the driver's notifications and for the device's files.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::engine::Engine;

/// No device waits for more at a time.
const EVENTS_AT_ONCE: usize = 16;
/// A device's thread needs little: what is large is on the heap.
const STACK: usize = 256 << 10;

/// A device's thread. Dropping it ends the thread and waits for it.
pub(crate) struct Worker {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

struct Stop {
    /// The thread has seen the event, and done the last of its work.
    done: AtomicBool,
    event: EventFd,
}

struct Subscriber {
    engine: Arc<Engine>,
    stop: Arc<Stop>,
}

impl Worker {
    pub(crate) fn spawn(engine: Arc<Engine>) -> io::Result<Self> {
        let stop =
            Arc::new(Stop { done: AtomicBool::new(false), event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)? });
        let mut events = EventManager::new_with_capacity(EVENTS_AT_ONCE).map_err(io::Error::other)?;
        let theirs = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name(engine.name.clone()).stack_size(STACK).spawn(move || {
                events.add_subscriber(Subscriber { engine: Arc::clone(&engine), stop: Arc::clone(&theirs) });
                while !theirs.done.load(Ordering::SeqCst) {
                    if let Err(error) = events.run() {
                        return engine.fail(&format!("cannot wait for events: {error}"));
                    }
                }
            })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The counter is 0: it can be written.
        let _ = self.stop.event.write(1);
        if let Some(thread) = self.thread.take() {
            // It has said why it panicked, if it did.
            let _ = thread.join();
        }
    }
}

impl MutEventSubscriber for Subscriber {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let added = ops
            .add(Events::new(&self.stop.event, EventSet::IN))
            .and_then(|()| ops.add(Events::new(&self.engine.kick, EventSet::IN)));
        match added {
            Ok(()) => self.engine.watch(ops),
            Err(error) => self.engine.fail(&format!("cannot wait for events: {error}")),
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.stop.event.as_raw_fd() {
            // What the guest has asked for before its end is done: the last line on its console, say.
            self.engine.process(None, ops);
            self.stop.done.store(true, Ordering::SeqCst);
        } else if events.fd() == self.engine.kick.as_raw_fd() {
            // Before the queues are looked at: what comes later wakes the thread again.
            let _ = self.engine.kick.read();
            self.engine.counters.wakeups.add(1);
            self.engine.process(None, ops);
        } else {
            self.engine.process(Some(events), ops);
        }
    }
}

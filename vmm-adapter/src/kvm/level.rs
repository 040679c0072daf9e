//! Level lines.
//!
//! KVM raises a line when an eventfd is signalled and takes it back when the guest ends the interrupt. A signal that comes in
//! between would be lost: KVM sees a line that is up already, and then lets it fall. So a thread stands between the VMM's eventfd
//! and KVM's: it remembers such a signal and raises the line again.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::sys;
use crate::setup::lock;

/// The thread's own event; lines have numbers from 1 on, shifted by one.
const STOP: u64 = 0;
/// The guest is done, in a line's number.
const DONE: u64 = 1;

/// What KVM gets of a level line.
#[derive(Debug)]
pub(super) struct Ends {
    /// Raises the line.
    pub(super) raise: EventFd,
    /// Is signalled when the line has fallen.
    pub(super) done: EventFd,
}

impl Ends {
    pub(super) fn new() -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        Ok(Self { raise: event()?, done: event()? })
    }
}

#[derive(Debug)]
struct Line {
    /// The VMM's.
    signal: EventFd,
    raise: EventFd,
    done: EventFd,
    up: bool,
    /// A signal came while the line was up.
    again: bool,
}

/// The thread, and the lines that it sees to. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Levels {
    shared: Arc<Shared>,
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    epoll: Epoll,
    lines: Mutex<HashMap<u64, Line>>,
}

impl Levels {
    pub(super) fn new() -> io::Result<Self> {
        let shared = Arc::new(Shared { epoll: Epoll::new()?, lines: Mutex::default() });
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        shared.watch(&stop, STOP)?;
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("kvm-levels".into()).spawn(move || theirs.serve())?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// Begins to see to a line.
    pub(super) fn add(&self, spi: u32, signal: &EventFd, ends: &Ends) -> io::Result<()> {
        let line = Line {
            signal: signal.try_clone()?,
            raise: ends.raise.try_clone()?,
            done: ends.done.try_clone()?,
            up: false,
            again: false,
        };
        let number = number(spi);
        let mut lines = lock(&self.shared.lines);
        self.shared.watch(&line.signal, number)?;
        if let Err(error) = self.shared.watch(&line.done, number | DONE) {
            self.shared.forget(&line.signal);
            return Err(error);
        }
        lines.insert(number, line);
        Ok(())
    }

    /// What is signalled from here on does nothing.
    pub(super) fn remove(&self, spi: u32) {
        if let Some(line) = lock(&self.shared.lines).remove(&number(spi)) {
            self.shared.forget(&line.signal);
            self.shared.forget(&line.done);
        }
    }
}

fn number(spi: u32) -> u64 {
    (u64::from(spi) + 1) << 1
}

impl Shared {
    fn watch(&self, fd: &EventFd, number: u64) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, number);
        self.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), event)
    }

    fn forget(&self, fd: &EventFd) {
        // It is there: it was added, and is open.
        let _ = self.epoll.ctl(ControlOperation::Delete, fd.as_raw_fd(), EpollEvent::default());
    }

    fn serve(&self) {
        let mut events = [EpollEvent::default(); 16];
        loop {
            let count = match self.epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                // The descriptor is ours and open: this does not happen, and without it there is nothing to do.
                Err(_) => return,
            };
            let mut lines = lock(&self.lines);
            for event in events.iter().take(count) {
                let number = event.data();
                if number == STOP {
                    return;
                }
                // A line may have been removed meanwhile.
                if let Some(line) = lines.get_mut(&(number & !DONE)) {
                    line.happened(number & DONE != 0);
                }
            }
        }
    }
}

impl Line {
    fn happened(&mut self, done: bool) {
        let raise = if done {
            sys::drain(&self.done);
            self.up = std::mem::take(&mut self.again);
            self.up
        } else {
            sys::drain(&self.signal);
            let was_up = std::mem::replace(&mut self.up, true);
            self.again |= was_up;
            !was_up
        };
        if raise {
            // Its counter is what KVM has left of it: not full.
            let _ = self.raise.write(1);
        }
    }
}

impl Drop for Levels {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, it would be gone as it should.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Waits for a signal; there must be one.
    fn raised(ends: &Ends) {
        for _ in 0..10_000 {
            if ends.raise.read().is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the line was not raised");
    }

    fn quiet(ends: &Ends) {
        std::thread::sleep(Duration::from_millis(50));
        assert!(ends.raise.read().is_err(), "the line was raised");
    }

    #[test]
    fn a_signal_while_the_line_is_up_raises_it_again() {
        let levels = Levels::new().unwrap();
        let (signal, ends) = (EventFd::new(EFD_NONBLOCK).unwrap(), Ends::new().unwrap());
        levels.add(3, &signal, &ends).unwrap();
        quiet(&ends);
        signal.write(1).unwrap();
        raised(&ends);
        signal.write(1).unwrap();
        signal.write(1).unwrap();
        quiet(&ends);
        ends.done.write(1).unwrap();
        raised(&ends);
        ends.done.write(1).unwrap();
        quiet(&ends);

        levels.remove(3);
        signal.write(1).unwrap();
        quiet(&ends);
    }
}

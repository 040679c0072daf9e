//! Level-triggered doorbells.
//!
//! KVM's own resample irqfd keeps the line up from a signal until the guest has ended the interrupt, and a signal that comes
//! between the guest's taking it and its end is none: the line is up already. A doorbell's signal is never lost so. The
//! driver therefore rings these doorbells itself, and what comes while the line is up raises it once more afterwards.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Refused, refused};
use crate::transport::sys;

/// One doorbell's line.
struct Level {
    label: u32,
    raise: EventFd,
    /// KVM writes to it when the guest has ended the interrupt: the line is down.
    ended: EventFd,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Down,
    Up,
    /// It was rung meanwhile.
    UpAndAgain,
}

/// All lines of a VM, and the thread that hears of their ends.
pub(super) struct Levels {
    lines: Arc<Vec<Level>>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Level {
    fn change(&self, change: impl FnOnce(State) -> (State, bool)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, raise) = change(*state);
        *state = next;
        if raise {
            let _ = self.raise.write(1);
        }
    }
}

impl Levels {
    /// The lines of these doorbells: label and SPI. `None` if there are none.
    pub(super) fn new(vm: &VmFd, bells: impl Iterator<Item = (u32, u32)>) -> Result<Option<Self>, Refused> {
        let event = || {
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
                .map_err(|error| Refused { what: "an eventfd", errno: error.into() })
        };
        let mut lines = Vec::new();
        for (label, spi) in bells {
            let (raise, ended) = (event()?, event()?);
            vm.register_irqfd_with_resample(&raise, &ended, spi)
                .map_err(refused("bind a level interrupt"))?;
            lines.push(Level { label, raise, ended, state: Mutex::default() });
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let failed = |errno| Refused { what: "a thread for level interrupts", errno };
        let lines = Arc::new(lines);
        let stop = sys::eventfd().map_err(failed)?;
        let body = {
            let lines = Arc::clone(&lines);
            let stop = stop.try_clone().map_err(|error| failed(error.into()))?;
            move || watch(&lines, &stop)
        };
        let thread = std::thread::Builder::new().name("fake-bells".into()).spawn(body);
        Ok(Some(Self { lines, stop, thread: Some(thread.map_err(|error| failed(error.into()))?) }))
    }

    pub(super) fn ring(&self, label: u32) {
        for line in self.lines.iter().filter(|line| line.label == label) {
            line.change(|state| match state {
                State::Down => (State::Up, true),
                State::Up | State::UpAndAgain => (State::UpAndAgain, false),
            });
        }
    }
}

fn watch(lines: &[Level], stop: &OwnedFd) {
    sys::block_signals();
    let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    loop {
        let ends = lines.iter().map(|line| line.ended.as_raw_fd());
        let mut fds: Vec<_> = [stop.as_raw_fd()].into_iter().chain(ends).map(poll).collect();
        sys::poll(&mut fds, -1);
        let mut ready = fds.iter().map(|fd| fd.revents != 0);
        if ready.next() == Some(true) {
            return;
        }
        for (line, _) in lines.iter().zip(ready).filter(|(_, ready)| *ready) {
            let _ = line.ended.read();
            line.change(|state| match state {
                State::UpAndAgain => (State::Up, true),
                State::Up | State::Down => (State::Down, false),
            });
        }
    }
}

impl Drop for Levels {
    fn drop(&mut self) {
        sys::eventfd_signal(std::os::fd::AsFd::as_fd(&self.stop));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! The signal that ends `KVM_RUN`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use super::{error, sys};
use crate::error::{Error, Result};

static CHOSEN: OnceLock<i32> = OnceLock::new();
/// The chosen signal again, for kickers in signal handlers.
static NUMBER: AtomicI32 = AtomicI32::new(0);
static INSTALLED: OnceLock<std::result::Result<(), i32>> = OnceLock::new();

/// Chooses the signal, before the first vCPU is made.
pub(crate) fn set_kick_signal(signal: i32) -> Result<()> {
    const OP: &str = "set_kick_signal";
    let (first, last) = sys::real_time_signals();
    if !(first..=last).contains(&signal) {
        let why = format!("{signal} is no real-time signal, those go from {first} to {last}");
        return Err(Error::invalid(OP, why));
    }
    if *CHOSEN.get_or_init(|| signal) == signal {
        Ok(())
    } else {
        Err(Error::invalid(OP, "another signal is in use already"))
    }
}

/// The signal in use. Async-signal-safe; 0 before [`prepare`].
pub(super) fn number() -> i32 {
    NUMBER.load(Ordering::Relaxed)
}

/// Installs the handler, once per process.
pub(super) fn prepare(op: &'static str) -> Result<()> {
    let signal = *CHOSEN.get_or_init(|| sys::real_time_signals().0);
    INSTALLED
        .get_or_init(|| {
            NUMBER.store(signal, Ordering::Relaxed);
            sys::install_handler(signal).map_err(|error| error.raw_os_error().unwrap_or(libc::EEXIST))
        })
        .map_err(|errno| error::os(op)(std::io::Error::from_raw_os_error(errno)))
}

/// Lets the signal through on the calling thread.
pub(super) fn unblock(op: &'static str) -> Result<()> {
    sys::unblock(number()).map_err(error::os(op))
}

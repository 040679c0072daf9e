//! The signal that ends `VCPU_RUN`: which one, and its handler.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::error::{Error, Result};
use crate::sys;

static CHOSEN: OnceLock<i32> = OnceLock::new();
/// The chosen signal again, for readers in signal handlers.
static NUMBER: AtomicI32 = AtomicI32::new(0);
static INSTALLED: OnceLock<std::result::Result<(), i32>> = OnceLock::new();

const OP: &str = "set_kick_signal";

/// Chooses the signal that kicks vCPUs, before the first vCPU runs. The default is `SIGRTMIN`.
///
/// The first [`run`](crate::VcpuFd::run) of the process installs an empty handler for it, without SA_RESTART: a
/// restarted `VCPU_RUN` would lose the exit that the signal overtook. A handler that the program has installed before
/// is kept if it has no SA_RESTART either. Each thread that runs a vCPU gets the signal unblocked.
///
/// # Errors
///
/// [`Error::InvalidArgument`] when `signal` is no real-time signal that programs may use, and [`Error::WrongPhase`]
/// when another one is in use already.
pub fn set_kick_signal(signal: i32) -> Result<()> {
    let (first, last) = sys::real_time_signals();
    if !(first..=last).contains(&signal) {
        return Err(Error::InvalidArgument {
            op: OP,
            why: "not a real-time signal between SIGRTMIN and SIGRTMAX",
        });
    }
    if *CHOSEN.get_or_init(|| signal) == signal {
        Ok(())
    } else {
        Err(Error::WrongPhase { op: OP, why: "the kick signal is in use already" })
    }
}

/// The signal in use. Async-signal-safe; 0 before [`prepare`].
pub(crate) fn number() -> i32 {
    NUMBER.load(Ordering::Relaxed)
}

/// Installs the handler, once per process, and lets the signal through on the calling thread.
pub(crate) fn prepare() -> Result<i32> {
    let signal = *CHOSEN.get_or_init(|| sys::real_time_signals().0);
    INSTALLED
        .get_or_init(|| {
            NUMBER.store(signal, Ordering::Relaxed);
            sys::install_kick_handler(signal).map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
        })
        .map_err(|errno| os("sigaction", "installing the kick signal's handler", errno))?;
    sys::unblock_signal(signal).map_err(|source| Error::Os {
        call: "pthread_sigmask",
        doing: "unblocking the kick signal",
        source,
    })?;
    Ok(signal)
}

/// Blocks every signal but the kick signal on the calling thread.
///
/// Call it at the start of a thread that runs a vCPU. A signal whose handler has SA_RESTART makes the kernel restart
/// `VCPU_RUN` behind the program's back, and an MMIO exit that was just finished is then taken as answered: a write is
/// lost, a read gets old bytes. No library can see that happen. On a thread where such signals are blocked it
/// cannot happen by handlers; what is left are stops (SIGSTOP, a debugger) and the suspension of the host.
///
/// A signal whose handler has no SA_RESTART costs an answer when it arrives between the entry of `VCPU_RUN` and the entry of
/// the guest. On an emulated host with a signal every 300 microseconds 380 of 20 000 answers were lost: so this window is open
/// for some 6 microseconds of each entry there.
///
/// # Errors
///
/// [`Error::Os`], practically never.
pub fn block_other_signals() -> Result<()> {
    let signal = *CHOSEN.get_or_init(|| sys::real_time_signals().0);
    sys::block_all_but(signal).map_err(|source| Error::Os {
        call: "pthread_sigmask",
        doing: "blocking signals",
        source,
    })
}

fn os(call: &'static str, doing: &'static str, errno: i32) -> Error {
    Error::Os { call, doing, source: std::io::Error::from_raw_os_error(errno) }
}

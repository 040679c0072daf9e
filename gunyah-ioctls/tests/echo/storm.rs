//! Trouble for a thread that runs a vCPU: signals, and kicks, from other threads.
#![allow(unsafe_code, dead_code)]

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use gunyah_ioctls::KickHandle;

extern "C" fn handler(_: libc::c_int) {}

/// A signal with SA_RESTART and one without, so that tests side by side don't take each other's handler.
pub(crate) const INTERRUPTING: libc::c_int = libc::SIGUSR1;
pub(crate) const RESTARTING: libc::c_int = libc::SIGUSR2;

/// Installs the handlers of [`INTERRUPTING`] and [`RESTARTING`].
pub(crate) fn install_handlers() {
    for (signal, flags) in [(INTERRUPTING, 0), (RESTARTING, libc::SA_RESTART)] {
        // SAFETY: sigaction is plain data; the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = flags;
            assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
        }
    }
}

/// A thread that others send signals to, while it lets them.
#[derive(Default)]
pub(crate) struct Victim(AtomicI32);

impl Victim {
    /// From now on signals may come to the calling thread.
    pub(crate) fn enter(&self) {
        // SAFETY: no preconditions.
        let tid = unsafe { libc::syscall(libc::SYS_gettid) };
        self.0.store(i32::try_from(tid).unwrap(), Ordering::Release);
    }

    /// No more of them. One may still be on its way; it does no harm.
    pub(crate) fn leave(&self) {
        self.0.store(0, Ordering::Release);
    }

    fn signal(&self, signal: libc::c_int) {
        let tid = self.0.load(Ordering::Acquire);
        if tid != 0 {
            // SAFETY: numbers only; a thread that is gone gives ESRCH.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) };
        }
    }
}

/// Numbers that look random, the same in every run: xorshift.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Sends `signal` to the victims in turn, every 300 microseconds or so, until `over`.
pub(crate) fn signals(victims: &[Victim], signal: libc::c_int, over: &AtomicBool) {
    let mut next = 0;
    while !over.load(Ordering::Acquire) {
        victims[next % victims.len()].signal(signal);
        next += 1;
        std::thread::sleep(Duration::from_micros(300 / victims.len() as u64));
    }
}

/// Kicks one of `handles` at random moments until `over`. Answers how often.
pub(crate) fn kicks(handles: &[KickHandle], seed: u64, over: &AtomicBool) -> u64 {
    let mut random = Random::new(seed);
    let mut kicks = 0;
    while !over.load(Ordering::Acquire) {
        let one = random.below(handles.len() as u64) as usize;
        handles[one].kick();
        kicks += 1;
        std::thread::sleep(Duration::from_micros(random.below(600)));
    }
    kicks
}

//! Passing signals on to a program.
#![expect(unsafe_code, reason = "waits for signals")]

use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The signals that somebody sends to a command to make it do something.
const FORWARDED: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// Signals that wait to be passed on.
///
/// Made before any other thread, so that every thread has them blocked.
#[derive(Clone, Copy)]
pub struct Forwarder {
    set: libc::sigset_t,
    /// What was blocked before.
    before: libc::sigset_t,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Forwarder")
    }
}

impl Forwarder {
    /// Blocks SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 on this thread and on those that it starts.
    #[must_use]
    pub fn new() -> Self {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` fills the set before anything else uses it.
        // The same goes for `pthread_sigmask` and the set before.
        let (set, before) = unsafe {
            let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
            libc::sigemptyset(set.as_mut_ptr());
            for signal in FORWARDED {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
            (set.assume_init(), before.assume_init())
        };
        Self { set, before }
    }

    /// Lets a program that is to be started have the signals that are blocked here: else it would inherit that.
    pub fn unblock_for(self, command: &mut Command) {
        let unblock = move || {
            // SAFETY: reads a set that is whole. Signals may be unblocked between fork and exec.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
            Ok(())
        };
        // SAFETY: the closure makes one system call. It allocates nothing and takes no lock.
        unsafe { command.pre_exec(unblock) };
    }

    /// From now on passes them to process `pid`, on a thread of its own. What the terminal sends reaches the program by
    /// itself, and is not sent twice.
    pub fn forward_to(self, pid: u32) {
        std::thread::spawn(move || {
            loop {
                let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
                // SAFETY: writes a whole siginfo when it returns a signal.
                let signal = unsafe { libc::sigwaitinfo(&raw const self.set, info.as_mut_ptr()) };
                if signal <= 0 {
                    continue;
                }
                // SAFETY: as above.
                let from_a_process = unsafe { info.assume_init() }.si_code <= 0;
                if from_a_process {
                    // SAFETY: takes numbers. The program has not been waited for, or this process is about to end.
                    unsafe { libc::kill(pid as libc::pid_t, signal) };
                }
            }
        });
    }
}

impl Default for Forwarder {
    fn default() -> Self {
        Self::new()
    }
}

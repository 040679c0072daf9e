//! The word on which a vCPU thread and its kickers agree. No system call, no lock: the rest of `kick` acts on what it says.
//!
//! Two facts about the kernel shape it. `VCPU_RUN` drops an answer to an MMIO access when a signal is pending or
//! `immediate_exit` is set before it reaches the guest, so neither may happen there while an answer is outstanding. And it
//! looks at `immediate_exit` only before entering the guest, so a sleeping vCPU needs a signal.
//!
//! - `KICKED`: a kick waits to be reported. Set by kickers, cleared by the vCPU thread when it reports one.
//! - `RUN_CLEAN`, `RUN_ANSWER`: the vCPU thread is inside `run`, without or with an answer outstanding.
//! - the rest counts kickers between reading the phase and having acted on it. Only a kicker that found the vCPU inside
//!   `run` counts itself, in the same step that set `KICKED`; so once the vCPU thread has left that phase and seen the count
//!   at 0, no signal is on its way any more.
//!
//! In the outside phase the word is 0 or `KICKED`.

use super::atomic::{AtomicU32, Ordering};

const KICKED: u32 = 1;
const RUN_CLEAN: u32 = 2;
const RUN_ANSWER: u32 = 4;
const INSIDE: u32 = RUN_CLEAN | RUN_ANSWER;
const ONE_KICKER: u32 = 8;

/// What a kicker has to do after [`KickState::request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Nothing: the next `run` returns at once, or an earlier kick of this `run` is at work.
    Nothing,
    /// Set `immediate_exit` and send the signal, then call [`KickState::acted`].
    Now,
    /// Send the signal later and repeatedly, so that it misses the entry of `VCPU_RUN`; then call [`KickState::acted`].
    Later,
}

#[derive(Debug)]
pub(crate) struct KickState(AtomicU32);

impl KickState {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// vCPU thread: about to enter the kernel. `false`: a kick was waiting, and is consumed; stay outside.
    #[inline]
    pub(crate) fn enter(&self, answering: bool) -> bool {
        let phase = if answering { RUN_ANSWER } else { RUN_CLEAN };
        // Release: kickers that see the phase also see `immediate_exit` cleared and the timer's id. Acquire on failure:
        // what the kicker did before its kick is visible to whoever gets the interruption.
        if self.0.compare_exchange(0, phase, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return true;
        }
        self.take();
        false
    }

    /// vCPU thread: back from the kernel. `true`: nobody kicked meanwhile, and no signal of ours is on its way.
    #[inline]
    pub(crate) fn leave(&self, answering: bool) -> bool {
        let phase = if answering { RUN_ANSWER } else { RUN_CLEAN };
        if self.0.compare_exchange(phase, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return true;
        }
        self.0.fetch_and(!INSIDE, Ordering::AcqRel);
        false
    }

    /// vCPU thread, outside: whether a kicker still acts on the phase that was left. Wait until none does.
    pub(crate) fn kicker_acts(&self) -> bool {
        // Acquire: pairs with the Release in `acted`.
        self.0.load(Ordering::Acquire) >= ONE_KICKER
    }

    /// vCPU thread, outside: consumes a waiting kick, so that it can be reported. Whether there was one.
    pub(crate) fn take(&self) -> bool {
        self.0.fetch_and(!KICKED, Ordering::AcqRel) & KICKED != 0
    }

    /// Kicker: asks for an interruption. Async-signal-safe and lock-free.
    pub(crate) fn request(&self) -> Act {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let (next, act) = if seen & KICKED != 0 {
                (seen, Act::Nothing)
            } else if seen & RUN_CLEAN != 0 {
                ((seen | KICKED) + ONE_KICKER, Act::Now)
            } else if seen & RUN_ANSWER != 0 {
                ((seen | KICKED) + ONE_KICKER, Act::Later)
            } else {
                (seen | KICKED, Act::Nothing)
            };
            // Even when nothing changes, the write is needed: its Release hands over what the kicker did before.
            match self.0.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return act,
                Err(now) => seen = now,
            }
        }
    }

    /// Kicker: done with what [`KickState::request`] asked for.
    pub(crate) fn acted(&self) {
        self.0.fetch_sub(ONE_KICKER, Ordering::Release);
    }
}

//! The two words on which a vCPU thread and its kickers agree. No lock: the rest of `kick` acts on what they say.
//!
//! Two facts about the kernel shape it. `VCPU_RUN` drops an answer to an MMIO access when a signal is pending or
//! `immediate_exit` is set before it reaches the guest, so neither may happen there while an answer is outstanding. And it
//! looks at `immediate_exit` only before entering the guest, so a sleeping vCPU needs a signal.
//!
//! `phase` is the vCPU thread's alone: outside, or inside `run`, without or with an answer outstanding. `word` is what the
//! kickers tell it:
//!
//! - `KICKED`: a kick waits to be reported. Set by kickers, cleared by the vCPU thread when it reports one.
//! - `ACTED`: a kicker has set `immediate_exit`, sent a signal or armed the timer. Cleared by the vCPU thread when it has
//!   cleaned up after it.
//! - the rest counts the kickers that have set `KICKED` and are not done yet.
//!
//! The vCPU thread writes its phase and then looks at the word; a kicker writes the word and then looks at the phase. With a
//! barrier between the two steps on both sides, at least one sees the other. Exits are many and kicks are few, so the kicker
//! pays for both barriers ([`fence`]). It follows that a vCPU thread that has left `run` and has then seen no kicker
//! in the word is out of every kicker's reach.

use super::atomic::{AtomicU32, Ordering};
use super::fence;

const OUTSIDE: u32 = 0;
const RUN_CLEAN: u32 = 1;
const RUN_ANSWER: u32 = 2;

const KICKED: u32 = 1;
const ACTED: u32 = 2;
const ONE_KICKER: u32 = 4;

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
pub(crate) struct KickState {
    phase: AtomicU32,
    word: AtomicU32,
}

impl KickState {
    pub(crate) fn new() -> Self {
        Self { phase: AtomicU32::new(OUTSIDE), word: AtomicU32::new(0) }
    }

    /// vCPU thread, outside: goes inside. `false`: a kick was waiting, or came just now; call [`KickState::leave`].
    #[inline]
    pub(crate) fn enter(&self, answering: bool) -> bool {
        // Release: kickers that see the phase also see `immediate_exit` cleared, and the thread's and timer's ids.
        self.phase.store(if answering { RUN_ANSWER } else { RUN_CLEAN }, Ordering::Release);
        fence::light();
        self.word.load(Ordering::Acquire) == 0
    }

    /// vCPU thread: back from the kernel. `true`: nobody kicked meanwhile, and nobody will act on this `run` any more.
    #[inline]
    pub(crate) fn leave(&self) -> bool {
        self.phase.store(OUTSIDE, Ordering::Release);
        fence::light();
        self.word.load(Ordering::Acquire) == 0
    }

    /// vCPU thread, outside: whether a kicker is not done yet. Wait until none is.
    pub(crate) fn kicker_acts(&self) -> bool {
        // Acquire: pairs with the Release in `done`.
        self.word.load(Ordering::Acquire) >= ONE_KICKER
    }

    /// vCPU thread, outside, when no kicker acts: whether one has acted since this was asked last.
    pub(crate) fn take_acted(&self) -> bool {
        self.word.fetch_and(!ACTED, Ordering::AcqRel) & ACTED != 0
    }

    /// vCPU thread, outside, when no kicker acts: consumes a waiting kick, so that it can be reported. Whether there was one.
    ///
    /// Acquire: what the kicker did before its kick is visible to whoever gets the interruption.
    pub(crate) fn take(&self) -> bool {
        self.word.fetch_and(!KICKED, Ordering::AcqRel) & KICKED != 0
    }

    /// Kicker: asks for an interruption. Async-signal-safe and lock-free.
    pub(crate) fn request(&self) -> Act {
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let first = seen & KICKED == 0;
            let next = if first { (seen | KICKED) + ONE_KICKER } else { seen };
            // Even when nothing changes, the write is needed: its Release hands over what the kicker did before.
            match self.word.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if first => break,
                Ok(_) => return Act::Nothing,
                Err(now) => seen = now,
            }
        }
        fence::heavy();
        match self.phase.load(Ordering::Acquire) {
            OUTSIDE => {
                self.done();
                Act::Nothing
            }
            RUN_ANSWER => Act::Later,
            _ => Act::Now,
        }
    }

    /// Kicker: has done what [`KickState::request`] asked for.
    pub(crate) fn acted(&self) {
        self.word.fetch_or(ACTED, Ordering::Relaxed);
        self.done();
    }

    fn done(&self) {
        self.word.fetch_sub(ONE_KICKER, Ordering::Release);
    }
}

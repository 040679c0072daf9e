//! Ending a `run` from another thread or from a signal handler.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use crate::run_page::RunPage;
use crate::sys;

mod fence;
pub(crate) mod signal;
mod state;
mod thread;

/// What the model checker replaces when it checks `state`.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU32, Ordering};
}

use state::{Act, KickState};
pub(crate) use thread::ThreadBinding;

/// Milliseconds before and between the signals of a kick that must not hit the entry of `VCPU_RUN`.
///
/// Entry takes microseconds, unless the thread is preempted there: a scheduler's time slice is 3 to 4 ms on Linux, so less
/// than that is not safe on a busy host. Only a guest that computes or sleeps for so long notices the delay; one that
/// exits is back sooner.
const DEFERRED_KICK_MILLIS: u32 = 10;

/// What a vCPU and its kick handles share. Keeps the run page mapped.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) page: RunPage,
    state: KickState,
    /// The thread to signal; valid while the vCPU is inside `run`.
    tid: AtomicI32,
    /// The timer for deferred kicks; valid while the vCPU is inside `run`.
    timer: AtomicI32,
    /// Whether a kicker armed the timer.
    timer_armed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(page: RunPage) -> Self {
        fence::prepare();
        Self {
            page,
            state: KickState::new(),
            tid: AtomicI32::new(0),
            timer: AtomicI32::new(0),
            timer_armed: AtomicBool::new(false),
        }
    }

    /// vCPU thread, outside `run`: which thread and timer kickers are to use from now.
    ///
    /// Relaxed suffices: kickers read these after they saw the phase that [`Shared::enter`] publishes.
    pub(crate) fn bind(&self, binding: &ThreadBinding) {
        self.tid.store(binding.tid(), Ordering::Relaxed);
        self.timer.store(binding.timer_id(), Ordering::Relaxed);
    }

    /// vCPU thread: prepares the page and enters. `false`: a kick was waiting and is consumed.
    #[inline]
    pub(crate) fn enter(&self, answering: bool) -> bool {
        // A teardown of the vCPU in the kernel sets this, too, so it is not only ours to clear.
        self.page.clear_immediate_exit();
        if !self.state.enter(answering) {
            return self.back_out();
        }
        self.page.clear_exit_reason();
        true
    }

    #[cold]
    fn back_out(&self) -> bool {
        self.leave();
        self.state.take();
        false
    }

    /// vCPU thread: back from the kernel. After this no signal of a kick is on its way.
    #[inline]
    pub(crate) fn leave(&self) {
        if !self.state.leave() {
            self.settle();
        }
    }

    /// Waits for the kickers of this `run` and swallows their signals: one that arrived only after the next entry would
    /// look like a kick that nobody asked for, and could cost the answer then outstanding.
    #[cold]
    fn settle(&self) {
        let mut round: u32 = 0;
        while self.state.kicker_acts() {
            round = round.saturating_add(1);
            match round {
                0..64 => std::hint::spin_loop(),
                64..128 => std::thread::yield_now(),
                // A kicker of lower real-time priority on the same CPU only gets on while this thread sleeps.
                _ => std::thread::sleep(Duration::from_micros(50)),
            }
        }
        if !self.state.take_acted() {
            return;
        }
        if self.timer_armed.swap(false, Ordering::Relaxed) {
            sys::set_timer(self.timer.load(Ordering::Relaxed), 0);
        }
        sys::deliver_signals();
        self.page.clear_immediate_exit();
    }

    /// vCPU thread, outside: consumes a waiting kick. Whether there was one.
    pub(crate) fn take_kick(&self) -> bool {
        self.state.take()
    }

    /// Kicker. Async-signal-safe.
    fn kick(&self) {
        let act = self.state.request();
        if act == Act::Nothing {
            return;
        }
        let mut sent = false;
        if act == Act::Now {
            // In this order: a thread on its way into the kernel sees the flag, one that sleeps there gets the signal.
            self.page.set_immediate_exit();
            sent = sys::tgkill(self.tid.load(Ordering::Relaxed), signal::number());
        }
        if !sent {
            // Also when the signal could not be queued: a timer has its own place in the queue.
            self.timer_armed.store(true, Ordering::Relaxed);
            sys::set_timer(self.timer.load(Ordering::Relaxed), DEFERRED_KICK_MILLIS);
        }
        self.state.acted();
    }
}

/// Ends a vCPU's current or next [`run`](crate::VcpuFd::run), once.
///
/// From [`VcpuFd::kick_handle`](crate::VcpuFd::kick_handle). Any number of clones may kick from any thread and from signal
/// handlers. A handle outlives its vCPU harmlessly.
///
/// A kick is sticky: when the vCPU is not in `run`, the next `run` returns [`Interrupted`](crate::VcpuExit::Interrupted)
/// without entering the guest. Kicks that come before they are reported are one kick. A kick that meets an exit of the guest
/// does not replace it: the exit is returned first and the interruption by the next `run`.
///
/// ```
/// use gunyah_ioctls::{Gunyah, VcpuExit};
/// # let fake = fake_gunyah::Fake::builder().build()?;
/// # fake.run(|_| {
/// let vm = Gunyah::new()?.create_vm()?;
/// let mut vcpu = vm.add_vcpu(0)?;
/// let kick = vcpu.kick_handle();
/// std::thread::spawn(move || kick.kick()).join().expect("the thread ends");
/// assert_eq!(vcpu.run()?, VcpuExit::Interrupted);
/// # Ok::<(), gunyah_ioctls::Error>(())
/// # })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # How, and what is left
///
/// A kick sets `immediate_exit` in the run page and sends a signal ([`set_kick_signal`](crate::set_kick_signal)) to the thread
/// in `run`. The kernel drops an answer to an MMIO access that it has just taken when it finds either of them before it
/// enters the guest. So while `run` carries an answer in, a kick sends its signal 10 ms later, and again every 10 ms until
/// `run` is back. What user space cannot exclude is a thread preempted for so long between entering the kernel and entering
/// the guest. [`VcpuFd::answers_possibly_lost`](crate::VcpuFd::answers_possibly_lost)
/// counts every occasion on which that could have happened.
///
/// Other signals are not under this crate's control: see
/// [`block_other_signals`](crate::block_other_signals).
#[derive(Clone)]
pub struct KickHandle(Arc<Shared>);

impl KickHandle {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::clone(shared))
    }

    /// Ends the current or the next `run`.
    ///
    /// Async-signal-safe: no lock, no allocation, errno is left alone. Costs a system call (`membarrier`), and another one when the
    /// vCPU is inside `run`; nothing but an atomic access while an earlier kick is not reported yet.
    pub fn kick(&self) {
        self.0.kick();
    }
}

impl fmt::Debug for KickHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KickHandle").finish_non_exhaustive()
    }
}

//! Every interleaving of a vCPU thread and its kickers, by the model checker loom, on the very file that production uses.
//!
//! The kernel is modelled by what matters here: on entry it takes the answer, and then drops it if a signal is pending or
//! `immediate_exit` is set; a sleeping guest is only woken by a signal; a signal that was sent is noticed on the way
//! back to user space at the latest, and not a moment before in the worst case.
#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, dead_code, missing_docs)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU32, Ordering};
}

/// What `membarrier` makes of the production pair.
mod fence {
    use loom::sync::atomic::{Ordering, fence};

    pub(crate) fn light() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn heavy() {
        fence(Ordering::SeqCst);
    }
}

#[path = "../src/kick/state.rs"]
mod state;

use state::{Act, KickState};

/// What the guest does in one run.
#[derive(Clone, Copy, PartialEq)]
enum Guest {
    /// Exits by itself.
    Exits,
    /// Sleeps until a signal comes.
    Sleeps,
}

#[derive(Debug, PartialEq)]
enum Ran {
    Exit,
    Interrupted,
}

struct Vcpu {
    state: KickState,
    immediate_exit: AtomicBool,
    /// A signal was sent and not delivered yet.
    signal: AtomicBool,
    /// The timer is armed. It fires later than any entry takes, so it never hits the entry of this run.
    timer: AtomicBool,
    kicks: AtomicUsize,
    /// The thread is doing something else, where a signal would disturb it.
    outside: AtomicBool,
}

impl Vcpu {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            state: KickState::new(),
            immediate_exit: AtomicBool::new(false),
            signal: AtomicBool::new(false),
            timer: AtomicBool::new(false),
            kicks: AtomicUsize::new(0),
            outside: AtomicBool::new(false),
        })
    }

    /// As `VcpuFd::run` and `Shared` do it.
    fn run(&self, answering: bool, guest: Guest) -> Ran {
        self.immediate_exit.store(false, Ordering::Relaxed);
        if !self.state.enter(answering) {
            self.leave();
            self.state.take();
            return Ran::Interrupted;
        }
        let exited = self.kernel(answering, guest);
        self.leave();
        if exited {
            return Ran::Exit;
        }
        self.state.take();
        Ran::Interrupted
    }

    fn leave(&self) {
        if self.state.leave() {
            return;
        }
        while self.state.kicker_acts() {
            thread::yield_now();
        }
        if self.state.take_acted() {
            self.timer.store(false, Ordering::Relaxed);
            self.signal.store(false, Ordering::Relaxed);
            self.immediate_exit.store(false, Ordering::Relaxed);
        }
    }

    /// `VCPU_RUN`; whether the guest exited.
    fn kernel(&self, answering: bool, guest: Guest) -> bool {
        if self.signal.load(Ordering::SeqCst) || self.immediate_exit.load(Ordering::SeqCst) {
            assert!(!answering, "the kernel took the answer and dropped it");
            self.signal.store(false, Ordering::SeqCst);
            return false;
        }
        if guest == Guest::Sleeps {
            // A lost kick never leaves this loop, and loom gives up on it.
            while !self.signal.load(Ordering::SeqCst) && !self.timer.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        }
        self.signal.store(false, Ordering::SeqCst);
        guest == Guest::Exits
    }

    /// As `Shared::kick` does it.
    fn kick(&self) {
        self.kicks.fetch_add(1, Ordering::Relaxed);
        match self.state.request() {
            Act::Nothing => return,
            Act::Now => {
                self.immediate_exit.store(true, Ordering::SeqCst);
                self.signal.store(true, Ordering::SeqCst);
            }
            Act::Later => self.timer.store(true, Ordering::SeqCst),
        }
        assert!(!self.outside.load(Ordering::SeqCst), "a signal to a thread that is not in `run`");
        self.state.acted();
    }
}

/// Checks every interleaving with at most so many preemptions, or with at most `GUNYAH_MODEL_PREEMPTIONS`: where each step
/// costs more, as under a sanitizer.
fn model(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let most = std::env::var("GUNYAH_MODEL_PREEMPTIONS").map_or(preemptions, |text| text.parse().unwrap());
    let preemptions = preemptions.min(most);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

fn kicker(vcpu: &Arc<Vcpu>) -> thread::JoinHandle<()> {
    let vcpu = Arc::clone(vcpu);
    thread::spawn(move || vcpu.kick())
}

#[test]
fn a_kick_ends_a_sleeping_run() {
    for answering in [false, true] {
        model(4, move || {
            let vcpu = Vcpu::new();
            let kicker = kicker(&vcpu);
            assert_eq!(vcpu.run(answering, Guest::Sleeps), Ran::Interrupted);
            // What the kicker did before its kick is seen by whoever is interrupted.
            assert_eq!(vcpu.kicks.load(Ordering::Relaxed), 1);
            kicker.join().unwrap();
        });
    }
}

#[test]
fn a_kick_that_meets_an_exit_ends_the_next_run_once() {
    for answering in [false, true] {
        model(4, move || {
            let vcpu = Vcpu::new();
            let kicker = kicker(&vcpu);
            let first = vcpu.run(answering, Guest::Exits);
            if first == Ran::Exit {
                assert_eq!(vcpu.run(true, Guest::Sleeps), Ran::Interrupted);
            }
            kicker.join().unwrap();
            assert_eq!(vcpu.run(true, Guest::Exits), Ran::Exit, "one kick was reported twice");
        });
    }
}

#[test]
fn no_signal_of_an_old_kick_meets_a_new_answer() {
    model(4, || {
        let vcpu = Vcpu::new();
        let kicker = kicker(&vcpu);
        for answering in [false, true, true] {
            vcpu.run(answering, Guest::Exits);
        }
        kicker.join().unwrap();
    });
}

#[test]
fn two_kickers_are_one_or_two_kicks() {
    model(2, || {
        let vcpu = Vcpu::new();
        let kickers = [kicker(&vcpu), kicker(&vcpu)];
        assert_eq!(vcpu.run(false, Guest::Sleeps), Ran::Interrupted);
        let seen = vcpu.kicks.load(Ordering::Relaxed);
        for kicker in kickers {
            kicker.join().unwrap();
        }
        // At most one is left; after it, none.
        if vcpu.run(true, Guest::Exits) == Ran::Exit {
            assert_eq!(seen, 2, "a kick was reported without what its kicker did before");
        }
        assert_eq!(vcpu.run(true, Guest::Exits), Ran::Exit);
    });
}

#[test]
fn nobody_acts_on_a_vcpu_that_is_outside() {
    for answering in [false, true] {
        model(3, move || {
            let vcpu = Vcpu::new();
            let kicker = kicker(&vcpu);
            vcpu.run(answering, Guest::Exits);
            vcpu.outside.store(true, Ordering::SeqCst);
            kicker.join().unwrap();
        });
    }
}

//! Ending `KVM_RUN` from another thread or from a signal handler.
//!
//! KVM completes an MMIO access before it looks at `immediate_exit`, so unlike on Gunyah a kick may come at any moment.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use kvm_ioctls::VcpuFd;

use super::{signal, sys};
use crate::vcpu::Kicker;

/// What a vCPU and those who kick it share. Keeps its mapping of the run page.
#[derive(Debug)]
pub(super) struct Kick {
    page: sys::ImmediateExit,
    /// A kick waits to be reported.
    requested: AtomicBool,
    /// The thread in `run`; 0 when there is none.
    tid: AtomicI32,
    /// How many kickers are between their first and their last step.
    acting: AtomicU32,
}

// All accesses are sequentially consistent: of a kicker (acting, requested, then tid) and the vCPU's thread (tid, then requested; or
// tid, then acting) at least one must see what the other did before.
impl Kick {
    pub(super) fn new(vcpu: &VcpuFd, run_size: usize) -> io::Result<Self> {
        let page = sys::ImmediateExit::map(vcpu, run_size)?;
        // What a kick of an earlier user of the vCPU has left.
        page.flag().store(0, Ordering::SeqCst);
        Ok(Self {
            page,
            requested: AtomicBool::new(false),
            tid: AtomicI32::new(0),
            acting: AtomicU32::new(0),
        })
    }

    /// vCPU thread: about to call `KVM_RUN`, again and again until [`Kick::leave`].
    pub(super) fn enter(&self) {
        self.tid.store(sys::gettid(), Ordering::SeqCst);
    }

    /// vCPU thread: no longer about to call `KVM_RUN`. After this no signal of a kick is on its way.
    pub(super) fn leave(&self) {
        self.tid.store(0, Ordering::SeqCst);
        if self.acting.load(Ordering::SeqCst) != 0 {
            self.settle();
        }
    }

    /// vCPU thread: consumes a waiting kick. Whether there was one.
    pub(super) fn take(&self) -> bool {
        let taken = self.requested.swap(false, Ordering::SeqCst);
        if taken {
            self.settle();
        }
        taken
    }

    /// vCPU thread: waits for the kickers that are at work and swallows what they leave behind, which would look like another
    /// kick.
    #[cold]
    pub(super) fn settle(&self) {
        let mut round: u32 = 0;
        while self.acting.load(Ordering::SeqCst) != 0 {
            round = round.saturating_add(1);
            match round {
                0..64 => std::hint::spin_loop(),
                64..128 => thread::yield_now(),
                // A kicker of lower real-time priority on the same CPU only gets on while this thread sleeps.
                _ => thread::sleep(Duration::from_micros(50)),
            }
        }
        sys::deliver_signals();
        self.page.flag().store(0, Ordering::SeqCst);
    }

    /// Makes the thread come back from `KVM_RUN` and look around, without a kick to report.
    pub(super) fn nudge(&self) {
        self.act(false);
    }

    /// Async-signal-safe.
    fn act(&self, request: bool) {
        self.acting.fetch_add(1, Ordering::SeqCst);
        if request {
            self.requested.store(true, Ordering::SeqCst);
        }
        // In this order: a thread on its way into the kernel sees the flag, one that is there gets the signal.
        self.page.flag().store(1, Ordering::SeqCst);
        let tid = self.tid.load(Ordering::SeqCst);
        if tid != 0 {
            sys::tgkill(tid, signal::number());
        }
        self.acting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Kicker for Kick {
    fn kick(&self) {
        self.act(true);
    }
}

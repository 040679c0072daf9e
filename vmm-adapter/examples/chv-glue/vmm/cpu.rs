//! The threads that run vCPUs, with pause, resume and end in Cloud Hypervisor's manner: flags that a thread looks at between two runs.
//! What ends a run is a kick, not a signal that is sent until it is noticed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};

use crate::hypervisor::additions::VcpuKicker;
use crate::hypervisor::cpu::{HypervisorCpuError, Vcpu, VmExit};

/// What a vCPU's thread ended with: `Ignore` when it was told to.
pub(super) type Ended = Result<VmExit, HypervisorCpuError>;

/// The vCPUs' threads.
pub(super) struct CpuManager {
    threads: Vec<JoinHandle<()>>,
    kickers: Vec<Arc<dyn VcpuKicker>>,
    control: Arc<Control>,
}

#[derive(Default)]
struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pause: bool,
    kill: bool,
    /// How many threads wait for the end of a pause, or have ended.
    parked: usize,
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait_while(&self, condition: impl FnMut(&mut State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.lock(), condition).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the vCPU may run. `false`: it never may again.
    fn may_run(&self) -> bool {
        if self.lock().pause {
            // Nothing is run here "to complete what is pending": that loses the guest's loads.
            self.change(|state| state.parked += 1);
            self.wait_while(|state| state.pause && !state.kill).parked -= 1;
        }
        !self.lock().kill
    }
}

impl CpuManager {
    /// Starts the threads. Each sends what it ended with.
    pub(super) fn start(vcpus: Vec<Box<dyn Vcpu>>, ended: &Sender<Ended>) -> anyhow::Result<Self> {
        let kickers = vcpus.iter().map(|vcpu| vcpu.kicker().context("this hypervisor has no kicker"));
        let kickers = kickers.collect::<anyhow::Result<_>>()?;
        let mut manager = Self { threads: Vec::new(), kickers, control: Arc::default() };
        for (id, mut vcpu) in vcpus.into_iter().enumerate() {
            let (control, ended) = (Arc::clone(&manager.control), ended.clone());
            let thread = thread::Builder::new().name(format!("vcpu{id}")).spawn(move || {
                // A device that panics ends the machine: the others would wait for its vCPU.
                let end = catch_unwind(AssertUnwindSafe(|| run(&mut *vcpu, &control)));
                let end = end.unwrap_or_else(|_| {
                    Err(HypervisorCpuError::RunVcpu(anyhow!("a device of vCPU {id} panicked")))
                });
                control.change(|state| state.parked += 1);
                // Nobody listens any more when the machine is being dropped.
                let _ = ended.send(end);
            })?;
            manager.threads.push(thread);
        }
        Ok(manager)
    }

    /// Keeps the guest from running. When it returns no vCPU runs.
    pub(super) fn pause(&self) {
        self.control.change(|state| state.pause = true);
        self.kick();
        drop(self.control.wait_while(|state| state.parked < self.threads.len()));
    }

    /// Lets the guest run again.
    pub(super) fn resume(&self) {
        self.control.change(|state| state.pause = false);
    }

    fn kick(&self) {
        self.kickers.iter().for_each(|kicker| kicker.kick());
    }

    /// Ends the threads, and waits for that.
    pub(super) fn shut_down(&mut self) {
        self.control.change(|state| state.kill = true);
        self.kick();
        for thread in self.threads.drain(..) {
            // Nothing in it can panic but the sending of its end, which does not.
            let _ = thread.join();
        }
    }
}

impl Drop for CpuManager {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn run(vcpu: &mut dyn Vcpu, control: &Control) -> Ended {
    while control.may_run() {
        match vcpu.run() {
            Ok(VmExit::Ignore) => {}
            end => return end,
        }
    }
    Ok(VmExit::Ignore)
}

//! Asking a fake and steering it, beside the system calls.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::kernel::Kernel;
use crate::kernel::observer::{CallRecord, Target};
use crate::transport::pool::Pool;

/// A view of one run of a fake. Works from any thread, while the run goes on and after it.
#[derive(Clone)]
pub struct Handle {
    kernel: Arc<Kernel>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("flavour", &self.kernel.flavour).finish_non_exhaustive()
    }
}

impl Handle {
    pub(super) fn new(kernel: Arc<Kernel>) -> Self {
        Self { kernel }
    }

    /// Waits for the program to close everything, notes what it leaves open, and ends the run.
    pub(super) fn end(&self, pool: &Pool, grace: Duration) {
        if !pool.drain(grace) {
            *self.kernel.observer.leftovers.lock().unwrap_or_else(PoisonError::into_inner) =
                self.kernel.open_objects();
        }
        pool.stop();
        self.kernel.shut_down();
    }

    /// Rings a doorbell of the VM made last, as a write to an irqfd would. False: there is no VM.
    #[must_use = "tells whether there was a VM"]
    pub fn raise(&self, label: u32) -> bool {
        let vm = self.kernel.latest_vm();
        if let Some(vm) = &vm {
            vm.ring(label);
        }
        vm.is_some()
    }

    /// The Resource Manager tells that the VM made last has exited, with a type and a reason; its vCPUs are off. False:
    /// there is no VM.
    #[must_use = "tells whether there was a VM"]
    pub fn vm_exit(&self, exit_type: u16, reason: &[u8]) -> bool {
        let vm = self.kernel.latest_vm();
        if let Some(vm) = &vm {
            vm.die(exit_type, reason);
        }
        vm.is_some()
    }

    /// The hypervisor raises the wake-up interrupt of a vCPU of the VM made last. False: there is no VM.
    #[must_use = "tells whether there was a VM"]
    pub fn wake(&self, vcpu: u32) -> bool {
        let vm = self.kernel.latest_vm();
        if let Some(vm) = &vm {
            vm.wake(vcpu);
        }
        vm.is_some()
    }

    /// What is open now: devices, VMs, vCPUs. A VM counts until its end is over, which may be later than its last close.
    #[must_use]
    pub fn objects(&self) -> Vec<Target> {
        self.kernel.open_objects()
    }

    /// What was still open half a second after the run's closure had returned.
    #[must_use]
    pub fn leftovers(&self) -> Vec<Target> {
        self.kernel.observer.leftovers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The calls answered so far, oldest first; the last 16384 of them.
    #[must_use]
    pub fn calls(&self) -> Vec<CallRecord> {
        self.kernel.observer.calls()
    }

    /// What went wrong in scripts.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.kernel.observer.failures.list()
    }

    /// What the driver would have written to the kernel's log.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.kernel.observer.notes()
    }

    /// How often doorbell `label` was rung, by irqfd or by [`Handle::raise`]. Writes to an eventfd in quick succession
    /// may count as one.
    #[must_use]
    pub fn doorbells(&self, label: u32) -> u64 {
        self.kernel.observer.doorbells(label)
    }

    /// How often `RUN` was called.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.kernel.observer.runs()
    }

    /// Answers that `RUN` took from the page and never gave to the guest, because a signal or `immediate_exit` came
    /// between.
    #[must_use]
    pub fn answers_lost(&self) -> u64 {
        self.kernel.observer.answers_lost()
    }

    /// Exits that were in the page when a signal ended `RUN`: the caller saw `EINTR`, or its call started over.
    #[must_use]
    pub fn exits_lost(&self) -> u64 {
        self.kernel.observer.exits_lost()
    }

    /// VMs that were closed without having started on a flavour that then gives nothing back.
    #[must_use]
    pub fn leaked_vms(&self) -> u64 {
        self.kernel.observer.leaked_vms()
    }
}

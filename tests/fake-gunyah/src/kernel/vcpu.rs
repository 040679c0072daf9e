//! vCPUs: the run page, the states, and `RUN`.
//!
//! The steps stand in the order in which the driver takes them, because the traps come from the order: the answer to a
//! read is consumed before signals and `immediate_exit` are looked at, and a pending signal overrides a finished exit.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gunyah_bindings::v11;

use super::attention::Attention;
use super::completion::{Completion, RunLock};
use super::observer::Exit;
use super::ticket::Ticket;
use super::uapi::{Arg, run};
use super::vm_mgr::{Vm, status};
use super::{Answer, Object, Undo};
use crate::errno::Errno;
use crate::flavour::UnknownState;
use crate::hyp::{HypError, VcpuEngine, VcpuRunResp, resume as resume_action, state as hyp};
use crate::transport::call::{Call, Reply, Watch};
use crate::transport::lane::{Lane, Work};
use crate::transport::page::SharedPage;
use crate::transport::sys;

/// How long a vCPU may run before its thread lets another one receive calls.
const SLICE: Duration = Duration::from_micros(100);

/// The host's timer interrupt: no vCPU runs longer without coming by.
const TICK: Duration = Duration::from_millis(1);

/// Why the last `RUN` came back. The page is never asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has not run yet.
    Unknown,
    /// Nothing is owed to the hypervisor.
    Ready,
    /// A read waits for its answer.
    MmioRead,
    /// A write waits for "handled" or "fault".
    MmioWrite,
    /// The VM has ended.
    SystemDown,
}

/// What `run_lock` protects.
pub(super) struct Inner {
    pub(super) state: State,
    pub(super) mmio_read_len: u64,
    pub(super) mmio_addr: u64,
    attention: Attention,
    /// The hypervisor has been busy with the VM's end once.
    was_busy: bool,
    /// The hypervisor's vCPU, from start on.
    rsc: Option<Box<dyn VcpuEngine>>,
}

/// One vCPU.
pub(crate) struct Vcpu {
    pub(crate) label: u32,
    pub(crate) vm: Arc<Vm>,
    /// The function exists. The file outlives it.
    bound: AtomicBool,
    pub(super) page: SharedPage,
    ready: Arc<Completion>,
    run_lock: RunLock,
    inner: Mutex<Inner>,
    /// Where `RUN` is served, if that matters to the hypervisor's vCPU.
    pub(super) lane: Mutex<Option<Lane>>,
}

/// What one `RUN` did, for the log and the counters.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) exit: Option<Exit>,
    /// An answer has been taken from the page and no hypercall has carried it on.
    answer_in_hand: bool,
}

impl Vcpu {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The function's birth: the vCPU and its file.
    pub(crate) fn bind(vm: &Arc<Vm>, arg: &[u8], call: &Call<'_>) -> Result<(Arc<Self>, OwnedFd), Errno> {
        let kernel = vm.kernel();
        if kernel.differences.vcpu_feature_check && !kernel.hypervisor.vcpu {
            return Err(Errno::EOPNOTSUPP);
        }
        if arg.len() != v11::gh_fn_vcpu_arg::SIZE {
            return Err(Errno::EINVAL);
        }
        let label = v11::gh_fn_vcpu_arg::parse(arg).id;
        let size = sys::page_size();
        let file = kernel.files.create(size as u64)?;
        let vcpu = Arc::new(Self {
            label,
            vm: Arc::clone(vm),
            bound: AtomicBool::new(true),
            page: SharedPage::new(file.mapping),
            ready: Arc::default(),
            run_lock: RunLock::default(),
            inner: Mutex::new(Inner {
                state: State::Unknown,
                mmio_read_len: 0,
                mmio_addr: 0,
                attention: Attention::default(),
                was_busy: false,
                rsc: None,
            }),
            lane: Mutex::default(),
        });
        vm.add_resource_ticket(&Ticket::Vcpu(Arc::clone(&vcpu)), call)?;
        if !vm.get() {
            vm.remove_resource_ticket(&Ticket::Vcpu(Arc::clone(&vcpu)), Some(call));
            return Err(Errno::ENODEV);
        }
        vm.notifiers().push(Arc::clone(&vcpu));
        kernel.add_object(file.id, Object::vcpu(&vcpu));
        Ok((vcpu, file.theirs))
    }

    /// The function's end. The file stays, and answers `ENODEV`.
    pub(crate) fn unbind(self: &Arc<Self>, vm: &Vm, call: Option<&Call<'_>>) {
        vm.notifiers().retain(|other| !Arc::ptr_eq(other, self));
        vm.remove_resource_ticket(&Ticket::Vcpu(Arc::clone(self)), call);
        self.bound.store(false, Ordering::Release);
    }

    /// The start has brought the hypervisor's vCPU. Gives it back if there is one already.
    pub(crate) fn populate(
        &self,
        engine: Box<dyn VcpuEngine>,
        call: Option<&Call<'_>>,
    ) -> Option<Box<dyn VcpuEngine>> {
        let _lock = self.run_lock.lock(call);
        let mut inner = self.inner();
        if inner.rsc.is_some() {
            return Some(engine);
        }
        if let (true, Some(call)) = (engine.kicker().is_some(), call) {
            // Without one any thread does, if slowly.
            *self.lane.lock().unwrap_or_else(PoisonError::into_inner) = Lane::start(call.pool()).ok();
        }
        inner.rsc = Some(engine);
        self.ready.reinit();
        self.vm.request_irq(self.label, &self.ready);
        None
    }

    /// Takes the hypervisor's vCPU away: a `RUN` in progress ends with `EINTR`.
    pub(crate) fn unpopulate(&self, call: Option<&Call<'_>>) -> Option<Box<dyn VcpuEngine>> {
        self.page.write(run::IMMEDIATE_EXIT, &[1]);
        self.ready.complete_all();
        let _lock = self.run_lock.lock(call);
        self.vm.free_irq(self.label);
        *self.lane.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.inner().rsc.take()
    }

    /// A hypervisor or a kernel gone wrong writes into the page.
    pub(crate) fn scribble(&self, offset: usize, bytes: &[u8]) {
        self.page.write(offset, bytes);
    }

    /// The Resource Manager has told that the VM exited; the VM manager knows already.
    pub(crate) fn rm_exited(&self) {
        self.ready.complete();
    }

    /// The VM's status as the page names it.
    fn remap_vm_status(&self, vm_status: u32) -> u32 {
        match vm_status {
            status::INIT_FAILED => v11::gh_vm_status::GH_VM_STATUS_LOAD_FAILED.0,
            status::EXITED => v11::gh_vm_status::GH_VM_STATUS_EXITED.0,
            _ => v11::gh_vm_status::GH_VM_STATUS_CRASHED.0,
        }
    }

    /// Whether the VM is alive; if not, that is the exit, and this vCPU's last.
    fn check_system(&self, inner: &mut Inner, progress: &mut Progress, call: &Call<'_>) -> bool {
        let (vm_status, info) = self.vm.read_status(call);
        if vm_status == status::RUNNING {
            return true;
        }
        let shown = self.remap_vm_status(vm_status);
        self.page.write(run::STATUS, &shown.to_le_bytes());
        self.page.write(run::STATUS_EXIT_INFO, &info.to_bytes());
        self.exit(v11::GH_VCPU_EXIT_STATUS);
        progress.exit = Some(Exit::Status { status: shown, info });
        inner.state = State::SystemDown;
        false
    }

    pub(super) fn exit(&self, reason: u32) {
        self.page.write(run::EXIT_REASON, &reason.to_le_bytes());
    }

    /// Has the lane serve a `RUN`, if there is one and it is free, or does it here.
    pub(super) fn in_lane(&self, call: &Call<'_>, work: Work) {
        let here = match &*self.lane.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(lane) => lane.serve(call.notif, work).err(),
            None => Some(work),
        };
        if let Some(work) = here {
            work(call);
        }
    }

    /// `RUN`.
    pub(crate) fn run(self: &Arc<Self>, call: &Call<'_>) -> Result<Answer, Errno> {
        self.vm.kernel().observer.run();
        if !self.bound.load(Ordering::Acquire) {
            return Err(Errno::ENODEV);
        }
        let mut progress = Progress::default();
        let result = {
            let _lock = self.run_lock.lock_interruptible(call)?;
            let mut inner = self.inner();
            let attentive = inner.attention.due();
            let result = self.run_locked(&mut inner, &mut progress, call, attentive);
            // A pending signal overrides everything. The exit stays in the page, where a caller that only looks at the
            // result will miss it.
            let signal = if attentive { call.signal_pending() } else { call.interrupted() };
            if attentive {
                inner.attention.saw(signal.is_some());
            }
            signal.map_or(result, Err)
        };
        if progress.answer_in_hand {
            self.vm.kernel().observer.answer_lost();
        }
        let reply = result.map_or_else(Reply::Error, |()| Reply::Value(0));
        Ok(Answer { reply, undo: Undo::Run(progress.exit) })
    }

    fn run_locked(
        &self,
        inner: &mut Inner,
        progress: &mut Progress,
        call: &Call<'_>,
        attentive: bool,
    ) -> Result<(), Errno> {
        if inner.rsc.is_none() {
            return Err(Errno::ENODEV);
        }
        let differences = &self.vm.kernel().differences;
        let mut resume = [0u64; 3];
        match inner.state {
            State::Unknown => {
                // While the VM starts this waits for the end of the start.
                if !self.vm.is_running() && !self.check_system(inner, progress, call) {
                    return Ok(());
                }
                inner.state = State::Ready;
            }
            State::MmioRead | State::MmioWrite => {
                let owed = inner.state == State::MmioRead;
                self.consume_answer(inner, &mut resume)?;
                progress.answer_in_hand = owed || resume[1] == resume_action::FAULT;
            }
            State::SystemDown => return Ok(()),
            State::Ready => {}
        }
        if differences.demand_paging && differences.owner_check {
            self.vm.check_owner(call)?;
        }
        // A signal that is pending here takes the answer with it. Without an answer it makes no difference whether it
        // is seen now or at the end.
        if attentive && progress.answer_in_hand {
            if let Some(errno) = call.signal_pending() {
                return Err(errno);
            }
        }

        let started = Instant::now();
        loop {
            if let Some(errno) = call.signal_seen() {
                return Err(errno);
            }
            if self.page.byte(run::IMMEDIATE_EXIT) != 0 {
                return Err(Errno::EINTR);
            }
            let resp = self.hypercall(inner, resume, started, call);
            progress.answer_in_hand = false;
            if differences.answer_clamped {
                resume = [0; 3];
            }
            let resp = match resp {
                Ok(resp) => resp,
                Err(HypError::Retry) => {
                    schedule(started, call);
                    continue;
                }
                Err(error) => return Err(remap_error(error)),
            };
            match resp.state {
                hyp::READY | hyp::BLOCKED => schedule(started, call),
                hyp::POWERED_OFF => {
                    // Off because the VM is: then it never runs again. Else another vCPU will turn it on.
                    if !self.check_system(inner, progress, call)
                        || !self.wait_for_wakeup(inner, progress, call)?
                    {
                        return Ok(());
                    }
                }
                hyp::EXPECTS_WAKEUP => {
                    if !self.wait_for_wakeup(inner, progress, call)? {
                        return Ok(());
                    }
                }
                hyp::MMIO_READ | hyp::MMIO_WRITE => {
                    if !self.handle_mmio(inner, progress, &resp) {
                        return Ok(());
                    }
                }
                hyp::PAGE_FAULT if differences.demand_paging => {
                    if !self.handle_page_fault(progress, &resp) {
                        return Ok(());
                    }
                }
                other => {
                    self.vm
                        .kernel()
                        .observer
                        .note(|| format!("vCPU {}: unknown state {other:#x}", self.label));
                    if differences.unknown_state == UnknownState::Invalid {
                        return Err(Errno::EINVAL);
                    }
                    schedule(started, call);
                }
            }
        }
    }

    /// The hypercall. A long one lets other threads receive calls meanwhile.
    fn hypercall(
        &self,
        inner: &mut Inner,
        resume: [u64; 3],
        started: Instant,
        call: &Call<'_>,
    ) -> Result<VcpuRunResp, HypError> {
        let resp = self.vcpu_run(inner, resume, started, call);
        let off = resp.is_ok_and(|resp| resp.state == hyp::POWERED_OFF);
        let ended = off && self.vm.status() == status::EXITED;
        if ended && self.vm.kernel().differences.busy_at_end && !std::mem::replace(&mut inner.was_busy, true)
        {
            return Err(HypError::Busy);
        }
        resp
    }

    fn vcpu_run(
        &self,
        inner: &mut Inner,
        resume: [u64; 3],
        started: Instant,
        call: &Call<'_>,
    ) -> Result<VcpuRunResp, HypError> {
        let Some(engine) = &mut inner.rsc else { return Err(HypError::Invalid) };
        if let Some(kicker) = engine.kicker() {
            let page = self.page.clone();
            let wanted = Box::new(move || page.byte(run::IMMEDIATE_EXIT) != 0);
            let _watching = call.watch(Watch { kicker, wanted });
            let preempt = || self.page.byte(run::IMMEDIATE_EXIT) != 0 || call.signal_seen().is_some();
            return engine.vcpu_run(resume, &preempt);
        }
        let entered = Instant::now();
        let preempt = || {
            if call.leads() && started.elapsed() > SLICE {
                call.may_sleep();
            }
            // The host's timer tick comes, too: the loop then looks at `immediate_exit`.
            entered.elapsed() > TICK || call.signal_seen().is_some()
        };
        engine.vcpu_run(resume, &preempt)
    }

    /// Sleeps until the hypervisor's interrupt or the VM's end. False: the VM's end.
    fn wait_for_wakeup(
        &self,
        inner: &mut Inner,
        progress: &mut Progress,
        call: &Call<'_>,
    ) -> Result<bool, Errno> {
        let woken = self.ready.wait_interruptible(call);
        // Before the next hypercall, so that an interrupt that comes with it is not forgotten.
        self.ready.reinit();
        woken?;
        Ok(self.check_system(inner, progress, call))
    }
}

/// Lets others run. A call that keeps coming here becomes one that may take long, and then burns no CPU for it.
fn schedule(started: Instant, call: &Call<'_>) {
    if started.elapsed() > SLICE {
        call.may_sleep();
    }
    if call.leads() {
        std::thread::yield_now();
    } else {
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// A hypervisor error as an errno.
fn remap_error(error: HypError) -> Errno {
    match error {
        HypError::NoMem => Errno::ENOMEM,
        HypError::Denied => Errno::EACCES,
        HypError::Busy => Errno::EBUSY,
        HypError::Io => Errno::EIO,
        HypError::Unimplemented => Errno::EOPNOTSUPP,
        HypError::Retry => Errno::EAGAIN,
        HypError::Invalid => Errno::EINVAL,
    }
}

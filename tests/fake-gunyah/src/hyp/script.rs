//! Scripted guests: a vCPU that gives the answers of a list.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{HypError, VcpuEngine, VcpuRunResp, VmEvents, state};

/// One answer of the hypervisor's `vcpu_run`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The call succeeds with this state.
    State(VcpuRunResp),
    /// The call fails.
    Error(HypError),
    /// The VM exits: the Resource Manager's notification goes out, then the vCPU is off.
    Exit {
        /// The exit type.
        exit_type: u16,
        /// The reason, as many bytes as the Resource Manager sends.
        reason: Vec<u8>,
    },
}

impl Answer {
    /// The guest loads `len` bytes from `addr`.
    #[must_use]
    pub fn mmio_read(addr: u64, len: u64) -> Self {
        Self::state(state::MMIO_READ, [addr, len, 0])
    }

    /// The guest stores the low `len` bytes of `value` to `addr`.
    #[must_use]
    pub fn mmio_write(addr: u64, len: u64, value: u64) -> Self {
        Self::state(state::MMIO_WRITE, [addr, len, value])
    }

    /// Any state with its data.
    #[must_use]
    pub fn state(state: u64, data: [u64; 3]) -> Self {
        Self::State(VcpuRunResp { state, data })
    }

    /// The VM exits.
    #[must_use]
    pub fn exit(exit_type: u16, reason: &[u8]) -> Self {
        Self::Exit { exit_type, reason: reason.to_vec() }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Answer(Answer),
    /// The resume word's low bytes at the next call.
    Expect(u64),
    Repeat(u64, Arc<[Step]>),
    /// Sleep until the host rings this doorbell.
    WaitDoorbell(u32),
}

type Function = dyn FnMut([u64; 3]) -> Answer + Send;

/// What one vCPU does: each call of the hypervisor's `vcpu_run` takes the next step.
///
/// After the last step the vCPU is off.
///
/// ```
/// use fake_gunyah::Script;
/// // Echo: load four bytes and expect what the host answered, store them, power off.
/// let script = Script::new()
///     .mmio_read(0x1000, 4)
///     .expect(0x1234_5678)
///     .mmio_write(0x1008, 4, 0x1234_5678)
///     .exit(1, &[0; 4]);
/// # let _ = script;
/// ```
#[derive(Clone, Default)]
pub struct Script {
    steps: Vec<Step>,
    function: Option<Arc<Mutex<Function>>>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.function {
            Some(_) => f.write_str("Script(function)"),
            None => f.debug_tuple("Script").field(&self.steps).finish(),
        }
    }
}

impl Script {
    /// A script without steps: a vCPU that is off.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A function that gives each answer. It gets the resume words: word 0 answers the last MMIO read, word 1 tells an
    /// emulated access (0) from one to try again (1) or to abort (2).
    ///
    /// It must not block: other calls may wait for it. A panic in it is a failure of the script.
    #[must_use]
    pub fn from_fn(function: impl FnMut([u64; 3]) -> Answer + Send + 'static) -> Self {
        Self { steps: Vec::new(), function: Some(Arc::new(Mutex::new(function))) }
    }

    fn push(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Any answer.
    #[must_use]
    pub fn answer(self, answer: Answer) -> Self {
        self.push(Step::Answer(answer))
    }

    /// The guest loads `len` bytes from `addr`.
    #[must_use]
    pub fn mmio_read(self, addr: u64, len: u64) -> Self {
        self.answer(Answer::mmio_read(addr, len))
    }

    /// After a read: the value that the guest must get, as wide as the read. Looked at when the vCPU runs next.
    #[must_use]
    pub fn expect(self, value: u64) -> Self {
        self.push(Step::Expect(value))
    }

    /// The guest stores the low `len` bytes of `value` to `addr`.
    #[must_use]
    pub fn mmio_write(self, addr: u64, len: u64, value: u64) -> Self {
        self.answer(Answer::mmio_write(addr, len, value))
    }

    /// The time slice ends.
    #[must_use]
    pub fn ready(self) -> Self {
        self.state(state::READY, [0; 3])
    }

    /// The vCPU is blocked in the hypervisor.
    #[must_use]
    pub fn blocked(self) -> Self {
        self.state(state::BLOCKED, [0; 3])
    }

    /// The guest waits for an interrupt: [`wake`](crate::Handle::wake), or any doorbell.
    #[must_use]
    pub fn wfi(self) -> Self {
        self.state(state::EXPECTS_WAKEUP, [0; 3])
    }

    /// The guest waits until the host has rung doorbell `label`, now or earlier.
    #[must_use]
    pub fn wait_doorbell(self, label: u32) -> Self {
        self.push(Step::WaitDoorbell(label))
    }

    /// The vCPU is off, until a wake-up.
    #[must_use]
    pub fn powered_off(self) -> Self {
        self.state(state::POWERED_OFF, [0; 3])
    }

    /// The guest touches memory at `addr` that is not mapped yet.
    #[must_use]
    pub fn page_fault(self, addr: u64, write: bool) -> Self {
        self.state(state::PAGE_FAULT, [addr, u64::from(write), 0])
    }

    /// Any state with its data.
    #[must_use]
    pub fn state(self, state: u64, data: [u64; 3]) -> Self {
        self.answer(Answer::state(state, data))
    }

    /// The hypercall fails.
    #[must_use]
    pub fn error(self, error: HypError) -> Self {
        self.answer(Answer::Error(error))
    }

    /// The VM exits with a type and a reason; from then on the vCPU is off.
    #[must_use]
    pub fn exit(self, exit_type: u16, reason: &[u8]) -> Self {
        self.answer(Answer::exit(exit_type, reason))
    }

    /// The steps that `body` adds, `times` times over.
    #[must_use]
    pub fn repeat(self, times: u64, body: impl FnOnce(Self) -> Self) -> Self {
        let body = body(Self::new());
        self.push(Step::Repeat(times, body.steps.into()))
    }
}

/// What went wrong in scripts.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    list: Mutex<Vec<String>>,
}

/// More failures than this say nothing new.
const MAX_FAILURES: usize = 100;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Failures {
    pub(crate) fn add(&self, text: String) {
        let mut list = lock(&self.list);
        if list.len() < MAX_FAILURES {
            list.push(text);
        }
    }

    pub(crate) fn list(&self) -> Vec<String> {
        lock(&self.list).clone()
    }
}

/// What the scripts of one VM share.
pub(crate) struct ScriptVm {
    events: Arc<dyn VmEvents>,
    failures: Arc<Failures>,
    rung: Mutex<HashMap<u32, u64>>,
    /// The VM has ended: every vCPU is off.
    over: AtomicBool,
}

impl ScriptVm {
    pub(crate) fn new(events: Arc<dyn VmEvents>, failures: Arc<Failures>) -> Arc<Self> {
        Arc::new(Self { events, failures, rung: Mutex::default(), over: AtomicBool::new(false) })
    }

    pub(crate) fn engine(self: &Arc<Self>, vcpu: u32, script: &Script) -> Box<dyn VcpuEngine> {
        let steps = script.steps.clone().into();
        Box::new(Engine {
            vm: Arc::clone(self),
            vcpu,
            function: script.function.clone(),
            frames: vec![Frame { steps, at: 0, left: 0 }],
            last_read: None,
            step: 0,
        })
    }

    pub(crate) fn stop(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(crate) fn ring(&self, label: u32) {
        *lock(&self.rung).entry(label).or_default() += 1;
    }

    fn was_rung(&self, label: u32) -> bool {
        lock(&self.rung).remove(&label).is_some()
    }
}

struct Frame {
    steps: Arc<[Step]>,
    at: usize,
    /// Rounds after this one.
    left: u64,
}

struct Engine {
    vm: Arc<ScriptVm>,
    vcpu: u32,
    function: Option<Arc<Mutex<Function>>>,
    frames: Vec<Frame>,
    last_read: Option<(u64, u64)>,
    step: u64,
}

impl Engine {
    /// The step that is due, without taking it; `None` at the end.
    fn peek(&mut self) -> Option<Step> {
        loop {
            let frame = self.frames.last_mut()?;
            match frame.steps.get(frame.at) {
                Some(Step::Repeat(times, body)) => {
                    frame.at += 1;
                    if let Some(left) = times.checked_sub(1) {
                        let steps = Arc::clone(body);
                        self.frames.push(Frame { steps, at: 0, left });
                    }
                }
                Some(step) => return Some(step.clone()),
                None if frame.left > 0 && !frame.steps.is_empty() => {
                    frame.left -= 1;
                    frame.at = 0;
                }
                None => {
                    self.frames.pop();
                }
            }
        }
    }

    fn take(&mut self) {
        self.step += 1;
        if let Some(frame) = self.frames.last_mut() {
            frame.at += 1;
        }
    }

    fn check(&self, expected: u64, got: u64) {
        let Some((addr, len)) = self.last_read else {
            let text = format!("vCPU {}, step {}: expects the value of no read", self.vcpu, self.step);
            return self.vm.failures.add(text);
        };
        let mask = if len < 8 { (1 << (8 * len)) - 1 } else { u64::MAX };
        if got & mask != expected & mask {
            self.vm.failures.add(format!(
                "vCPU {}, step {}: a load of {len} bytes from {addr:#x} got {:#x} instead of {:#x}",
                self.vcpu,
                self.step,
                got & mask,
                expected & mask
            ));
        }
    }

    fn next(&mut self, resume: [u64; 3]) -> Answer {
        if let Some(function) = &self.function {
            let mut function = lock(function);
            // A panic must not take the fake's own thread with it.
            return catch_unwind(AssertUnwindSafe(|| function(resume))).unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
                self.vm.failures.add(format!("vCPU {}: {text}", self.vcpu));
                Answer::exit(gunyah_bindings::exit::HYPERVISOR_ERROR, &[])
            });
        }
        while let Some(step) = self.peek() {
            match step {
                Step::Expect(value) => {
                    self.check(value, resume[0]);
                    self.take();
                }
                Step::WaitDoorbell(label) => {
                    if !self.vm.was_rung(label) {
                        return Answer::state(state::EXPECTS_WAKEUP, [0; 3]);
                    }
                    self.take();
                }
                Step::Answer(answer) => {
                    self.take();
                    return answer;
                }
                Step::Repeat(..) => {}
            }
        }
        Answer::state(state::POWERED_OFF, [0; 3])
    }
}

impl VcpuEngine for Engine {
    fn vcpu_run(&mut self, resume: [u64; 3], _preempt: &dyn Fn() -> bool) -> Result<VcpuRunResp, HypError> {
        const OFF: VcpuRunResp = VcpuRunResp { state: state::POWERED_OFF, data: [0; 3] };
        if self.vm.over.load(Ordering::Acquire) {
            return Ok(OFF);
        }
        match self.next(resume) {
            Answer::State(resp) => {
                if resp.state == state::MMIO_READ {
                    self.last_read = Some((resp.data[0], resp.data[1]));
                }
                Ok(resp)
            }
            Answer::Error(error) => Err(error),
            Answer::Exit { exit_type, reason } => {
                self.vm.stop();
                self.vm.events.vm_exited(exit_type, &reason);
                Ok(OFF)
            }
        }
    }
}

//! One vCPU.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kvm_bindings::{KVM_EXIT_ARM_NISV, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_vcpu_events};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::sys;
use super::vm::KvmVm;
use crate::errno::Errno;
use crate::hyp::machine::exit_type;
use crate::hyp::{HypError, Kicker, VcpuEngine, VcpuRunResp, resume, state};

/// Flag of a reset event: it was SYSTEM_RESET2.
const RESET2: u64 = 1;

type Outcome = Result<VcpuRunResp, HypError>;

/// Which thread is in the guest: 0 for none.
#[derive(Debug, Default)]
pub(super) struct Runner {
    tid: AtomicI32,
    /// The page that it was refused: its address, and whether it was written.
    refused: Mutex<Option<(u64, bool)>>,
}

impl Runner {
    pub(super) fn remember_fault(&self, tid: u32, ipa: u64, write: bool) {
        if i32::try_from(tid) == Ok(self.tid.load(Ordering::SeqCst)) {
            *self.refused() = Some((ipa, write));
        }
    }

    fn refused(&self) -> MutexGuard<'_, Option<(u64, bool)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kicker for Runner {
    /// A thread that is on its way into the guest comes out at once, one that has just left it a little earlier the next
    /// time.
    fn kick(&self) {
        let tid = self.tid.load(Ordering::SeqCst);
        if tid != 0 {
            sys::kick(tid);
        }
    }
}

/// The vCPU as the driver runs it. KVM wants one thread for each vCPU: another one costs it a grace period.
pub(super) struct Engine {
    id: u32,
    fd: VcpuFd,
    vm: Weak<KvmVm>,
    runner: Arc<Runner>,
    /// The access that waits for its answer.
    mmio: Option<Access>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Load,
    Store,
}

/// What `KVM_RUN` came back with, in our terms.
enum Exit {
    Load { addr: u64, len: usize },
    Store { addr: u64, len: usize, value: u64 },
    SystemEvent { kind: u32, flags: u64 },
    Undescribed,
    Interrupted,
    Failed(Errno),
    Other(String),
}

fn answer(state: u64, data: [u64; 3]) -> VcpuRunResp {
    VcpuRunResp { state, data }
}

impl VcpuEngine for Engine {
    fn vcpu_run(&mut self, resume: [u64; 3], preempt: &dyn Fn() -> bool) -> Outcome {
        let Some(vm) = self.vm.upgrade() else { return Ok(answer(state::POWERED_OFF, [0; 3])) };
        if vm.ended() {
            return Ok(answer(state::POWERED_OFF, [0; 3]));
        }
        self.resume(resume)?;
        self.runner.tid.store(sys::thread_id(), Ordering::SeqCst);
        // Who kicks says why first. So either that is seen here, or the kick finds this thread.
        let exit = if vm.ended() || preempt() { Exit::Interrupted } else { self.enter() };
        self.runner.tid.store(0, Ordering::SeqCst);
        if let Exit::Interrupted = exit {
            sys::forget_kicks();
        }
        if vm.ended() {
            return Ok(answer(state::POWERED_OFF, [0; 3]));
        }
        Ok(self.answer(&vm, exit))
    }

    fn kicker(&self) -> Option<Arc<dyn Kicker>> {
        Some(Arc::clone(&self.runner) as Arc<dyn Kicker>)
    }
}

impl Engine {
    pub(super) fn new(vm: &Arc<KvmVm>, id: u32, fd: VcpuFd) -> Self {
        let runner = Arc::new(Runner::default());
        vm.add_runner(&runner);
        Self { id, fd, vm: Arc::downgrade(vm), runner, mmio: None }
    }

    /// Tells KVM what became of the access that it reported last.
    fn resume(&mut self, [data, action, _]: [u64; 3]) -> Result<(), HypError> {
        let Some(access) = self.mmio else { return Ok(()) };
        match action {
            resume::EMULATE if access == Access::Load => sys::answer_mmio(&mut self.fd, data),
            resume::EMULATE => {}
            resume::RETRY => sys::forget_mmio(&mut self.fd),
            resume::FAULT => {
                sys::forget_mmio(&mut self.fd);
                let mut events = kvm_vcpu_events::default();
                events.exception.ext_dabt_pending = 1;
                self.fd.set_vcpu_events(&events).map_err(|_| HypError::Invalid)?;
            }
            _ => return Err(HypError::Invalid),
        }
        // KVM takes an answer when the vCPU is next entered, also when it then has a kick to deal with first.
        self.mmio = None;
        Ok(())
    }

    fn enter(&mut self) -> Exit {
        let value = |data: &[u8]| {
            let mut bytes = [0; 8];
            bytes.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
            u64::from_le_bytes(bytes)
        };
        match self.fd.run() {
            Ok(VcpuExit::MmioRead(addr, data)) => Exit::Load { addr, len: data.len() },
            Ok(VcpuExit::MmioWrite(addr, data)) => Exit::Store { addr, len: data.len(), value: value(data) },
            Ok(VcpuExit::SystemEvent(kind, data)) => {
                Exit::SystemEvent { kind, flags: data.first().copied().unwrap_or(0) }
            }
            Ok(VcpuExit::Unsupported(KVM_EXIT_ARM_NISV)) => Exit::Undescribed,
            Ok(VcpuExit::Intr) => Exit::Interrupted,
            Ok(other) => Exit::Other(format!("an exit that the fake does not know: {other:?}")),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN => Exit::Interrupted,
                errno => Exit::Failed(Errno(errno)),
            },
        }
    }

    fn answer(&mut self, vm: &KvmVm, exit: Exit) -> VcpuRunResp {
        match exit {
            Exit::Load { addr, len } => {
                self.mmio = Some(Access::Load);
                answer(state::MMIO_READ, [addr, len as u64, 0])
            }
            Exit::Store { addr, len, value } => {
                self.mmio = Some(Access::Store);
                answer(state::MMIO_WRITE, [addr, len as u64, value])
            }
            Exit::SystemEvent { kind, flags } => self.system_event(vm, kind, flags),
            Exit::Undescribed => {
                let addr = sys::undescribed_access(&mut self.fd);
                self.fault(vm, &format!("an access at {addr:#x} that the processor does not describe"), addr)
            }
            Exit::Interrupted => answer(state::READY, [0; 3]),
            Exit::Failed(Errno::EFAULT) => match self.runner.refused().take() {
                Some((ipa, write)) => {
                    if let Some(place) = vm.place(ipa) {
                        place.end_refusal();
                    }
                    answer(state::PAGE_FAULT, [ipa, write.into(), 0])
                }
                None => self.fault(vm, "KVM_RUN: EFAULT", 0),
            },
            Exit::Failed(errno) => self.fault(vm, &format!("KVM_RUN: {errno}"), 0),
            Exit::Other(what) => self.fault(vm, &what, 0),
        }
    }

    fn system_event(&self, vm: &KvmVm, kind: u32, flags: u64) -> VcpuRunResp {
        match kind {
            KVM_SYSTEM_EVENT_SHUTDOWN => vm.end(exit_type::SYSTEM_OFF, &[0; 4]),
            KVM_SYSTEM_EVENT_RESET if flags & RESET2 != 0 => {
                let mut reason = [0; 16];
                let (kind, cookie) = (self.register(sys::x(1)), self.register(sys::x(2)));
                let words = kind.to_le_bytes().into_iter().take(4).chain(cookie.to_le_bytes());
                reason.iter_mut().zip(words).for_each(|(to, from)| *to = from);
                vm.end(exit_type::SYSTEM_RESET2, &reason);
            }
            KVM_SYSTEM_EVENT_RESET => vm.end(exit_type::SYSTEM_RESET, &[0; 4]),
            other => return self.fault(vm, &format!("system event {other}"), 0),
        }
        answer(state::POWERED_OFF, [0; 3])
    }

    fn register(&self, id: u64) -> u64 {
        let mut bytes = [0; 8];
        match self.fd.get_one_reg(id, &mut bytes) {
            Ok(_) => u64::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }

    /// The vCPU cannot go on, and with it the VM.
    fn fault(&self, vm: &KvmVm, what: &str, addr: u64) -> VcpuRunResp {
        let pc = self.register(sys::PC);
        vm.fault(self.id, pc, what, addr);
        answer(state::FAULT, [pc, 0, 0])
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(vm) = self.vm.upgrade() {
            vm.remove_runner(&self.runner);
        }
    }
}

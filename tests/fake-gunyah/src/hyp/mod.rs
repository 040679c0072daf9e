//! The hypervisor below the driver: what its `vcpu_run` call answers.

mod alarm;
mod engine;
pub mod gic;
#[cfg_attr(not(all(feature = "kvm", target_arch = "aarch64")), path = "kvm_absent.rs")]
pub(crate) mod kvm;
pub mod machine;
mod machine_bus;
mod machine_engine;
mod psci;
pub mod script;

use std::sync::Arc;

use crate::errno::Errno;

pub use engine::{Engine, NoEngine};

/// What one `vcpu_run` hypercall answers when it succeeds: a state and its three words of data.
///
/// `state` is one of the [`state`] numbers; for an MMIO read or write, `data` is the address, the length in bytes
/// and (for a write) the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuRunResp {
    /// The vCPU's state, a number of [`state`] or one that a driver does not know.
    pub state: u64,
    /// What belongs to the state.
    pub data: [u64; 3],
}

/// The vCPU states that `vcpu_run` answers.
pub mod state {
    /// The vCPU can run again: a host interrupt or the end of the time slice stopped it.
    pub const READY: u64 = 0;
    /// The vCPU sleeps until an interrupt for it arrives (WFI).
    pub const EXPECTS_WAKEUP: u64 = 1;
    /// The vCPU is off: never turned on, turned off by PSCI, or the VM has ended.
    pub const POWERED_OFF: u64 = 2;
    /// The vCPU is blocked in EL2.
    pub const BLOCKED: u64 = 3;
    /// The guest loads from an address that user space may answer.
    pub const MMIO_READ: u64 = 4;
    /// The guest stores to an address that user space may take.
    pub const MMIO_WRITE: u64 = 5;
    /// The vCPU took an unrecoverable fault.
    pub const FAULT: u64 = 6;
    /// The guest touched memory that is not mapped yet (guest-memory and later Android flavours).
    pub const PAGE_FAULT: u64 = 7;
}

/// Resume actions, in the second resume word: emulate the access, execute the instruction again, inject an abort. The
/// first word is the data of a read that is emulated.
pub(crate) mod resume {
    pub(crate) const EMULATE: u64 = 0;
    pub(crate) const RETRY: u64 = 1;
    pub(crate) const FAULT: u64 = 2;
}

/// A hypervisor error, by its meaning; the driver maps it to an errno.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HypError {
    /// Out of memory: ENOMEM.
    NoMem,
    /// The capability does not allow it: EACCES.
    Denied,
    /// The object is busy: EBUSY.
    Busy,
    /// An interrupt or a message queue is not as it should be: EIO.
    Io,
    /// Not built in: EOPNOTSUPP.
    Unimplemented,
    /// Try again: the driver does.
    Retry,
    /// Anything else: EINVAL.
    Invalid,
}

/// The hypervisor's side of one vCPU.
///
/// The driver calls [`VcpuEngine::vcpu_run`] in a loop, exactly where the real one makes the `vcpu_run` hypercall.
pub trait VcpuEngine: Send {
    /// Runs the vCPU until something happens.
    ///
    /// `resume` are the hypercall's resume words: word 0 answers an earlier MMIO read. `preempt` says whether the host
    /// has work (a signal for the caller, say): a long-running engine asks now and then and answers
    /// [`state::READY`] when it is true, as a real vCPU does when a host interrupt arrives.
    ///
    /// # Errors
    ///
    /// What the hypercall itself ends with.
    fn vcpu_run(&mut self, resume: [u64; 3], preempt: &dyn Fn() -> bool) -> Result<VcpuRunResp, HypError>;

    /// What calls the vCPU back from another thread, for an engine that does not ask `preempt` by itself while the guest runs.
    /// Such an engine's `preempt` is true for a signal and for `immediate_exit`, not for the host's timer, and whoever
    /// kicks has made it true before.
    fn kicker(&self) -> Option<Arc<dyn Kicker>> {
        None
    }
}

/// Calls a vCPU out of its guest.
pub trait Kicker: Send + Sync {
    /// Ends the `vcpu_run` that is under way, or if there is none, nothing or the next one.
    fn kick(&self);
}

/// What an engine that gets memory page by page may ask, too.
pub(crate) trait Pager: VmEvents {
    /// The guest touches a page that it has not got. When this is `Ok` it has.
    #[cfg_attr(not(all(feature = "kvm", target_arch = "aarch64")), expect(dead_code, reason = "KVM's"))]
    fn page_in(&self, ipa: u64, write: bool) -> Result<(), Errno>;
}

/// What an engine may ask of the rest of the VM, from any thread.
pub trait VmEvents: Send + Sync {
    /// The hypervisor raises the wake-up interrupt of vCPU `id`: it can be scheduled again.
    fn wake(&self, id: u32);
    /// The Resource Manager tells the driver that the VM has exited, with the exit type and the reason bytes.
    fn vm_exited(&self, exit_type: u16, reason: &[u8]);
}

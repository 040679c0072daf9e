//! Guests of arm64 code on the host's KVM: the same driver above, real execution below.
//!
//! # What differs from the interpreter
//!
//! * The guest has a GICv3, where its devicetree says, and the virtual timer. A doorbell is an interrupt of that GIC; WFI and
//!   vCPUs that are off sleep inside KVM.
//! * An irqfd (of an edge-triggered doorbell) and an ioeventfd are KVM's own from the start on. KVM's irqfd takes the
//!   eventfd's counter, which the driver leaves alone, and such signals are not counted as rung doorbells.
//! * KVM's GICv3 has the SPIs 0 to 959.
//! * A guest that faults takes the exception itself. Only what KVM cannot carry out ends the VM: an access outside of RAM by an
//!   instruction that the processor does not describe (a load of two registers, say).
//! * Memory that may not be executed can be: KVM has no such right.

mod demand;
mod levels;
mod lines;
mod memory;
mod sys;
mod vcpu;
mod vm;

pub(crate) use vm::{KvmVm, available};

use crate::errno::Errno;

/// What KVM refused.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("KVM: {what}: {errno}")]
pub(crate) struct Refused {
    what: &'static str,
    pub(crate) errno: Errno,
}

/// Names a step of KVM's for its error.
fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Refused {
    move |error| Refused { what, errno: Errno(error.errno()) }
}

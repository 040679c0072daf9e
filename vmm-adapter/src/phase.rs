//! The life of a VM.

use std::fmt;

/// Where in its life a VM is.
///
/// A backend whose hypervisor has no such phases walks through them all the same, so that a VMM that was written on one
/// backend does not break on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Memory, interrupt lines and vCPUs are being declared.
    Configuring,
    /// [`Vm::start`](crate::Vm::start) succeeded: vCPUs can run.
    Running,
    /// The VM has ended, or its start failed. It cannot be started again: make a new one.
    Stopped,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Configuring => "being configured",
            Self::Running => "running",
            Self::Stopped => "stopped",
        })
    }
}

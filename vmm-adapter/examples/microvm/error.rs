//! What microvm says when it cannot go on.

use std::fmt;

/// One line for the user.
#[derive(Debug)]
pub(crate) struct Error {
    line: String,
    /// The host refuses the VM.
    refusal: bool,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(line: impl Into<String>) -> Self {
        Self { line: line.into(), refusal: false }
    }

    /// Whether the host refuses the VM: it lacks what was asked for, or says no to a part of it or to its start. What is
    /// wrong with the options themselves is no refusal, and neither is what happens to a VM that runs.
    pub(crate) fn is_refusal(&self) -> bool {
        self.refusal
    }
}

/// What a hypervisor that was opened says of a VM.
impl From<vmm_adapter::Error> for Error {
    fn from(error: vmm_adapter::Error) -> Self {
        use vmm_adapter::Error::{Backend, LockedMemory, Memory, Unsupported};
        let refusal = match &error {
            Unsupported { .. } | Memory { .. } | LockedMemory { .. } => true,
            // Without one the kernel did not say no: it is none of Gunyah's, or answers what cannot be.
            Backend { .. } => error.errno().is_some(),
            _ => false,
        };
        Self { line: error.chain(), refusal }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

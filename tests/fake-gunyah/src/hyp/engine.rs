//! What can execute arm64 code.

use std::fmt;

use super::kvm;

/// What executes the arm64 code of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Engine {
    /// An interpreter, on any host. It has no interrupt controller and no timer, and runs small guests only.
    #[default]
    Interpreter,
    /// The host's KVM, on arm64 hosts: for every guest, Linux included.
    Kvm,
}

/// Why an engine cannot be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no guest can run on KVM here: {0}")]
pub struct NoEngine(String);

impl Engine {
    /// KVM where it can be used, else the interpreter.
    #[must_use]
    pub fn best() -> Self {
        if Self::Kvm.check().is_ok() { Self::Kvm } else { Self::Interpreter }
    }

    /// Whether it can be used on this host, by this process: KVM wants `/dev/kvm` and a GICv3.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(self) -> Result<(), NoEngine> {
        match self {
            Self::Interpreter => Ok(()),
            Self::Kvm => kvm::available().map_err(NoEngine),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interpreter => "an interpreter",
            Self::Kvm => "KVM",
        })
    }
}

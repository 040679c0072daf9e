//! What can go wrong, and how it is said.

use std::error::Error as StdError;
use std::io;

use crate::caps::{Backend, Feature};
use crate::phase::Phase;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backend on this host has no such ability. Nothing was done.
    #[error("{backend} on this host does not offer {feature}")]
    Unsupported {
        /// Who was asked.
        backend: Backend,
        /// What was asked for.
        feature: Feature,
    },
    /// The call is not allowed in this phase. Nothing was done.
    #[error("{op} is not possible: the VM is {phase}")]
    WrongState {
        /// The call.
        op: &'static str,
        /// The VM's phase.
        phase: Phase,
    },
    /// An argument breaks a rule of the interface. Nothing was done.
    #[error("{op}: {why}")]
    InvalidArgument {
        /// The call.
        op: &'static str,
        /// The rule, with the values that break it.
        why: String,
    },
    /// The host gave no memory for the guest.
    #[error("cannot map {size:#x} bytes of guest memory at {addr:#x}")]
    Memory {
        /// The guest address.
        addr: u64,
        /// The size in bytes.
        size: u64,
        /// Why.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The process may not lock as much memory as the guest needs. Nothing was done.
    #[error(
        "the guest needs {need:#x} bytes of locked memory and this process may lock {limit:#x}: raise the limit (ulimit -l), or run with CAP_IPC_LOCK"
    )]
    LockedMemory {
        /// Bytes that have to be locked.
        need: u64,
        /// The limit in bytes (`RLIMIT_MEMLOCK`).
        limit: u64,
    },
    /// The devicetree could not be written.
    #[error("cannot write the devicetree: {0}")]
    Fdt(#[from] vm_fdt::Error),
    /// A vCPU stopped for a reason that the backend does not know.
    #[error("{backend}: vCPU {vcpu} stopped with the unknown exit reason {reason}")]
    UnknownExit {
        /// Whose vCPU.
        backend: Backend,
        /// The vCPU's number.
        vcpu: u32,
        /// The reason as the kernel gave it.
        reason: u32,
    },
    /// This build has no such backend.
    #[error("this build has no {backend} backend (feature {:?})", backend.name())]
    NotCompiled {
        /// Which.
        backend: Backend,
    },
    /// This host has no hypervisor that this build drives.
    #[error("this host has no hypervisor: {}", said(.tried))]
    NoHypervisor {
        /// What each backend said.
        tried: Vec<(Backend, Error)>,
    },
    /// The hypervisor refused, or answered nonsense. The source names the ioctl and keeps the errno.
    #[error("{op} failed")]
    Backend {
        /// The call.
        op: &'static str,
        /// What the backend's own crate said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
}

fn said(tried: &[(Backend, Error)]) -> String {
    let lines: Vec<_> =
        tried.iter().map(|(backend, error)| format!("{backend}: {}", error.chain())).collect();
    lines.join("; ")
}

impl Error {
    pub(crate) fn invalid(op: &'static str, why: impl Into<String>) -> Self {
        Self::InvalidArgument { op, why: why.into() }
    }

    /// The errno at the bottom of this error, if the kernel was asked and refused.
    pub fn errno(&self) -> Option<i32> {
        let mut next: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return io.raw_os_error();
            }
            next = error.source();
        }
        None
    }

    /// This error and everything behind it, on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(error) = next {
            let more = error.to_string();
            // Some errors repeat their source in their own text.
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            next = error.source();
        }
        text
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Unsupported { .. } | Error::NotCompiled { .. } => io::ErrorKind::Unsupported,
            Error::NoHypervisor { .. } => io::ErrorKind::NotFound,
            Error::InvalidArgument { .. } => io::ErrorKind::InvalidInput,
            Error::UnknownExit { .. } => io::ErrorKind::InvalidData,
            other => {
                other.errno().map_or(io::ErrorKind::Other, |errno| Self::from_raw_os_error(errno).kind())
            }
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errno_is_found_at_the_bottom() {
        let error = Error::Backend { op: "start", source: Box::new(io::Error::from_raw_os_error(19)) };
        assert_eq!(error.errno(), Some(19));
        assert!(error.chain().starts_with("start failed: No such device"), "{}", error.chain());
        assert_eq!(Error::invalid("map", "no").errno(), None);
    }

    #[test]
    fn the_phase_is_named() {
        let error = Error::WrongState { op: "create_vcpu", phase: Phase::Running };
        assert_eq!(error.to_string(), "create_vcpu is not possible: the VM is running");
    }
}

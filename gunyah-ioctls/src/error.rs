//! What can go wrong, and how it is said.

use std::io;
use std::path::PathBuf;

use crate::features::Flavour;

pub mod causes;

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
///
/// Errors of the kernel keep their errno ([`Error::errno`]). Errors found before the kernel was asked
/// ([`Error::NotInAbi`], [`Error::InvalidArgument`], [`Error::WrongPhase`], [`Error::VmUnusable`], [`Error::VmClosed`],
/// [`Error::UnansweredRead`]) change nothing.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device node could not be opened.
    #[error("cannot open {}: {source}{}", path.display(), open_hint(source))]
    Open {
        /// The node that was asked for.
        path: PathBuf,
        /// The errno of `open`.
        source: io::Error,
    },
    /// The node is there and opens, but knows no Gunyah ioctl.
    #[error("{} is not a Gunyah device: it does not know the Gunyah ioctls", describe_path(path.as_ref()))]
    NotGunyah {
        /// The node, where it is known: `None` for a device made from a file descriptor.
        path: Option<PathBuf>,
    },
    /// The node answers unknown ioctls as the vendor kernels (5.10 and 5.15, ioctl type 0xB2) do.
    ///
    /// Those start signed images by name and give user space no memory, no MMIO and no interrupts of the VM: they
    /// cannot run an arbitrary guest. This crate names them and does not drive them.
    #[error(
        "{} answers as the vendor Gunyah ABI (ioctl type 0xB2, kernels 5.10 and 5.15) does; it only starts signed \
         images of the vendor and cannot run other guests, a kernel with the Gunyah ABI of 6.1 or later is needed",
        describe_path(path.as_ref())
    )]
    VendorAbi {
        /// The node, where it is known.
        path: Option<PathBuf>,
    },
    /// An ioctl failed.
    #[error("{op} failed: {source}")]
    Ioctl {
        /// The ioctl's name, as in the kernel's header.
        op: &'static str,
        /// Its errno.
        source: io::Error,
        /// The flavour of the host, where it was known when the call failed.
        flavour: Option<Flavour>,
    },
    /// Another system call that an operation needs failed.
    #[error("{call} failed while {doing}: {source}")]
    Os {
        /// The system call.
        call: &'static str,
        /// What it was for.
        doing: &'static str,
        /// Its errno.
        source: io::Error,
    },
    /// This host's Gunyah does not have the operation. The kernel was not asked.
    #[error("{op} is not part of this host's Gunyah ABI ({flavour})")]
    NotInAbi {
        /// The operation.
        op: &'static str,
        /// The host's flavour.
        flavour: Flavour,
    },
    /// An argument is wrong in a way that this crate can see. The kernel was not asked.
    #[error("{op}: invalid argument: {why}")]
    InvalidArgument {
        /// The operation.
        op: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// The call would have no effect, or could only fail, in the phase the VM is in. The kernel was not asked.
    #[error("{op}: {why}")]
    WrongPhase {
        /// The operation.
        op: &'static str,
        /// The phase the VM is in and the one that the call needs.
        why: &'static str,
    },
    /// An earlier failure left this kernel's VM in a state in which further calls may hang. The kernel was not asked.
    #[error("{op}: {why}; close the VM and create a new one")]
    VmUnusable {
        /// The operation.
        op: &'static str,
        /// The earlier failure.
        why: &'static str,
    },
    /// The VM's file descriptor is closed, and what was to be removed went with it. The kernel was not asked.
    #[error("{op}: the VM is closed already")]
    VmClosed {
        /// The operation.
        op: &'static str,
    },
    /// An ioeventfd was removed, and with it this kernel removed another at the same address, which could not be put back.
    ///
    /// The guest's stores that signalled that one are exits now, until another removal at the address puts it back. Its handle
    /// can be dropped, and the ioeventfd be added again. On v11, of which only the last kernels do so, it may be there still.
    #[error(
        "the ioeventfd at {addr:#x} was removed; this kernel removed another at that address with it, which could not \
         be put back: {source}"
    )]
    IoEventFdLost {
        /// The guest physical address of both.
        addr: u64,
        /// The errno of adding the other one again.
        source: io::Error,
    },
    /// The kernel offers a smaller run page than the structure that lies in it.
    #[error("the kernel offers a run page of {have} bytes, {need} are needed")]
    ShortRunPage {
        /// What `VCPU_MMAP_SIZE` answered, in bytes.
        have: usize,
        /// The size of the structure, in bytes.
        need: usize,
    },
    /// The run page holds a value that the ABI does not allow: a broken kernel or hypervisor.
    ///
    /// After an MMIO exit that makes no sense the vCPU cannot go on: the same error is returned again.
    #[error("the kernel left {value:#x} in the run page's `{field}`, which the ABI does not allow")]
    InvalidRunPage {
        /// The field.
        field: &'static str,
        /// What it held.
        value: u64,
    },
    /// The guest waits for an MMIO read that has not been answered.
    #[error("the guest's MMIO read has not been answered: call complete_mmio_read before run")]
    UnansweredRead,
    /// The guest faults on the same address again and again.
    #[error(
        "the guest has faulted {times} times in a row on address {addr:#x}; the kernel's own attempts end with {}",
        io::Error::from_raw_os_error(*attempt)
    )]
    PageFaultLoop {
        /// The guest physical address.
        addr: u64,
        /// The errno of the kernel's last attempt to provide the page.
        attempt: i32,
        /// How often in a row.
        times: u32,
    },
}

impl Error {
    /// The errno behind this error, or `None` when the kernel was not asked or did not fail.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open { source, .. }
            | Self::Ioctl { source, .. }
            | Self::Os { source, .. }
            | Self::IoEventFdLost { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Open { source, .. }
            | Error::Ioctl { source, .. }
            | Error::Os { source, .. }
            | Error::IoEventFdLost { source, .. } => source.kind(),
            Error::NotGunyah { .. } | Error::VendorAbi { .. } | Error::NotInAbi { .. } => {
                io::ErrorKind::Unsupported
            }
            Error::InvalidArgument { .. } => io::ErrorKind::InvalidInput,
            Error::ShortRunPage { .. } | Error::InvalidRunPage { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

fn open_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => " (this host offers no Gunyah to user space, or its driver is not loaded)",
        io::ErrorKind::PermissionDenied => " (check the node's owner and mode, and SELinux on Android)",
        _ => "",
    }
}

fn describe_path(path: Option<&PathBuf>) -> String {
    path.map_or_else(|| "the file descriptor".to_owned(), |path| path.display().to_string())
}

//! What the Resource Manager answers when it refuses, and the errno the driver makes of it.

use std::fmt;

/// An error code in a Resource Manager's reply.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RmErrorCode {
    /// Out of memory.
    NoMem,
    /// What the request needs is not there.
    NoResource,
    /// Not allowed.
    Denied,
    /// The request cannot be served now.
    Busy,
    /// This Resource Manager does not know the request.
    Unimplemented,
    /// The request is invalid.
    Invalid,
    /// An argument of the request, or something it points to, is invalid.
    ArgumentInvalid,
    /// A handle is invalid.
    HandleInvalid,
    /// The access rights do not fit those of the parcel.
    ValidateFailed,
    /// The memory could not be mapped.
    MapFailed,
    /// The memory is not usable.
    MemInvalid,
    /// The memory is in use.
    MemInUse,
    /// The memory was given back already.
    MemReleased,
    /// The VMID is invalid.
    VmidInvalid,
    /// Nothing was found under that name.
    LookupFailed,
    /// The interrupt is invalid.
    IrqInvalid,
    /// The interrupt is in use.
    IrqInUse,
    /// The interrupt was given back already.
    IrqReleased,
    /// A code that the driver does not know.
    Unknown(u32),
}

impl RmErrorCode {
    /// The errno that the driver returns for this code. It is the same in every flavour.
    pub fn errno(self) -> i32 {
        match self {
            Self::NoMem => libc::ENOMEM,
            Self::NoResource => libc::ENODEV,
            Self::Denied => libc::EPERM,
            Self::Busy => libc::EBUSY,
            Self::Unimplemented => libc::EOPNOTSUPP,
            Self::Invalid
            | Self::ArgumentInvalid
            | Self::HandleInvalid
            | Self::ValidateFailed
            | Self::MapFailed
            | Self::MemInvalid
            | Self::MemInUse
            | Self::MemReleased
            | Self::VmidInvalid
            | Self::LookupFailed
            | Self::IrqInvalid
            | Self::IrqInUse
            | Self::IrqReleased => libc::EINVAL,
            Self::Unknown(_) => libc::EBADMSG,
        }
    }

    /// The code's name as logs have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoMem => "NOMEM",
            Self::NoResource => "NORESOURCE",
            Self::Denied => "DENIED",
            Self::Busy => "BUSY",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Invalid => "INVALID",
            Self::ArgumentInvalid => "ARGUMENT_INVALID",
            Self::HandleInvalid => "HANDLE_INVALID",
            Self::ValidateFailed => "VALIDATE_FAILED",
            Self::MapFailed => "MAP_FAILED",
            Self::MemInvalid => "MEM_INVALID",
            Self::MemInUse => "MEM_INUSE",
            Self::MemReleased => "MEM_RELEASED",
            Self::VmidInvalid => "VMID_INVALID",
            Self::LookupFailed => "LOOKUP_FAILED",
            Self::IrqInvalid => "IRQ_INVALID",
            Self::IrqInUse => "IRQ_INUSE",
            Self::IrqReleased => "IRQ_RELEASED",
            Self::Unknown(_) => "an unknown code",
        }
    }
}

impl fmt::Display for RmErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(code) => write!(f, "{} ({code})", self.name()),
            _ => f.write_str(self.name()),
        }
    }
}

/// A refusal of the Resource Manager, with the reason that a real one keeps in its own log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Resource Manager answers {error}: {why}")]
pub struct RmError {
    /// The code in the reply; [`RmErrorCode::errno`] is what user space sees.
    pub error: RmErrorCode,
    /// What is wrong, for a human.
    pub why: String,
}

impl RmError {
    pub(super) fn missing(why: impl Into<String>) -> Self {
        Self { error: RmErrorCode::NoResource, why: why.into() }
    }

    pub(super) fn invalid(why: impl Into<String>) -> Self {
        Self { error: RmErrorCode::ArgumentInvalid, why: why.into() }
    }
}

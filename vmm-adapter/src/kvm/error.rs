//! The errors of `kvm-ioctls`, in this crate's terms.

use std::io;

use crate::error::Error;

/// What the kernel refused, by its name there.
#[derive(Debug, thiserror::Error)]
#[error("ioctl({ioctl})")]
struct Refused {
    ioctl: &'static str,
    #[source]
    source: io::Error,
}

/// What `op` answers when a system call of that name gave this.
pub(super) fn backend(op: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| Error::Backend { op, source: Box::new(io::Error::from_raw_os_error(error.errno())) }
}

/// What `op` answers when `ioctl` gave this.
pub(super) fn ioctl(op: &'static str, ioctl: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| {
        let source = io::Error::from_raw_os_error(error.errno());
        Error::Backend { op, source: Box::new(Refused { ioctl, source }) }
    }
}

/// What `op` answers when the host refused something that is no ioctl.
pub(super) fn os(op: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Backend { op, source: Box::new(source) }
}

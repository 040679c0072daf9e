//! The errors of `gunyah-ioctls`, in this crate's terms.

use gunyah_ioctls::Error as Inner;

use crate::error::Error;

/// What `op` answers when `gunyah-ioctls` gave this.
pub(super) fn backend(op: &'static str) -> impl Fn(Inner) -> Error {
    move |error| match error {
        Inner::InvalidArgument { why, .. } => Error::invalid(op, why),
        other => Error::Backend { op, source: Box::new(other) },
    }
}

//! What microvm says when it cannot go on.

use std::fmt;

/// One line for the user.
#[derive(Debug)]
pub(crate) struct Error(String);

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }
}

impl From<vmm_adapter::Error> for Error {
    fn from(error: vmm_adapter::Error) -> Self {
        Self(error.chain())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! Error numbers, by name.

use std::fmt;
use std::str::FromStr;

/// An error number as an ioctl answers it: `EINVAL` is 22, whatever the caller's language makes of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident)*) => {
        #[allow(missing_docs, reason = "the names are those of errno(3)")]
        impl Errno {
            $(pub const $name: Self = Self(libc::$name);)*
        }
        /// The name of an error number, if it is one that a Gunyah driver or this fake answers.
        fn name(errno: i32) -> Option<&'static str> {
            match errno {
                $(libc::$name => Some(stringify!($name)),)*
                _ => None,
            }
        }
        impl FromStr for Errno {
            type Err = UnknownErrno;
            fn from_str(text: &str) -> Result<Self, UnknownErrno> {
                match text {
                    $(stringify!($name) => Ok(Self::$name),)*
                    _ => Err(UnknownErrno(text.to_owned())),
                }
            }
        }
    };
}

/// A name that is no error number's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no error number that is known here; write it as in ENOMEM")]
pub struct UnknownErrno(String);

errnos! {
    EPERM ENOENT ESRCH EINTR EIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST ENODEV EINVAL ENFILE EMFILE
    ENOTTY ENOSPC EROFS EPIPE ERANGE ENOSYS EOVERFLOW EBADMSG EOPNOTSUPP ETIMEDOUT EALREADY ENXIO ECANCELED
}

impl Errno {
    /// What a driver returns for "a signal has come": the caller sees `EINTR`, or its call starts over if the signal's
    /// handler says so. Never seen by user space.
    pub(crate) const ERESTARTSYS: Self = Self(512);

    /// The calling thread's `errno`.
    pub(crate) fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name(self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

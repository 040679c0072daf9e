//! Error numbers by name, as a recording has them: the same name on every machine.

macro_rules! names {
    ($($name:ident)*) => {
        /// An error number's name; `None` if only its number is known here.
        pub(crate) fn name(errno: i32) -> Option<&'static str> {
            match errno {
                $(libc::$name => Some(stringify!($name)),)*
                _ => None,
            }
        }

        /// The number behind a name.
        pub(crate) fn number(name: &str) -> Option<i32> {
            match name {
                $(stringify!($name) => Some(libc::$name),)*
                _ => None,
            }
        }
    };
}

names! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST
    EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE
    EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP ENOMSG EIDRM ENODATA ETIME EPROTO EBADMSG EOVERFLOW EBADFD
    EOPNOTSUPP ETIMEDOUT EALREADY EINPROGRESS ESTALE EDQUOT ECANCELED EOWNERDEAD ENOTRECOVERABLE EUSERS ENOBUFS
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_and_numbers_agree() {
        let mut known = 0;
        for errno in 1..4096 {
            if let Some(name) = super::name(errno) {
                assert_eq!(super::number(name), Some(errno));
                known += 1;
            }
        }
        assert_eq!(known, 59);
        assert_eq!(super::name(libc::EINTR), Some("EINTR"));
        assert_eq!(super::number("EINTER"), None);
    }
}

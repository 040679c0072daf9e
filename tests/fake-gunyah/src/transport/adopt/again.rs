//! A system call that is made twice: between the two the caller's process does something for us.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::program::{Program, Stopped};
use crate::errno::Errno;
use crate::transport::sys::{self, Notif, Resp};

/// What is done in the caller's process, or why nothing can be.
pub(crate) type Work = Box<dyn FnOnce(Result<&mut Program, Errno>, OwnedFd) + Send>;

/// An answer that sends the caller back to where it made its call, after some work.
pub(crate) struct Again {
    caller: Stopped,
    file: OwnedFd,
    work: Work,
}

impl std::fmt::Debug for Again {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Again").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl Again {
    /// The caller has been seized. `file` is a file that it gets for the time of the work.
    pub(crate) fn new(caller: Stopped, file: OwnedFd, work: Work) -> Self {
        Self { caller, file, work }
    }

    /// Answers the call, and comes back when the caller is on its way to make it again. False: it is gone.
    pub(crate) fn deliver(self, listener: BorrowedFd<'_>, notif: &Notif) -> bool {
        let Self { mut caller, file, work } = self;
        let number = sys::notif_install_fd(listener, notif.id, file.as_fd());
        let sent = sys::notif_send(listener, Resp { id: notif.id, ..Resp::default() });
        if sent.is_err() || caller.arrive().is_err() {
            return false;
        }
        let [fd, ..] = notif.args;
        let done = match number {
            Ok(number) => {
                let mut program = Program::Stopped(caller, number);
                work(Ok(&mut program), file);
                let Program::Stopped(mut caller, number) = program else { return false };
                caller.close(number);
                caller.start_over(fd)
            }
            Err(errno) => {
                work(Err(errno), file);
                caller.start_over(fd)
            }
        };
        done.is_ok()
    }
}

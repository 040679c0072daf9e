//! Starts a program whose calls come here.
#![expect(unsafe_code, reason = "a closure between fork and exec")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use crate::transport::{filter, sys};

/// The program and the listener of its calls. With `killable`, received calls outlast signals.
pub(crate) fn start(mut command: Command, killable: bool) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    let filter = filter::program();
    let install = move || {
        let listener =
            sys::install_listener(&filter, killable).map_err(|e| io::Error::from_raw_os_error(e.0))?;
        sys::send_fd(theirs.as_fd(), listener.as_fd()).map_err(|e| io::Error::from_raw_os_error(e.0))
    };
    // SAFETY: the closure makes system calls only. It allocates nothing and takes no lock, as must be in a child of a
    // process that may have other threads.
    unsafe { command.pre_exec(install) };
    let spawned = command.spawn();
    // With it goes the closure, and with that our copy of the program's end of the socket.
    drop(command);
    let listener = sys::recv_fd(ours.as_fd()).map_err(|e| io::Error::from_raw_os_error(e.0));
    match (spawned, listener) {
        (Ok(program), Ok(listener)) => Ok((program, listener)),
        (Err(error), _) => Err(error),
        (Ok(mut program), Err(error)) => {
            let _ = program.kill();
            let _ = program.wait();
            Err(error)
        }
    }
}

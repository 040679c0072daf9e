//! A fake for another program.
#![expect(unsafe_code, reason = "a closure between fork and exec")]

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use super::handle::Handle;
use super::{Error, Fake, GRACE, no_listener, pool_error};
use crate::errno::Errno;
use crate::transport::pool::Pool;
use crate::transport::{filter, sys};

/// A program that runs with a fake.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    pool: Arc<Pool>,
    handle: Handle,
}

impl Fake {
    /// Starts a program for which the device exists; so it does for the processes that it starts.
    ///
    /// # Errors
    /// [`Error::Spawn`] if the program cannot be run, [`Error::NoListener`] if it cannot be watched.
    pub fn spawn(&self, mut command: Command) -> Result<Child, Error> {
        let kernel = self.settings.kernel()?;
        let host = |what| move |error: std::io::Error| Error::Host { what, errno: error.into() };
        let (ours, theirs) = UnixDatagram::pair().map_err(host("a socket pair"))?;
        let filter = filter::program();
        let killable = self.settings.killable;
        let install = move || {
            // The program begins without the signals blocked that this process may wait for.
            sys::unblock_signals();
            let listener = sys::install_listener(&filter, killable)
                .map_err(|e| std::io::Error::from_raw_os_error(e.0))?;
            sys::send_fd(theirs.as_fd(), listener.as_fd()).map_err(|e| std::io::Error::from_raw_os_error(e.0))
        };
        // SAFETY: the closure makes system calls only. It allocates nothing and takes no lock, as must be in a
        // child of a process that may have other threads.
        unsafe { command.pre_exec(install) };
        let spawned = command.spawn();
        let program = command.get_program().to_string_lossy().into_owned();
        // With it goes the closure, and with that our copy of the program's end of the socket.
        drop(command);
        let listener = sys::recv_fd(ours.as_fd());
        let mut process = match (spawned, &listener) {
            (Ok(process), _) => process,
            (Err(error), Ok(_)) => return Err(Error::Spawn { program, errno: error.into() }),
            (Err(error), Err(_)) => return Err(spawn_or_listener(program, error.into())),
        };
        let started = listener
            .map_err(no_listener)
            .and_then(|fd| Pool::start(Arc::clone(&kernel), fd, killable).map_err(pool_error));
        match started {
            Ok(pool) => Ok(Child { process, pool, handle: Handle::new(kernel) }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }
}

/// The program did not start and no listener came: whose fault was it?
fn spawn_or_listener(program: String, errno: Errno) -> Error {
    match errno {
        Errno::EBUSY | Errno::EINVAL | Errno::ENOSYS => no_listener(errno),
        errno => Error::Spawn { program, errno },
    }
}

impl Child {
    /// The program's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What to ask and to steer.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The pipes of the program, if its [`Command`] asked for some.
    pub fn process(&mut self) -> &mut std::process::Child {
        &mut self.process
    }

    /// Waits for the program's end, and then for the end of what it had open, half a second at most.
    ///
    /// # Errors
    /// [`Error::Script`] if a script's expectation failed.
    pub fn wait(mut self) -> Result<ExitStatus, Error> {
        // Waiting for the process would also report it as stopped when this process stops one of its threads for a moment.
        let ended = sys::wait_for_end(self.process.id());
        let status = ended.map_err(Into::into).and_then(|()| self.process.wait());
        self.handle.end(&self.pool, GRACE);
        let failures = self.handle.failures();
        if !failures.is_empty() {
            return Err(Error::Script(failures));
        }
        status.map_err(|error| Error::Host { what: "waiting for the program", errno: error.into() })
    }
}

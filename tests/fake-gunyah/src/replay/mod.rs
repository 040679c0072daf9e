//! Answers a VMM as a recorded host did.
//!
//! `fake-gunyah replay FILE -- PROGRAM ARGS…` runs a VMM, and answers each of its calls with what [`crate::record`] has
//! written down, so that what happened on one machine can be watched on another. There is no guest: its exits come
//! from the file.
//!
//! # How calls are matched
//!
//! A call is answered by the next recorded call on the same object (the same VM, the same vCPU), which must be the
//! same call with the same arguments; calls on the same object that another thread made first may be passed over. The
//! answers keep the recorded order, over all objects: a call whose turn has not come waits. If for a second nothing
//! else happens, it is answered nevertheless, for threads may meet in another order than they did; and the threads that
//! it has waited for are not waited for any more until they come.
//!
//! For RUN the page shows what it showed, and an answer to an MMIO read must be the recorded one.
//!
//! The first call that differs ends the replay: both sides are in the [`Report`]. In lenient mode the replay goes on: a
//! different answer is accepted, skipped calls are forgotten, an unknown RUN never returns, and any other unknown
//! call is `EIO`. When the program ends although more was recorded, that is a difference, too. But RUNs may be missing
//! if it ends as it did then, with the same code or by the same signal: the end of a process cuts off its threads where
//! they are.
//!
//! # Signals
//!
//! A signal that ended a RUN when it was recorded is not sent again. Such a RUN is left out: the program gets the
//! next exit instead, or an `EINTR` when a signal of its own comes. If an exit had been written to the page just
//! before the signal, the RUN is answered with that page and `EINTR`, as it was. `immediate_exit` gives `EINTR` whenever
//! it is set.
//!
//! # Limits
//!
//! * Guest memory was not recorded: a device that reads it (virtio, say) finds what the VMM itself has put there.
//! * Nothing waits for irqfds, and no ioeventfd is signalled: a VMM that waits for one does not go on.
//! * Contiguous-memory nodes have no path in a recording, and the vendors' interface writes to user memory, which is
//!   not in it either: these calls cannot be replayed.
//! * The page of a vCPU is one page of this machine, whatever the recorded page size was.

use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

mod parse;
mod plan;
mod serve;
mod start;

pub use parse::{ParseError, Recording, parse};
pub use plan::Divergence;

use plan::Plan;
use serve::Server;

/// What a replay may do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Go on after a call that differs.
    pub lenient: bool,
    /// More paths that stand for the device, besides those in the recording.
    pub devices: Vec<PathBuf>,
}

/// How a replay went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// How the program ended: by SIGKILL if it was stopped where it differed.
    pub status: ExitStatus,
    /// Where it did something else: the first such call, or all of them in lenient mode.
    pub divergences: Vec<Divergence>,
    /// How many calls were answered.
    pub answered: u64,
    /// How many of them before their recorded turn, because nothing else happened.
    pub reordered: u64,
    /// How many recorded calls the program has not made.
    pub not_made: u64,
}

/// Why nothing could be replayed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot be started.
    #[error("cannot run {}: {source}", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// This host does not let system calls be watched.
    #[error(transparent)]
    Host(#[from] crate::Error),
    /// The program's end cannot be waited for.
    #[error("waiting for the program: {0}")]
    Wait(io::Error),
}

/// A program that is being replayed to.
pub struct Replay {
    program: Child,
    server: Server,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Replay {
    /// Starts `command`.
    ///
    /// # Errors
    /// [`Error::Program`], [`Error::Host`].
    pub fn start(recording: Recording, options: Options, command: Command) -> Result<Self, Error> {
        let killable = crate::fake::probe_listener()?;
        let name = PathBuf::from(command.get_program());
        let (mut program, listener) =
            start::start(command, killable).map_err(|source| Error::Program { program: name, source })?;
        match Server::new(Plan::new(recording), options, (listener, killable)) {
            Ok(server) => Ok(Self { program, server }),
            Err(errno) => {
                let _ = program.kill();
                let _ = program.wait();
                Err(Error::Host(crate::Error::Host { what: "an inotify instance", errno }))
            }
        }
    }

    /// The program's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.program.id()
    }

    /// Answers its calls until it ends, or until it differs from the recording.
    ///
    /// # Errors
    /// [`Error::Wait`].
    pub fn serve(self) -> Result<Report, Error> {
        self.server.serve(self.program)
    }
}

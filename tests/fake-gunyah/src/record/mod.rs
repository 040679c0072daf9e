//! Records what a VMM asks a Gunyah host, and what the host answers.
//!
//! `fake-gunyah record -o FILE -- PROGRAM ARGS…` runs any VMM, in any language, on a real host, and writes its calls as lines
//! of JSON; [`crate::replay`] answers them again elsewhere. So a fault seen on a phone can be looked at on a laptop.
//!
//! # How
//!
//! The recorder is a tracer (`ptrace`), as `strace` is: it stops the program before and after each system call, looks,
//! and lets it go on. It changes nothing: no filter, no privileges given up, no library put in front. That also is why it
//! works for a program whose host is the fake itself, where a filter of the recorder's own would never be asked. The
//! price is time, for each system call of the program, Gunyah's or not: two trips to the recorder. On a busy machine with two
//! CPUs that was measured as 40 to 60 µs per call.
//!
//! Signals reach the program as without a recorder, job control works, threads and child processes are followed, and
//! the recorder ends with the program's exit code.
//!
//! # What is recorded
//!
//! Opens of the device node and Gunyah's ioctls with their arguments and results, and for RUN the page before and after.
//! See [`mod@format`] for the lines. Also, for the reader, `mmap`, `close` and `fallocate` of Gunyah's files.
//!
//! Not recorded: guest memory; what user space writes to an irqfd's eventfd, and the eventfds that the host signals
//! (ioeventfds). A call that a signal interrupts is marked as the program saw it: `EINTR`, or `restarted` if the kernel
//! started it again. Where RUN returned `EINTR` though an exit had been written to the page, the page shows it.
//!
//! # Limits
//!
//! A traced program cannot be traced by a debugger as well. System calls of 32-bit programs are not looked at, nor calls
//! made by `io_uring`. A page that is mapped by a process that shares no memory with the one that calls RUN is not
//! seen. The kernel must be 5.3 or newer, and allow `ptrace` of one's own children.

use std::fs::File;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub(crate) mod caller;
pub(crate) mod decode;
mod entry;
pub(crate) mod errno;
mod exit;
pub mod format;
pub(crate) mod page;
mod ptrace;
mod recorder;
mod task;
pub(crate) mod text;
mod tracer;

use format::Header;
use recorder::Recorder;
pub use tracer::Ended;

/// The nodes that a recording looks at unless told otherwise.
pub const DEVICES: [&str; 2] = ["/dev/gunyah", "/dev/qgunyah"];

/// Why nothing could be recorded, or not all of it.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file for the recording cannot be created.
    #[error("cannot create {}: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot run {}: {source}", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel forbids tracing, by Yama (`kernel.yama.ptrace_scope`), SELinux or a seccomp filter, or because the
    /// program is being traced already.
    #[error("the kernel does not allow tracing of the program (ptrace): {0}")]
    Trace(io::Error),
    /// The kernel is too old to tell what a traced program calls.
    #[error("recording needs Linux 5.3 or newer, this is {0}")]
    OldKernel(String),
    /// The recording could not be written to its end. The program ran nevertheless.
    #[error("the recording is not complete: cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
        /// How the program ended.
        ended: Option<Ended>,
    },
    /// The program's end was not seen.
    #[error("lost track of the program")]
    Lost,
}

/// What a recording would have of an ioctl of a program whose memory is `memory`, from address 0x1000 on: for fuzzing.
#[doc(hidden)]
#[must_use]
pub fn decode_for_fuzzing(request: u32, arg: u64, memory: &[u8]) -> String {
    struct Program<'a>(&'a [u8]);
    impl decode::Caller for Program<'_> {
        fn read(&self, addr: u64, buf: &mut [u8]) -> Option<()> {
            let start = usize::try_from(addr.checked_sub(0x1000)?).ok()?;
            buf.copy_from_slice(self.0.get(start..start.checked_add(buf.len())?)?);
            Some(())
        }
        fn describe_fd(&self, fd: i32) -> String {
            fd.to_string()
        }
        fn page_size(&self) -> u64 {
            4096
        }
    }
    let decoded = decode::decode(request, arg, &Program(memory));
    serde_json::json!({ "op": decoded.op, "args": decoded.args }).to_string()
}

/// A program that is being recorded.
///
/// It belongs to the thread that started it: the kernel lets no other thread follow the program.
#[derive(Debug)]
pub struct Recording {
    program: i32,
    start: Instant,
    file: File,
    path: PathBuf,
    devices: Vec<PathBuf>,
    thread: PhantomData<*const ()>,
}

impl Recording {
    /// Creates `file` and starts `command`, which stands still until [`Recording::follow`].
    ///
    /// `devices` are the paths of the nodes to look at, [`DEVICES`] if empty.
    ///
    /// # Errors
    /// [`Error::OldKernel`], [`Error::Create`], [`Error::Program`], [`Error::Trace`].
    pub fn start(file: &Path, devices: &[PathBuf], command: Command) -> Result<Self, Error> {
        let (kernel, machine) = ptrace::uname();
        if !ptrace::is_new_enough(&kernel) {
            return Err(Error::OldKernel(kernel));
        }
        let program = PathBuf::from(command.get_program());
        let header = Header {
            format: format::FORMAT.to_owned(),
            version: format::VERSION,
            kernel,
            machine,
            page_size: ptrace::page_size(),
            program: program.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            contents: format::CONTENTS.to_owned(),
        };
        let create = || {
            let mut out = File::create(file)?;
            let mut line = serde_json::to_vec(&header)?;
            line.push(b'\n');
            out.write_all(&line)?;
            Ok(out)
        };
        let out = create().map_err(|source| Error::Create { path: file.to_owned(), source })?;
        let devices = if devices.is_empty() { DEVICES.map(PathBuf::from).to_vec() } else { devices.to_vec() };
        let main = ptrace::start(command).map_err(|error| match error {
            ptrace::StartError::Program(source) => Error::Program { program, source },
            ptrace::StartError::Trace(source) => Error::Trace(source),
        })?;
        Ok(Self {
            program: main,
            start: Instant::now(),
            file: out,
            path: file.to_owned(),
            devices,
            thread: PhantomData,
        })
    }

    /// The program's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.program.unsigned_abs()
    }

    /// Lets the program go and records it, until it and all that it started have ended: how the program ended, and how
    /// many calls the recording has.
    ///
    /// Meanwhile this reaps every child of this process.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Lost`].
    pub fn follow(self) -> Result<(Ended, u64), Error> {
        let mut recorder = Recorder::new(self.file, self.start, self.devices);
        let ended = tracer::follow(self.program, &mut recorder);
        if let Some(ended) = ended {
            recorder.program_ended(ended);
        }
        let events = recorder.finish().map_err(|source| Error::Write { path: self.path, source, ended })?;
        ended.map(|ended| (ended, events)).ok_or(Error::Lost)
    }
}

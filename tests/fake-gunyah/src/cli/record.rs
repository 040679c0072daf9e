//! `fake-gunyah record`.

use std::path::PathBuf;

use clap::Args;
use fake_gunyah::record::{Error, Recording};

use super::program;

/// Record what a program asks a Gunyah host, and what the host answers.
///
/// Works on a real host, for any VMM. Guest memory is not recorded; the data of the guest's device accesses is, so what the
/// guest writes to a console can be read in the file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fake-gunyah record -o boot.jsonl -- ./my-vmm --kernel Image
  fake-gunyah record -o boot.jsonl --device /dev/mygunyah -- crosvm run ...

The file has a line of JSON for each call. `fake-gunyah replay` answers a VMM with it.
The program is traced (ptrace): no debugger at the same time, and every system call takes some 50 microseconds longer.

Exit status: the program's; 128 and the signal's number if a signal ended it; 127 or 126 if it could not be run;
125 if it could not be recorded.")]
pub(crate) struct Record {
    /// Where to write the recording.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// The node that the program opens; may be repeated. [default: /dev/gunyah and /dev/qgunyah]
    #[arg(long, value_name = "PATH")]
    device: Vec<PathBuf>,

    /// The program and its arguments.
    #[arg(required = true, last = true, value_name = "PROGRAM ARGS")]
    command: Vec<std::ffi::OsString>,
}

impl Record {
    /// Runs it: the exit code, or the exit code and why.
    pub(crate) fn run(self) -> Result<u8, (u8, String)> {
        let failed = |error: Error| {
            let code = match &error {
                Error::Program { source, .. } => program::not_run(source.kind()),
                _ => program::FAILED,
            };
            (code, error.to_string())
        };
        let (command, signals) = program::command(self.command);
        let recording = Recording::start(&self.output, &self.device, command).map_err(failed)?;
        signals.forward_to(recording.id());
        let (ended, events) = match recording.follow() {
            // The program's own end is what its caller waits for.
            Err(error @ Error::Write { ended: Some(ended), .. }) => {
                eprintln!("fake-gunyah: {error}");
                (ended, 0)
            }
            other => other.map_err(failed)?,
        };
        if events == 0 {
            eprintln!("fake-gunyah: nothing was recorded: the program has not opened the device");
        }
        Ok(u8::try_from(ended.code()).unwrap_or(program::FAILED))
    }
}

//! `fake-gunyah replay`.

use std::path::PathBuf;

use clap::Args;
use fake_gunyah::replay::{Error, Options, Replay, parse};

use super::program;

/// Run a program against a recorded host.
///
/// Each call is answered as it was when `fake-gunyah record` wrote the file. A call that differs from the recorded one is
/// shown, with both sides, and ends the replay.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fake-gunyah replay boot.jsonl -- ./my-vmm --kernel Image
  fake-gunyah replay --lenient boot.jsonl -- ./my-vmm --kernel Image

Not in a recording: guest memory, and the eventfds of irqfds and ioeventfds. A VMM that waits for these goes another way.

Exit status: the program's; 128 and the signal's number if a signal ended it; 127 or 126 if it could not be run;
122 if it did something else than was recorded; 125 if the file or the host is not usable.")]
pub(crate) struct ReplayArgs {
    /// Go on after a difference: take a different answer, forget skipped calls, answer EIO to unknown ones.
    #[arg(long)]
    lenient: bool,

    /// A path, besides the recorded ones, that stands for the device; may be repeated.
    #[arg(long, value_name = "PATH")]
    device: Vec<PathBuf>,

    /// The recording.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The program and its arguments.
    #[arg(required = true, last = true, value_name = "PROGRAM ARGS")]
    command: Vec<std::ffi::OsString>,
}

/// The program did something else.
const DIFFERS: u8 = 122;

impl ReplayArgs {
    /// Runs it: the exit code, or the exit code and why.
    pub(crate) fn run(self) -> Result<u8, (u8, String)> {
        let unusable =
            |error: &dyn std::fmt::Display| (program::FAILED, format!("{}: {error}", self.file.display()));
        let text = std::fs::read(&self.file).map_err(|error| unusable(&error))?;
        let recording = parse(&text).map_err(|error| unusable(&error))?;
        let failed = |error: Error| {
            let code = match &error {
                Error::Program { source, .. } => program::not_run(source.kind()),
                _ => program::FAILED,
            };
            (code, error.to_string())
        };
        let (command, signals) = program::command(self.command);
        let options = Options { lenient: self.lenient, devices: self.device };
        let replay = Replay::start(recording, options, command).map_err(failed)?;
        signals.forward_to(replay.id());
        let report = replay.serve().map_err(failed)?;
        for divergence in &report.divergences {
            eprintln!("fake-gunyah: the program differs from the recording\n{divergence}");
        }
        if report.reordered > 0 {
            eprintln!("fake-gunyah: calls answered before their recorded turn: {}", report.reordered);
        }
        if !report.divergences.is_empty() {
            return Ok(DIFFERS);
        }
        Ok(program::exit_code(report.status))
    }
}

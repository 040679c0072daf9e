//! The `fake-gunyah` command: runs any program with a fake Gunyah kernel, and records and replays real ones.

mod cli;

use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use clap::{Args, Parser, Subcommand};
use fake_gunyah::{Error, Fake, Flavour, Guest};

use cli::program::{self, FAILED};

/// A fake Gunyah kernel in user space.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Run(Run),
    Record(cli::record::Record),
    Replay(cli::replay::ReplayArgs),
}

/// Run a program for which /dev/gunyah exists, and so do the processes that it starts.
///
/// The guests are the arm64 code and the devicetree that the program puts into guest memory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fake-gunyah run -- ./my-vmm --kernel Image
  fake-gunyah run --trace -- ./my-vmm --kernel Image
  fake-gunyah run --flavour android16 --device /dev/qgunyah -- cargo test

Exit status: the program's; 128 and the signal's number if a signal ended it; 127 or 126 if it could not be run;
125 if the fake could not be set up.")]
struct Run {
    /// The kernel to imitate: v11, android14-early, android14, android15, android16, v17 or vendor.
    #[arg(long, default_value = "v11", value_name = "FLAVOUR")]
    flavour: Flavour,

    /// The path that the program opens; may be repeated.
    #[arg(long, value_name = "PATH", default_value = Fake::DEFAULT_DEVICE)]
    device: Vec<PathBuf>,

    /// Print each call with its arguments and its result to standard error.
    #[arg(long)]
    trace: bool,

    /// Print them to a file.
    #[arg(long, value_name = "FILE", conflicts_with = "trace")]
    trace_file: Option<PathBuf>,

    /// The program and its arguments.
    #[arg(required = true, last = true, value_name = "PROGRAM ARGS")]
    command: Vec<std::ffi::OsString>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().action {
        Action::Run(run) => run.run().map(program::exit_code),
        Action::Record(record) => record.run(),
        Action::Replay(replay) => replay.run(),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err((code, text)) => {
            eprintln!("fake-gunyah: {text}");
            ExitCode::from(code)
        }
    }
}

impl Run {
    fn run(self) -> Result<ExitStatus, (u8, String)> {
        let mut builder = Fake::builder().flavour(self.flavour).guest(Guest::code()).record_calls(false);
        for path in self.device {
            builder = builder.device(path);
        }
        if self.trace {
            builder = builder.trace(std::io::stderr());
        }
        if let Some(path) = self.trace_file {
            let file =
                File::create(&path).map_err(|error| (FAILED, format!("{}: {error}", path.display())))?;
            builder = builder.trace(file);
        }
        let fake = builder.build().map_err(failed)?;
        let (command, signals) = program::command(self.command);
        let child = fake.spawn(command).map_err(failed)?;
        signals.forward_to(child.id());
        let handle = child.handle().clone();
        let status = child.wait().map_err(failed)?;
        for left in handle.leftovers() {
            eprintln!("fake-gunyah: still open after the program's end: {left}");
        }
        Ok(status)
    }
}

fn failed(error: Error) -> (u8, String) {
    let code = match &error {
        Error::Spawn { errno, .. } => program::not_run(std::io::Error::from_raw_os_error(errno.0).kind()),
        _ => FAILED,
    };
    (code, error.to_string())
}

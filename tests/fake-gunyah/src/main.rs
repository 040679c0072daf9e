//! The `fake-gunyah` command: runs any program with a fake Gunyah kernel, and records and replays real ones.

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A fake Gunyah kernel in user space.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Run(cli::run::Run),
    Record(cli::record::Record),
    Replay(cli::replay::ReplayArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().action {
        Action::Run(run) => run.run().map(cli::program::exit_code),
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

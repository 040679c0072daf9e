//! microvm: a small VMM over the traits of vmm-adapter.
//!
//! It boots a flat image or an arm64 Linux `Image` with a UART, a real-time clock and a devicetree, one thread per vCPU.
//! Without `--kernel` it runs a guest of its own that greets, checks a test device and powers off. `--help` tells the
//! rest.

mod backend;
mod cli;
mod error;
mod input;
mod layout;
mod machine;
mod outcome;
mod payload;
mod rtc;
mod serial;
mod stop;
mod sys;
mod terminal;
mod test_device;
mod vcpus;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let options = cli::Options::parse();
    // Before any thread is made: whoever gets these signals must see to it that the terminal is restored.
    let done = sys::block_ending_signals()
        .map_err(|error| error::Error::new(format!("cannot block signals: {error}")))
        .and_then(|()| backend::run(&options));
    match done {
        Ok(outcome) => outcome.report(),
        Err(error) => {
            eprintln!("microvm: {error}");
            ExitCode::from(outcome::FAILURE)
        }
    }
}

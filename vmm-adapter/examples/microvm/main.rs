//! microvm: a small VMM over the traits of vmm-adapter.
//!
//! It boots a flat image or an arm64 Linux `Image` with a UART, a real-time clock, virtio devices and a devicetree, one
//! thread per vCPU and per device. Without `--kernel` it runs a guest of its own that greets, checks a test device and
//! powers off. `--help` tells the rest.

mod backend;
mod cli;
mod config;
mod devices;
mod error;
mod input;
mod kernel_config;
mod layout;
mod loader;
mod machine;
mod memory;
mod outcome;
mod output;
mod payload;
mod rtc;
mod serial;
mod spec;
mod stop;
mod sys;
mod terminal;
mod test_device;
mod virtio;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let options = match cli::Options::parse().resolve() {
        Ok(options) => options,
        Err(error) => return complain(&error, outcome::USAGE),
    };
    run(&options).unwrap_or_else(|error| {
        complain(&error, if error.is_refusal() { outcome::REFUSED } else { outcome::FAILURE })
    })
}

fn run(options: &cli::Options) -> error::Result<ExitCode> {
    if options.print_config {
        print!("{}", options.vm.to_text()?);
        return Ok(ExitCode::SUCCESS);
    }
    // Before any thread is made: whoever gets these signals must see to it that the terminal is restored.
    sys::block_ending_signals()
        .map_err(|error| error::Error::new(format!("cannot block signals: {error}")))?;
    Ok(backend::run(options)?.report())
}

fn complain(error: &error::Error, code: u8) -> ExitCode {
    eprintln!("microvm: {error}");
    ExitCode::from(code)
}

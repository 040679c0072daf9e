//! The program that a subcommand runs, and the exit status that stands for its end.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use fake_gunyah::Forwarder;

/// The host or a file is not usable.
pub(crate) const FAILED: u8 = 125;

/// A program and its arguments, and what hands our signals on to it.
pub(crate) fn command(words: Vec<OsString>) -> (Command, Forwarder) {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    let signals = Forwarder::new();
    signals.unblock_for(&mut command);
    (command, signals)
}

/// The exit status for a program that could not be run, as shells have it.
pub(crate) fn not_run(why: ErrorKind) -> u8 {
    if why == ErrorKind::NotFound { 127 } else { 126 }
}

/// The exit status for a program's end.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)
}

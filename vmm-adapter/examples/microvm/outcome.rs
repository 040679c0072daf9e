//! How a run ended, and the exit code that says so.

use std::process::ExitCode;

use vmm_adapter::ExitDetails;

/// microvm cannot go on.
pub(crate) const FAILURE: u8 = 1;
/// The command line or the configuration file is wrong.
pub(crate) const USAGE: u8 = 2;
const RESET: u8 = 32;
const CRASH: u8 = 33;
/// The host refuses the VM.
pub(crate) const REFUSED: u8 = 34;
const QUIT: u8 = 35;
const SIGNAL: u8 = 128;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    PowerOff(ExitDetails),
    Reset(ExitDetails),
    Crash(ExitDetails),
    /// Ctrl-A x.
    Quit,
    Signal(u8),
}

impl Outcome {
    /// Says what is not obvious on standard error, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let code = match self {
            Self::PowerOff(_) => 0,
            Self::Reset(details) => {
                eprintln!("microvm: {details}");
                RESET
            }
            Self::Crash(details) => {
                eprintln!("microvm: the guest crashed: {details}");
                CRASH
            }
            Self::Quit => {
                eprintln!("microvm: quit");
                QUIT
            }
            Self::Signal(signal) => {
                eprintln!("microvm: ended by signal {signal}");
                SIGNAL.saturating_add(signal)
            }
        };
        ExitCode::from(code)
    }
}

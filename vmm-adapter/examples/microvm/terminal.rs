//! The terminal in raw mode, and back.

use std::io::{self, IsTerminal};

use crate::sys;

/// Standard input in raw mode, if it is a terminal. Dropping it puts back what was.
pub(crate) struct RawMode(Option<libc::termios>);

impl RawMode {
    /// Ctrl-C and its like go to the guest from now on.
    pub(crate) fn enter() -> io::Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self(None));
        }
        let before = sys::terminal_settings()?;
        let mut raw = before;
        sys::make_input_raw(&mut raw);
        sys::set_terminal(&raw)?;
        Ok(Self(Some(before)))
    }

    pub(crate) fn is_raw(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // If the terminal is gone there is nothing to restore.
            let _ = sys::set_terminal(before);
        }
    }
}

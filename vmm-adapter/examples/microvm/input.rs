//! Input: from standard input to the guest's console, Ctrl-A x, and signals that end the run.

use std::os::fd::{AsRawFd, OwnedFd};

use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::stop::Stop;
use crate::sys::{self, Ready};

const CTRL_A: u8 = 1;
/// How long to wait, in ms, before input is offered again to a UART that takes none without being full: it loops back, or
/// a vCPU is at it.
const RETRY: i32 = 20;
/// How much of what is typed on a terminal is kept for a guest that takes none. As with a terminal of its own, what is
/// typed beyond that is lost.
const MOST_TYPED: usize = 4096;

/// A console that takes input. Nothing here waits for the guest or for its output: signals and Ctrl-A x come on the same
/// thread.
pub(crate) trait Sink: Send + Sync {
    /// Gives the guest input, as much as there is room for now. Answers how much that was.
    fn enqueue(&self, input: &[u8]) -> usize;

    /// Whether input is to be offered again soon: `false` if the console is full, as it says itself when it has room.
    fn may_have_room(&self) -> bool;
}

/// What the input waits for.
pub(crate) struct Input {
    signals: OwnedFd,
    /// The console has room again.
    room: EventFd,
    keys: Keys,
}

impl Input {
    /// With `escapes`, Ctrl-A is a prefix.
    pub(crate) fn new(room: EventFd, escapes: bool) -> Result<Self> {
        let signals =
            sys::ending_signals().map_err(|error| Error::new(format!("cannot wait for signals: {error}")))?;
        Ok(Self { signals, room, keys: Keys { escapes, prefixed: false } })
    }

    /// Feeds the console until the run ends.
    pub(crate) fn run(mut self, console: &dyn Sink, stop: &Stop) {
        let mut open = true;
        let mut pending: Vec<u8> = Vec::new();
        while !stop.is_set() {
            // A terminal is read in any case, for Ctrl-A x; elsewhere whoever writes can wait.
            let want_input = open && (pending.is_empty() || self.keys.escapes);
            let stdin = want_input.then_some(libc::STDIN_FILENO);
            let timeout = if !pending.is_empty() && console.may_have_room() { RETRY } else { -1 };
            let fds = [
                stdin.unwrap_or(-1),
                self.signals.as_raw_fd(),
                self.room.as_raw_fd(),
                stop.ended().as_raw_fd(),
            ];
            let [input, signal, room, _] = match sys::wait(fds, timeout) {
                Ok(ready) => ready,
                Err(error) => return stop.end(Err(Error::new(format!("cannot wait for input: {error}")))),
            };
            if signal == Ready::Yes {
                return stop.end(Ok(Outcome::Signal(sys::taken_signal(&self.signals).unwrap_or_default())));
            }
            if room == Ready::Yes {
                let _ = self.room.read();
            }
            if input == Ready::Yes {
                let mut buffer = [0; 256];
                // An error ends the input as its end does; the guest runs on without.
                let count = sys::read_stdin(&mut buffer).unwrap_or_default();
                open = count > 0;
                let quit = self.keys.take(buffer.get(..count).unwrap_or_default(), &mut pending);
                if quit {
                    return stop.end(Ok(Outcome::Quit));
                }
                if self.keys.escapes {
                    pending.truncate(MOST_TYPED);
                }
            }
            let taken = console.enqueue(&pending);
            pending.drain(..taken.min(pending.len()));
        }
    }
}

/// Ctrl-A as a prefix.
struct Keys {
    escapes: bool,
    prefixed: bool,
}

impl Keys {
    /// Puts what is for the guest into `out`. Answers whether to quit.
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        for byte in input {
            match (std::mem::take(&mut self.prefixed), *byte) {
                (true, b'x' | b'X') => return true,
                (false, CTRL_A) if self.escapes => self.prefixed = true,
                (_, byte) => out.push(byte),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(escapes: bool, parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = Keys { escapes, prefixed: false };
        let mut out = Vec::new();
        let quit = parts.iter().any(|part| keys.take(part, &mut out));
        (out, quit)
    }

    #[test]
    fn ctrl_a_x_quits() {
        assert_eq!(keys(true, &[b"ls\x01x"]), (b"ls".to_vec(), true));
        assert_eq!(keys(true, &[b"\x01", b"x"]), (vec![], true), "in two reads");
        assert_eq!(keys(true, &[b"\x01\x01x"]), (b"\x01x".to_vec(), false), "twice is Ctrl-A itself");
        assert_eq!(keys(true, &[b"\x01bx"]), (b"bx".to_vec(), false));
    }

    #[test]
    fn without_a_terminal_every_byte_is_the_guests() {
        assert_eq!(keys(false, &[b"\x01x"]), (b"\x01x".to_vec(), false));
    }
}

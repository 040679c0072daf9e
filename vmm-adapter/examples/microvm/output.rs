//! Output: from the guest's consoles to standard output.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use vmm_sys_util::eventfd::EventFd;

use crate::sys;

/// A pipe that has room takes as much as this at once without blocking.
const PIECE: usize = 4096;
/// How long to wait, in ms, when standard output takes nothing although it says that it would: a terminal with room for
/// less than a line's end.
const RETRY: i32 = 10;

/// Standard output, as long as the run lasts. A reader that is stuck keeps the guest waiting, but not the end.
pub(crate) struct Output {
    /// Can be read when the run has ended.
    ended: EventFd,
    /// The same pipe or terminal, without waiting in a write: a terminal waits until it has taken all, and other writers may
    /// fill a pipe meanwhile.
    own: Option<OwnedFd>,
}

impl Output {
    pub(crate) fn new(ended: EventFd) -> Self {
        Self { ended, own: sys::stdout_that_does_not_wait() }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..bytes.len().min(PIECE)).unwrap_or_default();
        loop {
            if !sys::wait_for_stdout(self.ended.as_raw_fd())? {
                // Nobody waits for it any more.
                return Ok(bytes.len());
            }
            match sys::write_stdout(self.own.as_ref(), piece) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if let [sys::Ready::Yes] = sys::wait([self.ended.as_raw_fd()], RETRY)? {
                return Ok(bytes.len());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Output: from the guest's consoles to standard output.

use std::io::{self, Write};
use std::os::fd::AsRawFd;

use vmm_sys_util::eventfd::EventFd;

use crate::sys;

/// A pipe that has room takes as much as this at once without blocking.
const PIECE: usize = 4096;

/// Standard output, as long as the run lasts. A reader that is stuck keeps the guest waiting, but not the end.
pub(crate) struct Output {
    /// Can be read when the run has ended.
    ended: EventFd,
}

impl Output {
    pub(crate) fn new(ended: EventFd) -> Self {
        Self { ended }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !sys::wait_for_stdout(self.ended.as_raw_fd())? {
            // Nobody waits for it any more.
            return Ok(bytes.len());
        }
        sys::write_stdout(bytes.get(..bytes.len().min(PIECE)).unwrap_or_default())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

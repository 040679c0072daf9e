//! The host's network without privileges, by way of passt: a program that gives the guest's connections to the host's
//! sockets, and answers its DHCP.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use super::Link;
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::sys;

const PROGRAM: &str = "passt";
/// Our socket is its standard input, so that nothing needs to be inherited besides.
const OPTIONS: [&str; 7] = ["--foreground", "--quiet", "--stderr", "--mtu", "1500", "--fd", "0"];

/// A passt of our own. It ends when its socket does, so also when this process is killed.
#[derive(Debug)]
pub(crate) struct Passt {
    stream: Stream,
    child: Child,
    /// What it complains of.
    complaints: File,
}

impl Passt {
    pub(crate) fn start() -> Result<Self> {
        let cannot =
            |error: io::Error| Error::new(format!("cannot start {PROGRAM} for the network: {error}"));
        let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
        let complaints = sys::memory_file(PROGRAM).map_err(cannot)?;
        let child = Command::new(PROGRAM)
            .args(OPTIONS)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(complaints.try_clone().map_err(cannot)?)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::new(format!(
                    "--net user needs {PROGRAM}, which is not installed (Debian: apt-get install {PROGRAM})"
                )),
                _ => cannot(error),
            })?;
        Ok(Self { stream: Stream::new(ours).map_err(cannot)?, child, complaints })
    }
}

impl Link for Passt {
    fn fd(&self) -> RawFd {
        self.stream.fd()
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        self.stream.receive(frame)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.stream.send(frame)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }

    fn last_words(&mut self) -> String {
        let mut text = String::new();
        let _ = self.complaints.rewind().and_then(|()| self.complaints.read_to_string(&mut text));
        // Without a system log it says so of each line.
        let lines =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("to syslog"));
        lines.collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

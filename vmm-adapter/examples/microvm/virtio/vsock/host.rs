//! The host's side: the listening socket, and programs that have not said yet which port they want.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use event_manager::{EventOps, EventSet, Events};

use super::super::Broken;
use crate::error::{Error, Result};
use crate::sys;

/// How many programs may be about to say what they want.
const MOST_WAITING: usize = 64;
/// `CONNECT 4294967295\n`.
const LONGEST_COMMAND: usize = 19;

/// The Unix sockets of the host.
#[derive(Debug)]
pub(crate) struct Host {
    path: PathBuf,
    listener: UnixListener,
    waiting: BTreeMap<RawFd, (UnixStream, Vec<u8>)>,
    /// Given up for a moment when no other file can be opened: a program that cannot be served is to hear so, not to wait.
    spare: Option<File>,
    /// Programs may wait that could not be taken. The listening socket does not say so again.
    missed: bool,
}

/// What came of a program's command.
enum Command {
    Port(u32),
    NotYet,
    Wrong,
}

impl Host {
    /// Listens at `path`. The socket goes away with this.
    pub(crate) fn listen(path: &Path) -> Result<Self> {
        let bound = match UnixListener::bind(path) {
            // One that nobody listens at was left by somebody who was killed.
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_dead(path) => {
                std::fs::remove_file(path).and_then(|()| UnixListener::bind(path))
            }
            done => done,
        };
        let listener = bound.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        let listener =
            listener.map_err(|error| Error::new(format!("cannot listen at {}: {error}", path.display())))?;
        let waiting = BTreeMap::new();
        Ok(Self { path: path.to_owned(), listener, waiting, spare: spare_file(), missed: false })
    }

    pub(super) fn watch(&self, watch: &mut EventOps<'_>) -> std::result::Result<(), Broken> {
        let events = Events::new(&self.listener, EventSet::IN | EventSet::EDGE_TRIGGERED);
        watch.add(events).map_err(|error| Broken(format!("cannot wait for connections: {error}")))
    }

    /// Takes all programs that want to connect. Gives those that have already said to which port.
    pub(super) fn accept(&mut self, watch: &mut EventOps<'_>) -> Vec<(UnixStream, u32)> {
        let mut ready = Vec::new();
        self.missed = false;
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) =>
                {
                    continue;
                }
                // There are too many files.
                Err(_) if self.turn_away() => continue,
                Err(_) => {
                    self.missed = true;
                    break;
                }
            };
            if self.waiting.len() >= MOST_WAITING || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let fd = stream.as_raw_fd();
            // Everything that a connection waits for, now and later.
            let all = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
            if watch.add(Events::new(&stream, all)).is_ok() {
                self.waiting.insert(fd, (stream, Vec::new()));
                ready.extend(self.progress(fd, watch));
            }
        }
        ready
    }

    /// Takes a program with the help of the spare file, and closes it.
    fn turn_away(&mut self) -> bool {
        self.spare = None;
        let taken = self.listener.accept().is_ok();
        self.spare = spare_file();
        taken
    }

    /// Whether programs may wait of which nothing will be heard: they are to be taken at any occasion.
    pub(super) fn has_missed(&self) -> bool {
        self.missed
    }

    /// Reads what the program behind `fd` says. Gives it, still watched, when it has said which port it wants.
    pub(super) fn progress(&mut self, fd: RawFd, watch: &mut EventOps<'_>) -> Option<(UnixStream, u32)> {
        let (stream, said) = self.waiting.get_mut(&fd)?;
        let command = command(stream, said);
        if let Command::NotYet = command {
            return None;
        }
        let (stream, _) = self.waiting.remove(&fd)?;
        match command {
            Command::Port(port) => Some((stream, port)),
            _ => {
                // It is closed here; that it is watched no more cannot fail.
                let _ = watch.remove(Events::empty(&stream));
                None
            }
        }
    }

    /// Connects to whoever serves `port` for the guest.
    pub(super) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        sys::connect(Path::new(&path))
    }
}

impl AsRawFd for Host {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // If somebody removed it before there is nothing to do.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn spare_file() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_dead(path: &Path) -> bool {
    matches!(UnixStream::connect(path), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

/// Reads up to the end of the line, and not a byte more: what follows is for the guest.
fn command(stream: &mut UnixStream, said: &mut Vec<u8>) -> Command {
    loop {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => return Command::Wrong,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Command::NotYet,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return Command::Wrong,
        }
        if byte == *b"\n" {
            return parse(said).map_or(Command::Wrong, Command::Port);
        }
        said.extend_from_slice(&byte);
        if said.len() >= LONGEST_COMMAND {
            return Command::Wrong;
        }
    }
}

fn parse(said: &[u8]) -> Option<u32> {
    let said = std::str::from_utf8(said).ok()?;
    said.trim_end_matches('\r').strip_prefix("CONNECT ")?.parse().ok()
}

//! Frames over a stream, each behind its length in 4 bytes, the highest first.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Header, LARGEST_FRAME, Link};
use crate::error::{Error, Result};

/// How much is read at a time, at the most.
const BUFFER: usize = 2 * (LARGEST_FRAME + 4);

/// A connection to something that takes and gives frames.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: UnixStream,
    /// What was read and not yet given: `start..end`.
    inward: Vec<u8>,
    start: usize,
    end: usize,
    /// The rest of a frame of which a part is sent.
    outward: Vec<u8>,
}

impl Stream {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        UnixStream::connect(path)
            .and_then(Self::new)
            .map_err(|error| Error::new(format!("cannot connect to {}: {error}", path.display())))
    }

    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, inward: vec![0; BUFFER], start: 0, end: 0, outward: Vec::new() })
    }

    /// Tells the other end that this is the end.
    pub(super) fn shut_down(&self) {
        // If the other end is gone it knows.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// A whole frame of what was read: where its bytes are.
    fn whole_frame(&self) -> io::Result<Option<std::ops::Range<usize>>> {
        let read = self.inward.get(self.start..self.end).unwrap_or_default();
        let Some((length, rest)) = read.split_first_chunk() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if len > LARGEST_FRAME {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("it sends a frame of {len} bytes")));
        }
        let start = self.start.saturating_add(4);
        Ok((len <= rest.len()).then(|| start..start.saturating_add(len)))
    }
}

impl Link for Stream {
    fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(range) = self.whole_frame()? {
                self.start = range.end;
                let bytes = self.inward.get(range).unwrap_or_default();
                let slot = frame.get_mut(..bytes.len()).ok_or(ErrorKind::InvalidInput)?;
                slot.copy_from_slice(bytes);
                return Ok(bytes.len());
            }
            // Back to the front: so the pages behind are not touched while little comes.
            self.inward.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end.saturating_sub(self.start));
            let room = self.inward.get_mut(self.end..).unwrap_or_default();
            match retry(|| self.socket.read(room))? {
                0 => {
                    return Err(io::Error::new(
                        ErrorKind::UnexpectedEof,
                        "the other end closed the connection",
                    ));
                }
                count => self.end = self.end.saturating_add(count),
            }
        }
    }

    fn send(&mut self, _header: &Header, frame: &[u8]) -> io::Result<()> {
        self.flush()?;
        let len = u32::try_from(frame.len()).map_err(|_| ErrorKind::InvalidInput)?;
        self.outward.extend_from_slice(&len.to_be_bytes());
        self.outward.extend_from_slice(frame);
        match self.flush() {
            // It is taken; the rest goes when the socket can be written.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            done => done,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.outward.is_empty() {
            let count = retry(|| self.socket.write(&self.outward))?;
            self.outward.drain(..count);
        }
        Ok(())
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Stream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Stream::new(ours).unwrap(), theirs)
    }

    fn receive(stream: &mut Stream) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; LARGEST_FRAME];
        stream.receive(&mut frame).map(|len| frame[..len].to_vec())
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let (mut stream, mut theirs) = pair();
        let frames: Vec<Vec<u8>> = (0..40).map(|n| vec![n as u8; n * n * 3]).collect();
        let bytes: Vec<u8> = frames
            .iter()
            .flat_map(|frame| [&(frame.len() as u32).to_be_bytes()[..], frame].concat())
            .collect();
        let mut got = Vec::new();
        for piece in bytes.chunks(777) {
            theirs.write_all(piece).unwrap();
            loop {
                match receive(&mut stream) {
                    Ok(frame) => got.push(frame),
                    Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
        }
        assert_eq!(got, frames);
        drop(theirs);
        assert_eq!(receive(&mut stream).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn frames_go_whole_when_the_other_end_is_slow() {
        let (mut stream, mut theirs) = pair();
        theirs.set_nonblocking(true).unwrap();
        let frame: Vec<u8> = (0..40_000).map(|n| n as u8).collect();
        let (mut sent, mut got, mut blocked) = (0, Vec::new(), false);
        while sent < 50 || stream.flush().is_err() {
            if sent < 50 {
                match stream.send(&[0; 12], &frame) {
                    Ok(()) => sent += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        blocked = true;
                    }
                }
            }
            if blocked {
                let mut piece = [0; 5000];
                let count = theirs.read(&mut piece).unwrap();
                got.extend_from_slice(&piece[..count]);
            }
        }
        let _ = theirs.read_to_end(&mut got);
        assert!(blocked, "the test must fill the socket");
        let whole = [&40_000_u32.to_be_bytes()[..], &frame].concat();
        assert_eq!(got.len(), 50 * whole.len());
        assert!(got.chunks(whole.len()).all(|chunk| chunk == whole));
    }

    #[test]
    fn a_length_that_cannot_be_is_an_error() {
        let (mut stream, mut theirs) = pair();
        theirs.write_all(&[0xff; 8]).unwrap();
        assert_eq!(receive(&mut stream).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}

//! The host's network without privileges, by way of passt: a program that gives the guest's connections to the host's
//! sockets, and answers its DHCP.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use super::stream::Stream;
use super::{Header, Link};
use crate::error::{Error, Result};
use crate::sys;

const PROGRAM: &str = "passt";
/// Our socket is its standard input, so that nothing needs to be inherited besides.
const OPTIONS: [&str; 7] = ["--foreground", "--quiet", "--stderr", "--mtu", "1500", "--fd", "0"];

/// How many lines of them are shown.
const MOST_SAID: usize = 5;
/// Bytes of its complaints that are kept. A guest can give it reasons for more.
const MOST_COMPLAINTS: u64 = 16 << 10;

/// A passt of our own, which becomes nobody if it is started by root. It ends when its socket does, so also when this process
/// is killed.
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
        let complaints = sys::memory_file(PROGRAM, MOST_COMPLAINTS).map_err(cannot)?;
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

    fn send(&mut self, header: &Header, frame: &[u8]) -> io::Result<()> {
        self.stream.send(header, frame)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }

    fn last_words(&mut self) -> String {
        // What it wrote, and zeros.
        let mut bytes = Vec::new();
        let _ = self.complaints.rewind().and_then(|()| self.complaints.read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        // Without a system log it says so of each line.
        let lines = text
            .trim_end_matches('\0')
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.contains("to syslog"));
        // The last ones say why it ended.
        let mut last: Vec<_> = lines.rev().take(MOST_SAID).collect();
        last.reverse();
        last.join("; ")
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        // Either ends it: also one that must not be signalled, as it may have changed who it is. It may have ended already.
        self.stream.shut_down();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::super::super::rig::{Part, Rig};
    use super::super::{HEADER, LARGEST_FRAME, Net};
    use super::*;
    use crate::spec::Mac;

    /// How long passt may take for an answer.
    const PATIENCE: Duration = Duration::from_secs(20);
    const RECEIVE: usize = 0;
    const TRANSMIT: usize = 1;
    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const XID: [u8; 4] = [0xca, 0xfe, 0xf0, 0x0d];
    const DISCOVER: u8 = 1;
    const OFFER: u8 = 2;

    /// The Internet's checksum.
    fn checksum(bytes: &[u8]) -> [u8; 2] {
        let words = bytes
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    fn ip(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let length = (20 + payload.len() as u16).to_be_bytes();
        let mut header = [&[0x45, 0], &length[..], &[0, 0, 0, 0, 64, protocol, 0, 0], &from, &to].concat();
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        [&header[..], payload].concat()
    }

    fn ethernet(to: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
        [&to[..], &MAC, &kind.to_be_bytes(), payload].concat()
    }

    fn discover() -> Vec<u8> {
        let fixed = [&[1, 1, 6, 0], &XID[..], &[0, 0, 0x80, 0], &[0; 16], &MAC, &[0; 10 + 192]].concat();
        let options = [99, 130, 83, 99, 53, 1, DISCOVER, 55, 3, 1, 3, 6, 255];
        let bootp = [&fixed[..], &options].concat();
        let length = (8 + bootp.len() as u16).to_be_bytes();
        // Without a checksum, as UDP allows.
        let udp = [&[0, 68, 0, 67], &length[..], &[0, 0], &bootp].concat();
        ethernet([0xff; 6], 0x0800, &ip(17, [0; 4], [0xff; 4], &udp))
    }

    /// The address, the mask and the router that are offered, if this is an offer for us.
    fn offer(frame: &[u8]) -> Option<[[u8; 4]; 3]> {
        let bootp = frame.get(14 + 20 + 8..)?;
        let is_ours = frame[..6] == MAC || frame[..6] == [0xff; 6];
        if !is_ours || bootp.get(4..8)? != XID || bootp[0] != 2 {
            return None;
        }
        let mut options = bootp.get(240..)?;
        let (mut kind, mut mask, mut router) = (None, None, None);
        while let [code, len, rest @ ..] = options {
            if *code == 255 {
                break;
            }
            let (value, behind) = rest.split_at_checked(usize::from(*len))?;
            match *code {
                53 => kind = value.first().copied(),
                1 => mask = value.try_into().ok(),
                3 => router = value.get(..4).and_then(|value| value.try_into().ok()),
                _ => {}
            }
            options = behind;
        }
        if kind != Some(OFFER) { None } else { Some([bootp[16..20].try_into().unwrap(), mask?, router?]) }
    }

    fn send(rig: &mut Rig, frame: &[u8]) {
        rig.request(TRANSMIT, &[Part::Give(&[0; HEADER]), Part::Give(frame)]).unwrap();
    }

    /// The first frame for the guest that `wanted` finds something in.
    fn receive<T>(rig: &mut Rig, what: &str, wanted: impl Fn(&[u8]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no {what} from passt");
            let room = (HEADER + LARGEST_FRAME) as u32;
            let frame = rig.request(RECEIVE, &[Part::Take(room)]).unwrap();
            if let Some(found) = wanted(&frame[HEADER..]) {
                return found;
            }
        }
    }

    #[test]
    fn what_it_says_is_kept_within_bounds() {
        let Ok(mut passt) = Passt::start() else {
            // The other tests say what is missing.
            return;
        };
        let _ = passt.child.kill();
        let _ = passt.child.wait();
        passt.complaints.rewind().unwrap();
        std::io::Write::write_all(&mut passt.complaints, b"one\nFailed to send 9 bytes to syslog\ntwo\n")
            .unwrap();
        assert!(passt.last_words().starts_with("one; two"), "{}", passt.last_words());
        // As much as somebody likes to say.
        let mut more = passt.complaints.try_clone().unwrap();
        while std::io::Write::write(&mut more, &[b'x'; 1000]).is_ok() {}
        assert_eq!(passt.complaints.metadata().unwrap().len(), MOST_COMPLAINTS);
    }

    /// The device is given to a driver, and passt, started as for `--net user`, gives the guest an address, answers for the
    /// router and carries a datagram to a socket of the host and the answer back.
    #[test]
    fn a_guest_reaches_the_host_through_passt() {
        let required = std::env::var_os("MICROVM_PASST").is_some_and(|value| value == "required");
        let passt = match Passt::start() {
            Ok(passt) => passt,
            Err(error) if required => panic!("passt is missing: apt-get install passt ({error})"),
            Err(error) => {
                eprintln!("not checked against passt, as MICROVM_PASST=required is not set: {error}");
                return;
            }
        };
        let process = format!("/proc/{}", passt.child.id());
        let mut rig = Rig::started(Net::new("net0".to_owned(), Mac(MAC), Box::new(passt)));
        send(&mut rig, &discover());
        let [guest, mask, router] = receive(&mut rig, "offer", offer);
        assert!(guest != [0; 4] && mask != [0; 4] && router != [0; 4], "{guest:?} {mask:?} {router:?}");

        let question = [&[0, 1, 8, 0, 6, 4, 0, 1], &MAC[..], &guest, &[0; 6], &router].concat();
        send(&mut rig, &ethernet([0xff; 6], 0x0806, &question));
        let theirs: [u8; 6] = receive(&mut rig, "answer to ARP", |frame| {
            let is_answer = frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == router;
            is_answer.then(|| frame[22..28].try_into().unwrap())
        });

        // The router's address is the host's loopback to the guest.
        let host = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        let port = host.local_addr().unwrap().port().to_be_bytes();
        let udp = [&[0x9c, 0x40], &port[..], &[0, 8 + 5, 0, 0], b"hello"].concat();
        send(&mut rig, &ethernet(theirs, 0x0800, &ip(17, guest, router, &udp)));
        let mut buffer = [0; 16];
        let (count, from) = host.recv_from(&mut buffer).expect("the datagram comes through passt");
        assert_eq!(&buffer[..count], b"hello");
        host.send_to(b"and back", from).unwrap();
        receive(&mut rig, "datagram", |frame| {
            let is_ours = frame[12..14] == [8, 0] && frame[23] == 17 && frame[34..36] == port;
            (is_ours && frame[42..].starts_with(b"and back")).then_some(())
        });

        assert!(Path::new(&process).exists());
        drop(rig);
        assert!(!Path::new(&process).exists(), "it goes with the device");
    }
}

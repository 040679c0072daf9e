//! A tap interface of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
};

use super::{HEADER, Header, Link};
use crate::error::{Error, Result};
use crate::sys;

const DEVICE: &str = "/dev/net/tun";

/// A tap interface. One that this made goes away with it.
#[derive(Debug)]
pub(crate) struct Tap(File);

impl Tap {
    /// Attaches to the interface, or makes it.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let is_there = sys::has_interface(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|error| Error::new(format!("cannot open {DEVICE}: {error}")))?;
        sys::attach_tap(&file, name).map_err(|error| {
            let hint = match error.raw_os_error() {
                Some(libc::EBUSY) => "something else uses it".to_owned(),
                Some(libc::EPERM) if is_there => {
                    "it is not yours; make it with: ip tuntap add ".to_owned() + name + " mode tap user $USER"
                }
                Some(libc::EPERM) => {
                    format!("there is none, and making one needs CAP_NET_ADMIN: ip tuntap add {name} mode tap user $USER")
                }
                Some(libc::EINVAL) if is_there => "it is no tap interface, or has several queues".to_owned(),
                _ => error.to_string(),
            };
            Error::new(format!("cannot attach to the tap interface {name}: {hint}"))
        })?;
        sys::set_up_tap(&file, HEADER)
            .map_err(|error| Error::new(format!("cannot set up the tap interface {name}: {error}")))?;
        if !is_there {
            // Whoever made it must also bring it up. An address or a bridge is the user's to give it.
            match sys::bring_up(name) {
                Ok(()) => eprintln!("microvm: made the tap interface {name}"),
                Err(error) => {
                    eprintln!("microvm: made the tap interface {name}, but cannot bring it up: {error}")
                }
            }
        }
        Ok(Self(file))
    }
}

impl Link for Tap {
    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The kernel does it all, and checks the header.
    fn offloads(&self) -> u64 {
        1 << VIRTIO_NET_F_CSUM
            | 1 << VIRTIO_NET_F_HOST_TSO4
            | 1 << VIRTIO_NET_F_HOST_TSO6
            | 1 << VIRTIO_NET_F_HOST_ECN
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        // It says nothing: the kernel was told that frames are to be complete.
        let mut header = [0; HEADER];
        let count = self.0.read_vectored(&mut [IoSliceMut::new(&mut header), IoSliceMut::new(frame)])?;
        Ok(count.saturating_sub(HEADER))
    }

    fn send(&mut self, header: &Header, frame: &[u8]) -> io::Result<()> {
        match self.0.write_vectored(&[IoSlice::new(header), IoSlice::new(frame)]) {
            // The interface is down, or does not like the frame: a frame is lost, the cable is still there.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::ENOBUFS)) => {
                Ok(())
            }
            done => done.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::rig::{Part, Rig};
    use super::super::Net;
    use super::*;
    use crate::spec::Mac;

    const TRANSMIT: usize = 1;
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    /// What the kernel has counted of an interface of this thread's network: packets, bytes, bad frames.
    fn counts(name: &str) -> [u64; 3] {
        let all = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let line = all.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}:"))).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
        [numbers[1], numbers[0], numbers[5]]
    }

    /// 30000 bytes of TCP in one frame, to be cut into segments of `size` bytes.
    fn segments(size: u16) -> (Header, Vec<u8>) {
        let mut header = [1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0];
        header[4..6].copy_from_slice(&size.to_le_bytes());
        let mut frame = [&[0xff; 6], &MAC[..], &[8, 0]].concat();
        frame.extend([0x45, 0]);
        frame.extend((20 + 20 + 30_000_u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
        frame.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0]);
        frame.resize(54 + 30_000, 7);
        (header, frame)
    }

    fn send(rig: &mut Rig, header: &Header, frame: &[u8]) {
        rig.request(TRANSMIT, &[Part::Give(header), Part::Give(frame)]).unwrap();
    }

    #[test]
    fn the_kernel_cuts_and_checks_what_the_driver_leaves_to_it() {
        let required = std::env::var_os("MICROVM_TAP").is_some_and(|value| value == "required");
        match sys::enter_own_network() {
            Ok(()) => {}
            Err(error) if required => {
                panic!("a tap interface needs CAP_NET_ADMIN and CAP_SYS_ADMIN: {error}")
            }
            Err(error) => {
                eprintln!("not checked with a tap interface, as MICROVM_TAP=required is not set: {error}");
                return;
            }
        }
        const NAME: &str = "microvm0";
        assert!(!sys::has_interface(NAME) && sys::has_interface("lo"));
        let net = Net::new("net0".to_owned(), Mac(MAC), Box::new(Tap::open(NAME).unwrap()));
        assert!(sys::has_interface(NAME));
        let mut rig = Rig::started(net);
        assert_eq!(rig.offered() & 0x3801, 0x3801);
        let [packets, bytes, bad] = counts(NAME);
        let (header, frame) = segments(1448);
        send(&mut rig, &header, &frame);
        assert_eq!(counts(NAME), [packets + 1, bytes + frame.len() as u64, bad]);
        // A checksum that lies behind the frame: the kernel does not take it, and the card goes on.
        let wrong = [1, 1, 54, 0, 168, 5, 0xff, 0xff, 16, 0, 0, 0];
        send(&mut rig, &wrong, &frame);
        assert_eq!(counts(NAME)[..2], [packets + 1, bytes + frame.len() as u64]);
        send(&mut rig, &[0; HEADER], &frame[..100]);
        assert_eq!(counts(NAME)[..2], [packets + 2, bytes + frame.len() as u64 + 100]);
        // A driver that takes no offloads has no say.
        rig.start(0);
        send(&mut rig, &wrong, &frame[..100]);
        assert_eq!(counts(NAME)[..2], [packets + 3, bytes + frame.len() as u64 + 200]);
        assert!(!rig.needs_reset());
    }
}

//! A tap interface of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Link;
use crate::error::{Error, Result};
use crate::sys;

const DEVICE: &str = "/dev/net/tun";

/// A tap interface. One that this made goes away with it.
#[derive(Debug)]
pub(crate) struct Tap(File);

impl Tap {
    /// Attaches to the interface, or makes it.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let is_there = Path::new("/sys/class/net").join(name).exists();
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

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize> {
        self.0.read(frame)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        match self.0.write(frame) {
            // The interface is down, or does not like the frame: a frame is lost, the cable is still there.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::ENOBUFS)) => {
                Ok(())
            }
            done => done.map(|_| ()),
        }
    }
}

//! The network device.
//!
//! To the guest every frame is one that a wire would carry, with its checksums in it, and no longer than the buffers that the
//! driver gives. From the guest a link may take more: checksums that are to be filled in, and TCP segments of many frames'
//! length that are to be cut. So a guest that sends much does so with few requests; else it would wait for an interrupt
//! after every few frames, as Linux keeps no more of a connection's in a queue.

pub(crate) mod passt;
pub(crate) mod stream;
pub(crate) mod tap;

use std::io;
use std::os::fd::RawFd;

use event_manager::{EventOps, EventSet, Events};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MAC;

use super::queues::Queues;
use super::{Broken, Device, Progress};
use crate::spec::Mac;

const QUEUES: [u16; 2] = [256, 256];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// How many frames go in each direction in one go.
const BATCH: usize = 128;

/// The largest frame: an IP packet of 64 KiB behind an Ethernet header with a VLAN tag.
pub(crate) const LARGEST_FRAME: usize = (64 << 10) + 18;
/// struct virtio_net_hdr_v1. All zeros, but for the number of buffers of a received frame.
const HEADER: usize = 12;
pub(crate) type Header = [u8; HEADER];
const RECEIVED: Header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// What a network card is connected to. Nothing here blocks.
pub(crate) trait Link: Send {
    /// What can be read when a frame is there, and written when one can be sent.
    fn fd(&self) -> RawFd;

    /// The next frame's length, put at the start of `frame`. `WouldBlock`: there is none.
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<usize>;

    /// What it does to frames that are sent, as features of the device that let the driver leave it undone.
    fn offloads(&self) -> u64 {
        0
    }

    /// Takes a frame, with what [`Link::offloads`] is to be done to it: all zeros if there are none. `WouldBlock`: not now,
    /// offer it again when the file can be written.
    fn send(&mut self, header: &Header, frame: &[u8]) -> io::Result<()>;

    /// Goes on with what was taken and is not sent. `WouldBlock`: there is more of it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What happened at the other end, for a message, when one of these failed for good.
    fn last_words(&mut self) -> String {
        String::new()
    }
}

/// A network card.
pub(crate) struct Net {
    mac: Mac,
    /// `None` when its other end is gone.
    link: Option<Box<dyn Link>>,
    name: String,
    /// A frame that came, of this length, and waits for a buffer of the driver. Pages of it that no frame reached cost nothing.
    inward: Vec<u8>,
    waiting: Option<usize>,
    outward: Vec<u8>,
    header: Header,
    /// The driver leaves things for the link to do.
    offloads: bool,
    /// A frame to send, of this length, and the request that it came by.
    unsent: Option<(usize, u16)>,
}

impl Net {
    /// `name` is for messages.
    pub(crate) fn new(name: String, mac: Mac, link: Box<dyn Link>) -> Self {
        Self {
            mac,
            link: Some(link),
            name,
            inward: vec![0; LARGEST_FRAME],
            waiting: None,
            outward: vec![0; LARGEST_FRAME],
            header: [0; HEADER],
            offloads: false,
            unsent: None,
        }
    }

    fn receive(&mut self, queues: &mut Queues<'_>) -> Result<Progress, Broken> {
        for _ in 0..BATCH {
            let len = match self.waiting {
                Some(len) => len,
                None => {
                    let Some(link) = &mut self.link else { return Ok(Progress::Idle) };
                    match link.receive(&mut self.inward) {
                        Ok(len) => len,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Idle),
                        Err(error) => {
                            self.cut(&error);
                            return Ok(Progress::Idle);
                        }
                    }
                }
            };
            self.waiting = Some(len);
            let Some(mut chain) = queues.pop(RECEIVE)? else { return Ok(Progress::Idle) };
            self.waiting = None;
            let frame = self.inward.get(..len).unwrap_or_default();
            let written = if chain.writable.len() >= (HEADER as u64).saturating_add(len as u64) {
                queues.counters.to_guest.add(len as u64);
                chain.writable.write(&RECEIVED).saturating_add(chain.writable.write(frame))
            } else {
                // As on a wire: what is too long is lost. The buffer goes back empty.
                queues.counters.failed.add(1);
                0
            };
            queues.done(RECEIVE, chain.head, written as u64)?;
        }
        Ok(Progress::More)
    }

    fn transmit(&mut self, queues: &mut Queues<'_>) -> Result<Progress, Broken> {
        match self.link.as_mut().map_or(Ok(()), |link| link.flush()) {
            Ok(()) => {}
            // It can be written again some day, and then this is called.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Idle),
            Err(error) => self.cut(&error),
        }
        for _ in 0..BATCH {
            let (len, head) = match self.unsent.take() {
                Some(unsent) => unsent,
                None => {
                    let Some(mut chain) = queues.pop(TRANSMIT)? else { return Ok(Progress::Idle) };
                    if chain.readable.read_exact(&mut self.header).is_none() {
                        return Err(Broken::new("a frame to send has no header"));
                    }
                    if !self.offloads {
                        self.header = [0; HEADER];
                    }
                    if chain.readable.len() > LARGEST_FRAME as u64 {
                        queues.counters.failed.add(1);
                        queues.done(TRANSMIT, chain.head, 0)?;
                        continue;
                    }
                    (chain.readable.read(&mut self.outward), chain.head)
                }
            };
            let frame = self.outward.get(..len).unwrap_or_default();
            let sent = self.link.as_mut().map_or(Ok(()), |link| link.send(&self.header, frame));
            match sent {
                Ok(()) => queues.counters.from_guest.add(len as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent = Some((len, head));
                    return Ok(Progress::Idle);
                }
                Err(error) => {
                    queues.counters.failed.add(1);
                    self.cut(&error);
                }
            }
            queues.done(TRANSMIT, head, 0)?;
        }
        Ok(Progress::More)
    }

    /// The other end is gone: frames get lost from now on, as with a pulled cable.
    fn cut(&mut self, error: &io::Error) {
        if let Some(mut link) = self.link.take() {
            let words = link.last_words();
            let words = if words.is_empty() { words } else { format!("; it said: {words}") };
            eprintln!("microvm: {} is disconnected: {error}{words}", self.name);
        }
    }
}

impl Device for Net {
    fn kind(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC | self.link.as_ref().map_or(0, |link| link.offloads())
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn config(&self) -> Vec<u8> {
        self.mac.0.to_vec()
    }

    fn watch(&mut self, watch: &mut EventOps<'_>) -> Result<(), Broken> {
        let Some(link) = &self.link else { return Ok(()) };
        let all = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        watch
            .add(Events::new_raw(link.fd(), all))
            .map_err(|error| Broken(format!("cannot wait for frames: {error}")))
    }

    fn activate(&mut self, features: u64) {
        self.offloads = self.link.as_ref().is_some_and(|link| link.offloads() & features != 0);
    }

    fn reset(&mut self) {
        (self.waiting, self.unsent) = (None, None);
    }

    fn process(
        &mut self,
        queues: &mut Queues<'_>,
        _ready: Option<Events>,
        _watch: &mut EventOps<'_>,
    ) -> Result<Progress, Broken> {
        let received = self.receive(queues)?;
        let sent = self.transmit(queues)?;
        Ok(if received == Progress::More || sent == Progress::More { Progress::More } else { Progress::Idle })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::super::rig::{BUFFERS, Part, Rig, torment};
    use super::stream::Stream;
    use super::*;

    const ADDRESS: Mac = Mac([2, 0, 0, 0, 0, 7]);

    fn card() -> (Rig, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let link = Box::new(Stream::new(ours).unwrap());
        (Rig::started(Net::new("net0".to_owned(), ADDRESS, link)), theirs)
    }

    fn send(wire: &mut UnixStream, frame: &[u8]) {
        wire.write_all(&[&(frame.len() as u32).to_be_bytes()[..], frame].concat()).unwrap();
    }

    fn receive(wire: &mut UnixStream) -> Vec<u8> {
        let mut len = [0; 4];
        wire.read_exact(&mut len).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        wire.read_exact(&mut frame).unwrap();
        frame
    }

    #[test]
    fn frames_go_both_ways() {
        let (mut rig, mut wire) = card();
        let frame: Vec<u8> = (0..1514).map(|n| n as u8).collect();
        rig.request(TRANSMIT, &[Part::Give(&[0; HEADER]), Part::Give(&frame[..9]), Part::Give(&frame[9..])])
            .unwrap();
        assert_eq!(receive(&mut wire), frame);
        send(&mut wire, &frame);
        let got = rig.request(RECEIVE, &[Part::Take(20), Part::Take(2000)]).unwrap();
        assert_eq!(got, [&RECEIVED[..], &frame].concat());
    }

    #[test]
    fn frames_wait_for_buffers_in_order() {
        let (mut rig, mut wire) = card();
        for n in 0..100_u8 {
            send(&mut wire, &[n; 60]);
        }
        for n in 0..100 {
            assert_eq!(rig.request(RECEIVE, &[Part::Take(100)]).unwrap()[HEADER..], [n; 60]);
        }
        rig.offer(RECEIVE, BUFFERS, &[Part::Take(100)]);
        send(&mut wire, b"woken");
        assert_eq!(rig.used(RECEIVE), Some(12 + 5));
    }

    #[test]
    fn what_is_too_long_is_lost() {
        let (mut rig, mut wire) = card();
        send(&mut wire, &[1; 1000]);
        assert_eq!(rig.request(RECEIVE, &[Part::Take(1011)]), Some(vec![]));
        send(&mut wire, &[2; 999]);
        assert_eq!(rig.request(RECEIVE, &[Part::Take(1011)]).unwrap()[HEADER..], [2; 999]);
        let parts = [Part::Give(&[0; HEADER]), Part::Give(&[3; LARGEST_FRAME]), Part::Give(b"x")];
        rig.request(TRANSMIT, &parts).unwrap();
        rig.request(TRANSMIT, &[Part::Give(&[0; HEADER]), Part::Give(b"short")]).unwrap();
        assert_eq!(receive(&mut wire), b"short");
    }

    #[test]
    fn a_frame_without_a_header_breaks_the_device() {
        let (mut rig, _wire) = card();
        assert_eq!(rig.request(TRANSMIT, &[Part::Give(&[0; HEADER - 1])]), None);
        rig.start(u64::MAX);
        assert!(!rig.needs_reset());
    }

    #[test]
    fn a_slow_wire_holds_frames_back_and_loses_none() {
        let (mut rig, mut wire) = card();
        let count = 40;
        let reader = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            (0..count).map(|_| receive(&mut wire)).collect::<Vec<_>>()
        });
        for n in 0..count {
            rig.request(TRANSMIT, &[Part::Give(&[0; HEADER]), Part::Give(&[n; 60_000])]).unwrap();
        }
        let frames = reader.join().unwrap();
        assert!(frames.iter().zip(0..).all(|(frame, n)| *frame == [n; 60_000]));
    }

    #[test]
    fn a_cut_wire_is_a_pulled_cable() {
        let (mut rig, wire) = card();
        drop(wire);
        for _ in 0..3 {
            rig.request(TRANSMIT, &[Part::Give(&[0; HEADER]), Part::Give(b"lost")]).unwrap();
        }
        rig.settle();
        assert!(!rig.needs_reset());
    }

    #[test]
    fn the_address_is_told() {
        let (rig, _wire) = card();
        let mut mac = [0; 8];
        vmm_adapter::MmioDevice::read(&rig.mmio, 0x100, &mut mac);
        assert_eq!((&mac[..6], rig.offered() & 1 << 5), (&ADDRESS.0[..], 1 << 5));
    }

    #[test]
    fn it_survives_any_driver() {
        let (mut rig, mut wire) = card();
        let feeder = wire.try_clone().unwrap();
        let drain = std::thread::spawn(move || std::io::copy(&mut wire, &mut std::io::sink()));
        let mut feed = feeder;
        feed.set_nonblocking(true).unwrap();
        torment(&mut rig, 300, |dice| {
            let frame = vec![7; dice.below(200) as usize];
            let _ = feed.write(&[&(frame.len() as u32).to_be_bytes()[..], &frame].concat());
            vec![0; 16]
        });
        drop(rig);
        let _ = drain.join();
    }
}

//! The vsock device: stream sockets between programs of the guest and of the host.
//!
//! On the host's side they are Unix sockets. A program connects to one, says which port of the guest it wants
//! (`CONNECT 52\n`) and hears `OK` and a number; for what the guest connects to at port 53 there is to be a socket with `_53`
//! behind its path.
//!
//! | file | what it is |
//! |---|---|
//! | `connection.rs` | one connection: its state, its credit, what it has to say |
//! | `muxer.rs` | all connections, by their ports |
//! | `packet.rs` | the header of a packet |
//! | `host.rs` | the host's side: the listening socket, and those that are not connected yet |

mod connection;
mod host;
mod muxer;
mod packet;

pub(crate) use host::Host;

use std::os::fd::AsRawFd;

use event_manager::{EventOps, Events};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use self::muxer::Muxer;
use self::packet::{Header, MOST_DATA};
use super::queues::Queues;
use super::{Broken, Device, Progress};

/// To the guest, from the guest, and events, of which there are none: they are for guests that move.
const QUEUES: [u16; 3] = [128, 128, 8];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const BATCH: usize = 64;

/// A packet for the guest that waits for its buffer.
struct Staged {
    header: Header,
    /// The part of [`Vsock::inward`] that is still to go.
    start: usize,
    end: usize,
}

/// The device.
pub(crate) struct Vsock {
    cid: u32,
    host: Host,
    muxer: Muxer,
    staged: Option<Staged>,
    inward: Vec<u8>,
    outward: Vec<u8>,
}

impl Vsock {
    pub(crate) fn new(cid: u32, host: Host) -> Self {
        let buffer = vec![0; MOST_DATA as usize];
        Self { cid, host, muxer: Muxer::new(cid), staged: None, inward: buffer.clone(), outward: buffer }
    }

    /// What the guest sends.
    fn transmit(&mut self, queues: &mut Queues<'_>, watch: &mut EventOps<'_>) -> Result<Progress, Broken> {
        for _ in 0..BATCH {
            if self.muxer.is_congested() {
                break;
            }
            let Some(mut chain) = queues.pop(TRANSMIT)? else { return Ok(Progress::Idle) };
            let mut header = [0; packet::SIZE];
            if chain.readable.read_exact(&mut header).is_none() {
                return Err(Broken::new("a packet has no header"));
            }
            let header = Header::of(&header);
            let data = usize::try_from(header.len).ok().and_then(|len| self.outward.get_mut(..len));
            let data = data.ok_or_else(|| Broken(format!("a packet is to have {} bytes", header.len)))?;
            if chain.readable.read_exact(data).is_none() {
                return Err(Broken::new("a packet is shorter than its header says"));
            }
            queues.counters.from_guest.add(data.len() as u64);
            if !self.muxer.guest_sends(&header, data, &self.host, watch) {
                queues.counters.failed.add(1);
            }
            queues.done(TRANSMIT, chain.head, 0)?;
        }
        Ok(Progress::More)
    }

    /// What goes to the guest.
    fn receive(&mut self, queues: &mut Queues<'_>) -> Result<Progress, Broken> {
        for _ in 0..BATCH {
            if self.staged.is_none() {
                let Some((header, len)) = self.muxer.next_for_guest(&mut self.inward) else {
                    return Ok(Progress::Idle);
                };
                self.staged = Some(Staged { header, start: 0, end: len });
            }
            let Some(mut chain) = queues.pop(RECEIVE)? else { return Ok(Progress::Idle) };
            let Some(staged) = &mut self.staged else { return Ok(Progress::Idle) };
            let rest = self.inward.get(staged.start..staged.end).unwrap_or_default();
            let Some(room) = chain.writable.len().checked_sub(packet::SIZE as u64) else {
                return Err(Broken::new("a buffer for a packet has no room for its header"));
            };
            let count = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            let now = rest.get(..count).unwrap_or_default();
            if now.is_empty() && !rest.is_empty() {
                return Err(Broken::new("a buffer for a packet has no room for data"));
            }
            staged.header.len = u32::try_from(now.len()).unwrap_or_default();
            let written = chain.writable.write(&staged.header.bytes());
            let written = written.saturating_add(chain.writable.write(now));
            queues.counters.to_guest.add(now.len() as u64);
            staged.start = staged.start.saturating_add(now.len());
            if staged.start == staged.end {
                self.staged = None;
            }
            queues.done(RECEIVE, chain.head, written as u64)?;
        }
        Ok(Progress::More)
    }
}

impl Device for Vsock {
    fn kind(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn config(&self) -> Vec<u8> {
        u64::from(self.cid).to_le_bytes().to_vec()
    }

    fn watch(&mut self, watch: &mut EventOps<'_>) -> Result<(), Broken> {
        self.host.watch(watch)
    }

    fn reset(&mut self) {
        self.staged = None;
        self.muxer.clear();
    }

    fn process(
        &mut self,
        queues: &mut Queues<'_>,
        ready: Option<Events>,
        watch: &mut EventOps<'_>,
    ) -> Result<Progress, Broken> {
        self.muxer.bury(watch);
        let others_event = ready.filter(|event| event.fd() != self.host.as_raw_fd());
        if let Some(event) = &others_event {
            if let Some((stream, port)) = self.host.progress(event.fd(), watch) {
                self.muxer.host_connects(stream, port);
            }
            self.muxer.ready(event);
        }
        // The listening socket; or the driver, which may have become ready when programs were waiting already.
        if others_event.is_none() || self.host.has_missed() {
            for (stream, port) in self.host.accept(watch) {
                self.muxer.host_connects(stream, port);
            }
        }
        let sent = self.transmit(queues, watch)?;
        let received = self.receive(queues)?;
        self.muxer.bury(watch);
        // A guest that does not take what waits for it brings no more: its next buffer goes on with this.
        let can_go_on = sent == Progress::More && !self.muxer.is_congested();
        Ok(if can_go_on || received == Progress::More { Progress::More } else { Progress::Idle })
    }
}

#[cfg(test)]
mod tests;

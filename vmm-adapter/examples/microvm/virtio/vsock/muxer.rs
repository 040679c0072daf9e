//! All connections, by their ports.

use std::collections::{BTreeMap, VecDeque};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use event_manager::{EventOps, EventSet, Events};

use super::connection::{Connection, Fate};
use super::host::Host;
use super::packet::{HOST, Header, STREAM, op};
use crate::sys;

/// How many connections there may be, and how many refusals may wait. Each connection is an open file, of which a process
/// may usually have 1024; the rest of microvm needs some too.
pub(super) const MOST: usize = 256;
/// The host's ports of connections that its programs make: above those that programs of the guest connect to.
const FIRST_PORT: u32 = 1 << 30;

/// A connection's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ports {
    host: u32,
    guest: u32,
}

#[derive(Debug)]
pub(super) struct Muxer {
    cid: u64,
    connections: BTreeMap<Ports, Connection>,
    by_fd: BTreeMap<RawFd, Ports>,
    /// Those that may have a packet for the guest, each once, in the order of their turns.
    turns: VecDeque<Ports>,
    /// Connections that the guest is to hear are over, or never were.
    resets: VecDeque<Ports>,
    /// Sockets of connections that are over, until they are watched no more.
    dead: Vec<UnixStream>,
    next_port: u32,
}

impl Muxer {
    pub(super) fn new(cid: u32) -> Self {
        Self {
            cid: u64::from(cid),
            connections: BTreeMap::new(),
            by_fd: BTreeMap::new(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            dead: Vec::new(),
            next_port: FIRST_PORT,
        }
    }

    /// All connections are over, and the guest knows.
    pub(super) fn clear(&mut self) {
        for (_, connection) in std::mem::take(&mut self.connections) {
            // Its program hears at once; the socket itself is still watched.
            let _ = connection.stream.shutdown(Shutdown::Both);
            self.dead.push(connection.stream);
        }
        self.by_fd.clear();
        self.turns.clear();
        self.resets.clear();
    }

    /// Closes sockets of connections that are over.
    pub(super) fn bury(&mut self, watch: &mut EventOps<'_>) {
        for stream in self.dead.drain(..) {
            // It is in the list, so it can be taken out.
            let _ = watch.remove(Events::empty(&stream));
        }
    }

    /// A program of the host, whose socket is watched already, wants to connect to this port of the guest.
    pub(super) fn host_connects(&mut self, stream: UnixStream, port: u32) {
        if !self.make_room() {
            self.dead.push(stream);
            return;
        }
        let ports = Ports { host: self.free_port(port), guest: port };
        self.insert(ports, Connection::from_host(stream));
    }

    /// Sees to it that there can be another connection. Those whose program is gone must go, if the guest has not ended
    /// them itself: it may never do that.
    fn make_room(&mut self) -> bool {
        if self.connections.len() >= MOST {
            // Their events may still be on their way.
            let gone = sys::hung_up(self.connections.values().map(|connection| &connection.stream));
            let mut all = self.connections.iter().zip(gone);
            let abandoned = all.find(|(_, gone)| *gone).map(|((ports, connection), _)| (*ports, connection));
            if let Some((ports, fate)) = abandoned.map(|(ports, connection)| (ports, connection.give_up())) {
                self.settle(ports, fate);
            }
        }
        self.connections.len() < MOST
    }

    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = host.wrapping_add(1).max(FIRST_PORT);
            if !self.connections.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    fn insert(&mut self, ports: Ports, connection: Connection) {
        self.by_fd.insert(connection.stream.as_raw_fd(), ports);
        self.connections.insert(ports, connection);
        self.take_turn(ports);
    }

    /// A packet from the guest. `false`: it was refused.
    pub(super) fn guest_sends(
        &mut self,
        header: &Header,
        data: &[u8],
        host: &Host,
        watch: &mut EventOps<'_>,
    ) -> bool {
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        if header.src_cid != self.cid || header.dst_cid != HOST || header.kind != STREAM {
            self.refuse(ports, header.op);
            return false;
        }
        if let Some(connection) = self.connections.get_mut(&ports) {
            let fate = connection.packet(header, data, ports.host);
            self.settle(ports, fate);
            return fate != Fate::Reset || header.op == op::SHUTDOWN;
        }
        if header.op == op::REQUEST && self.make_room() {
            let all = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
            let stream = host.connect(ports.host).ok();
            if let Some(stream) = stream.filter(|stream| watch.add(Events::new(stream, all)).is_ok()) {
                self.insert(ports, Connection::from_guest(stream, header));
                return true;
            }
        }
        self.refuse(ports, header.op);
        header.op == op::RESET
    }

    fn refuse(&mut self, ports: Ports, what: u16) {
        // Nobody answers a reset, or both sides would for ever.
        if what != op::RESET && self.resets.len() < MOST {
            self.resets.push_back(ports);
        }
    }

    /// A connection's socket is ready.
    pub(super) fn ready(&mut self, event: &Events) {
        let Some(ports) = self.by_fd.get(&event.fd()).copied() else { return };
        if let Some(connection) = self.connections.get_mut(&ports) {
            let fate = connection.ready(event.event_set());
            self.settle(ports, fate);
        }
    }

    fn settle(&mut self, ports: Ports, fate: Fate) {
        match fate {
            Fate::Lives => return self.take_turn(ports),
            Fate::Reset => self.resets.push_back(ports),
            Fate::Gone => {}
        }
        if let Some(connection) = self.connections.remove(&ports) {
            self.by_fd.remove(&connection.stream.as_raw_fd());
            self.turns.retain(|turn| *turn != ports);
            self.dead.push(connection.stream);
        }
    }

    fn take_turn(&mut self, ports: Ports) {
        let has_news = self.connections.get(&ports).is_some_and(Connection::has_news);
        if has_news && !self.turns.contains(&ports) {
            self.turns.push_back(ports);
        }
    }

    /// Whether so much waits for the guest to take it that nothing more of it should be looked at.
    pub(super) fn is_congested(&self) -> bool {
        self.resets.len() >= MOST
    }

    /// The next packet for the guest, and the length of its data, which is put into `buffer`.
    pub(super) fn next_for_guest(&mut self, buffer: &mut [u8]) -> Option<(Header, usize)> {
        if let Some(ports) = self.resets.pop_front() {
            return Some((Header { op: op::RESET, ..self.header(ports) }, 0));
        }
        while let Some(ports) = self.turns.pop_front() {
            let Some(connection) = self.connections.get_mut(&ports) else { continue };
            match connection.next(buffer) {
                Ok(Some((op, flags, len))) => {
                    let (buf_alloc, fwd_cnt) = connection.tell_credit();
                    self.take_turn(ports);
                    return Some((Header { op, flags, buf_alloc, fwd_cnt, ..self.header(ports) }, len));
                }
                Ok(None) => {}
                Err(_) => {
                    self.settle(ports, Fate::Reset);
                    return self.next_for_guest(buffer);
                }
            }
        }
        None
    }

    fn header(&self, ports: Ports) -> Header {
        Header {
            src_cid: HOST,
            dst_cid: self.cid,
            src_port: ports.host,
            dst_port: ports.guest,
            kind: STREAM,
            ..Header::default()
        }
    }
}

//! One connection between a program of the guest and one of the host.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use event_manager::EventSet;

use super::packet::{Header, NO_RECEIVE, NO_SEND, op};
use crate::sys;

/// How much of the guest's data waits for the host's program. The guest is told, and sends no more.
const BUFFER: u32 = 64 << 10;

/// What becomes of a connection after something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Lives,
    /// Over; the guest is to be told.
    Reset,
    /// Over, and the guest knows.
    Gone,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    /// The host's program is connected: the guest has accepted, or has asked itself.
    established: bool,
    /// A control packet to send, before anything else.
    first: Option<u16>,
    wants_update: bool,
    /// There may be something to read. Edge-triggered: true until a read would block.
    readable: bool,
    /// The host's program sends no more; and the guest has been told.
    host_done: bool,
    told_done: bool,
    /// The host's program is gone altogether.
    hung_up: bool,
    /// The flags of the guest's shutdowns.
    guest_done: u32,
    /// Data from the guest that the host's program has not taken.
    outward: Vec<u8>,
    /// How much the host's program has taken, and how much of that the guest knows.
    taken: u32,
    told_taken: u32,
    /// How much was sent to the guest, and what the guest said of its buffer.
    sent: u32,
    guest_buffer: u32,
    guest_taken: u32,
    asked_for_credit: bool,
}

impl Connection {
    /// A program of the host wants to connect.
    pub(super) fn from_host(stream: UnixStream) -> Self {
        Self::new(stream, false, op::REQUEST)
    }

    /// A program of the guest has connected with this packet.
    pub(super) fn from_guest(stream: UnixStream, request: &Header) -> Self {
        let mut connection = Self::new(stream, true, op::RESPONSE);
        connection.credit(request);
        connection
    }

    fn new(stream: UnixStream, established: bool, first: u16) -> Self {
        Self {
            stream,
            established,
            first: Some(first),
            wants_update: false,
            readable: true,
            host_done: false,
            told_done: false,
            hung_up: false,
            guest_done: 0,
            outward: Vec::new(),
            taken: 0,
            told_taken: 0,
            sent: 0,
            guest_buffer: 0,
            guest_taken: 0,
            asked_for_credit: false,
        }
    }

    fn credit(&mut self, header: &Header) {
        (self.guest_buffer, self.guest_taken) = (header.buf_alloc, header.fwd_cnt);
        self.asked_for_credit &= self.room() == 0;
    }

    /// How much the guest has room for.
    fn room(&self) -> u32 {
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.guest_taken))
    }

    /// The socket has become ready in this way.
    pub(super) fn ready(&mut self, events: EventSet) -> Fate {
        self.readable |= events.intersects(EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP);
        // The socket itself is asked: the event may have been another's, which had the same number a moment ago.
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) && sys::hung_up([&self.stream]) == [true] {
            self.hung_up = true;
            if !self.established {
                // Nobody waits for the guest's answer any more.
                return self.give_up();
            }
        }
        self.flush()
    }

    /// Ends a connection whose program is gone, whatever is still on its way.
    pub(super) fn give_up(&self) -> Fate {
        if !self.established && self.first.is_some() {
            // The guest has not been asked.
            return Fate::Gone;
        }
        Fate::Reset
    }

    /// A packet from the guest, `host_port` being ours.
    pub(super) fn packet(&mut self, header: &Header, data: &[u8], host_port: u32) -> Fate {
        self.credit(header);
        match header.op {
            op::RESPONSE if !self.established && self.first.is_none() => {
                self.established = true;
                // It fits: nothing was written before.
                match self.stream.write_all(format!("OK {host_port}\n").as_bytes()) {
                    Ok(()) => Fate::Lives,
                    Err(_) => Fate::Reset,
                }
            }
            op::RESET => Fate::Gone,
            op::DATA if self.established && self.guest_done & NO_SEND == 0 => {
                if self.outward.len().saturating_add(data.len()) > BUFFER as usize {
                    // It was told how much there is room for.
                    return Fate::Reset;
                }
                self.outward.extend_from_slice(data);
                self.flush()
            }
            op::SHUTDOWN if self.established => {
                self.guest_done |= header.flags & (NO_RECEIVE | NO_SEND);
                self.flush()
            }
            op::CREDIT_REQUEST if self.established => {
                self.wants_update = true;
                Fate::Lives
            }
            op::CREDIT_UPDATE => Fate::Lives,
            _ => Fate::Reset,
        }
    }

    /// Gives the host's program what it takes.
    fn flush(&mut self) -> Fate {
        while !self.outward.is_empty() {
            match self.stream.write(&self.outward) {
                Ok(count) => {
                    self.outward.drain(..count);
                    self.taken = self.taken.wrapping_add(u32::try_from(count).unwrap_or_default());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Fate::Reset,
            }
        }
        // Long before the guest has to stop.
        self.wants_update |= self.taken.wrapping_sub(self.told_taken) > BUFFER / 2;
        if self.outward.is_empty() {
            if self.guest_done == NO_RECEIVE | NO_SEND {
                return Fate::Reset;
            }
            if self.guest_done & NO_SEND != 0 {
                // The other direction goes on. A program that is gone does not mind.
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
        Fate::Lives
    }

    /// Whether there may be a packet for the guest.
    pub(super) fn has_news(&self) -> bool {
        self.first.is_some()
            || self.wants_update
            || self.wants_to_end()
            || (self.can_read() && (self.room() > 0 || !self.asked_for_credit))
    }

    fn can_read(&self) -> bool {
        self.established && self.readable && !self.host_done && self.guest_done & NO_RECEIVE == 0
    }

    fn wants_to_end(&self) -> bool {
        self.established && self.host_done && !self.told_done
    }

    /// The next packet for the guest: its operation, its flags, and the length of its data, which is put into `buffer`.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> io::Result<Option<(u16, u32, usize)>> {
        if let Some(first) = self.first.take() {
            return Ok(Some((first, 0, 0)));
        }
        if self.can_read() {
            match usize::try_from(self.room()).unwrap_or_default().min(buffer.len()) {
                0 if !self.asked_for_credit => {
                    self.asked_for_credit = true;
                    return Ok(Some((op::CREDIT_REQUEST, 0, 0)));
                }
                0 => {}
                most => {
                    let count = self.read(buffer.get_mut(..most).unwrap_or_default())?;
                    if count > 0 {
                        self.sent = self.sent.wrapping_add(u32::try_from(count).unwrap_or_default());
                        return Ok(Some((op::DATA, 0, count)));
                    }
                }
            }
        }
        if self.wants_to_end() {
            self.told_done = true;
            // One that is gone altogether takes no more either.
            let flags = if self.hung_up { NO_RECEIVE | NO_SEND } else { NO_SEND };
            return Ok(Some((op::SHUTDOWN, flags, 0)));
        }
        if std::mem::take(&mut self.wants_update) {
            return Ok(Some((op::CREDIT_UPDATE, 0, 0)));
        }
        Ok(None)
    }

    /// 0: nothing now, or the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => {
                    self.host_done = true;
                    return Ok(0);
                }
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(0);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What every packet tells: our buffer, and how much was taken out of it.
    pub(super) fn tell_credit(&mut self) -> (u32, u32) {
        self.told_taken = self.taken;
        (BUFFER, self.taken)
    }
}

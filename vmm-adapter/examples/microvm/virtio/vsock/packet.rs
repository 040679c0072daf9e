//! The header of a packet, and the numbers of the standard that virtio-vsock leaves to its users.
//!
//! virtio-vsock's own packets want the data in one buffer, and a driver may cut a packet as it likes: Linux since 6.7 has a
//! buffer for each page of what a program sends with MSG_ZEROCOPY. So packets are read and written as all requests are, by
//! [`Buffers`](super::super::chain::Buffers); that the header is the same is a test's to show.

use virtio_vsock::packet::PKT_HEADER_SIZE;

/// Bytes of a header.
pub(super) const SIZE: usize = PKT_HEADER_SIZE;

/// The host's address.
pub(super) const HOST: u64 = 2;
/// The type of stream sockets, the only one that is offered.
pub(super) const STREAM: u16 = 1;
/// The most data that a packet carries.
pub(super) const MOST_DATA: u32 = 64 << 10;
/// A side that shuts down receives no more, and sends no more.
pub(super) const NO_RECEIVE: u32 = 1;
pub(super) const NO_SEND: u32 = 2;

/// What a packet is for.
pub(super) mod op {
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const RESPONSE: u16 = 2;
    pub(in super::super) const RESET: u16 = 3;
    pub(in super::super) const SHUTDOWN: u16 = 4;
    pub(in super::super) const DATA: u16 = 5;
    pub(in super::super) const CREDIT_UPDATE: u16 = 6;
    pub(in super::super) const CREDIT_REQUEST: u16 = 7;
}

/// A packet's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// How much the sender buffers, and how much it has taken out of its buffer so far.
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) fn of(bytes: &[u8; SIZE]) -> Self {
        let mut rest = &bytes[..];
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// As a packet has it, [`SIZE`] bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SIZE);
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        bytes.extend(self.src_port.to_le_bytes());
        bytes.extend(self.dst_port.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.buf_alloc.to_le_bytes());
        bytes.extend(self.fwd_cnt.to_le_bytes());
        bytes
    }
}

/// The next bytes. There are as many as the fields are long.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((bytes, behind)) = rest.split_first_chunk() else { return [0; N] };
    *rest = behind;
    *bytes
}

#[cfg(test)]
mod tests {
    use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;
    use virtio_queue::QueueT;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use virtio_vsock::packet::VsockPacket;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::*;

    #[test]
    fn the_header_is_that_of_virtio_vsock() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let mock = MockSplitQueue::new(&memory, 16);
        let mut queue = mock.create_queue::<virtio_queue::Queue>().unwrap();
        let buffer = Descriptor::new(0x8000, 100, VRING_DESC_F_WRITE as u16, 0);
        mock.build_desc_chain(&[RawDescriptor::from(buffer)]).unwrap();
        let mut chain = queue.pop_descriptor_chain(&memory).unwrap();
        let mut packet = VsockPacket::from_rx_virtq_chain(&memory, &mut chain, 100).unwrap();
        packet.set_src_cid(0x1122_3344_5566_7788).set_dst_cid(0x99aa_bbcc_ddee_ff00);
        packet.set_src_port(0x0102_0304).set_dst_port(0x0506_0708).set_len(0x090a_0b0c);
        packet.set_type(0x0d0e).set_op(0x0f10).set_flags(0x1112_1314);
        packet.set_buf_alloc(0x1516_1718).set_fwd_cnt(0x191a_1b1c);
        let mut bytes = [0; SIZE];
        memory.read_slice(&mut bytes, GuestAddress(0x8000)).unwrap();
        let ours = Header {
            src_cid: 0x1122_3344_5566_7788,
            dst_cid: 0x99aa_bbcc_ddee_ff00,
            src_port: 0x0102_0304,
            dst_port: 0x0506_0708,
            len: 0x090a_0b0c,
            kind: 0x0d0e,
            op: 0x0f10,
            flags: 0x1112_1314,
            buf_alloc: 0x1516_1718,
            fwd_cnt: 0x191a_1b1c,
        };
        assert_eq!((Header::of(&bytes), ours.bytes()), (ours, bytes.to_vec()));
    }
}

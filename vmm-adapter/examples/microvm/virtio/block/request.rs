//! The requests of a block device's driver.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::super::Broken;
use super::super::chain::{Buffers, Chain};
use super::super::counters::Counters;
use super::image::{Image, SECTOR};

/// Bytes of a disk's name.
const ID: usize = 20;
/// The most sectors that one discard or write of zeros may name: what is done in one go should not take for ever.
const MOST_ZEROED: u32 = (1 << 30) / SECTOR as u32;
/// Bytes of a range to discard, and how many there may be.
const RANGE: usize = 16;
const MOST_RANGES: u32 = 16;
/// A range to write zeros to may be discarded.
const UNMAP: u32 = 1;

/// The configuration space: struct virtio_blk_config up to the fields for writing zeros.
pub(super) fn config(sectors: u64, segments: u32) -> Vec<u8> {
    let mut config = vec![0; 60];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(slot) = config.get_mut(at..at.saturating_add(bytes.len())) {
            slot.copy_from_slice(bytes);
        }
    };
    put(0, &sectors.to_le_bytes());
    put(12, &segments.to_le_bytes());
    put(36, &MOST_ZEROED.to_le_bytes()); // discard: sectors, ranges, alignment
    put(40, &MOST_RANGES.to_le_bytes());
    put(44, &8_u32.to_le_bytes());
    put(48, &MOST_ZEROED.to_le_bytes()); // write zeroes: sectors, ranges, may unmap
    put(52, &MOST_RANGES.to_le_bytes());
    put(56, &[1]);
    config
}

/// Serves one request. Answers how many bytes of its buffers were filled.
pub(super) fn serve(
    mut chain: Chain<'_>,
    image: &mut Image,
    write_through: bool,
    counters: &Counters,
) -> Result<u64, Broken> {
    // The status is the last byte that the device may write; without it there is nowhere to say what is wrong.
    let room = chain.writable.len();
    let data_room =
        room.checked_sub(1).ok_or_else(|| Broken::new("a request to the disk has no room for its status"))?;
    let mut status = chain.writable.split_off(data_room).unwrap_or_default();
    let mut header = [0; 16];
    let Some(()) = chain.readable.read_exact(&mut header) else {
        return Err(Broken::new("a request to the disk has no header"));
    };
    let [a, b, c, d, _, _, _, _, sector @ ..] = header;
    let (kind, sector) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(sector));

    let (code, written) = match act(kind, sector, &mut chain, data_room, image, write_through, counters) {
        Ok(written) => (VIRTIO_BLK_S_OK, written),
        Err(Refusal::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
        Err(Refusal::Failed) => (VIRTIO_BLK_S_IOERR, 0),
    };
    if code != VIRTIO_BLK_S_OK {
        counters.failed.add(1);
    }
    status.write(&[u8::try_from(code).unwrap_or(u8::MAX)]);
    // When it failed the bytes before the status are in an unknown state.
    Ok(if code == VIRTIO_BLK_S_OK { written.saturating_add(1) } else { room })
}

enum Refusal {
    Unsupported,
    Failed,
}

impl From<std::io::Error> for Refusal {
    fn from(_: std::io::Error) -> Self {
        Self::Failed
    }
}

/// Does what is asked. Answers how many bytes of data were read.
fn act(
    kind: u32,
    sector: u64,
    chain: &mut Chain<'_>,
    room: u64,
    image: &mut Image,
    write_through: bool,
    counters: &Counters,
) -> Result<u64, Refusal> {
    let writes = matches!(kind, VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES);
    if writes && image.is_read_only() {
        return Err(Refusal::Failed);
    }
    match kind {
        VIRTIO_BLK_T_IN => {
            let offset = image.range(sector, room).ok_or(Refusal::Failed)?;
            image.read(offset, &mut chain.writable)?;
            counters.to_guest.add(room);
            return Ok(room);
        }
        VIRTIO_BLK_T_OUT => {
            let len = chain.readable.len();
            let offset = image.range(sector, len).ok_or(Refusal::Failed)?;
            image.write(offset, &mut chain.readable)?;
            counters.from_guest.add(len);
        }
        VIRTIO_BLK_T_FLUSH => image.flush()?,
        VIRTIO_BLK_T_GET_ID => {
            let mut id = [0; ID];
            for (slot, byte) in id.iter_mut().zip(image.serial().bytes()) {
                *slot = byte;
            }
            return Ok(chain.writable.write(&id) as u64);
        }
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => zero(kind, &mut chain.readable, image)?,
        _ => return Err(Refusal::Unsupported),
    }
    if writes && write_through {
        image.flush()?;
    }
    Ok(0)
}

/// Discards ranges, or makes them zeros.
fn zero(kind: u32, ranges: &mut Buffers<'_>, image: &mut Image) -> Result<(), Refusal> {
    let len = ranges.len();
    if len % RANGE as u64 != 0 || len / RANGE as u64 > u64::from(MOST_RANGES) {
        return Err(Refusal::Failed);
    }
    let mut range = [0; RANGE];
    while ranges.read_exact(&mut range).is_some() {
        let [sector @ .., c0, c1, c2, c3, f0, f1, f2, f3] = range;
        let (sector, count) = (u64::from_le_bytes(sector), u32::from_le_bytes([c0, c1, c2, c3]));
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        if flags & !UNMAP != 0 || (kind == VIRTIO_BLK_T_DISCARD && flags != 0) {
            return Err(Refusal::Unsupported);
        }
        let len = u64::from(count) * SECTOR;
        let offset = image.range(sector, len).filter(|_| count <= MOST_ZEROED).ok_or(Refusal::Failed)?;
        match kind {
            _ if len == 0 => {}
            VIRTIO_BLK_T_DISCARD => image.discard(offset, len)?,
            _ => image.zero(offset, len, flags & UNMAP != 0)?,
        }
    }
    Ok(())
}

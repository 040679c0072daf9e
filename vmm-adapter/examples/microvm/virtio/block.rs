//! The block device: a raw image.

mod image;
mod request;

pub(crate) use image::Image;

use event_manager::{EventOps, Events};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::queues::Queues;
use super::{Broken, Device, Progress};

const QUEUES: [u16; 1] = [256];
/// A request has a header and a status beside its data.
const MOST_SEGMENTS: u32 = 254;
/// How many requests are done in one go.
const BATCH: usize = 64;

/// A disk.
pub(crate) struct Block {
    image: Image,
    /// The driver does not flush, so it relies on what is written being safe.
    write_through: bool,
}

impl Block {
    pub(crate) fn new(image: Image) -> Self {
        Self { image, write_through: false }
    }
}

impl Device for Block {
    fn kind(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let always = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_FLUSH;
        if self.image.is_read_only() {
            return always | 1 << VIRTIO_BLK_F_RO;
        }
        always | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn config(&self) -> Vec<u8> {
        request::config(self.image.sectors(), MOST_SEGMENTS)
    }

    fn activate(&mut self, features: u64) {
        self.write_through = features & 1 << VIRTIO_BLK_F_FLUSH == 0;
    }

    fn process(
        &mut self,
        queues: &mut Queues<'_>,
        _ready: Option<Events>,
        _watch: &mut EventOps<'_>,
    ) -> Result<Progress, Broken> {
        for _ in 0..BATCH {
            let Some(chain) = queues.pop(0)? else { return Ok(Progress::Idle) };
            let head = chain.head;
            let written = request::serve(chain, &mut self.image, self.write_through, queues.counters)?;
            queues.done(0, head, written)?;
            queues.signal(0)?;
        }
        Ok(Progress::More)
    }
}

#[cfg(test)]
mod tests;

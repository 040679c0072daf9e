//! The source of random numbers.

use event_manager::{EventOps, Events};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::queues::Queues;
use super::{Broken, Device, Progress};

const QUEUES: [u16; 1] = [8];
/// The most that one request gets, and how many are served in one go: a driver asks again for what is missing.
const PIECE: usize = 1024;
const BATCH: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Entropy;

impl Device for Entropy {
    fn kind(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn process(
        &mut self,
        queues: &mut Queues<'_>,
        _ready: Option<Events>,
        _watch: &mut EventOps<'_>,
    ) -> Result<Progress, Broken> {
        for _ in 0..BATCH {
            let Some(mut chain) = queues.pop(0)? else { return Ok(Progress::Idle) };
            let mut bytes = [0; PIECE];
            let wanted = usize::try_from(chain.writable.len()).unwrap_or(PIECE).min(PIECE);
            let bytes = bytes.get_mut(..wanted).unwrap_or_default();
            getrandom::fill(bytes)
                .map_err(|error| Broken(format!("the host gives no random numbers: {error}")))?;
            let written = chain.writable.write(bytes) as u64;
            queues.counters.to_guest.add(written);
            queues.done(0, chain.head, written)?;
        }
        Ok(Progress::More)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rig::{Part, Rig, torment};
    use super::*;

    #[test]
    fn buffers_are_filled_as_far_as_a_request_goes() {
        let mut rig = Rig::started(Entropy);
        let bytes = rig.request(0, &[Part::Take(10), Part::Take(54)]).unwrap();
        assert_eq!(bytes.len(), 64);
        assert!(bytes[..10].iter().any(|byte| *byte != 0) && bytes[10..].iter().any(|byte| *byte != 0));
        assert_ne!(rig.request(0, &[Part::Take(64)]).unwrap(), bytes);
        assert_eq!(rig.request(0, &[Part::Take(5000)]).unwrap().len(), PIECE);
        assert_eq!(rig.request(0, &[Part::Give(b"no room")]).unwrap(), b"");
    }

    #[test]
    fn it_survives_any_driver() {
        torment(&mut Rig::new(Entropy, true), 400, |_| vec![0; 16]);
    }
}

//! Virtio devices on MMIO, version 2 of the transport ("modern").
//!
//! | file | what it is |
//! |---|---|
//! | `mmio.rs` | the registers, on the threads of the vCPUs |
//! | `engine.rs` | the device and its queues behind one lock, and what happens when either is broken |
//! | `worker.rs` | the device's thread: waits for the driver and for the device's own files |
//! | `queues.rs`, `chain.rs` | what a device sees of its queues |
//! | `dma.rs` | the memory that devices may touch |
//! | `interrupt.rs`, `counters.rs` | the interrupt line; what `--stats` prints |
//! | `block.rs`, `net.rs`, `console.rs`, `entropy.rs`, `vsock.rs` | the devices |
//!
//! A device is one [`Device`]. It runs on a thread of its own, so a slow disk keeps no vCPU and no other device waiting,
//! and a device that panics takes nothing with it: the driver is told by `DEVICE_NEEDS_RESET`.

pub(crate) mod block;
pub(crate) mod chain;
pub(crate) mod console;
pub(crate) mod counters;
pub(crate) mod dma;
pub(crate) mod engine;
pub(crate) mod entropy;
pub(crate) mod interrupt;
pub(crate) mod mmio;
pub(crate) mod net;
pub(crate) mod queues;
#[cfg(test)]
pub(crate) mod rig;
pub(crate) mod vsock;
pub(crate) mod worker;

use std::fmt;

use event_manager::{EventOps, Events};
use queues::Queues;

/// What a device is and does; the transport does the rest.
pub(crate) trait Device: Send {
    /// Its type, a number of the virtio standard.
    fn kind(&self) -> u32;

    /// The features of its type that it offers.
    fn features(&self) -> u64 {
        0
    }

    /// The most entries that each of its queues can have: powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Its configuration space. It never changes.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Names the files that it waits for all the time, edge-triggered. Called once, on its thread.
    fn watch(&mut self, _watch: &mut EventOps<'_>) -> Result<(), Broken> {
        Ok(())
    }

    /// The driver is ready, and took these features.
    fn activate(&mut self, _features: u64) {}

    /// The driver is gone, and with it what it was working on. The next one may come.
    ///
    /// Called from a vCPU's thread too, which cannot reach the device's thread's list of watched files: what is in the list
    /// is taken out by the next [`Device::process`].
    fn reset(&mut self) {}

    /// Does what can be done now: because the driver has become ready or has filled a queue, or because a file is.
    ///
    /// Files are watched edge-triggered, so a device reads one until it would block, or until the driver has no more
    /// room: then the driver fills the queue some day and this is called again.
    fn process(
        &mut self,
        queues: &mut Queues<'_>,
        ready: Option<Events>,
        watch: &mut EventOps<'_>,
    ) -> Result<Progress, Broken>;
}

/// What a device says after some work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is nothing to do before the next event.
    Idle,
    /// There is more to do. It stopped to let others have the lock, a reset for example.
    More,
}

/// The device cannot go on before the driver resets it: the driver broke a rule, or the host failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) String);

impl Broken {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

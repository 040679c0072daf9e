//! What `--stats` prints at the end.

use std::sync::Arc;

use vm_memory::GuestAddress;
use vmm_adapter::{IoHandler, IoOutcome};

use crate::virtio::counters::Count;

/// The VMM's devices for one vCPU, with a count of what it asks them.
pub(crate) struct Counted {
    devices: Arc<dyn IoHandler + Send + Sync>,
    pub(crate) exits: Arc<Exits>,
}

/// The exits of one vCPU that reached devices.
#[derive(Debug, Default)]
pub(crate) struct Exits {
    reads: Count,
    writes: Count,
    unclaimed: Count,
}

impl Counted {
    pub(crate) fn new(devices: Arc<dyn IoHandler + Send + Sync>) -> Self {
        Self { devices, exits: Arc::default() }
    }

    fn count(&self, kind: &Count, outcome: IoOutcome) -> IoOutcome {
        kind.add(1);
        if outcome == IoOutcome::Unclaimed {
            self.exits.unclaimed.add(1);
        }
        outcome
    }
}

impl IoHandler for Counted {
    fn mmio_read(&self, addr: GuestAddress, data: &mut [u8]) -> IoOutcome {
        self.count(&self.exits.reads, self.devices.mmio_read(addr, data))
    }

    fn mmio_write(&self, addr: GuestAddress, data: &[u8]) -> IoOutcome {
        self.count(&self.exits.writes, self.devices.mmio_write(addr, data))
    }
}

/// The line of one vCPU.
pub(crate) fn vcpu(id: usize, exits: &Exits) -> String {
    format!(
        "vcpu{id}: {} MMIO reads, {} MMIO writes, {} of them where no device is",
        exits.reads.get(),
        exits.writes.get(),
        exits.unclaimed.get()
    )
}

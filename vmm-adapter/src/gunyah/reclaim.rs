//! Taking pages back from a running guest.

use std::sync::Arc;

use vm_memory::GuestAddress;

use super::error;
use super::memory::Backing;
use super::vm::Shared;
use crate::error::Result;
use crate::phase::Phase;
use crate::vm::Reclaim;

/// Reclaim of one VM.
#[derive(Debug)]
pub(super) struct GunyahReclaim(Arc<Shared>);

impl GunyahReclaim {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl Reclaim for GunyahReclaim {
    fn pages(&self, addr: GuestAddress, size: u64) -> Result<()> {
        const OP: &str = "Reclaim::pages";
        let setup = self.0.setup();
        self.0.phase_cell().require(OP, &[Phase::Running])?;
        let (place, region) = setup.declared.region_with(OP, addr, size)?;
        let offset = addr.0.saturating_sub(region.addr().0);
        match setup.given.get(place) {
            Some(Backing::File(memory)) => memory.punch_hole(offset, size).map_err(error::backend(OP)),
            _ => {
                self.0.fd().reclaim_region(addr.0, size).map_err(error::backend(OP))?;
                region.discard(OP, offset, size)
            }
        }
    }
}

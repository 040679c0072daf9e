//! Taking pages back from a running guest.

use std::sync::Arc;

use vm_memory::GuestAddress;

use super::vm::Shared;
use crate::error::Result;
use crate::phase::Phase;
use crate::vm::Reclaim;

/// Reclaim of one VM: KVM takes the guest's pages away when this process loses them.
#[derive(Debug)]
pub(super) struct KvmReclaim(Arc<Shared>);

impl KvmReclaim {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl Reclaim for KvmReclaim {
    fn pages(&self, addr: GuestAddress, size: u64) -> Result<()> {
        const OP: &str = "Reclaim::pages";
        let setup = self.0.setup();
        self.0.phase().require(OP, &[Phase::Running])?;
        let (_, region) = setup.declared.region_with(OP, addr, size)?;
        region.discard(OP, addr.0.saturating_sub(region.addr().0), size)
    }
}

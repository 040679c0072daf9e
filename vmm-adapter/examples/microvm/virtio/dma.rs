//! The memory that devices may touch.

use std::ops::Range;

use vm_memory::GuestAddress;
use vmm_adapter::{SharedMemory, Sharing, Vm};

use super::Broken;
use crate::error::Result;

/// The shared memory of a VM, and what is known of the rest for messages.
#[derive(Clone, Debug)]
pub(crate) struct Dma {
    memory: SharedMemory,
    /// Lent to the guest: out of reach.
    lent: Vec<Range<u64>>,
}

impl Dma {
    /// What devices may touch of `vm`, when it has all its memory.
    pub(crate) fn of(vm: &dyn Vm) -> Result<Self> {
        let lent = vm.memory().into_iter().filter(|region| region.sharing() == Sharing::Private);
        let lent =
            lent.map(|region| region.addr().0..region.addr().0.saturating_add(region.size())).collect();
        Ok(Self { memory: vmm_adapter::shared_memory(vm)?, lent })
    }

    #[cfg(test)]
    pub(crate) fn test(memory: SharedMemory, lent: Vec<Range<u64>>) -> Self {
        Self { memory, lent }
    }

    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// Whether the guest has memory that devices cannot reach, so that its driver must use a pool.
    pub(crate) fn is_restricted(&self) -> bool {
        !self.lent.is_empty()
    }

    /// Why the driver cannot have `what` at `addr`.
    pub(crate) fn out_of_reach(&self, what: &str, addr: GuestAddress) -> Broken {
        let addr = addr.0;
        if self.lent.iter().any(|range| range.contains(&addr)) {
            return Broken(format!(
                "the guest put {what} at {addr:#x}, in memory that is lent to it and that no device can reach: its \
                 kernel does not use the DMA pool, it lacks CONFIG_DMA_RESTRICTED_POOL=y (--plain shares all memory \
                 instead, on hosts that take such a VM)"
            ));
        }
        Broken(format!("the guest put {what} at {addr:#x}, where it has no memory"))
    }
}

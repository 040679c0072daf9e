//! Where the guest starts.

use vm_memory::GuestAddress;

/// Where the guest starts, and what it is told.
///
/// vCPU 0 enters at `entry` with the MMU off and X0 = `fdt`; the others are off until the guest turns them on by PSCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootContext {
    /// The first instruction.
    ///
    /// On Gunyah it must be the start of the region that holds the devicetree, unless the host has
    /// [`Feature::BootContext`](crate::Feature::BootContext).
    pub entry: GuestAddress,
    /// The devicetree in guest memory. On Gunyah it lies in the main region, as the payload does.
    pub fdt: GuestAddress,
    /// Bytes from `fdt` on that belong to the tree: the blob and the room behind it into which the hypervisor may let it
    /// grow ([`Vm::tree_slack`](crate::Vm::tree_slack)).
    pub fdt_size: u64,
}

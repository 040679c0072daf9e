//! Stands for `hypervisor/src/arch/aarch64/gic.rs`.

use std::any::Any;

/// What goes wrong with an interrupt controller.
#[derive(Debug, thiserror::Error)]
pub enum GicError {
    /// Its state cannot be read or written.
    #[error("the interrupt controller's state cannot be had")]
    State(#[source] anyhow::Error),
}

/// A controller's state, for snapshots.
#[derive(Clone, Debug, Default)]
pub struct GicState;

/// Where the interrupt controller is, and how large. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VgicConfig {
    /// How many vCPUs have a redistributor.
    pub vcpu_count: u64,
    /// The distributor.
    pub dist_addr: u64,
    /// Its size.
    pub dist_size: u64,
    /// The first redistributor.
    pub redists_addr: u64,
    /// The size of all of them.
    pub redists_size: u64,
    /// The frame that messages are stored to.
    pub msi_addr: u64,
    /// Its size.
    pub msi_size: u64,
    /// INTIDs are below this.
    pub nr_irqs: u32,
}

/// An interrupt controller. Most of it is what the devicetree says of it.
pub trait Vgic: Send + Sync {
    /// The node's `compatible`.
    fn fdt_compatibility(&self) -> &str;

    /// The PPI of the maintenance interrupt. 0: there is none, and the node has no `interrupts`.
    fn fdt_maint_irq(&self) -> u32;

    /// The node's `reg`: address and size of the distributor, then of the redistributors.
    fn device_properties(&self) -> [u64; 4];

    /// How many vCPUs have a redistributor.
    fn vcpu_count(&self) -> u64;

    /// Whether it takes messages.
    fn msi_compatible(&self) -> bool;

    /// The `compatible` of the node of what takes messages.
    fn msi_compatibility(&self) -> &str;

    /// The `reg` of that node.
    fn msi_properties(&self) -> [u64; 2];

    /// The backend's own type.
    fn as_any_concrete_mut(&mut self) -> &mut dyn Any;

    /// Its state, for a snapshot.
    fn state(&self) -> Result<GicState, GicError>;

    /// Restores its state.
    fn set_state(&mut self, state: &GicState) -> Result<(), GicError>;

    /// Writes what it keeps in caches to guest memory, for a snapshot.
    fn save_data_tables(&self) -> Result<(), GicError>;
}

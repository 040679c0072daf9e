//! The interrupt controller, as a description: the hypervisor makes it from the devicetree, or at the start.

use std::any::Any;

use super::nowhere;
use crate::hypervisor::gic::{GicError, GicState, Vgic, VgicConfig};

#[derive(Debug)]
pub(super) struct AdapterGic {
    config: VgicConfig,
    /// Whether the VM has lines for messages.
    msi: bool,
}

impl AdapterGic {
    pub(super) fn new(config: VgicConfig, msi: bool) -> Self {
        Self { config, msi }
    }
}

impl Vgic for AdapterGic {
    fn fdt_compatibility(&self) -> &str {
        "arm,gic-v3"
    }

    /// None: guests have no hypervisor mode, so nothing to maintain.
    fn fdt_maint_irq(&self) -> u32 {
        0
    }

    fn device_properties(&self) -> [u64; 4] {
        let VgicConfig { dist_addr, dist_size, redists_addr, redists_size, .. } = self.config;
        [dist_addr, dist_size, redists_addr, redists_size]
    }

    fn vcpu_count(&self) -> u64 {
        self.config.vcpu_count
    }

    fn msi_compatible(&self) -> bool {
        self.msi
    }

    fn msi_compatibility(&self) -> &str {
        "arm,gic-v2m-frame"
    }

    fn msi_properties(&self) -> [u64; 2] {
        [self.config.msi_addr, self.config.msi_size]
    }

    fn as_any_concrete_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn state(&self) -> Result<GicState, GicError> {
        Err(GicError::State(nowhere("the interrupt controller's state")))
    }

    fn set_state(&mut self, _state: &GicState) -> Result<(), GicError> {
        Err(GicError::State(nowhere("the interrupt controller's state")))
    }

    fn save_data_tables(&self) -> Result<(), GicError> {
        Err(GicError::State(nowhere("the interrupt controller's tables")))
    }
}

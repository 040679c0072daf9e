//! The hypervisor of a host.

use std::fmt::Debug;
use std::sync::Arc;

use crate::caps::Capabilities;
use crate::config::VmConfig;
use crate::error::Result;
use crate::vm::Vm;

/// A hypervisor that this host has.
pub trait Hypervisor: Debug + Send + Sync {
    /// What a VM of it can offer at most: what is missing here no VM has, and that is known before one is made.
    ///
    /// [`Vm::capabilities`] tells what one VM does offer. On KVM both are the same. Gunyah answers most questions on a VM's file
    /// descriptor only: here it has what some flavour has.
    fn capabilities(&self) -> &Capabilities;

    /// Makes an empty VM, in the phase [`Phase::Configuring`](crate::Phase::Configuring).
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): what [`VmConfig::check`] finds.
    /// - [`Unsupported`](crate::Error::Unsupported): this host has no VMs of that kind.
    /// - [`Backend`](crate::Error::Backend): the hypervisor refused.
    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>>;
}

//! Stands for Cloud Hypervisor's `hypervisor` crate: its traits as an arm64 build sees them, by name and signature.
//!
//! Only what the glue needs is declared here, and in our own words; what belongs to x86_64, and everything inside the crate, is left
//! out. Types that hold a backend's state there (`CpuState`, `VcpuInit`, ...) are empty here. [`additions`] is what Cloud
//! Hypervisor does not have yet.
#![allow(unreachable_pub, reason = "it stands for a library")]
#![allow(dead_code, reason = "a small VMM does not call everything that Cloud Hypervisor does")]

pub mod additions;
pub mod cpu;
pub mod gic;
pub mod vm;

use std::sync::Arc;

use additions::GuestDescription;
use vm::Vm;

/// Which hypervisor it is. The VMM asks in many places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HypervisorType {
    /// KVM.
    Kvm,
    /// Gunyah: an addition.
    Gunyah,
}

/// What goes wrong before there is a VM.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The hypervisor cannot be opened.
    #[error("cannot open the hypervisor")]
    HypervisorCreate(#[source] anyhow::Error),
    /// The host lacks something that every VM needs.
    #[error("this host's hypervisor does not suffice")]
    CheckExtensions(#[source] anyhow::Error),
    /// No VM can be made.
    #[error("cannot create the VM")]
    VmCreate(#[source] anyhow::Error),
}

/// What a VM is made from.
///
/// Cloud Hypervisor has options of x86_64 here.
#[derive(Clone, Debug, Default)]
pub struct HypervisorVmConfig {
    /// What the hypervisor has to know of the guest from the beginning: an addition. Backends that take things as they come, KVM for
    /// one, need not look.
    pub description: Option<GuestDescription>,
}

/// A hypervisor that this host has.
pub trait Hypervisor: Send + Sync {
    /// Which one.
    fn hypervisor_type(&self) -> HypervisorType;

    /// Makes a VM.
    fn create_vm(&self, config: HypervisorVmConfig) -> Result<Arc<dyn Vm>, HypervisorError>;

    /// Whether the host has what every VM needs.
    fn check_required_extensions(&self) -> Result<(), HypervisorError> {
        Ok(())
    }

    /// The width of a guest physical address in bits. 0: 40 is assumed.
    fn get_host_ipa_limit(&self) -> i32;

    /// How many hardware breakpoints a debugger can set in the guest.
    fn get_guest_debug_hw_bps(&self) -> usize;

    /// The most vCPUs that a VM can have.
    fn get_max_vcpus(&self) -> u32;
}

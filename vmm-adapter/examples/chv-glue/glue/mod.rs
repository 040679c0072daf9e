//! Cloud Hypervisor's traits over vmm-adapter's. In Cloud Hypervisor these files are a module of the `hypervisor` crate, beside `kvm`
//! and `mshv`.
//!
//! | file | what it is |
//! |---|---|
//! | `hypervisor.rs` | from the description of the guest to a VM |
//! | `vm.rs` | memory, ioevents, the start |
//! | `memory.rs` | a raw pointer becomes a region: the only unsafe code |
//! | `vcpu.rs` | `VmOps` inside of `run`; registers where there are any |
//! | `irq.rs` | routes become bound lines; the GICv2m frame |
//! | `gic.rs` | the interrupt controller, as a description |
//! | `seccomp.rs` | what the filters have to allow |
//!
//! What the hypervisor cannot do is an error that says so. The methods that do nothing and answer Ok say why that is right.
#![allow(unreachable_pub, reason = "it stands for a part of a library")]
#![allow(dead_code, reason = "a small VMM does not call everything that Cloud Hypervisor does")]

mod gic;
mod hypervisor;
mod irq;
mod memory;
pub mod seccomp;
mod vcpu;
mod vm;

pub use hypervisor::AdapterHypervisor;

use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_adapter::{Backend, Error, Feature};

use super::hypervisor::HypervisorType;

fn hypervisor_type(backend: Backend) -> HypervisorType {
    match backend {
        Backend::Kvm => HypervisorType::Kvm,
        _ => HypervisorType::Gunyah,
    }
}

/// The error for what vmm-adapter has a name for. Callers can downcast to it, and to its errno.
fn unsupported(backend: Backend, feature: Feature) -> anyhow::Error {
    Error::Unsupported { backend, feature }.into()
}

/// The error for what no backend of vmm-adapter does.
fn nowhere(what: &str) -> anyhow::Error {
    anyhow::anyhow!("{what}: vmm-adapter has no such call, on any hypervisor")
}

/// Locks what stays consistent between calls: nothing panics while it holds such a lock.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The example chv-glue: traits like Cloud Hypervisor's over vmm-adapter's.
#![cfg(feature = "gunyah")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

#[path = "../../examples/chv-glue/glue/mod.rs"]
mod glue;
#[path = "../../examples/chv-glue/guest.rs"]
mod guest;
#[path = "../../examples/chv-glue/hypervisor/mod.rs"]
mod hypervisor;
#[path = "../../examples/chv-glue/vmm/mod.rs"]
mod vmm;

mod demo;
mod double;
mod facets;
mod interrupts;
mod lacking;
mod seccomp;
mod tree;
mod vm;

use std::sync::Arc;

use fake_gunyah::{Fake, Flavour, Guest, Handle};
use glue::AdapterHypervisor;
use hypervisor::additions::{GuestDescription, LegacyLine, MsiLines, Protection};
use hypervisor::vm::Vm;
use hypervisor::{Hypervisor, HypervisorVmConfig};
use vmm_adapter::Backend;

/// On a fake kernel of this flavour, which must be left with nothing.
fn on<T: Send>(flavour: Flavour, body: impl FnOnce(&Handle) -> T + Send) -> T {
    let fake = Fake::builder().flavour(flavour).guest(Guest::code()).build().unwrap();
    let (out, handle) = fake.run(|handle| (body(handle), handle.clone())).unwrap();
    assert_eq!(handle.leftovers(), [], "{flavour}");
    out
}

fn gunyah() -> AdapterHypervisor {
    AdapterHypervisor::new(Backend::Gunyah).unwrap()
}

/// Two lines without messages, SPI 3 by edge and SPI 4 by level, and the messages 128 to 131.
fn description(protection: Protection) -> GuestDescription {
    GuestDescription {
        vcpus: 1,
        protection,
        dma_pool: Some((vmm::layout::DMA_POOL, vmm::layout::DMA_POOL_SIZE as u64)),
        vgic: vmm::layout::vgic(1),
        lines: vec![LegacyLine { pin: 3, level: false }, LegacyLine { pin: 4, level: true }],
        msi: Some(MsiLines { first_intid: 128, count: 4 }),
    }
}

fn create_vm(hypervisor: &AdapterHypervisor, description: GuestDescription) -> Arc<dyn Vm> {
    hypervisor.create_vm(HypervisorVmConfig { description: Some(description) }).unwrap()
}

/// An error and everything behind it, on one line.
fn chain(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

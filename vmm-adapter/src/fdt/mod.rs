//! The guest's devicetree.
//!
//! [`write()`] makes a whole tree from a [`GuestTree`] and the VM: CPUs, PSCI, interrupt controller, timer, memory, the
//! VMM's devices, and what the hypervisor wants in it. On Gunyah the tree is part of the ABI: the Resource Manager reads
//! it to make the vCPUs and the interrupt lines.

mod device;
pub mod lint;
mod platform;

pub use device::{Device, Value};
pub use platform::specifier;

use vm_fdt::FdtWriter;
use vm_memory::GuestAddress;

use crate::error::Result;
use crate::vm::Vm;

/// The interrupt controller's phandle.
pub const GIC_PHANDLE: u32 = 1;
/// The phandle of the fixed clock of 24 MHz that [`Device::clocked`] devices refer to.
pub const CLOCK_PHANDLE: u32 = 2;
/// The phandle of the MSI frame, if there is one.
pub const MSI_PHANDLE: u32 = 3;

/// The phandle of the DMA pool, if there is one.
pub const DMA_POOL_PHANDLE: u32 = 4;

/// What the tree says beside what the VM knows itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestTree {
    /// The machine's `model`.
    pub model: String,
    /// The machine's `compatible`.
    pub compatible: String,
    /// The guest kernel's command line.
    pub cmdline: String,
    /// The initial RAM disk: address and size in bytes.
    pub initrd: Option<(GuestAddress, u64)>,
    /// The path of the console's node, `/serial@10000000` for example.
    pub stdout: Option<String>,
    /// Random bytes for the guest kernel's generator.
    pub rng_seed: Vec<u8>,
    /// The shared memory of a protected guest that its kernel moves the data of devices through: address and size in bytes.
    /// It is part of a shared region of the VM, and [`Device::behind_dma_pool`] devices refer to it.
    ///
    /// The guest's kernel needs CONFIG_DMA_RESTRICTED_POOL; another one takes no notice, and hands devices lent memory.
    pub dma_pool: Option<(GuestAddress, u64)>,
    /// The VMM's devices.
    pub devices: Vec<Device>,
}

/// Writes the tree. Call it when all memory is given, before the start.
///
/// # Errors
/// - [`Fdt`](crate::Error::Fdt): a name or a string in `guest` cannot stand in a tree.
/// - What [`Vm::describe`] answers.
pub fn write(vm: &dyn Vm, guest: &GuestTree) -> Result<Vec<u8>> {
    let config = vm.config();
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_u32("interrupt-parent", GIC_PHANDLE)?;
    tree.property_string("model", &guest.model)?;
    tree.property_string("compatible", &guest.compatible)?;

    chosen(&mut tree, guest)?;
    platform::memory(&mut tree, config, &vm.memory(), guest.dma_pool.is_some())?;
    if let Some((addr, size)) = guest.dma_pool {
        platform::dma_pool(&mut tree, addr, size)?;
    }
    platform::cpus(&mut tree, config.vcpus)?;
    platform::psci(&mut tree)?;
    platform::gic(&mut tree, config)?;
    platform::timer(&mut tree)?;
    if guest.devices.iter().any(Device::is_clocked) {
        platform::clock(&mut tree)?;
    }
    for device in &guest.devices {
        device.write(&mut tree)?;
    }
    vm.describe(&mut tree, GIC_PHANDLE)?;

    tree.end_node(root)?;
    Ok(tree.finish()?)
}

fn chosen(tree: &mut FdtWriter, guest: &GuestTree) -> Result<()> {
    let chosen = tree.begin_node("chosen")?;
    tree.property_string("bootargs", &guest.cmdline)?;
    if let Some((addr, size)) = guest.initrd {
        tree.property_u64("linux,initrd-start", addr.0)?;
        tree.property_u64("linux,initrd-end", addr.0.saturating_add(size))?;
    }
    if let Some(stdout) = &guest.stdout {
        tree.property_string("stdout-path", stdout)?;
    }
    if !guest.rng_seed.is_empty() {
        tree.property("rng-seed", &guest.rng_seed)?;
    }
    tree.end_node(chosen)?;
    Ok(())
}

//! What Gunyah wants in the guest's devicetree: the node that the Resource Manager reads.

use gunyah_ioctls::{Feature, Features};
use vm_fdt::FdtWriter;

use crate::config::{IrqLine, VmConfig, VmKind};
use crate::error::{Error, Result};
use crate::fdt::specifier;
use crate::memory::{MemoryRegion, Sharing};

/// Writes `/gunyah-vm-config`. Without it, its image-name, memory or vcpus no VM starts.
pub(super) fn describe(
    tree: &mut FdtWriter,
    gic: u32,
    config: &VmConfig,
    host: &Features,
    regions: &[MemoryRegion],
) -> Result<()> {
    let node = tree.begin_node("gunyah-vm-config")?;
    tree.property_string("image-name", "guest")?;
    tree.property_string("os-type", "linux")?;
    memory(tree, config, regions)?;

    let interrupts = tree.begin_node("interrupts")?;
    tree.property_u32("config", gic)?;
    tree.end_node(interrupts)?;

    let vcpus = tree.begin_node("vcpus")?;
    // Only vCPUs of this kind are run by the host's VCPU_RUN.
    tree.property_string("affinity", "proxy")?;
    // Whose vCPUs the host wakes for their timers. Not trusted VMs: VMMs on phones leave it out there.
    let trusted = matches!(config.kind, VmKind::Trusted { .. });
    if host.has(Feature::VcpuTimerWakeup) && !trusted {
        tree.property_null("no-timer-wakeups")?;
    }
    tree.end_node(vcpus)?;

    let vdevices = tree.begin_node("vdevices")?;
    tree.property_string("generate", "/hypervisor")?;
    for line in config.lines() {
        doorbell(tree, line)?;
    }
    if config.kind.is_protected() {
        for (label, region) in (0..).zip(regions).filter(|(_, region)| region.sharing() == Sharing::Shared) {
            shared_memory(tree, label, region)?;
        }
    }
    tree.end_node(vdevices)?;

    tree.end_node(node)?;
    Ok(())
}

fn memory(tree: &mut FdtWriter, config: &VmConfig, regions: &[MemoryRegion]) -> Result<()> {
    let main = regions.first().ok_or_else(|| Error::invalid("describe", "the VM has no memory yet"))?;
    let base = main.addr().0;
    // All memory must lie in base .. base + size-max: on newer Resource Managers the rest gets no translation.
    let end = regions.iter().map(|region| region.addr().0.saturating_add(region.size())).max();
    let span = end.unwrap_or(base).saturating_sub(base);
    if let Some(below) = regions.iter().find(|region| region.addr() < main.addr()) {
        let firmware =
            matches!(config.kind, VmKind::ProtectedFirmware { addr, .. } if below.contains(addr, 1));
        if !firmware {
            let why = format!("the memory at {:#x} lies below the main region at {base:#x}", below.addr().0);
            return Err(Error::invalid("describe", why));
        }
    }
    let node = tree.begin_node("memory")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_u64("base-address", base)?;
    tree.property_u64("size-min", main.size())?;
    tree.property_u64("size-max", span)?;
    if let VmKind::ProtectedFirmware { addr, size } = config.kind {
        tree.property_u64("firmware-address", addr.0)?;
        tree.property_u64("firmware-size-max", size)?;
    }
    tree.end_node(node)?;
    Ok(())
}

/// The doorbell behind a line. Its label is the line's number, which is what an irqfd names; its trigger is the irqfd's,
/// since a guest that is told another one hangs in an interrupt storm.
fn doorbell(tree: &mut FdtWriter, line: IrqLine) -> Result<()> {
    let name = format!("bell-{:x}", line.spi);
    let node = tree.begin_node(&name)?;
    tree.property_string("vdevice-type", "doorbell")?;
    tree.property_string("generate", &format!("/hypervisor/{name}"))?;
    tree.property_u32("label", line.spi)?;
    tree.property_null("peer-default")?;
    tree.property_null("source-can-clear")?;
    tree.property_array_u32("interrupts", &specifier(line))?;
    tree.end_node(node)?;
    Ok(())
}

/// Shared memory beside lent memory. Where memory is given page by page the Resource Manager knows no parcel of it, and
/// `optional` keeps that from being an error.
fn shared_memory(tree: &mut FdtWriter, label: u32, region: &MemoryRegion) -> Result<()> {
    let name = format!("shm-{label:x}");
    let node = tree.begin_node(&name)?;
    tree.property_string("vdevice-type", "shm")?;
    tree.property_string("generate", &format!("/hypervisor/{name}"))?;
    tree.property_null("peer-default")?;
    tree.property_u64("dma_base", 0)?;
    let memory = tree.begin_node("memory")?;
    tree.property_u32("label", label)?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u64("base", region.addr().0)?;
    tree.property_null("optional")?;
    tree.end_node(memory)?;
    tree.end_node(node)?;
    Ok(())
}

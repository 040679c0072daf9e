//! The nodes that every guest has.

use vm_fdt::FdtWriter;
use vm_memory::GuestAddress;

use super::{CLOCK_PHANDLE, DMA_POOL_PHANDLE, GIC_PHANDLE, MSI_PHANDLE};
use crate::config::{GicLayout, IrqLine, Trigger, VmConfig, VmKind};
use crate::error::Result;
use crate::memory::MemoryRegion;

const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// Level, active low, for CPU 0: the flags of the timer's interrupts.
const TIMER_FLAGS: u32 = 0x108;
/// Secure, non-secure, virtual and hypervisor timer.
const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];

/// The interrupt specifier of a line: the cells of an `interrupts` property below a GICv3.
pub fn specifier(line: IrqLine) -> [u32; 3] {
    let flags = match line.trigger {
        Trigger::Edge => EDGE_RISING,
        Trigger::Level => LEVEL_HIGH,
    };
    [SPI, line.spi, flags]
}

/// One node for all memory, and its name is exactly `memory`: Gunyah's Resource Manager refuses a node of that
/// `device_type` with a unit address in its name.
///
/// The Resource Manager writes `reg` anew, and nobody promises that shared memory beside lent memory is in it. Linux, which
/// cannot use a pool that is not memory, and crashes, prefers `linux,usable-memory`.
pub(super) fn memory(
    tree: &mut FdtWriter,
    config: &VmConfig,
    regions: &[MemoryRegion],
    pool: bool,
) -> Result<()> {
    let reg = |regions: &mut dyn Iterator<Item = &MemoryRegion>| -> Vec<u64> {
        regions.flat_map(|region| [region.addr().0, region.size()]).collect()
    };
    if regions.is_empty() {
        return Ok(());
    }
    let node = tree.begin_node("memory")?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u64("reg", &reg(&mut regions.iter()))?;
    if pool {
        let firmware = match config.kind {
            VmKind::ProtectedFirmware { addr, .. } => Some(addr),
            _ => None,
        };
        let is_usable =
            |region: &&MemoryRegion| firmware.is_none_or(|firmware| !region.contains(firmware, 1));
        let usable = reg(&mut regions.iter().filter(is_usable));
        tree.property_array_u64("linux,usable-memory", &usable)?;
    }
    tree.end_node(node)?;
    Ok(())
}

/// The pool stays in the kernel's memory map, so no `no-map`: its allocator needs the pages mapped.
pub(super) fn dma_pool(tree: &mut FdtWriter, addr: GuestAddress, size: u64) -> Result<()> {
    let reserved = tree.begin_node("reserved-memory")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_null("ranges")?;
    let pool = tree.begin_node(&format!("dma-pool@{:x}", addr.0))?;
    tree.property_string("compatible", "restricted-dma-pool")?;
    tree.property_array_u64("reg", &[addr.0, size])?;
    tree.property_phandle(DMA_POOL_PHANDLE)?;
    tree.end_node(pool)?;
    tree.end_node(reserved)?;
    Ok(())
}

pub(super) fn cpus(tree: &mut FdtWriter, count: u32) -> Result<()> {
    let cpus = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for id in 0..count {
        let cpu = tree.begin_node(&format!("cpu@{id:x}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("compatible", "arm,armv8")?;
        tree.property_string("enable-method", "psci")?;
        tree.property_u32("reg", id)?;
        // Empty on purpose: some Resource Managers provide PSCI only when they see this property.
        tree.property_null("cpu-idle-states")?;
        tree.end_node(cpu)?;
    }
    tree.end_node(cpus)?;
    Ok(())
}

/// Without this node Gunyah's Resource Manager starts the guest all the same, and then SYSTEM_OFF never ends it.
pub(super) fn psci(tree: &mut FdtWriter) -> Result<()> {
    let node = tree.begin_node("psci")?;
    tree.property_string_list("compatible", vec!["arm,psci-1.0".to_owned(), "arm,psci-0.2".to_owned()])?;
    tree.property_string("method", "hvc")?;
    tree.end_node(node)?;
    Ok(())
}

pub(super) fn gic(tree: &mut FdtWriter, config: &VmConfig) -> Result<()> {
    let layout = config.gic;
    let redistributors = u64::from(config.vcpus).saturating_mul(GicLayout::REDISTRIBUTOR_SIZE);
    let node = tree.begin_node(&format!("interrupt-controller@{:x}", layout.distributor.0))?;
    tree.property_string("compatible", "arm,gic-v3")?;
    tree.property_u32("#interrupt-cells", 3)?;
    tree.property_null("interrupt-controller")?;
    let reg = [layout.distributor.0, GicLayout::DISTRIBUTOR_SIZE, layout.redistributors.0, redistributors];
    tree.property_array_u64("reg", &reg)?;
    tree.property_phandle(GIC_PHANDLE)?;
    if let Some(pool) = config.msi {
        tree.property_u32("#address-cells", 2)?;
        tree.property_u32("#size-cells", 2)?;
        tree.property_null("ranges")?;
        let frame = tree.begin_node(&format!("v2m@{:x}", pool.frame.0))?;
        tree.property_string("compatible", "arm,gic-v2m-frame")?;
        tree.property_null("msi-controller")?;
        tree.property_array_u64("reg", &[pool.frame.0, 0x1000])?;
        // The guest's driver wants INTIDs here, not SPI numbers.
        tree.property_u32("arm,msi-base-spi", pool.base.saturating_add(32))?;
        tree.property_u32("arm,msi-num-spis", pool.count)?;
        tree.property_phandle(MSI_PHANDLE)?;
        tree.end_node(frame)?;
    }
    tree.end_node(node)?;
    Ok(())
}

pub(super) fn timer(tree: &mut FdtWriter) -> Result<()> {
    let node = tree.begin_node("timer")?;
    tree.property_string("compatible", "arm,armv8-timer")?;
    let cells: Vec<u32> = TIMER_PPIS.iter().flat_map(|ppi| [PPI, *ppi, TIMER_FLAGS]).collect();
    tree.property_array_u32("interrupts", &cells)?;
    tree.property_null("always-on")?;
    tree.end_node(node)?;
    Ok(())
}

pub(super) fn clock(tree: &mut FdtWriter) -> Result<()> {
    let node = tree.begin_node("apb-pclk")?;
    tree.property_string("compatible", "fixed-clock")?;
    tree.property_u32("#clock-cells", 0)?;
    tree.property_u32("clock-frequency", 24_000_000)?;
    tree.property_string("clock-output-names", "clk24mhz")?;
    tree.property_phandle(CLOCK_PHANDLE)?;
    tree.end_node(node)?;
    Ok(())
}

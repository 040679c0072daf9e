//! Payload, devicetree, start: what Cloud Hypervisor does from `load_kernel` to the end of `boot`.

use vm_fdt::FdtWriter;

use super::layout::{
    DMA_POOL, DMA_POOL_SIZE, FDT, MSI_COUNT, MSI_FIRST_INTID, PANEL, PANEL_PIN, RAM, RAM_SIZE,
};
use super::memory::MemoryManager;
use crate::hypervisor::additions::BootContext;
use crate::hypervisor::cpu::Vcpu;
use crate::hypervisor::gic::Vgic;
use crate::hypervisor::vm::Vm;

/// A flat image that runs where it is loaded: at the start of RAM.
pub(crate) type Payload = Vec<u8>;

const GIC_PHANDLE: u32 = 1;
const MSI_PHANDLE: u32 = 2;
const PAGE: u64 = 4096;

const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE: u32 = 1;
/// Level, active low, for CPU 0.
const TIMER: u32 = 0x108;
const TIMERS: [u32; 4] = [13, 14, 11, 10];

/// Puts payload and devicetree into memory, tells the vCPUs, and starts the VM.
pub(super) fn boot(
    vm: &dyn Vm,
    vgic: &dyn Vgic,
    memory: &MemoryManager,
    vcpus: &[Box<dyn Vcpu>],
    payload: &Payload,
) -> anyhow::Result<()> {
    memory.load(RAM, payload)?;
    let [_, _, redistributors, size] = vgic.device_properties();
    for (id, vcpu) in (0..).zip(vcpus) {
        if !vcpu.is_initialised() {
            // Here get_preferred_target, vcpu_init, finalization and the check of MPIDR would have their place.
            anyhow::bail!("this VMM has no initialisation of vCPUs for {:?}", vcpu.hypervisor_type());
        }
        vcpu.set_gic_redistributor_addr(redistributors + u64::from(id) * (size / vgic.vcpu_count()))?;
        vcpu.setup_regs(id, RAM, FDT)?;
    }
    let tree = tree(vm, vgic, vcpus)?;
    let blob = u64::try_from(tree.len())?;
    memory.load(FDT, &tree)?;
    let fdt_size = (blob + vm.fdt_slack(blob)).next_multiple_of(PAGE);
    // Before this no vCPU may run; after it no memory, line or vCPU can be added.
    vm.start(&BootContext { entry: RAM, fdt: FDT, fdt_size })?;
    Ok(())
}

/// The devicetree.
pub(crate) fn tree(vm: &dyn Vm, vgic: &dyn Vgic, vcpus: &[Box<dyn Vcpu>]) -> anyhow::Result<Vec<u8>> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC_PHANDLE)?;
    let chosen = fdt.begin_node("chosen")?;
    fdt.end_node(chosen)?;
    memory_nodes(&mut fdt, vm.is_protected())?;
    cpu_nodes(&mut fdt, vcpus.len())?;
    gic_node(&mut fdt, vgic)?;

    let timer = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    let cells: Vec<u32> = TIMERS.iter().flat_map(|timer| [PPI, *timer, TIMER]).collect();
    fdt.property_array_u32("interrupts", &cells)?;
    fdt.end_node(timer)?;

    // Without this node the guest's SYSTEM_OFF never ends the VM.
    let psci = fdt.begin_node("psci")?;
    fdt.property_string("compatible", "arm,psci-1.0")?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)?;

    let panel = fdt.begin_node(&format!("panel@{PANEL:x}"))?;
    fdt.property_string("compatible", "rust-vmm,panel")?;
    fdt.property_array_u64("reg", &[PANEL, super::layout::DEVICE_SIZE])?;
    fdt.property_array_u32("interrupts", &[SPI, PANEL_PIN, EDGE])?;
    fdt.end_node(panel)?;

    vm.describe(&mut fdt, GIC_PHANDLE)?;
    fdt.end_node(root)?;
    Ok(fdt.finish()?)
}

/// One node for all memory, and its name is exactly `memory`: another one is refused at the start.
fn memory_nodes(fdt: &mut FdtWriter, protected: bool) -> anyhow::Result<()> {
    let memory = fdt.begin_node("memory")?;
    fdt.property_string("device_type", "memory")?;
    let (ram_size, pool_size) = (RAM_SIZE as u64, DMA_POOL_SIZE as u64);
    fdt.property_array_u64("reg", &[RAM, ram_size, DMA_POOL, pool_size])?;
    fdt.end_node(memory)?;
    if protected {
        let reserved = fdt.begin_node("reserved-memory")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_null("ranges")?;
        let pool = fdt.begin_node(&format!("dma-pool@{DMA_POOL:x}"))?;
        fdt.property_string("compatible", "restricted-dma-pool")?;
        fdt.property_array_u64("reg", &[DMA_POOL, pool_size])?;
        fdt.end_node(pool)?;
        fdt.end_node(reserved)?;
    }
    Ok(())
}

fn cpu_nodes(fdt: &mut FdtWriter, count: usize) -> anyhow::Result<()> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for id in 0..u32::try_from(count)? {
        let cpu = fdt.begin_node(&format!("cpu@{id:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,arm-v8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", id)?;
        // Empty on purpose: some Resource Managers provide PSCI only where they see it.
        fdt.property_null("cpu-idle-states")?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)?;
    Ok(())
}

fn gic_node(fdt: &mut FdtWriter, vgic: &dyn Vgic) -> anyhow::Result<()> {
    let [distributor, ..] = vgic.device_properties();
    let gic = fdt.begin_node(&format!("intc@{distributor:x}"))?;
    fdt.property_string("compatible", vgic.fdt_compatibility())?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_array_u64("reg", &vgic.device_properties())?;
    fdt.property_phandle(GIC_PHANDLE)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    if vgic.fdt_maint_irq() != 0 {
        fdt.property_array_u32("interrupts", &[PPI, vgic.fdt_maint_irq(), 4])?;
    }
    if vgic.msi_compatible() {
        let [frame, size] = vgic.msi_properties();
        let node = fdt.begin_node(&format!("msic@{frame:x}"))?;
        fdt.property_string("compatible", vgic.msi_compatibility())?;
        fdt.property_null("msi-controller")?;
        fdt.property_array_u64("reg", &[frame, size])?;
        fdt.property_phandle(MSI_PHANDLE)?;
        fdt.property_u32("arm,msi-base-spi", MSI_FIRST_INTID)?;
        fdt.property_u32("arm,msi-num-spis", MSI_COUNT)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(gic)?;
    Ok(())
}

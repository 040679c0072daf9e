//! The interrupt controller, and whether the devices' interrupts have a doorbell.

use super::blob::{Node, Tree};
use super::vdevices::{Doorbell, Interrupt};
use super::{Findings, rules};

/// The addresses below which accesses without memory were seen to reach the VMM.
const REACHED: u64 = 1 << 30;

/// The interrupt controller, as the Resource Manager looks for it.
fn find<'t>(tree: &'t Tree, config: Option<&'t Node>, findings: &mut Findings) -> Option<&'t Node> {
    let interrupts = config.and_then(|config| config.child("interrupts"));
    let (node, property) = match interrupts.filter(|node| node.has("config")) {
        Some(node) => (node, "config"),
        None => (&tree.root, "interrupt-parent"),
    };
    if !node.has(property) {
        findings.node(&rules::NO_GIC, "/", "neither refers to one");
        return None;
    }
    // One cell is a phandle; a path has at least two letters and its zero byte, and does not begin with one.
    let path = node.text(property).filter(|text| text.starts_with('/'));
    let found = match (path, node.cell(property)) {
        (Some(path), _) => tree.at(path),
        (None, Some(phandle)) => tree.phandle(phandle),
        (None, None) => None,
    };
    if found.is_none() {
        let detail = match (path, node.cell(property)) {
            (Some(path), _) => format!("there is no {path}"),
            (None, Some(phandle)) => format!("no node has the phandle {phandle:#x}"),
            (None, None) => "it is neither a path nor a phandle".to_owned(),
        };
        findings.property(&rules::GIC_DANGLES, node, property, detail);
    }
    found
}

pub(super) fn check(tree: &Tree, config: Option<&Node>, findings: &mut Findings) {
    let Some(gic) = find(tree, config, findings) else { return };
    if !gic.is_compatible(&["arm,gic-v3"]) {
        findings.property(&rules::GIC_KIND, gic, "compatible", format!("{:?}", gic.texts("compatible")));
    }
    if !gic.has("interrupt-controller") {
        findings.property(&rules::GIC_KIND, gic, "interrupt-controller", "there is no such property");
    }
    if gic.cell("#interrupt-cells") != Some(3) {
        let detail = format!("{:?}", gic.cell("#interrupt-cells").unwrap_or_default());
        findings.property(&rules::GIC_KIND, gic, "#interrupt-cells", detail);
    }
    if let Some(range) = overlapped(tree, config, gic) {
        findings.property(&rules::GIC_IN_RAM, gic, "reg", range);
    }
}

/// The ranges of a node at the root: its reg has two cells for addresses and two for sizes, unless the root says other.
fn ranges(tree: &Tree, node: &Node) -> Vec<(u64, u64)> {
    let cells = |name| tree.root.cell(name).filter(|cells| (1..=2).contains(cells)).unwrap_or(2) as usize;
    let (address, size) = (cells("#address-cells"), cells("#size-cells"));
    let number = |cells: &[u32]| cells.iter().fold(0_u64, |sum, cell| sum << 32 | u64::from(*cell));
    let reg = node.cells("reg").unwrap_or_default();
    let ranges = reg.chunks_exact(address + size);
    ranges.map(|range| range.split_at(address)).map(|(at, len)| (number(at), number(len))).collect()
}

/// Which of a node's ranges lies in the VM's memory.
fn overlapped(tree: &Tree, config: Option<&Node>, node: &Node) -> Option<String> {
    let memory = config?.child("memory")?;
    let (base, size) = (memory.number("base-address")?, memory.number("size-min")?);
    let overlaps = |(at, len): &(u64, u64)| *at < base.saturating_add(size) && base < at.saturating_add(*len);
    let (at, len) = ranges(tree, node).into_iter().find(overlaps)?;
    Some(format!("{at:#x}..{:#x} lies in the memory at {base:#x}", at.saturating_add(len)))
}

/// Nodes at the root that are no devices of the VMM.
fn is_platform(node: &Node) -> bool {
    node.text("device_type").is_some_and(|kind| kind == "memory")
        || node.has("interrupt-controller")
        || node.is_compatible(&["arm,armv8-timer", "arm,armv7-timer", "arm,armv8-pmuv3"])
        || ["cpus", "chosen", "reserved-memory", "gunyah-vm-config", "qcom,vm-config", "psci"]
            .contains(&node.name.as_str())
}

/// Whether each device of the VMM can be reached, and can interrupt.
pub(super) fn check_devices(
    tree: &Tree,
    config: Option<&Node>,
    doorbells: &[Doorbell],
    findings: &mut Findings,
) {
    for device in tree.root.children.iter().filter(|node| !is_platform(node)) {
        if let Some(range) = overlapped(tree, config, device) {
            findings.property(&rules::DEVICE_IN_MEMORY, device, "reg", range);
        } else if let Some((at, _)) = ranges(tree, device).into_iter().find(|(at, _)| *at >= REACHED) {
            findings.property(&rules::DEVICE_HIGH, device, "reg", format!("{at:#x}"));
        }
        // Without a configuration there is no VM; that has been said.
        if config.is_none() {
            continue;
        }
        let cells = device.cells("interrupts").unwrap_or_default();
        for interrupt in cells.chunks_exact(3).filter_map(Interrupt::read) {
            let bell = doorbells.iter().find(|bell| bell.interrupt.is_some_and(|have| have.is(&interrupt)));
            match bell {
                None => {
                    let detail = format!("{interrupt} has no doorbell");
                    findings.property(&rules::DEVICE_WITHOUT_DOORBELL, device, "interrupts", detail);
                }
                Some(bell) => {
                    let other = bell.interrupt.filter(|have| have.trigger != interrupt.trigger);
                    if let Some(other) = other {
                        let detail = format!("{interrupt}, and {} has {other}", bell.path);
                        findings.property(&rules::DEVICE_TRIGGER, device, "interrupts", detail);
                    }
                }
            }
        }
    }
}

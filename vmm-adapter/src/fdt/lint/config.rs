//! `/gunyah-vm-config` and its memory.

use super::blob::{Node, Tree};
use super::expect::Expect;
use super::{Findings, rules};

const NAMES: [&str; 2] = ["gunyah-vm-config", "qcom,vm-config"];
/// What the Resource Manager of December 2023 knows.
const ATTRIBUTES: [&str; 8] = [
    "amu-counting-disabled",
    "context-dump",
    "crash-fatal",
    "guest-ram-dump",
    "insecure-console",
    "no-reset",
    "no-shutdown",
    "ras-error-handler",
];
const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;

/// The configuration's node.
pub(super) fn find<'t>(tree: &'t Tree, findings: &mut Findings) -> Option<&'t Node> {
    let mut found = tree.root.children.iter().filter(|node| NAMES.contains(&node.name.as_str()));
    let Some(config) = found.next() else {
        findings.node(&rules::NO_CONFIG, "/", "neither /gunyah-vm-config nor /qcom,vm-config is there");
        return None;
    };
    for other in found {
        findings.node(&rules::TWO_CONFIGS, &other.path, format!("{} is there, too", config.path));
    }
    Some(config)
}

pub(super) fn check(config: &Node, expect: &Expect, findings: &mut Findings) {
    if config.text("image-name").is_none() {
        findings.property(&rules::NO_IMAGE_NAME, config, "image-name", "there is no such string");
    }
    for attribute in config.texts("vm-attrs").into_iter().filter(|text| !text.is_empty()) {
        if !ATTRIBUTES.contains(&attribute) {
            findings.property(&rules::UNKNOWN_ATTRIBUTE, config, "vm-attrs", format!("{attribute:?}"));
        }
    }
    match config.child("memory") {
        Some(memory) => check_memory(memory, expect, findings),
        None => findings.node(&rules::NO_MEMORY, &config.path, "there is no node `memory` in it"),
    }
}

fn check_memory(memory: &Node, expect: &Expect, findings: &mut Findings) {
    let base = memory.number("base-address");
    match base {
        None => findings.property(&rules::NO_BASE, memory, "base-address", "there is no such number"),
        Some(base) if base % PAGE != 0 => {
            findings.property(&rules::BASE_UNALIGNED, memory, "base-address", format!("{base:#x}"));
        }
        Some(base) if base.checked_next_multiple_of(BLOCK).is_none() => {
            let detail = format!("{base:#x} is at the end of the address space");
            findings.property(&rules::BASE_UNALIGNED, memory, "base-address", detail);
        }
        Some(base) if base % BLOCK != 0 => {
            findings.property(&rules::BASE_ROUNDED, memory, "base-address", format!("{base:#x}"));
        }
        Some(_) => {}
    }
    let sizes = ["size-min", "size-max"].map(|name| {
        let size = memory.number(name);
        match size {
            None if memory.has(name) => {
                findings.property(&rules::SIZE_WRONG, memory, name, "it is no number of one or two cells");
            }
            None => findings.property(&rules::NO_SIZE, memory, name, "there is no such number"),
            Some(size) if size % PAGE != 0 || size == 0 => {
                findings.property(&rules::SIZE_WRONG, memory, name, format!("{size:#x}"));
            }
            Some(_) => {}
        }
        size
    });
    if let [Some(min), Some(max)] = sizes {
        if min > max {
            let detail = format!("{min:#x}, and size-max is {max:#x}");
            findings.property(&rules::SIZE_WRONG, memory, "size-min", detail);
        }
    }
    let firmware = check_firmware(memory, base, sizes[1], expect, findings);
    let Some(base) = base else { return };
    if let Some(image) = expect.image().filter(|image| image.addr != base) {
        let detail = format!("{base:#x}, and the main region is at {:#x}", image.addr);
        findings.property(&rules::BASE_MOVED, memory, "base-address", detail);
    }
    let Some(max) = sizes[1] else { return };
    for region in &expect.regions {
        let inside = region.addr >= base && region.end() <= base.saturating_add(max);
        let is_firmware = firmware.is_some_and(|(addr, _)| region.holds(addr, 1));
        if !inside && !is_firmware {
            let detail = format!(
                "region {} at {:#x}..{:#x} is not inside {base:#x}..{:#x}",
                region.label,
                region.addr,
                region.end(),
                base.saturating_add(max)
            );
            findings.property(&rules::OUTSIDE_WINDOW, memory, "size-max", detail);
        }
    }
}

/// Gives where the firmware is, and its size.
fn check_firmware(
    memory: &Node,
    base: Option<u64>,
    max: Option<u64>,
    expect: &Expect,
    findings: &mut Findings,
) -> Option<(u64, u64)> {
    let [addr, size] = ["firmware-address", "firmware-size-max"].map(|name| {
        let number = memory.number(name);
        if memory.has(name) && number.is_none_or(|number| number % PAGE != 0) {
            let detail =
                number.map_or("it is no number of two cells".to_owned(), |number| format!("{number:#x}"));
            findings.property(&rules::FIRMWARE_WRONG, memory, name, detail);
        }
        number
    });
    // Where the Resource Manager puts it.
    let base = base.and_then(|base| base.checked_next_multiple_of(BLOCK));
    match (addr, size) {
        (Some(addr), Some(size)) => {
            let end = addr.saturating_add(size);
            if let (Some(base), Some(max)) = (base, max) {
                if addr < base.saturating_add(max) && base < end {
                    let detail = format!("{addr:#x}..{end:#x} overlaps the memory at {base:#x}");
                    findings.property(&rules::FIRMWARE_OVERLAPS, memory, "firmware-address", detail);
                }
            }
            Some((addr, size))
        }
        (None, None) => {
            if expect.firmware {
                findings.node(
                    &rules::NO_FIRMWARE,
                    &memory.path,
                    "the VM has firmware, and the tree does not say where",
                );
            }
            None
        }
        (Some(_), None) => {
            findings.property(
                &rules::FIRMWARE_HALF,
                memory,
                "firmware-address",
                "firmware-size-max is missing",
            );
            None
        }
        (None, Some(_)) => {
            findings.property(
                &rules::FIRMWARE_HALF,
                memory,
                "firmware-size-max",
                "firmware-address is missing",
            );
            None
        }
    }
}

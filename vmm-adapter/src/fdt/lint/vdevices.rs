//! The virtual devices that the Resource Manager makes: doorbells and shared memory.

use std::collections::BTreeSet;
use std::fmt;

use super::blob::Node;
use super::expect::Expect;
use super::{Findings, rules};
use crate::config::Trigger;
use crate::memory::Sharing;

const TYPES: [&str; 11] = [
    "doorbell",
    "doorbell-source",
    "iomem",
    "message-queue",
    "message-queue-pair",
    "rm-rpc",
    "shm",
    "shm-doorbell",
    "virtio-mmio",
    "vrtc-pl031",
    "vsmmu-v2",
];
const EDGE: u32 = 1;
const LEVEL: u32 = 4;
/// Rising and falling edge, high and low level. Other numbers are none.
const TRIGGERS: [u32; 4] = [EDGE, 2, LEVEL, 8];

/// A shared peripheral interrupt as a tree names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interrupt {
    extended: bool,
    number: u32,
    pub(super) trigger: u32,
}

impl Interrupt {
    /// Reads three cells. `None`: it is no shared peripheral interrupt.
    pub(super) fn read(cells: &[u32]) -> Option<Self> {
        let &[kind, number, trigger] = cells else { return None };
        let (extended, count) = match kind {
            0 => (false, 988),
            2 => (true, 1024),
            _ => return None,
        };
        let trigger = trigger & 0xf;
        (number < count && TRIGGERS.contains(&trigger)).then_some(Self { extended, number, trigger })
    }

    /// Whether both are one interrupt, whatever the triggers.
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.extended, self.number) == (other.extended, other.number)
    }
}

impl fmt::Display for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} {} {}>", if self.extended { 2 } else { 0 }, self.number, self.trigger)
    }
}

/// A doorbell that irqfds can name.
#[derive(Clone, Debug)]
pub(super) struct Doorbell {
    pub(super) path: String,
    label: Option<u32>,
    pub(super) interrupt: Option<Interrupt>,
}

/// `qcom,label` wins over `label`.
fn label(node: &Node) -> Option<u32> {
    node.cell("qcom,label").or_else(|| node.cell("label"))
}

/// Gives the doorbells.
pub(super) fn check(config: &Node, expect: &Expect, findings: &mut Findings) -> Vec<Doorbell> {
    let mut doorbells = Vec::new();
    let mut shared = BTreeSet::new();
    for node in config.child("vdevices").map_or(&[][..], |vdevices| &vdevices.children) {
        match node.text("vdevice-type") {
            Some("doorbell") => doorbells.push(doorbell(node, &doorbells, findings)),
            Some("shm") => shared.extend(shared_memory(node, expect, findings)),
            Some(other) if TYPES.contains(&other) => {}
            Some(other) => {
                findings.property(&rules::VDEVICE_TYPE, node, "vdevice-type", format!("{other:?}"));
            }
            None => findings.property(&rules::VDEVICE_TYPE, node, "vdevice-type", "there is no such string"),
        }
    }
    check_lines(config, &doorbells, expect, findings);
    check_regions(config, &shared, expect, findings);
    doorbells
}

fn doorbell(node: &Node, others: &[Doorbell], findings: &mut Findings) -> Doorbell {
    let label = label(node);
    match label {
        None => findings.property(&rules::NO_LABEL, node, "label", "there is no such cell"),
        Some(label) => {
            if let Some(other) = others.iter().find(|other| other.label == Some(label)) {
                findings.property(
                    &rules::LABEL_TWICE,
                    node,
                    "label",
                    format!("{} has {label}, too", other.path),
                );
            }
        }
    }
    if !node.has("peer-default") && !node.has("peer") {
        findings.property(&rules::NO_PEER, node, "peer-default", "neither this nor peer is there");
    }
    let mut interrupt = None;
    if node.has("interrupts") {
        interrupt = node.cells("interrupts").and_then(|cells| Interrupt::read(&cells));
        match interrupt {
            None => {
                let detail = format!("{:?}", node.cells("interrupts").unwrap_or_default());
                findings.property(&rules::BAD_INTERRUPT, node, "interrupts", detail);
            }
            Some(interrupt) => {
                if ![EDGE, LEVEL].contains(&interrupt.trigger) {
                    findings.property(&rules::BAD_TRIGGER, node, "interrupts", interrupt.to_string());
                }
                let same = |other: &&Doorbell| other.interrupt.is_some_and(|have| have.is(&interrupt));
                if let Some(other) = others.iter().find(same) {
                    let detail = format!("{interrupt} is that of {}", other.path);
                    findings.property(&rules::INTERRUPT_TWICE, node, "interrupts", detail);
                }
            }
        }
    } else {
        findings.property(&rules::NO_INTERRUPT, node, "interrupts", "there is no such property");
    }
    Doorbell { path: node.path.clone(), label, interrupt }
}

/// Gives the label of the parcel.
fn shared_memory(node: &Node, expect: &Expect, findings: &mut Findings) -> Option<u32> {
    let Some((memory, label)) = node.child("memory").and_then(|memory| Some((memory, label(memory)?))) else {
        findings.node(&rules::NO_SHM_MEMORY, &node.path, "there is no node `memory` with a label in it");
        return None;
    };
    if memory.get("base").is_some_and(|base| base.len() != 8) {
        findings.property(&rules::SHM_BASE, memory, "base", "it is not two cells");
    }
    if !memory.has("optional") {
        findings.property(&rules::SHM_NOT_OPTIONAL, memory, "optional", "there is no such property");
    }
    let there = expect.shared().any(|region| region.label == label);
    if !expect.regions.is_empty() && !there && !memory.has("optional") {
        findings.property(
            &rules::SHM_WITHOUT_REGION,
            memory,
            "label",
            format!("no shared region beside the main one has the label {label}"),
        );
    }
    Some(label)
}

fn check_lines(config: &Node, doorbells: &[Doorbell], expect: &Expect, findings: &mut Findings) {
    for line in &expect.lines {
        let Some(bell) = doorbells.iter().find(|bell| bell.label == Some(line.spi)) else {
            let detail = format!("no doorbell has the label {}", line.spi);
            findings.node(&rules::LINE_WITHOUT_DOORBELL, &config.path, detail);
            continue;
        };
        let trigger = match line.trigger {
            Trigger::Edge => EDGE,
            Trigger::Level => LEVEL,
        };
        if let Some(interrupt) = bell.interrupt.filter(|interrupt| interrupt.trigger != trigger) {
            let detail = format!("{interrupt}, and the irqfd's trigger is {trigger}");
            findings.node(&rules::TRIGGER_DIFFERS, &bell.path, detail);
        }
    }
}

fn check_regions(config: &Node, shared: &BTreeSet<u32>, expect: &Expect, findings: &mut Findings) {
    if !expect.regions.iter().any(|region| region.sharing == Sharing::Private) {
        return;
    }
    for region in expect.regions.iter().filter(|region| region.sharing == Sharing::Shared) {
        if !shared.contains(&region.label) {
            let detail = format!("region {} at {:#x} has no shm device", region.label, region.addr);
            findings.node(&rules::SHARED_WITHOUT_SHM, &config.path, detail);
        }
    }
}

//! The virtual devices: doorbells and shared memory.

use std::collections::BTreeSet;

use super::error::RmError;
use super::fdt::Node;
use super::interrupts::{Gic, Interrupt};
use super::memory::number;

/// A doorbell: the host rings it with an irqfd of the same label, and the guest gets an interrupt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// What an irqfd names; `qcom,label` in the tree, else `label`.
    pub label: u32,
    /// The interrupt that the guest gets. `None` when the tree leaves the choice to the Resource Manager.
    pub interrupt: Option<Interrupt>,
    /// Whether the host may clear the doorbell too.
    pub source_can_clear: bool,
    /// Where the Resource Manager writes the guest's node of this doorbell.
    pub generate: Option<String>,
}

/// A memory parcel that the guest shares with the host, beside its RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedMemory {
    /// The label of the memory region that it is made of.
    pub label: u32,
    /// Its guest address in bytes, when the tree fixes it.
    pub base: Option<u64>,
    /// Whether the VM starts without it.
    pub optional: bool,
}

impl Doorbell {
    /// The GIC's number of the guest's interrupt. Where the tree leaves it open, it is that of the SPI with the label's number.
    #[must_use]
    pub fn intid(&self) -> u32 {
        self.interrupt.map_or(FIRST_SPI.saturating_add(self.label), |interrupt| interrupt.intid)
    }
}

/// The first shared peripheral interrupt.
const FIRST_SPI: u32 = 32;

#[derive(Debug, Default)]
pub(super) struct Vdevices {
    pub(super) doorbells: Vec<Doorbell>,
    pub(super) shared_memory: Vec<SharedMemory>,
}

impl Vdevices {
    /// Reads `vdevices`; a tree without it has none.
    pub(super) fn read(
        config: &Node<'_>,
        gic: &Gic<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, RmError> {
        let mut found = Self::default();
        let Some(vdevices) = config.child("vdevices") else { return Ok(found) };
        for device in vdevices.children() {
            match device.text("vdevice-type") {
                Some("doorbell") => found.doorbells.push(doorbell(&device, gic, warnings)?),
                Some("shm") => found.shared_memory.push(shared_memory(&device)?),
                // Known, but nothing that a host's VMM uses: a real one makes them, the fake does not.
                Some(
                    other @ ("doorbell-source" | "message-queue" | "message-queue-pair" | "shm-doorbell"
                    | "virtio-mmio" | "rm-rpc" | "iomem" | "vsmmu-v2" | "vrtc-pl031"),
                ) => warnings.push(format!("{}: the fake makes no {other}", device.path())),
                Some(other) => {
                    warnings.push(format!("{}: vdevice-type {other:?} is not known, ignored", device.path()));
                }
                None => warnings.push(format!("{}: no vdevice-type, ignored", device.path())),
            }
        }
        let mut labels = BTreeSet::new();
        let mut lines = BTreeSet::new();
        for doorbell in &found.doorbells {
            if !labels.insert(doorbell.label) {
                warnings.push(format!("more than one doorbell has the label {}", doorbell.label));
            }
            if let Some(line) = doorbell.interrupt.filter(|line| !lines.insert(line.intid)) {
                warnings.push(format!("more than one doorbell has the interrupt {}", line.intid));
            }
        }
        Ok(found)
    }
}

fn label(node: &Node<'_>) -> Option<u32> {
    node.word("qcom,label").or_else(|| node.word("label"))
}

fn doorbell(node: &Node<'_>, gic: &Gic<'_>, warnings: &mut Vec<String>) -> Result<Doorbell, RmError> {
    let label = label(node)
        .ok_or_else(|| RmError::invalid(format!("{}: the doorbell has no label of one word", node.path())))?;
    if !node.has("peer-default") && !node.has("peer") {
        return Err(RmError::invalid(format!(
            "{}: the doorbell has neither peer-default nor peer",
            node.path()
        )));
    }
    let interrupt = gic.interrupt(node, warnings)?;
    if interrupt.is_some_and(|interrupt| interrupt.spi().is_none()) {
        warnings.push(format!("{}: the fake signals only SPIs 0 to 987, this one never", node.path()));
    }
    let generate = node.text("generate").map(str::to_owned);
    if generate.is_none() {
        warnings.push(format!("{}: without generate the guest gets no node for it", node.path()));
    }
    Ok(Doorbell { label, interrupt, source_can_clear: node.has("source-can-clear"), generate })
}

fn shared_memory(node: &Node<'_>) -> Result<SharedMemory, RmError> {
    let memory = node
        .child("memory")
        .ok_or_else(|| RmError::missing(format!("{}: the shared memory has no node memory", node.path())))?;
    let label =
        label(&memory).ok_or_else(|| RmError::invalid(format!("{}: no label of one word", memory.path())))?;
    Ok(SharedMemory { label, base: number(&memory, "base")?, optional: memory.has("optional") })
}

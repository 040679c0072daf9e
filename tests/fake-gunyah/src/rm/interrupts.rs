//! The guest's interrupt controller, and the interrupt specifiers that name its lines.

use super::error::RmError;
use super::fdt::{Fdt, Node};
use super::memory::Range;

/// How a line tells that it is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// By a transition.
    Edge,
    /// By its level.
    Level,
}

/// A decoded interrupt specifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interrupt {
    /// The GIC's number of the interrupt: 32 + n for SPI n.
    pub intid: u32,
    /// Edge or level.
    pub trigger: Trigger,
}

impl Interrupt {
    /// The interrupt as an SPI number, when it is one.
    pub fn spi(&self) -> Option<u32> {
        match self.intid {
            32..=1019 => self.intid.checked_sub(32),
            _ => None,
        }
    }
}

/// Where the frames of the guest's GICv3 are: the first two ranges of its node's `reg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicFrames {
    /// The distributor, 64 KiB at least.
    pub distributor: Range,
    /// The redistributors, 128 KiB for each vCPU.
    pub redistributors: Range,
}

/// Bytes of a distributor, and what frames are aligned to.
const DISTRIBUTOR: u64 = 0x1_0000;
/// Bytes of a redistributor.
const REDISTRIBUTOR: u64 = 0x2_0000;

/// The interrupt controller that was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gic<'f> {
    node: Node<'f>,
    cells: usize,
    is_v3: bool,
}

impl<'f> Gic<'f> {
    /// Finds the guest's GIC: by `interrupts/config`, a path or a phandle, else by the root's `interrupt-parent`.
    pub(super) fn find(
        fdt: &'f Fdt<'f>,
        config: &Node<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, RmError> {
        let interrupts = config.child("interrupts");
        let (node, found_by) = match interrupts.filter(|node| node.has("config")) {
            Some(interrupts) => (by_config(fdt, &interrupts), format!("{}/config", interrupts.path())),
            None => {
                let parent = fdt.root().and_then(|root| root.word("interrupt-parent"));
                (parent.and_then(|phandle| fdt.by_phandle(phandle)), "the root's interrupt-parent".to_owned())
            }
        };
        let node = node.ok_or_else(|| {
            RmError::missing(format!("no interrupt controller: {found_by} is missing or names no node"))
        })?;
        if !node.has("interrupt-controller") {
            return Err(RmError::missing(format!(
                "no interrupt controller: {found_by} names {}, which is none",
                node.path()
            )));
        }
        let is_v3 = node.texts("compatible").any(|name| name == "arm,gic-v3");
        if !is_v3 {
            warnings.push(format!("{} is not compatible with \"arm,gic-v3\"", node.path()));
        }
        let cells = node.word("#interrupt-cells").and_then(|cells| usize::try_from(cells).ok());
        match cells {
            Some(cells @ 3..=8) => Ok(Self { node, cells, is_v3 }),
            _ => Err(RmError::invalid(format!("{}: #interrupt-cells is not 3", node.path()))),
        }
    }

    /// Where the guest will look for it. What a real Resource Manager does with a node that does not tell was not
    /// observed; here such a VM starts, and its guest gets no interrupts.
    pub(super) fn frames(&self, vcpus: u32, warnings: &mut Vec<String>) -> Option<GicFrames> {
        if !self.is_v3 {
            return None;
        }
        let (distributor, redistributors) = match self.reg()[..] {
            [distributor, redistributors, ..] => (distributor, redistributors),
            _ => {
                warnings.push(format!(
                    "{}: reg is no range for the distributor and one for the redistributors: no interrupts",
                    self.node.path()
                ));
                return None;
            }
        };
        let good = distributor.size >= DISTRIBUTOR
            && [distributor, redistributors].iter().all(|range| {
                range.address % DISTRIBUTOR == 0 && range.address.checked_add(range.size).is_some()
            })
            && !distributor.overlaps(&redistributors);
        if !good {
            warnings.push(format!(
                "{}: reg has frames that overlap, are too small or are not aligned to 64 KiB: no interrupts",
                self.node.path()
            ));
            return None;
        }
        let count = redistributors.size / REDISTRIBUTOR;
        if count < u64::from(vcpus) {
            warnings.push(format!(
                "{}: there are redistributors for {count} of {vcpus} vCPUs; the others get no interrupts",
                self.node.path()
            ));
        }
        Some(GicFrames { distributor, redistributors })
    }

    /// The ranges in `reg`, by the cells that the node's parent sets.
    fn reg(&self) -> Vec<Range> {
        let cells = |name, default| {
            self.node.parent().and_then(|parent| parent.word(name)).unwrap_or(default) as usize
        };
        let (address, size) = (cells("#address-cells", 2), cells("#size-cells", 1));
        if !(1..=2).contains(&address) || !(1..=2).contains(&size) {
            return Vec::new();
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let value = self.node.bytes("reg").unwrap_or_default();
        value
            .chunks_exact((address + size) * 4)
            .filter_map(|range| range.split_at_checked(address * 4))
            .map(|(address, size)| Range { address: number(address), size: number(size) })
            .collect()
    }

    /// Decodes the first specifier in a node's `interrupts`. `None` when the node has no such property.
    pub(super) fn interrupt(
        &self,
        node: &Node<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Interrupt>, RmError> {
        let Some(value) = node.bytes("interrupts") else { return Ok(None) };
        let stride = self.cells * 4;
        let wrong = |what: String| RmError::invalid(format!("{}: interrupts {what}", node.path()));
        if value.is_empty() || value.len() % stride != 0 {
            return Err(wrong(format!("has {} bytes, not a multiple of {stride}", value.len())));
        }
        if value.len() > stride {
            warnings.push(format!("{}: only the first of its interrupts counts", node.path()));
        }
        let mut words = value.chunks_exact(4).map(|word| word.try_into().map_or(0, u32::from_be_bytes));
        let (kind, number, flags) = match (words.next(), words.next(), words.next()) {
            (Some(kind), Some(number), Some(flags)) => (kind, number, flags),
            _ => return Err(wrong("is cut off".to_owned())),
        };
        let intid = intid(kind, number)
            .ok_or_else(|| wrong(format!("<{kind} {number} {flags}> names no line of a GIC")))?;
        let trigger = match flags & 0xf {
            1 | 2 => Trigger::Edge,
            4 | 8 => Trigger::Level,
            other => {
                return Err(wrong(format!("has trigger {other}, which is neither edge (1) nor level (4)")));
            }
        };
        Ok(Some(Interrupt { intid, trigger }))
    }
}

fn by_config<'f>(fdt: &'f Fdt<'f>, interrupts: &Node<'_>) -> Option<Node<'f>> {
    match interrupts.text("config").filter(|path| path.starts_with('/')) {
        Some(path) => fdt.at_path(path),
        None => fdt.by_phandle(interrupts.word("config")?),
    }
}

/// The INTID of a specifier's first two cells: the kind (0 SPI, 1 PPI, 2 extended SPI, 3 extended PPI) and the number.
fn intid(kind: u32, number: u32) -> Option<u32> {
    let (first, count) = match kind {
        0 => (32, 988),
        1 => (16, 16),
        2 => (4096, 1024),
        3 => (1056, 64),
        _ => return None,
    };
    if number < count { Some(first + number) } else { None }
}

//! The guest's interrupt controller, and the interrupt specifiers that name its lines.

use super::error::RmError;
use super::fdt::{Fdt, Node};

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

/// The interrupt controller that was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gic {
    cells: usize,
}

impl Gic {
    /// Finds the guest's GIC: by `interrupts/config`, a path or a phandle, else by the root's `interrupt-parent`.
    pub(super) fn find(
        fdt: &Fdt<'_>,
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
        if !node.texts("compatible").any(|name| name == "arm,gic-v3") {
            warnings.push(format!("{} is not compatible with \"arm,gic-v3\"", node.path()));
        }
        let cells = node.word("#interrupt-cells").and_then(|cells| usize::try_from(cells).ok());
        match cells {
            Some(cells @ 3..=8) => Ok(Self { cells }),
            _ => Err(RmError::invalid(format!("{}: #interrupt-cells is not 3", node.path()))),
        }
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

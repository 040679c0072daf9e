//! Where the VM's memory may be: the `memory` node.

use super::error::RmError;
use super::fdt::Node;

/// What every address and size here is aligned to.
const PAGE: u64 = 4096;
/// What the Resource Manager aligns the VM's base address to.
const BASE_ALIGNMENT: u64 = 2 << 20;

/// A range of guest addresses, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The first address.
    pub address: u64,
    /// How many bytes.
    pub size: u64,
}

impl Range {
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let ends_after = |range: &Self, address: u64| {
            u128::from(range.address) + u128::from(range.size) > u128::from(address)
        };
        ends_after(self, other.address) && ends_after(other, self.address)
    }
}

/// What the tree says about memory.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) base_address: Option<u64>,
    pub(super) size_min: Option<u64>,
    pub(super) size_max: Option<u64>,
    pub(super) firmware: Option<Range>,
}

impl Memory {
    pub(super) fn read(config: &Node<'_>, warnings: &mut Vec<String>) -> Result<Self, RmError> {
        let node = config
            .child("memory")
            .ok_or_else(|| RmError::missing(format!("{} has no node memory", config.path())))?;
        let size_min = pages(&node, "size-min")?;
        let size_max = pages(&node, "size-max")?;
        let firmware = match (pages(&node, "firmware-address")?, pages(&node, "firmware-size-max")?) {
            (Some(address), Some(size)) => Some(Range { address, size }),
            _ => None,
        };
        let base_address = base_address(&node, warnings)?;
        if let (Some(address), Some(size), Some(firmware)) = (base_address, size_max, firmware) {
            if firmware.overlaps(&Range { address, size }) {
                return Err(RmError::invalid(format!(
                    "{}: the firmware lies in the image's range",
                    node.path()
                )));
            }
        }
        Ok(Self { base_address, size_min, size_max, firmware })
    }
}

fn base_address(node: &Node<'_>, warnings: &mut Vec<String>) -> Result<Option<u64>, RmError> {
    let Some(asked) = pages(node, "base-address")? else { return Ok(None) };
    let base = asked.checked_next_multiple_of(BASE_ALIGNMENT).ok_or_else(|| {
        RmError::invalid(format!(
            "{}: base-address {asked:#x} is at the end of the address space",
            node.path()
        ))
    })?;
    if base != asked {
        warnings.push(format!(
            "{}: base-address {asked:#x} is not aligned to 2 MiB and becomes {base:#x}",
            node.path()
        ));
    }
    Ok(Some(base))
}

/// A number of one or two cells, whatever the node says about cells (a tree without `#address-cells` starts too).
pub(super) fn number(node: &Node<'_>, name: &str) -> Result<Option<u64>, RmError> {
    let Some(value) = node.bytes(name) else { return Ok(None) };
    let wide = value.try_into().map(u64::from_be_bytes);
    match wide.or_else(|_| value.try_into().map(|word| u64::from(u32::from_be_bytes(word)))) {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(RmError::invalid(format!("{}: {name} has {} bytes, not 8", node.path(), value.len()))),
    }
}

/// A [`number`] that is a multiple of 4 KiB.
fn pages(node: &Node<'_>, name: &str) -> Result<Option<u64>, RmError> {
    match number(node, name)? {
        Some(value) if value % PAGE != 0 => Err(RmError::invalid(format!(
            "{}: {name} {value:#x} is not aligned to a page of {PAGE} bytes",
            node.path()
        ))),
        other => Ok(other),
    }
}

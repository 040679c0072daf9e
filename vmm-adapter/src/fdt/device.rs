//! A device of the VMM, as the tree shows it.

use vm_fdt::FdtWriter;
use vm_memory::GuestAddress;

use super::{CLOCK_PHANDLE, DMA_POOL_PHANDLE, platform};
use crate::config::IrqLine;
use crate::error::Result;

/// A property's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// None: the property's presence says it all.
    Empty,
    /// One cell.
    U32(u32),
    /// Two cells.
    U64(u64),
    /// Any number of cells.
    Cells(Vec<u32>),
    /// A string.
    Text(String),
}

/// A device of the VMM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    name: String,
    addr: GuestAddress,
    size: u64,
    compatible: Vec<String>,
    irq: Option<IrqLine>,
    clocked: bool,
    more: Vec<(String, Value)>,
}

impl Device {
    /// The device `name@addr` with `size` bytes of registers, compatible with these names, the most exact first.
    pub fn new(name: &str, addr: GuestAddress, size: u64, compatible: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            addr,
            size,
            compatible: compatible.iter().map(|name| (*name).to_owned()).collect(),
            irq: None,
            clocked: false,
            more: Vec::new(),
        }
    }

    /// Gives it an interrupt. The line has to be declared in the VM's configuration too.
    #[must_use]
    pub fn irq(mut self, line: IrqLine) -> Self {
        self.irq = Some(line);
        self
    }

    /// Gives it the fixed clock of 24 MHz as `apb_pclk`, which PrimeCell devices need.
    #[must_use]
    pub fn clocked(mut self) -> Self {
        self.clocked = true;
        self
    }

    /// Makes the guest move its data through [`GuestTree::dma_pool`](super::GuestTree::dma_pool).
    #[must_use]
    pub fn behind_dma_pool(self) -> Self {
        self.with("memory-region", Value::U32(DMA_POOL_PHANDLE))
    }

    /// Gives it another property.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.more.push((name.to_owned(), value));
        self
    }

    /// Its path in the tree.
    pub fn path(&self) -> String {
        format!("/{}@{:x}", self.name, self.addr.0)
    }

    pub(super) fn is_clocked(&self) -> bool {
        self.clocked
    }

    pub(super) fn write(&self, tree: &mut FdtWriter) -> Result<()> {
        let node = tree.begin_node(&format!("{}@{:x}", self.name, self.addr.0))?;
        tree.property_string_list("compatible", self.compatible.clone())?;
        tree.property_array_u64("reg", &[self.addr.0, self.size])?;
        if let Some(line) = self.irq {
            tree.property_array_u32("interrupts", &platform::specifier(line))?;
        }
        if self.clocked {
            tree.property_u32("clocks", CLOCK_PHANDLE)?;
            tree.property_string("clock-names", "apb_pclk")?;
        }
        for (name, value) in &self.more {
            match value {
                Value::Empty => tree.property_null(name)?,
                Value::U32(value) => tree.property_u32(name, *value)?,
                Value::U64(value) => tree.property_u64(name, *value)?,
                Value::Cells(cells) => tree.property_array_u32(name, cells)?,
                Value::Text(text) => tree.property_string(name, text)?,
            }
        }
        tree.end_node(node)?;
        Ok(())
    }
}

//! What the Resource Manager writes into the guest's devicetree before the guest sees it.

use std::collections::HashMap;

use super::config::VmDescription;
use super::error::{RmError, RmErrorCode};
use super::fdt::{Fdt, Node};
use super::parcels::Parcel;

/// A node that can be changed.
#[derive(Debug, Default)]
struct Editable {
    name: String,
    properties: Vec<(String, Vec<u8>)>,
    children: Vec<Editable>,
}

/// Writes the devicetree as the guest gets it.
///
/// | node | becomes |
/// |---|---|
/// | `/memory` | the VM's RAM: all of it but the firmware. Shared memory too: as part of it Linux guests on phones use a DMA pool |
/// | `/hypervisor` | made, with the nodes of those doorbells that say where (`generate`) |
/// | `/reserved-memory` | a `no-map` node `buffer@...` over the image, when the image's label is not 0 |
///
/// A real one adds more: its own node for messages, capability numbers. Nothing that could use them exists here.
///
/// `room` is the size of the buffer that the tree lies in, and `largest` what this Resource Manager can cope with.
///
/// # Errors
/// `NOMEM` when the tree has outgrown its buffer, `ARGUMENT_INVALID` beyond `largest`, or when `#address-cells` or
/// `#size-cells` of the root cannot hold the memory's place. All are known to fail; the codes are chosen.
pub fn write_overlay(
    dtb: &[u8],
    vm: &VmDescription,
    parcels: &[Parcel],
    largest: Option<usize>,
) -> Result<Vec<u8>, RmError> {
    let fdt = Fdt::parse(dtb)?;
    let root = fdt.root().ok_or_else(|| RmError::missing("the devicetree has no root"))?;
    let mut tree = Editable::of(&root);
    let cells = Cells::of(&tree);
    memory(&mut tree, cells, vm, parcels)?;
    reserved_memory(&mut tree, cells, parcels)?;
    hypervisor(&mut tree, &fdt, vm);
    let blob = tree.blob(&fdt);
    if blob.len() > dtb.len() {
        return Err(RmError {
            error: RmErrorCode::NoMem,
            why: format!(
                "with the Resource Manager's nodes the tree has {} bytes, its buffer {}",
                blob.len(),
                dtb.len()
            ),
        });
    }
    match largest {
        Some(largest) if blob.len() > largest => Err(RmError::invalid(format!(
            "with the Resource Manager's nodes the tree has {} bytes; beyond {largest} this one fails",
            blob.len()
        ))),
        _ => Ok(blob),
    }
}

/// How many words an address and a size have.
#[derive(Clone, Copy)]
struct Cells {
    address: u32,
    size: u32,
}

impl Cells {
    /// What a node says about its children.
    fn of(node: &Editable) -> Self {
        let word = |name: &str| node.property(name)?.try_into().ok().map(u32::from_be_bytes);
        Self { address: word("#address-cells").unwrap_or(2), size: word("#size-cells").unwrap_or(1) }
    }

    fn reg(self, address: u64, size: u64) -> Result<Vec<u8>, RmError> {
        let mut out = Vec::new();
        for (value, cells) in [(address, self.address), (size, self.size)] {
            match (cells, u32::try_from(value)) {
                (1, Ok(word)) => out.extend(word.to_be_bytes()),
                (2, _) => out.extend(value.to_be_bytes()),
                _ => return Err(RmError::invalid(format!("{value:#x} does not fit into {cells} cells"))),
            }
        }
        Ok(out)
    }
}

fn memory(tree: &mut Editable, cells: Cells, vm: &VmDescription, parcels: &[Parcel]) -> Result<(), RmError> {
    let firmware = |parcel: &Parcel| {
        vm.firmware.is_some_and(|firmware| {
            let into = firmware.address.checked_sub(parcel.range.address);
            !parcel.image && into.is_some_and(|into| into < parcel.range.size)
        })
    };
    let is_ram = |parcel: &&Parcel| !firmware(parcel);
    let mut ranges: Vec<_> = parcels.iter().filter(is_ram).map(|parcel| parcel.range).collect();
    ranges.sort_unstable_by_key(|range| range.address);
    let mut reg = Vec::new();
    for range in ranges {
        reg.extend(cells.reg(range.address, range.size)?);
    }
    if let Some(node) = tree.child("memory") {
        node.set("device_type", b"memory\0");
        node.set("reg", &reg);
    }
    Ok(())
}

fn reserved_memory(tree: &mut Editable, cells: Cells, parcels: &[Parcel]) -> Result<(), RmError> {
    let named = parcels.iter().find(|parcel| parcel.image && parcel.label.is_some_and(|label| label != 0));
    let Some(image) = named else { return Ok(()) };
    let Some(node) = tree.child("reserved-memory") else { return Ok(()) };
    if node.property("ranges").is_none() {
        node.set("#address-cells", &cells.address.to_be_bytes());
        node.set("#size-cells", &cells.size.to_be_bytes());
        node.set("ranges", &[]);
    }
    let own = Cells::of(node);
    if let Some(buffer) = node.child(&format!("buffer@{:x}", image.range.address)) {
        buffer.set("reg", &own.reg(image.range.address, image.range.size)?);
        buffer.set("no-map", &[]);
    }
    Ok(())
}

fn hypervisor(tree: &mut Editable, fdt: &Fdt<'_>, vm: &VmDescription) {
    /// No path that is meant for a doorbell is deeper.
    const DEEPEST: usize = 8;
    if let Some(node) = tree.child("hypervisor") {
        node.set("#address-cells", &2_u32.to_be_bytes());
        node.set("#size-cells", &0_u32.to_be_bytes());
        node.set("compatible", b"gunyah-hypervisor\0");
    }
    let lines: HashMap<&str, &[u8]> =
        fdt.all().filter_map(|node| Some((node.text("generate")?, node.bytes("interrupts")?))).collect();
    for bell in &vm.doorbells {
        let Some(generate) = bell.generate.as_deref() else { continue };
        let parts: Vec<_> = generate.split('/').filter(|part| !part.is_empty()).collect();
        if parts.len() > DEEPEST {
            continue;
        }
        let made = parts.iter().try_fold(&mut *tree, |node, part| node.child(part));
        let Some(made) = made else { continue };
        made.set("compatible", b"qcom,gunyah-doorbell\0");
        made.set("label", &bell.label.to_be_bytes());
        if let Some(lines) = lines.get(generate) {
            made.set("interrupts", lines);
        }
    }
}

impl Editable {
    /// A copy. The reader limits how deep nodes nest.
    fn of(node: &Node<'_>) -> Self {
        Self {
            name: node.name().to_owned(),
            properties: node.properties().map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
            children: node.children().map(|child| Self::of(&child)).collect(),
        }
    }

    fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// The child of this name, made if there is none. Always there.
    fn child(&mut self, name: &str) -> Option<&mut Self> {
        let found = self.children.iter().position(|child| child.name == name);
        let at = found.unwrap_or(self.children.len());
        if found.is_none() {
            self.children.push(Self { name: name.to_owned(), ..Self::default() });
        }
        self.children.get_mut(at)
    }

    /// Sets a property, new or not.
    fn set(&mut self, name: &str, value: &[u8]) {
        match self.properties.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.properties.push((name.to_owned(), value.to_vec())),
        }
    }

    /// The tree as a blob of layout 17, with the header's other facts from `from`.
    fn blob(&self, from: &Fdt<'_>) -> Vec<u8> {
        const HEADER: usize = 40;
        let mut writer = Writer::default();
        writer.node(self);
        writer.word(9);
        let reservations: Vec<u8> = from
            .reservations()
            .iter()
            .chain(&[(0, 0)])
            .flat_map(|(address, size)| [address.to_be_bytes(), size.to_be_bytes()])
            .flatten()
            .collect();
        let structure_at = HEADER + reservations.len();
        let strings_at = structure_at + writer.structure.len();
        let total = strings_at + writer.strings.len();
        let sizes = [total, structure_at, strings_at, HEADER].map(|size| size as u32);
        let [total, structure_at, strings_at, reservations_at] = sizes;
        let (strings, structure) = (writer.strings.len() as u32, writer.structure.len() as u32);
        let header = [
            0xd00d_feed,
            total,
            structure_at,
            strings_at,
            reservations_at,
            17,
            16,
            from.boot_cpu(),
            strings,
            structure,
        ];
        let header: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
        [header, reservations, writer.structure, writer.strings].concat()
    }
}

/// The two blocks of a tree that is being written.
#[derive(Default)]
struct Writer {
    structure: Vec<u8>,
    strings: Vec<u8>,
    names: HashMap<String, u32>,
}

impl Writer {
    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.structure.extend(bytes);
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn node(&mut self, node: &Editable) {
        self.word(1);
        self.bytes(&[node.name.as_bytes(), &[0]].concat());
        for (name, value) in &node.properties {
            let at = self.name(name);
            self.word(3);
            self.word(value.len() as u32);
            self.word(at);
            self.bytes(value);
        }
        node.children.iter().for_each(|child| self.node(child));
        self.word(2);
    }

    /// Where a property's name is, once for all that have it.
    fn name(&mut self, name: &str) -> u32 {
        if let Some(at) = self.names.get(name) {
            return *at;
        }
        let at = self.strings.len() as u32;
        self.strings.extend([name.as_bytes(), &[0]].concat());
        self.names.insert(name.to_owned(), at);
        at
    }
}

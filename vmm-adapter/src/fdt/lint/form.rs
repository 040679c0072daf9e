//! The blob itself, and names that the Resource Manager keeps for itself.

use super::blob::{self, BlobError, Node, Tree};
use super::expect::Expect;
use super::{Findings, rules};

/// The room for the Resource Manager's additions that was always enough.
const ROOM: usize = 4096;
/// A tree of more bytes was seen to fail.
const LARGEST: usize = 16 << 10;
/// What some kernels count sizes in.
const PAGE: usize = 4096;

/// Reads the tree, if it is one.
pub(super) fn check(buffer: &[u8], findings: &mut Findings) -> Option<Tree> {
    match blob::parse(buffer) {
        Ok(tree) => Some(tree),
        Err(error) => {
            let rule = match error {
                BlobError::NotATree => &rules::NOT_A_TREE,
                BlobError::Truncated { .. } => &rules::TRUNCATED,
                BlobError::Malformed(_) => &rules::MALFORMED,
            };
            findings.node(rule, "/", error.to_string());
            None
        }
    }
}

/// Whether what the Resource Manager adds has room in the `size` bytes that are handed over.
pub(super) fn check_room(
    tree: &Tree,
    size: usize,
    config: Option<&Node>,
    expect: &Expect,
    findings: &mut Findings,
) {
    let additions = additions(config, expect);
    let (room, needed) = (size.saturating_sub(tree.used), additions.max(ROOM));
    // A file has no room behind it; whoever loads it makes some.
    if room < needed && expect.fdt.is_some() {
        let detail = format!("{room} bytes are left behind the tree, {needed} are wanted");
        findings.node(&rules::NO_ROOM, "/", detail);
    }
    if tree.used.saturating_add(additions) > LARGEST {
        let detail = format!("the tree has {} bytes, and may get {additions} more", tree.used);
        findings.node(&rules::TOO_BIG, "/", detail);
    }
    if expect.fdt.is_some() && size % PAGE != 0 {
        findings.node(&rules::WHOLE_PAGES, "/", format!("{size} bytes are handed over"));
    }
}

/// How many bytes the Resource Manager may add: `/hypervisor` with a node for each doorbell, `/memory`, and `/reserved-memory`.
fn additions(config: Option<&Node>, expect: &Expect) -> usize {
    /// The nodes that are always there, with the names of their properties.
    const NODES: usize = 512;
    /// A node with the properties of a doorbell.
    const DOORBELL: usize = 72;
    const RANGE: usize = 16;
    let vdevices = config.and_then(|config| config.child("vdevices"));
    let doorbells = vdevices.map_or(&[][..], |vdevices| &vdevices.children);
    let of_doorbells = doorbells.iter().filter_map(|bell| {
        // Each part of the path may become a node, too.
        let (path, interrupts) = (bell.text("generate")?, bell.get("interrupts").unwrap_or_default());
        let parts = path.split('/').count().saturating_mul(12);
        Some(DOORBELL + path.len() + parts + interrupts.len())
    });
    NODES + expect.regions.len().saturating_mul(RANGE) + of_doorbells.sum::<usize>()
}

/// Whether the Resource Manager can write the VM's memory into the tree.
pub(super) fn check_cells(tree: &Tree, config: Option<&Node>, expect: &Expect, findings: &mut Findings) {
    let base = config.and_then(|config| config.child("memory"));
    let base = base.and_then(|memory| Some((memory.number("base-address")?, memory.number("size-min")?)));
    let regions = expect.regions.iter().map(|region| (region.addr, region.size));
    for (addr, size) in regions.chain(base) {
        if !fits(&tree.root, addr, size) {
            findings.node(&rules::ROOT_CELLS, "/", format!("{addr:#x} + {size:#x} does not fit"));
            return;
        }
    }
    // It reserves the main region there unless its label is 0.
    let reserved = tree.root.child("reserved-memory").filter(|node| node.has("ranges"));
    let image = expect.image().filter(|image| image.label != 0);
    if let (Some(node), Some(image)) = (reserved, image) {
        if !fits(node, image.addr, image.size) {
            let detail = format!("{:#x} + {:#x} does not fit", image.addr, image.size);
            findings.node(&rules::ROOT_CELLS, &node.path, detail);
        }
    }
}

/// Whether a range can be written below this node.
fn fits(node: &Node, addr: u64, size: u64) -> bool {
    let fits = |name, default, value| match node.cell(name).unwrap_or(default) {
        1 => u32::try_from(value).is_ok(),
        2 => true,
        _ => false,
    };
    fits("#address-cells", 2, addr) && fits("#size-cells", 1, size)
}

pub(super) fn check_names(tree: &Tree, findings: &mut Findings) {
    if let Some(node) = tree.root.child("hypervisor") {
        findings.node(&rules::HYPERVISOR_EXISTS, &node.path, "the node exists already");
    }
    for node in tree.root.all() {
        if node.text("device_type") == Some("memory") && node.name != "memory" {
            findings.property(
                &rules::MEMORY_NAME,
                node,
                "device_type",
                format!("the node is called {}", node.name),
            );
        }
    }
}

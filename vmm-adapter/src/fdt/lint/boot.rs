//! Where the guest starts, and what it finds there.

use std::collections::BTreeMap;

use super::blob::{Node, Tree};
use super::expect::Expect;
use super::{Findings, rules};
use crate::memory::Sharing;

/// Devices that reach into the guest's memory, by what they are compatible with.
const BUS_MASTERS: [&str; 3] = ["virtio,mmio", "pci-host-ecam-generic", "pci-host-cam-generic"];

/// What a pool is compatible with.
const POOL: &str = "restricted-dma-pool";

pub(super) fn check(tree: &Tree, expect: &Expect, findings: &mut Findings) {
    check_placement(expect, findings);
    if let Some(chosen) = tree.root.child("chosen") {
        check_chosen(tree, chosen, expect, findings);
    }
    check_pool(tree, expect, findings);
    check_reserved(tree, expect, findings);
}

fn check_placement(expect: &Expect, findings: &mut Findings) {
    if expect.regions.is_empty() {
        return;
    }
    let Some(image) = expect.image() else {
        if let Some(fdt) = expect.fdt {
            findings.node(&rules::FDT_OUTSIDE, "/", format!("{fdt:#x} is in no region"));
        }
        return;
    };
    if image.sharing == Sharing::Shared {
        let detail = format!("the region at {:#x} is shared", image.addr);
        findings.node(&rules::IMAGE_SHARED, "/", detail);
    }
    if image.label != 0 && expect.fdt.is_some() {
        let detail = format!("the region at {:#x} has the label {}", image.addr, image.label);
        findings.node(&rules::LABEL_NOT_ZERO, "/", detail);
    }
    // Firmware decides for itself where the guest goes on.
    let Some(entry) = expect.entry.filter(|_| !expect.firmware) else { return };
    if !image.holds(entry, 4) {
        findings.node(
            &rules::ENTRY_OUTSIDE,
            "/",
            format!("{entry:#x} is not in the region at {:#x}..{:#x}", image.addr, image.end()),
        );
    } else if entry != image.addr {
        let detail = format!("{entry:#x}, and the region starts at {:#x}", image.addr);
        findings.node(&rules::ENTRY_NOT_FIRST, "/", detail);
    }
}

fn check_chosen(tree: &Tree, chosen: &Node, expect: &Expect, findings: &mut Findings) {
    let range = [chosen.number("linux,initrd-start"), chosen.number("linux,initrd-end")];
    if let ([Some(start), Some(end)], false) = (range, expect.regions.is_empty()) {
        let size = end.checked_sub(start);
        if !size.is_some_and(|size| expect.regions.iter().any(|region| region.holds(start, size))) {
            let detail = format!("{start:#x}..{end:#x} is in no region");
            findings.property(&rules::INITRD_OUTSIDE, chosen, "linux,initrd-start", detail);
        }
    }
    if let Some(stdout) = chosen.text("stdout-path") {
        // Options such as the speed follow a colon; a name that is no path is an alias.
        let name = stdout.split(':').next().unwrap_or(stdout);
        let aliases = tree.root.child("aliases");
        let path = if name.starts_with('/') { Some(name) } else { aliases.and_then(|all| all.text(name)) };
        if path.and_then(|path| tree.at(path)).is_none() {
            findings.property(&rules::STDOUT_DANGLES, chosen, "stdout-path", format!("there is no {name}"));
        }
    }
}

/// Devices of a VM whose memory is lent need a pool of buffers that is not.
fn check_pool(tree: &Tree, expect: &Expect, findings: &mut Findings) {
    let lends = expect.regions.iter().any(|region| region.sharing == Sharing::Private);
    let reserved = tree.root.child("reserved-memory").map_or(&[][..], |node| &node.children);
    let pools: Vec<_> = reserved.iter().filter(|node| node.is_compatible(&[POOL])).collect();
    let devices: Vec<_> =
        tree.root.all().into_iter().filter(|node| node.is_compatible(&BUS_MASTERS)).collect();
    if pools.is_empty() {
        if lends && !devices.is_empty() {
            findings.node(
                &rules::NO_DMA_POOL,
                "/reserved-memory",
                "no node is compatible with restricted-dma-pool",
            );
        }
        return;
    }
    let phandles = tree.phandles();
    for device in devices {
        check_reference(device, &pools, &phandles, findings);
    }
    for pool in pools.iter().filter(|_| lends) {
        let Some((at, size)) = range(pool) else { continue };
        if !expect.shared().any(|region| region.holds(at, size)) {
            findings.property(
                &rules::POOL_NOT_SHARED,
                pool,
                "reg",
                format!("{at:#x} is in no shared region"),
            );
        }
    }
}

/// Whether the device takes its buffers from a pool: without a reference its driver takes them from anywhere.
fn check_reference(device: &Node, pools: &[&Node], phandles: &BTreeMap<u32, &Node>, findings: &mut Findings) {
    let named = device.cells("memory-region").unwrap_or_default();
    let is_pool =
        |node: &&Node| node.is_compatible(&[POOL]) && pools.iter().any(|pool| pool.path == node.path);
    if named.iter().any(|phandle| phandles.get(phandle).is_some_and(is_pool)) {
        return;
    }
    let detail = match named.first().map(|phandle| (phandle, phandles.get(phandle))) {
        None => format!("it does not refer to {}", pools.first().map_or("", |pool| &pool.path)),
        Some((phandle, None)) => format!("no node has the phandle {phandle:#x}"),
        Some((_, Some(node))) => format!("{} is no restricted-dma-pool", node.path),
    };
    findings.property(&rules::DEVICE_WITHOUT_POOL, device, "memory-region", detail);
}

/// Early Resource Managers want a node of `/reserved-memory` for each shared parcel beside lent memory, and no others.
fn check_reserved(tree: &Tree, expect: &Expect, findings: &mut Findings) {
    if !expect.regions.iter().any(|region| region.sharing == Sharing::Private) {
        return;
    }
    let reserved = tree.root.child("reserved-memory").map_or(&[][..], |node| &node.children);
    let ranges: Vec<_> = reserved.iter().filter_map(|node| Some((node, range(node)?))).collect();
    for (node, (at, size)) in &ranges {
        // What lies elsewhere is another rule's business where it is a pool.
        let is_pool = node.is_compatible(&[POOL]);
        if !is_pool && !expect.shared().any(|region| region.holds(*at, *size)) {
            let detail = format!("{at:#x}..{:#x} is in no shared region", at.saturating_add(*size));
            findings.property(&rules::RESERVED_WITHOUT_PARCEL, node, "reg", detail);
        }
    }
    for region in expect.shared() {
        if !ranges.iter().any(|(_, (at, size))| region.holds(*at, *size)) {
            let detail = format!("nothing in it is in region {} at {:#x}", region.label, region.addr);
            findings.node(&rules::PARCEL_NOT_RESERVED, "/reserved-memory", detail);
        }
    }
}

/// The first range of a node below `/reserved-memory`, of two cells for each number.
fn range(node: &Node) -> Option<(u64, u64)> {
    let reg = node.cells("reg")?;
    let &[a, b, c, d] = reg.get(..4)? else { return None };
    let number = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    Some((number(a, b), number(c, d)))
}

//! Where the guest starts, and what it finds there.

use super::blob::{Node, Tree};
use super::expect::{Expect, ExpectedRegion};
use super::{Findings, rules};
use crate::memory::Sharing;

pub(super) fn check(tree: &Tree, expect: &Expect, findings: &mut Findings) {
    check_placement(expect, findings);
    if let Some(chosen) = tree.root.child("chosen") {
        check_chosen(tree, chosen, expect, findings);
    }
    check_pool(tree, expect, findings);
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
    let is = |region: &&ExpectedRegion, sharing| region.sharing == sharing;
    if !expect.regions.iter().any(|region| is(&region, Sharing::Private)) {
        return;
    }
    let reserved = tree.root.child("reserved-memory").map_or(&[][..], |node| &node.children);
    let pool = reserved.iter().find(|node| node.is_compatible(&["restricted-dma-pool"]));
    let has_virtio = tree.root.children.iter().any(|node| {
        node.texts("compatible").iter().any(|name| ["virtio,mmio", "pci-host-ecam-generic"].contains(name))
    });
    match pool {
        None if has_virtio => {
            findings.node(
                &rules::NO_DMA_POOL,
                "/reserved-memory",
                "no node is compatible with restricted-dma-pool",
            );
        }
        None => {}
        Some(pool) => {
            let reg = pool.cells("reg").unwrap_or_default();
            let &[a, b, c, d] = &reg[..] else { return };
            let number = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
            let (at, size) = (number(a, b), number(c, d));
            let mut shared = expect.regions.iter().filter(|region| is(region, Sharing::Shared));
            if !shared.any(|region| region.holds(at, size)) {
                findings.property(
                    &rules::POOL_NOT_SHARED,
                    pool,
                    "reg",
                    format!("{at:#x} is in no shared region"),
                );
            }
        }
    }
}

//! The blob itself, and names that the Resource Manager keeps for itself.

use super::blob::{self, BlobError, Tree};
use super::expect::Expect;
use super::{Findings, rules};

/// The room for the Resource Manager's additions that was always enough.
const ROOM: usize = 4096;
/// A tree of more bytes was seen to fail.
const LARGEST: usize = 16 << 10;
/// What some kernels count sizes in.
const PAGE: usize = 4096;

/// Reads the tree, if it is one.
pub(super) fn check(buffer: &[u8], expect: &Expect, findings: &mut Findings) -> Option<Tree> {
    let tree = match blob::parse(buffer) {
        Ok(tree) => tree,
        Err(error) => {
            let rule = match error {
                BlobError::NotATree => &rules::NOT_A_TREE,
                BlobError::Truncated { .. } => &rules::TRUNCATED,
                BlobError::Malformed(_) => &rules::MALFORMED,
            };
            findings.node(rule, "/", error.to_string());
            return None;
        }
    };
    let room = buffer.len().saturating_sub(tree.used);
    // A file has no room behind it; whoever loads it makes some.
    if room < ROOM && expect.fdt.is_some() {
        findings.node(&rules::NO_ROOM, "/", format!("{room} bytes are left behind the tree"));
    }
    if tree.used > LARGEST {
        findings.node(&rules::TOO_BIG, "/", format!("the tree has {} bytes", tree.used));
    }
    if expect.fdt.is_some() && buffer.len() % PAGE != 0 {
        findings.node(&rules::WHOLE_PAGES, "/", format!("{} bytes are handed over", buffer.len()));
    }
    Some(tree)
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

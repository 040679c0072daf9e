//! Which nodes there are. Whether they work is for another check: a name proves nothing.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::super::Examination;
use super::super::finding::{Finding, Level};

const NODES: [&str; 4] = ["gunyah", "qgunyah", "kvm", "gzvm"];

pub(super) fn nodes(examination: &Examination) -> Finding {
    let root = &examination.root;
    let mut names: Vec<String> = NODES.iter().map(|name| (*name).to_owned()).collect();
    names.extend(root.list("dev").into_iter().filter(|name| name.starts_with("gh_virtio_backend_")));
    let mut found = Vec::new();
    let mut details = Vec::new();
    for name in names {
        let Ok(data) = fs::symlink_metadata(root.path("dev").join(&name)) else { continue };
        let kind = if data.file_type().is_char_device() { "" } else { ", not a character device" };
        details.push(format!(
            "/dev/{name}: mode {:o}, owner {}:{}{kind}",
            data.mode() & 0o7777,
            data.uid(),
            data.gid()
        ));
        found.push(name);
    }
    let loaders: Vec<String> =
        root.list("sys/kernel").into_iter().filter(|name| name.starts_with("load_guestvm_")).collect();
    for name in &loaders {
        details.push(format!("/sys/kernel/{name}: starts an image of the vendor"));
    }
    let summary = match (found.is_empty(), loaders.is_empty()) {
        (true, true) => "none of any hypervisor".to_owned(),
        (true, false) => "only the vendor's VM loaders".to_owned(),
        (false, _) => format!("/dev has {}", found.join(", ")),
    };
    found.extend(loaders);
    let mut finding = Finding::new("nodes", Level::Note, summary).fact("found", found);
    finding.details = details;
    finding
}

//! Which other processes use Gunyah: they share the Resource Manager's quota.

use std::fs;

use super::super::Examination;
use super::super::finding::{Finding, Level};

/// What the links in /proc/PID/fd of a VMM contain.
const MARKS: [&str; 4] = ["/dev/gunyah", "/dev/qgunyah", "gunyah-v", "[gh-gmem]"];

pub(super) fn others(examination: &Examination) -> Finding {
    let root = &examination.root;
    let own = if root.is_live() { std::process::id() } else { 0 };
    let mut users = Vec::new();
    let mut hidden: u64 = 0;
    for pid in root.list("proc").iter().filter_map(|name| name.parse::<u32>().ok()).filter(|pid| *pid != own)
    {
        let Ok(entries) = fs::read_dir(root.path(&format!("proc/{pid}/fd"))) else {
            hidden = hidden.saturating_add(1);
            continue;
        };
        let count = entries
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|link| MARKS.iter().any(|mark| link.to_string_lossy().contains(mark)))
            .count();
        if count > 0 {
            let name = root.word(&format!("proc/{pid}/comm")).unwrap_or_else(|| "?".to_owned());
            users.push(format!("{name} ({pid}) has {count}"));
        }
    }
    let mut finding = if users.is_empty() {
        Finding::new(
            "processes",
            Level::Good,
            "no other process has Gunyah files open, as far as this user can see",
        )
    } else {
        Finding::new("processes", Level::Warning, format!("{} with Gunyah files open", users.len()))
            .advise("VMs share the Resource Manager's quota of memory parcels; two can fail with ENOMEM where one works")
            .advise("end a VMM by closing its VM. One that was killed leaves its parcels behind, until a reboot")
    };
    finding.details = users.clone();
    if hidden > 0 {
        finding = finding.detail(format!("{hidden} processes could not be looked into; root sees all"));
    }
    finding.fact("users", users).fact("hidden", hidden)
}

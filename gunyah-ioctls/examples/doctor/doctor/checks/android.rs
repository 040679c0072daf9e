//! What Android brings for VMs.

use super::super::Examination;
use super::super::finding::{Finding, Level};

const CROSVM: &str = "apex/com.android.virt/bin/crosvm";

pub(super) fn tools(examination: &Examination) -> Finding {
    if !examination.machine.android {
        return Finding::new("android", Level::Skipped, "this is no Android");
    }
    let root = &examination.root;
    let crosvm = root.exists(CROSVM);
    let firmware: Vec<String> =
        root.list("dev/block/by-name").into_iter().filter(|name| name.starts_with("pvmfw")).collect();
    let first = if crosvm { "crosvm is there" } else { "no crosvm" };
    let second = if firmware.is_empty() { "no pvmfw partition is visible" } else { "a pvmfw partition" };
    let mut finding = Finding::new("android", Level::Note, format!("{first}, {second}"));
    if firmware.is_empty() {
        finding = finding.detail("protected VMs with firmware need pvmfw; without firmware they need none");
    }
    finding.fact("crosvm", crosvm).fact("pvmfw", firmware)
}

//! Which modules of Gunyah, and of what was built around it, are loaded.

use super::super::Examination;
use super::super::finding::{Finding, Level};

/// Modules from outside the kernel that change how Gunyah behaves.
const ADDED: [(&str, &str); 4] = [
    ("gunyah_share", "shares memory with a running VM"),
    ("gunyah_host_share", "shares memory with a running VM"),
    ("gunyah_kvcalloc", "large regions need no contiguous kernel memory"),
    ("gh_hugepage_reserve", "reserves huge pages for VMMs"),
];

pub(super) fn loaded(examination: &Examination) -> Finding {
    let Some(modules) = examination.root.read("proc/modules") else {
        return Finding::new(
            "modules",
            Level::Note,
            "/proc/modules cannot be read, or the kernel has no modules",
        );
    };
    let names: Vec<&str> = modules
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("gunyah") || name.starts_with("gh_") || name.starts_with("qgunyah"))
        .collect();
    let summary = if names.is_empty() {
        "none of Gunyah; its driver may be built in".to_owned()
    } else {
        names.join(", ")
    };
    let mut finding = Finding::new("modules", Level::Note, summary);
    for (name, effect) in ADDED.iter().filter(|(name, _)| names.contains(name)) {
        finding = finding.detail(format!("{name} is not part of the kernel: {effect}"));
    }
    finding.fact("loaded", names)
}

//! What the kernel lets this process use. Each is tried, not looked up.

use std::io;

use serde_json::Map;

use super::super::finding::{Finding, Level};
use super::super::{Examination, sys};

const HUGEPAGE: libc::c_int = 14;
const POPULATE_READ: libc::c_int = 22;
const POPULATE_WRITE: libc::c_int = 23;
const COLLAPSE: libc::c_int = 25;

pub(super) fn kernel(examination: &Examination) -> Finding {
    if !examination.root.is_live() {
        return Finding::not_live("facilities");
    }
    let advice = |advice: &[libc::c_int]| {
        let memory = sys::Memory::new(2 << 20)?;
        advice.iter().try_for_each(|number| memory.advise(*number))
    };
    let tried: [(&str, io::Result<()>, &str); 6] = [
        ("memfd", sys::memfd().map(drop), "guest memory cannot be passed to other processes"),
        ("MADV_HUGEPAGE", advice(&[HUGEPAGE]), "guest memory comes in small pages"),
        ("MADV_POPULATE_READ", advice(&[POPULATE_READ]), "populated memory cannot be verified (kernel 5.14)"),
        (
            "MADV_POPULATE_WRITE",
            advice(&[POPULATE_WRITE]),
            "memory must be touched page by page (kernel 5.14)",
        ),
        (
            "MADV_COLLAPSE",
            advice(&[HUGEPAGE, POPULATE_WRITE, COLLAPSE]),
            "small pages cannot be joined on demand (kernel 6.1)",
        ),
        ("io_uring", sys::io_uring().map(drop), "block devices of the VMM fall back to threads"),
    ];
    let mut missing = Vec::new();
    let mut details = Vec::new();
    let mut facts = Map::new();
    for (name, answer, effect) in tried {
        let works = match &answer {
            Ok(()) => "yes".to_owned(),
            Err(error) => {
                missing.push(name);
                details.push(format!("no {name} ({error}): {effect}"));
                format!("errno {}", error.raw_os_error().unwrap_or(0))
            }
        };
        facts.insert(name.to_owned(), works.into());
    }
    let summary =
        if missing.is_empty() { "all there".to_owned() } else { format!("without {}", missing.join(", ")) };
    let level = if missing.is_empty() { Level::Good } else { Level::Note };
    let mut finding = Finding::new("facilities", level, summary);
    finding.details = details;
    finding.facts = facts;
    finding
}

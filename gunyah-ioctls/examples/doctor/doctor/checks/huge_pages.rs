//! Whether memory comes in huge pages. A guest in small pages can use up the hypervisor's page tables.

use std::io;

use super::super::finding::{Finding, Level};
use super::super::{Examination, sys};
use super::bytes;

const MADV_HUGEPAGE: libc::c_int = 14;
const MADV_POPULATE_WRITE: libc::c_int = 23;
const MADV_COLLAPSE: libc::c_int = 25;

pub(super) fn available(examination: &Examination) -> Finding {
    let setting = selected(examination, "sys/kernel/mm/transparent_hugepage/enabled");
    let shmem = selected(examination, "sys/kernel/mm/transparent_hugepage/shmem_enabled");
    let mut finding = tried(examination, setting.as_deref());
    if let Some(setting) = &setting {
        finding = finding.fact("enabled", setting.as_str());
    }
    if let Some(shmem) = &shmem {
        finding = finding.fact("shmem_enabled", shmem.as_str());
    }
    let sizes: Vec<String> = examination
        .root
        .list("sys/kernel/mm/transparent_hugepage")
        .into_iter()
        .filter_map(|name| Some(name.strip_prefix("hugepages-")?.to_owned()))
        .filter(|size| {
            let file = format!("sys/kernel/mm/transparent_hugepage/hugepages-{size}/enabled");
            selected(examination, &file).is_some_and(|setting| setting != "never")
        })
        .collect();
    finding.fact("sizes_enabled", sizes)
}

fn tried(examination: &Examination, setting: Option<&str>) -> Finding {
    match setting {
        None => {
            return Finding::new(
                "huge-pages",
                Level::Note,
                "this kernel has no transparent huge pages, or hides them",
            );
        }
        Some("never") => {
            return Finding::new("huge-pages", Level::Warning, "transparent huge pages are off")
                .detail("a guest in 4 KiB pages needs 512 times the page tables, and the hypervisor's room for them is small")
                .detail("when it is used up the guest dies with page faults and ENOMEM, while the host has free memory")
                .advise("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
        }
        Some(_) => {}
    }
    if !examination.root.is_live() {
        return Finding::new("huge-pages", Level::Note, "allowed; not tried, since --root was given");
    }
    let size = examination.options.huge_pages.saturating_mul(1 << 20);
    if size == 0 {
        return Finding::new("huge-pages", Level::Skipped, "--huge-pages 0");
    }
    if examination.host.memory_available.is_some_and(|available| available / 2 < size) {
        return Finding::new("huge-pages", Level::Note, "not tried: too little memory is available");
    }
    match populate(size) {
        Ok(share) => {
            let summary = format!("{share} % of {} came in pages of 2 MiB", bytes(size));
            let finding = if share >= 90 {
                Finding::new("huge-pages", Level::Good, summary)
            } else if share >= 50 {
                Finding::new("huge-pages", Level::Note, summary)
            } else {
                Finding::new("huge-pages", Level::Warning, summary)
                    .detail("large guests may use up the hypervisor's page tables and die with page faults and ENOMEM")
                    .advise("free memory (end programs; echo 1 > /proc/sys/vm/compact_memory), or start soon after boot")
            };
            finding.fact("percent", share)
        }
        Err(error) => Finding::new("huge-pages", Level::Note, format!("could not be tried: {error}")),
    }
}

/// Populates memory as a VMM should, and returns the share of it that is in huge pages, in percent.
fn populate(size: u64) -> io::Result<u64> {
    let memory = sys::Memory::new(usize::try_from(size).map_err(io::Error::other)?)?;
    memory.advise(MADV_HUGEPAGE)?;
    memory.advise(MADV_POPULATE_WRITE)?;
    let share = huge(memory.address())?.saturating_mul(100) / size;
    if share >= 100 {
        return Ok(share);
    }
    // Kernels before 6.1 have no collapse. What was populated counts then.
    match memory.advise(MADV_COLLAPSE) {
        Ok(()) => Ok(huge(memory.address())?.saturating_mul(100) / size),
        Err(_) => Ok(share),
    }
}

/// How much of the mapping that holds `address` is in huge pages, in bytes.
fn huge(address: usize) -> io::Result<u64> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut inside = false;
    let mut total: u64 = 0;
    for line in smaps.lines() {
        if let Some((start, end)) = range(line) {
            inside = start <= address && address < end;
        } else if let (true, Some(value)) = (inside, line.strip_prefix("AnonHugePages:")) {
            let kibibytes = value.split_whitespace().next().and_then(|value| value.parse::<u64>().ok());
            total = total.saturating_add(kibibytes.unwrap_or(0).saturating_mul(1024));
        }
    }
    Ok(total)
}

fn range(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

/// The word in brackets of a setting such as `always [madvise] never`.
fn selected(examination: &Examination, file: &str) -> Option<String> {
    let text = examination.root.read(file)?;
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

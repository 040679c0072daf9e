//! How much memory there is, and in what pieces.

use serde_json::Value;

use super::super::Examination;
use super::super::finding::{Finding, Level};
use super::bytes;

pub(super) fn amount(examination: &Examination) -> Finding {
    let host = &examination.host;
    let wanted = examination.wanted();
    let Some(available) = host.memory_available else {
        return Finding::new("memory", Level::Note, "/proc/meminfo cannot be read");
    };
    let summary = format!("{} available, the guest has {}", bytes(available), bytes(wanted));
    let mut finding = if wanted > available {
        Finding::new("memory", Level::Warning, summary).advise("end programs, or give the guest less")
    } else if host.memory_pressure.is_some_and(|pressure| pressure >= 10.0) {
        Finding::new("memory", Level::Warning, summary)
            .detail("programs wait for memory already; guests were seen to lose pages then")
            .advise("end programs first")
    } else {
        Finding::new("memory", Level::Good, summary)
    };
    finding = finding.fact("available_bytes", available).fact("free_bytes", host.memory_free);
    if let Some(cma) = host.cma_free.filter(|cma| *cma > 0) {
        finding = finding.fact("cma_free_bytes", cma);
        if host.memory_free.is_some_and(|free| cma > free / 2) {
            finding = finding.detail(format!(
                "{} of the free memory are in contiguous-memory areas, whose pages cannot stay pinned",
                bytes(cma)
            ));
        }
    }
    if let (Some(huge), Some(largest)) = (host.free_in_huge_blocks, host.largest_free_block) {
        finding = finding
            .detail(format!(
                "{} in free blocks of 2 MiB or more, the largest has {}",
                bytes(huge),
                bytes(largest)
            ))
            .fact("huge_blocks_bytes", huge);
        if huge < wanted {
            finding = finding.detail(
                "that is less than the guest: part of it will be in small pages, unless the kernel can compact memory",
            );
        }
    }
    finding.fact("pressure_percent", host.memory_pressure.map_or(Value::Null, Value::from))
}

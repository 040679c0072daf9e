//! The limit of locked memory, against which the kernel counts guest memory.

use gunyah_ioctls::Feature;
use gunyah_ioctls::causes::Limit;

use super::super::Examination;
use super::super::finding::{Finding, Level};
use super::bytes;

pub(super) fn memlock(examination: &Examination) -> Finding {
    let host = &examination.host;
    let wanted = examination.wanted();
    let Some(limit) = host.memlock else {
        return Finding::new("memlock", Level::Note, "the limit cannot be read");
    };
    let shown = match limit {
        Limit::At(limit) => bytes(limit),
        Limit::Unlimited => "unlimited".to_owned(),
    };
    let capable = host.ipc_lock == Some(true);
    let enough = limit.allows(wanted.saturating_add(host.locked.unwrap_or(0)));
    // Guest-memory files are not counted.
    let counted = examination.features.borrow().is_none_or(|features| features.has(Feature::UserMemory));
    let summary = format!("RLIMIT_MEMLOCK is {shown}, the guest has {}", bytes(wanted));
    let finding = if enough {
        Finding::new("memlock", Level::Good, summary)
    } else if !counted {
        Finding::new("memlock", Level::Note, summary).detail("this host's guest memory is not counted")
    } else if capable {
        Finding::new("memlock", Level::Note, summary).detail(
            "this process has CAP_IPC_LOCK, which lifts it; VMMs that drop the capability need the limit",
        )
    } else {
        Finding::new("memlock", Level::Warning, summary)
            .detail("the kernel counts all guest memory: declaring it, starting the VM or running it fails with ENOMEM")
            .advise("ulimit -l unlimited in the shell that starts the VMM (as root), or give it CAP_IPC_LOCK")
    };
    finding.fact("limit", shown).fact("wanted_bytes", wanted).fact("cap_ipc_lock", capable)
}

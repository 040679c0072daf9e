//! The mailing list's v15 to v17: memory from guest memory files.

use super::{Differences, Pinning, ResumeActions, android15};

pub(super) const DIFFERENCES: Differences = Differences {
    user_memory: false,
    lend: false,
    firmware: false,
    reclaim: false,
    guest_memory: true,

    owner_check: false,
    pinning: Pinning::None,
    boot_context_strict: false,
    boot_context_in_entry: true,
    // The newer of the two ports that were read; the older one lends it all the same.
    shared_dtb_fails: true,
    resume_actions: ResumeActions::FaultAndRetry,
    ..android15::DIFFERENCES
};

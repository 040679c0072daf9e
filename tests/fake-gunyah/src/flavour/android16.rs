//! Android's 6.12 kernel.
//!
//! It also knows two vCPU states that no source gave a number for, "system off" and "expects wake-up or timeout". No guest here
//! answers them, and as unknown states they are `EINVAL`.

use super::{Differences, SharedExec, UnknownState, android15};

pub(super) const DIFFERENCES: Differences = Differences {
    cma: true,
    auth_type: true,
    check_extension: true,
    firmware_needs_no_auth: true,
    shared_exec: SharedExec::UnprotectedVms,
    // A second ticket with the same label is only warned about.
    duplicates_refused: false,
    unknown_state: UnknownState::Invalid,
    ..android15::DIFFERENCES
};

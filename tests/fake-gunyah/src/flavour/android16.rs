//! Android's 6.12 kernel.

use super::{Differences, UnknownState, android15};

pub(super) const DIFFERENCES: Differences = Differences {
    cma: true,
    auth_type: true,
    check_extension: true,
    firmware_needs_no_auth: true,
    // A second ticket with the same label is only warned about.
    duplicates_refused: false,
    knows_system_off: true,
    knows_timeout: true,
    unknown_state: UnknownState::Invalid,
    ..android15::DIFFERENCES
};

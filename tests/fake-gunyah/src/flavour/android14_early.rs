//! Early snapshots of Android's 6.1 kernel: v11 with the first Android ioctls and bugs of their own.

use super::{Differences, v11};

pub(super) const DIFFERENCES: Differences = Differences {
    tentative: true,
    lend: true,
    firmware: true,
    dtb_wrap_check: true,
    datamatch_is_bool: false,
    // The error path forgets to unlock.
    failed_add_wedges: true,
    // So does a start whose memory could not be given; and every failed one unlocks what it has not locked.
    failed_start_wedges: true,
    // A VM begins in a state that its teardown does not know.
    never_started_leaks: true,
    ..v11::DIFFERENCES
};

//! Android's 6.1 kernel as it ships on phones.

use super::{Differences, Pinning, Removal, v11};
use crate::errno::Errno;

pub(super) const DIFFERENCES: Differences = Differences {
    // Sources differ: some answer ENOTTY here.
    absent_on_vcpu: Errno::EINVAL,
    lend: true,
    firmware: true,

    vmid_at_create: false,
    owner_check: true,
    memory_feature_check: false,
    region_wrap_check: false,
    pinning: Pinning::AtOnce,

    vcpu_feature_check: false,
    ioeventfd_wrap_check: false,
    datamatch_is_bool: false,
    removal: Removal::Key,

    failed_start_is_load_failed: false,
    answer_clamped: true,
    ..v11::DIFFERENCES
};

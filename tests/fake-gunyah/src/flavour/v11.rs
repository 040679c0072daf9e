//! The mailing list's v11.

use super::{Differences, Pinning, Removal, ResumeActions, SharedExec, Teardown, UnknownState};
use crate::errno::Errno;

pub(super) const DIFFERENCES: Differences = Differences {
    absent: Errno::ENOTTY,
    absent_on_vcpu: Errno::EINVAL,
    gunyah: true,
    tentative: false,
    user_memory: true,
    lend: false,
    firmware: false,
    reclaim: false,
    guest_memory: false,
    boot_context: false,
    cma: false,
    auth_type: false,
    check_extension: false,

    vmid_at_create: true,
    owner_check: false,
    memory_feature_check: true,
    region_wrap_check: true,
    unique_labels: true,
    pinning: Pinning::AtOnceForWriting,
    shared_exec: SharedExec::AsAsked,
    dtb_wrap_check: false,
    firmware_needs_no_auth: false,
    boot_context_strict: false,
    boot_context_in_entry: false,
    rm_takes_boot_context: true,
    rm_takes_shared_image: true,
    rm_largest_tree: None,

    vcpu_feature_check: true,
    duplicates_refused: true,
    failed_add_wedges: false,
    ioeventfd_wrap_check: true,
    datamatch_is_bool: true,
    removal: Removal::Bytes,

    dtb_nowhere: Errno::EINVAL,
    dtb_whole_pages: false,
    shared_dtb_fails: false,
    failed_start_wedges: false,
    failed_start_is_load_failed: true,

    answer_clamped: false,
    resume_actions: ResumeActions::None,
    demand_paging: false,
    unknown_state: UnknownState::RetryForever,
    busy_at_end: false,

    teardown: Teardown::Later,
    never_started_leaks: false,
};

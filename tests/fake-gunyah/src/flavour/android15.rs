//! Android's 6.6 kernel.

use super::{Differences, Pinning, Removal, ResumeActions, SharedExec, Teardown, android14};
use crate::errno::Errno;

pub(super) const DIFFERENCES: Differences = Differences {
    absent_on_vcpu: Errno::ENOTTY,
    reclaim: true,
    boot_context: true,

    unique_labels: false,
    pinning: Pinning::OnDemand,
    shared_exec: SharedExec::Never,
    boot_context_strict: true,
    removal: Removal::WholeKey,

    dtb_nowhere: Errno::ENOENT,
    dtb_whole_pages: true,

    resume_actions: ResumeActions::Fault,
    demand_paging: true,
    teardown: Teardown::AtOnce,
    ..android14::DIFFERENCES
};

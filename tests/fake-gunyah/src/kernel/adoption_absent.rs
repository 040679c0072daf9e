//! In place of the `adoption` module where no guest runs on KVM.

use std::sync::Arc;

use gunyah_bindings::v11;

use super::vm_mgr::Vm;
use super::vm_mgr_mm::Transfer;
use crate::errno::Errno;
use crate::transport::adopt::{Again, Source};
use crate::transport::call::Call;

/// What becomes of memory that is about to be given.
#[derive(Debug)]
#[allow(dead_code, reason = "as the real one")]
pub(crate) enum Adoption {
    NotNeeded,
    Done(Arc<Source>),
    StartOver(Again),
}

/// Nothing is adopted.
#[derive(Debug, Default)]
pub(crate) struct Adoptions(());

#[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as the real one")]
impl Adoptions {
    pub(crate) fn gave_up(&self) -> bool {
        false
    }
}

#[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as the real one")]
impl Vm {
    pub(crate) fn adopt(
        self: &Arc<Self>,
        _: &Call<'_>,
        _: &v11::gh_userspace_memory_region,
        _: Transfer,
        _: bool,
    ) -> Result<Adoption, Errno> {
        Ok(Adoption::NotNeeded)
    }
}

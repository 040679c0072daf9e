//! In place of the `kvm` module where there is none: not built in, or a machine whose guests are not arm64's.

use std::convert::Infallible;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::machine::BootRegisters;
use super::{Pager, VcpuEngine};
use crate::errno::Errno;
use crate::rm::VmDescription;
use crate::transport::ram::Slot;

/// What KVM refused.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{WHY}")]
pub(crate) struct Refused {
    pub(crate) errno: Errno,
}

/// Nobody has one of these.
#[derive(Debug)]
pub(crate) struct KvmVm(Infallible);

const WHY: &str = if cfg!(target_arch = "aarch64") {
    "this build has no KVM engine (the feature kvm)"
} else {
    "arm64 guests run on KVM only on arm64 machines"
};

pub(crate) fn available() -> Result<(), String> {
    Err(WHY.to_owned())
}

#[allow(clippy::unused_self, reason = "as the real one")]
impl KvmVm {
    pub(crate) fn new(
        _: &VmDescription,
        _: &BootRegisters,
        _: Arc<dyn Pager>,
        _: bool,
    ) -> Result<Arc<Self>, Refused> {
        Err(Refused { errno: Errno::ENODEV })
    }

    pub(crate) fn engine(self: &Arc<Self>, _: u32) -> Option<Box<dyn VcpuEngine>> {
        match self.0 {}
    }

    pub(crate) fn add_memory(&self, _: &Slot) -> Result<(), Refused> {
        match self.0 {}
    }

    pub(crate) fn give_page(&self, _: u64) -> Result<(), Refused> {
        match self.0 {}
    }

    pub(crate) fn take_page(&self, _: u64) {
        match self.0 {}
    }

    pub(crate) fn remove_memory(&self, _: u64) {
        match self.0 {}
    }

    pub(crate) fn release_memory(&self) {
        match self.0 {}
    }

    pub(crate) fn add_irqfd(&self, _: u32, _: BorrowedFd<'_>) -> Result<(), Refused> {
        match self.0 {}
    }

    pub(crate) fn remove_irqfd(&self, _: u32, _: BorrowedFd<'_>) {
        match self.0 {}
    }

    pub(crate) fn add_ioeventfd(
        &self,
        _: BorrowedFd<'_>,
        _: u64,
        _: Option<(u32, u64)>,
    ) -> Result<(), Refused> {
        match self.0 {}
    }

    pub(crate) fn remove_ioeventfd(&self, _: BorrowedFd<'_>, _: u64, _: Option<(u32, u64)>) {
        match self.0 {}
    }

    pub(crate) fn ring(&self, _: u32) {
        match self.0 {}
    }

    pub(crate) fn stop(&self) {
        match self.0 {}
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        match self.0 {}
    }
}

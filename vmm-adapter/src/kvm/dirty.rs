//! Which pages the guest has written.

use std::sync::Arc;

use vm_memory::GuestAddress;

use super::error;
use super::vm::{Setup, Shared};
use crate::error::{Error, Result};
use crate::phase::Phase;
use crate::vm::DirtyLog;

/// KVM's dirty log of one VM.
#[derive(Debug)]
pub(super) struct KvmDirtyLog(Arc<Shared>);

impl KvmDirtyLog {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    fn change<T>(
        &self,
        op: &'static str,
        addr: GuestAddress,
        action: impl FnOnce(&mut Setup, usize) -> Result<T>,
    ) -> Result<T> {
        let mut setup = self.0.setup();
        self.0.phase().require(op, &[Phase::Configuring, Phase::Running])?;
        match setup.declared.regions().iter().position(|region| region.addr() == addr) {
            Some(index) => action(&mut setup, index),
            None => Err(Error::invalid(op, format!("there is no memory region at {:#x}", addr.0))),
        }
    }

    fn track(&self, op: &'static str, addr: GuestAddress, tracked: bool) -> Result<()> {
        self.change(op, addr, |setup, index| {
            let Setup { declared, slots } = setup;
            match declared.regions().get(index) {
                Some(region) => slots.track(op, &self.0.fd, region, index, tracked),
                None => Ok(()),
            }
        })
    }
}

impl DirtyLog for KvmDirtyLog {
    fn start(&self, addr: GuestAddress) -> Result<()> {
        self.track("DirtyLog::start", addr, true)
    }

    fn stop(&self, addr: GuestAddress) -> Result<()> {
        self.track("DirtyLog::stop", addr, false)
    }

    fn take(&self, addr: GuestAddress) -> Result<Vec<u64>> {
        const OP: &str = "DirtyLog::take";
        self.change(OP, addr, |setup, index| {
            let (Some(slot), Some(region)) = (setup.slots.get(index), setup.declared.regions().get(index))
            else {
                return Ok(Vec::new());
            };
            if !slot.tracked {
                let why = format!("the region at {:#x} is not tracked: start that first", addr.0);
                return Err(Error::invalid(OP, why));
            }
            let size = usize::try_from(region.size()).map_err(|_| Error::invalid(OP, "too large"))?;
            self.0.fd.get_dirty_log(slot.number, size).map_err(error::ioctl(OP, "KVM_GET_DIRTY_LOG"))
        })
    }
}

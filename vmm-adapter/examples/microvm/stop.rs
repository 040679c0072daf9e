//! Ending a run: the first reason counts.

use std::sync::{Mutex, OnceLock, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, Result};
use crate::outcome::Outcome;

pub(crate) struct Stop {
    reason: OnceLock<Mutex<Option<Result<Outcome>>>>,
    /// Signalled when the run ends.
    ended: EventFd,
}

impl Stop {
    /// Signals `ended` when the run ends.
    pub(crate) fn new(ended: EventFd) -> Self {
        Self { reason: OnceLock::new(), ended }
    }

    /// Ends the run. Only the first reason is kept.
    pub(crate) fn end(&self, reason: Result<Outcome>) {
        if self.reason.set(Mutex::new(Some(reason))).is_ok() {
            // The counter is 0: it can be written.
            let _ = self.ended.write(1);
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.reason.get().is_some()
    }

    pub(crate) fn ended(&self) -> &EventFd {
        &self.ended
    }

    /// Why the run ended.
    pub(crate) fn take(&self) -> Result<Outcome> {
        let reason =
            self.reason.get().and_then(|reason| reason.lock().unwrap_or_else(PoisonError::into_inner).take());
        reason.unwrap_or_else(|| Err(Error::new("the run ended without a reason")))
    }
}

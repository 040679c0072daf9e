//! Ending a run: the first reason counts, and everybody hears of it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use vmm_adapter::Kicker;
use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, Result};
use crate::outcome::Outcome;

pub(crate) struct Stop {
    reason: OnceLock<Mutex<Option<Result<Outcome>>>>,
    kickers: Vec<Arc<dyn Kicker>>,
    /// Signalled when the run ends.
    ended: EventFd,
}

impl Stop {
    /// Ends the run of the vCPUs behind `kickers`, and signals `ended`.
    pub(crate) fn new(kickers: Vec<Arc<dyn Kicker>>, ended: EventFd) -> Self {
        Self { reason: OnceLock::new(), kickers, ended }
    }

    /// Ends the run. Only the first reason is kept.
    pub(crate) fn end(&self, reason: Result<Outcome>) {
        if self.reason.set(Mutex::new(Some(reason))).is_ok() {
            for kicker in &self.kickers {
                kicker.kick();
            }
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
        reason.unwrap_or_else(|| Err(Error::new("the vCPUs ended without a reason")))
    }
}

/// Ends the run when it is dropped by a panic.
pub(crate) struct EndOnPanic<'a>(pub(crate) &'a Stop, pub(crate) &'static str);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Err(Error::new(format!("the {} thread panicked", self.1))));
        }
    }
}

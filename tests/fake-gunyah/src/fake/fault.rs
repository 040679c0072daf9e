//! Faults on demand.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::errno::Errno;

/// Something that goes wrong with an ioctl.
///
/// ```
/// use std::time::Duration;
/// use fake_gunyah::{Errno, Fake, Fault};
/// # const VM_START: u32 = 0x4703;
/// # const VCPU_RUN: u32 = 0x4705;
/// let fake = Fake::builder()
///     .fault(Fault::on(VM_START).nth(1).fails(Errno::ENOMEM))
///     .fault(Fault::on(VCPU_RUN).delayed(Duration::from_millis(2)))
///     .build()?;
/// # Ok::<(), fake_gunyah::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    request: u32,
    nth: Option<u64>,
    effects: Vec<Effect>,
}

#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Fail(Errno),
    Delay(Duration),
    Page(usize, Vec<u8>),
    VmExit(u16, Vec<u8>),
}

impl Fault {
    /// Concerns every ioctl with this request code, on whatever object.
    #[must_use]
    pub fn on(request: u32) -> Self {
        Self { request, nth: None, effects: Vec::new() }
    }

    /// Concerns only the `n`th of them, counted from 1 over all objects of a run.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.nth = Some(n);
        self
    }

    fn with(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    /// The call fails with this and does nothing.
    #[must_use]
    pub fn fails(self, errno: Errno) -> Self {
        self.with(Effect::Fail(errno))
    }

    /// The call takes so much longer. Signals don't shorten it.
    #[must_use]
    pub fn delayed(self, by: Duration) -> Self {
        self.with(Effect::Delay(by))
    }

    /// When the call (on a vCPU) is done, these bytes are in the run page, at `offset`.
    #[must_use]
    pub fn writes_page(self, offset: usize, bytes: &[u8]) -> Self {
        self.with(Effect::Page(offset, bytes.to_vec()))
    }

    /// The VM dies before the call (on a VM or a vCPU) is looked at: it exits with this type and reason.
    #[must_use]
    pub fn vm_exits(self, exit_type: u16, reason: &[u8]) -> Self {
        self.with(Effect::VmExit(exit_type, reason.to_vec()))
    }
}

/// The faults of a run, and what has been counted for them.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    faults: Vec<Fault>,
    calls: Mutex<HashMap<u32, u64>>,
    /// Wake-up interrupts that never come, by their number from 1.
    lost_wakeups: Vec<u64>,
    wakeups: AtomicU64,
}

impl Faults {
    pub(crate) fn new(faults: Vec<Fault>, lost_wakeups: Vec<u64>) -> Self {
        Self { faults, lost_wakeups, ..Self::default() }
    }

    /// What happens to this call. It is counted.
    pub(crate) fn due(&self, request: u32) -> Vec<Effect> {
        if !self.faults.iter().any(|fault| fault.request == request) {
            return Vec::new();
        }
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.entry(request).or_default();
        *count += 1;
        let due = |fault: &&Fault| fault.request == request && fault.nth.is_none_or(|n| n == *count);
        self.faults.iter().filter(due).flat_map(|fault| fault.effects.clone()).collect()
    }

    /// Whether a wake-up interrupt gets lost. It is counted.
    pub(crate) fn loses_wakeup(&self) -> bool {
        let number = self.wakeups.fetch_add(1, Ordering::Relaxed) + 1;
        self.lost_wakeups.contains(&number)
    }
}

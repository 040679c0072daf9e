//! Faults on demand.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::errno::Errno;
use crate::trace::request_code;

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

/// Why a fault's description is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: a fault is CALL[#N]:EFFECT, as in VM_START:ENOMEM or VCPU_RUN#7:page=32:c8000000")]
pub struct BadFault(String);

/// A fault in words: `CALL[#N]:EFFECT`.
///
/// The call is an ioctl's name as a trace has it, with or without `GH_` or `GUNYAH_`, or its number in hex. `N` is as in
/// [`Fault::nth`]. The effects are `ENOMEM` (any errno's name), `delay=MILLISECONDS`, `exit=TYPE` (the VM exits before the call)
/// and `page=OFFSET:BYTES` (bytes in hex, in the run page after the call).
///
/// ```
/// # use fake_gunyah::Fault;
/// for good in ["VM_START:ENOMEM", "GH_VCPU_RUN#7:page=32:c8000000", "0x4705:delay=2", "VCPU_RUN#100:exit=5"] {
///     assert!(good.parse::<Fault>().is_ok());
/// }
/// ```
impl FromStr for Fault {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Self, BadFault> {
        let bad = |why: &str| BadFault(format!("{text:?}: {why}"));
        let (call, effect) = text.split_once(':').ok_or_else(|| bad("no effect"))?;
        let (name, nth) = match call.split_once('#') {
            Some((name, nth)) => (name, Some(nth)),
            None => (call, None),
        };
        let request = match name.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => request_code(name),
        };
        let mut fault = Self::on(request.ok_or_else(|| bad("no such call"))?);
        if let Some(nth) = nth {
            let nth = nth.parse().ok().filter(|nth| *nth > 0).ok_or_else(|| bad("N counts from 1"))?;
            fault = fault.nth(nth);
        }
        match effect.split_once('=') {
            None => effect.parse().map(|errno| fault.fails(errno)).map_err(|_| bad("no such errno")),
            Some(("delay", millis)) => {
                let millis = millis.parse().map_err(|_| bad("no number of milliseconds"))?;
                Ok(fault.delayed(Duration::from_millis(millis)))
            }
            Some(("exit", kind)) => {
                let kind = kind.parse().map_err(|_| bad("no exit type"))?;
                Ok(fault.vm_exits(kind, &[]))
            }
            Some(("page", what)) => {
                let (offset, bytes) = what.split_once(':').ok_or_else(|| bad("no bytes"))?;
                let offset: usize = offset.parse().map_err(|_| bad("no offset"))?;
                let bytes = hex(bytes).ok_or_else(|| bad("no bytes in hex"))?;
                if offset.saturating_add(bytes.len()) > 4096 {
                    return Err(bad("beyond the page"));
                }
                Ok(fault.writes_page(offset, &bytes))
            }
            Some(_) => Err(bad("no such effect")),
        }
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| !digits.is_empty() && digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
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

    /// A call that was counted is going to be made again.
    pub(crate) fn forget(&self, request: u32) {
        if let Some(count) = self.calls.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&request) {
            *count = count.saturating_sub(1);
        }
    }

    /// Whether a wake-up interrupt gets lost. It is counted.
    pub(crate) fn loses_wakeup(&self) -> bool {
        let number = self.wakeups.fetch_add(1, Ordering::Relaxed) + 1;
        self.lost_wakeups.contains(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        format!("{:?}", text.parse::<Fault>().unwrap())
    }

    #[test]
    fn a_fault_in_words_is_the_fault() {
        let same = |text: &str, fault: Fault| assert_eq!(parsed(text), format!("{fault:?}"), "{text}");
        same("VM_START:ENOMEM", Fault::on(0x4703).fails(Errno::ENOMEM));
        same("GH_VM_START#2:EBUSY", Fault::on(0x4703).nth(2).fails(Errno::EBUSY));
        same("VM_LEND_USER_MEM:EPERM", Fault::on(0x4020_4111).fails(Errno::EPERM));
        same("GUNYAH_VM_ANDROID_LEND_USER_MEM:EPERM", Fault::on(0x4020_4111).fails(Errno::EPERM));
        same("0x47fe:delay=3", Fault::on(0x47fe).delayed(Duration::from_millis(3)));
        same("VCPU_RUN#7:exit=5", Fault::on(0x4705).nth(7).vm_exits(5, &[]));
        same("VCPU_RUN:page=32:c80000ff", Fault::on(0x4705).writes_page(32, &[0xc8, 0, 0, 0xff]));
    }

    #[test]
    fn what_is_no_fault_says_why_and_what_one_is() {
        for (text, why) in [
            ("VM_START", "no effect"),
            ("VM_STOP:EIO", "no such call"),
            ("VM_START#0:EIO", "counts from 1"),
            ("VM_START:ENOTHING", "no such errno"),
            ("VM_START:sleep=1", "no such effect"),
            ("VM_START:delay=soon", "milliseconds"),
            ("VCPU_RUN:page=32", "no bytes"),
            ("VCPU_RUN:page=32:abc", "hex"),
            ("VCPU_RUN:page=4096:00", "beyond the page"),
        ] {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("CALL[#N]:EFFECT"), "{text}: {error}");
        }
    }
}

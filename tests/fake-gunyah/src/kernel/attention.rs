//! How often `RUN` looks for signals.

use std::time::{Duration, Instant};

/// When `RUN` looks for signals. A look costs as much as the rest of a short `RUN`, so as long as no signals come only
/// every few calls look. In the others a signal counts as one that came just after.
#[derive(Debug, Default)]
pub(super) struct Attention {
    runs: u32,
    last_signal: Option<Instant>,
}

impl Attention {
    /// Without signals, every so many calls look.
    const SELDOM: u32 = 8;
    /// For so long after a signal every call looks.
    const ALERT: Duration = Duration::from_millis(5);

    pub(super) fn due(&mut self) -> bool {
        self.runs = self.runs.wrapping_add(1);
        self.runs % Self::SELDOM == 0 || self.last_signal.is_some_and(|at| at.elapsed() < Self::ALERT)
    }

    pub(super) fn saw(&mut self, signal: bool) {
        if signal {
            self.last_signal = Some(Instant::now());
        }
    }
}

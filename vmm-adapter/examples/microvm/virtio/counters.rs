//! What a device counts, for `--stats`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that several threads add to.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counts of one device.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Times that the driver's notification woke the device's thread.
    pub(crate) wakeups: Count,
    /// Notifications that came as an exit of a vCPU, not by an ioeventfd.
    pub(crate) notify_exits: Count,
    /// Interrupts.
    pub(crate) interrupts: Count,
    /// Requests that were done: buffers that the driver got back.
    pub(crate) requests: Count,
    /// Requests that the device refused or that failed.
    pub(crate) failed: Count,
    /// Bytes that came from the guest.
    pub(crate) from_guest: Count,
    /// Bytes that went to the guest.
    pub(crate) to_guest: Count,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} failed, {} bytes from the guest, {} to it, {} wake-ups, {} notify exits, {} interrupts",
            self.requests.get(),
            self.failed.get(),
            self.from_guest.get(),
            self.to_guest.get(),
            self.wakeups.get(),
            self.notify_exits.get(),
            self.interrupts.get(),
        )
    }
}

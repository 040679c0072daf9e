//! A pair of memory barriers, of which one side costs nothing.
//!
//! [`light`] on one thread and [`heavy`] on another are together what two full barriers would be. `membarrier(2)` makes it so: it has
//! every running thread of the process execute a barrier, so that the light side need only keep the compiler from
//! reordering. Where the kernel does not offer it (before 4.14, or in a sandbox), both are full barriers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};
use std::time::Duration;

use crate::sys;

static REGISTERED: OnceLock<()> = OnceLock::new();
/// Both sides are full barriers.
static BOTH: AtomicBool = AtomicBool::new(false);

/// Finds out what the kernel offers. Before the first use of the pair.
pub(super) fn prepare() {
    REGISTERED.get_or_init(|| {
        if !sys::register_membarrier() {
            BOTH.store(true, Ordering::Relaxed);
        }
    });
}

/// The side of the many.
#[inline]
pub(super) fn light() {
    // Relaxed: whoever shares a vCPU with this thread has come by it after `prepare`.
    if BOTH.load(Ordering::Relaxed) {
        fence(Ordering::SeqCst);
    } else {
        compiler_fence(Ordering::SeqCst);
    }
}

/// The side of the few. Async-signal-safe; leaves errno alone.
pub(super) fn heavy() {
    fence(Ordering::SeqCst);
    if BOTH.load(Ordering::Relaxed) || sys::membarrier() {
        return;
    }
    // A sandbox came over the process after `prepare`. What other threads have stored is out of their store buffers long
    // before this is over.
    BOTH.store(true, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(1));
    fence(Ordering::SeqCst);
}

//! Whether memory can stay pinned, as the kernel pins a guest's. io_uring does the same to its buffers, and lets go of them.

use std::io;
use std::time::Instant;

use super::super::finding::{Finding, Level};
use super::super::{Examination, sys};
use super::bytes;

const ID: &str = "pinning";
const MADV_HUGEPAGE: libc::c_int = 14;
const MADV_POPULATE_WRITE: libc::c_int = 23;
/// io_uring takes no larger buffer.
const LARGEST: u64 = 1 << 30;

pub(super) fn tried(examination: &Examination) -> Finding {
    if !examination.root.is_live() {
        return Finding::not_live(ID);
    }
    let host = &examination.host;
    let size = examination.options.huge_pages.saturating_mul(1 << 20).min(LARGEST);
    if size == 0 {
        return Finding::new(ID, Level::Skipped, "--huge-pages 0");
    }
    if host.memory_available.is_some_and(|available| available / 2 < size) {
        return Finding::new(ID, Level::Note, "not tried: too little memory is available");
    }
    let counted = host.ipc_lock != Some(true);
    if counted
        && host.memlock.is_some_and(|limit| !limit.allows(size.saturating_add(host.locked.unwrap_or(0))))
    {
        return Finding::new(ID, Level::Note, "not tried: the limit of locked memory is lower; see there");
    }
    let (memory, ring) = match prepare(size) {
        Ok(both) => both,
        Err(error) => return Finding::new(ID, Level::Note, format!("could not be tried: {error}")),
    };
    let started = Instant::now();
    match memory.pin(&ring) {
        Ok(()) => {
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            Finding::new(ID, Level::Good, format!("{} could be pinned, in {millis} ms", bytes(size)))
                .fact("bytes", size)
                .fact("millis", millis)
        }
        // A sandbox allows rings and not this.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EPERM | libc::EACCES | libc::EINVAL | libc::ENOSYS)
            ) =>
        {
            Finding::new(ID, Level::Note, format!("could not be tried: {error}"))
        }
        Err(error) => Finding::new(
            ID,
            Level::Warning,
            format!("{} could not be pinned: {error}", bytes(size)),
        )
        .detail(
            "pages in contiguous-memory areas or movable zones cannot stay pinned, and were not moved out",
        )
        .detail("guest memory would fail in the same way; phones were seen to hang or to reset then")
        .advise("end programs, echo 1 > /proc/sys/vm/compact_memory, and try again before any VM is started")
        .fact("errno", error.raw_os_error().unwrap_or(0)),
    }
}

/// Populated memory, and a ring that can pin it.
fn prepare(size: u64) -> io::Result<(sys::Memory, std::os::fd::OwnedFd)> {
    let ring = sys::io_uring()?;
    let memory = sys::Memory::new(usize::try_from(size).map_err(io::Error::other)?)?;
    // Small pages can be pinned as well.
    let _ = memory.advise(MADV_HUGEPAGE);
    memory.advise(MADV_POPULATE_WRITE)?;
    Ok((memory, ring))
}

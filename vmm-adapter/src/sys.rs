//! Facts that only the C library knows.
#![expect(unsafe_code, reason = "sysconf has no safe form in std")]

/// The size of a page of this host in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: sysconf reads a constant of the process and takes no pointer.
    let answer = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // Linux always knows its page size; the smallest one there is stands in for an answer that cannot come.
    u64::try_from(answer).unwrap_or(4096)
}

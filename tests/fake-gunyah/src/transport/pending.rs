//! Whether a thread has a signal to deal with: the driver's `signal_pending(current)`, asked from outside.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// What a thread's signals say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pending {
    /// Nothing.
    No,
    /// A signal for the process that this thread may take, or another one.
    Maybe,
    /// A signal that this thread will take as soon as it can.
    Yes,
}

/// Reads the signals of threads. Keeps their files open: a thread that makes one call makes many.
#[derive(Debug)]
pub(crate) struct Signals {
    tgid: u32,
    files: Mutex<HashMap<u32, Arc<File>>>,
}

/// More open files than this are not worth it.
const MAX_FILES: usize = 256;

impl Signals {
    pub(crate) fn new(tgid: u32) -> Self {
        Self { tgid, files: Mutex::default() }
    }

    /// The signals of thread `tid`. A thread that is gone has one: whatever ended it.
    pub(crate) fn of(&self, tid: u32, local: bool) -> Pending {
        let mut buf = [0u8; 4096];
        for _ in 0..2 {
            let Some(file) = self.file(tid, local) else { return Pending::Yes };
            match file.read_at(&mut buf, 0) {
                Ok(n) if n > 0 => return judge(tid, buf.get(..n).unwrap_or_default()),
                // The file is that of an earlier thread of this number.
                _ => drop(self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(&tid)),
            }
        }
        Pending::Yes
    }

    fn file(&self, tid: u32, local: bool) -> Option<Arc<File>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&tid) {
            return Some(Arc::clone(file));
        }
        let path = if local {
            format!("/proc/{}/task/{tid}/status", self.tgid)
        } else {
            format!("/proc/{tid}/status")
        };
        let file = Arc::new(File::open(path).ok()?);
        if files.len() >= MAX_FILES {
            files.clear();
        }
        files.insert(tid, Arc::clone(&file));
        Some(file)
    }
}

/// Reads a `status` file.
fn judge(tid: u32, status: &[u8]) -> Pending {
    let field = |name: &[u8]| {
        let line = status.split(|byte| *byte == b'\n').find(|line| line.starts_with(name))?;
        std::str::from_utf8(line.get(name.len()..)?).ok().map(str::trim)
    };
    let set = |name| field(name).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let number = |name| field(name).and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    let blocked = set(b"SigBlk:");
    if set(b"SigPnd:") & !blocked != 0 {
        return Pending::Yes;
    }
    if set(b"ShdPnd:") & !blocked == 0 {
        return Pending::No;
    }
    // A signal for the process interrupts its first thread, unless that one blocks it.
    let certain = number(b"Tgid:") == tid || number(b"Threads:") == 1;
    if certain { Pending::Yes } else { Pending::Maybe }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nTgid:\t7\nPid:\t9\nThreads:\t2\nSigQ:\t1/2\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000200\nSigBlk:\t0000000000000000\n";

    #[test]
    fn a_signal_for_the_process_is_the_first_threads() {
        assert_eq!(judge(7, STATUS.as_bytes()), Pending::Yes);
        assert_eq!(judge(9, STATUS.as_bytes()), Pending::Maybe);
        let alone = STATUS.replace("Threads:\t2", "Threads:\t1");
        assert_eq!(judge(9, alone.as_bytes()), Pending::Yes);
    }

    #[test]
    fn a_blocked_signal_is_none() {
        let blocked = STATUS.replace("SigBlk:\t0000000000000000", "SigBlk:\t0000000000000200");
        assert_eq!(judge(7, blocked.as_bytes()), Pending::No);
    }

    #[test]
    fn a_threads_own_signal() {
        let own = STATUS.replace("SigPnd:\t0000000000000000", "SigPnd:\t0000000000000001");
        assert_eq!(judge(9, own.as_bytes()), Pending::Yes);
    }
}

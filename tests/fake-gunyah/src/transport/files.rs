//! The files that stand for the driver's objects: how they are made, handed out, recognised and mourned.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::mapping::Mapping;
use super::sys::{self, FileId};
use crate::errno::Errno;

/// Makes files and hears of their last close.
pub(crate) struct Files {
    inotify: OwnedFd,
    watches: Mutex<HashMap<i32, Watch>>,
}

/// A file that is not closed yet.
struct Watch {
    id: FileId,
    /// Our own open file description is closed when this goes, after the watch, and not before: a child forked while the
    /// file was made has a copy of our descriptor, and the child's end would look like the object's.
    _ours: Arc<Mapping>,
}

/// A file just made: what the caller gets, what identifies it, and our view of its bytes.
pub(crate) struct NewFile {
    pub(crate) theirs: OwnedFd,
    pub(crate) id: FileId,
    pub(crate) mapping: Arc<Mapping>,
    /// Ours. It may be closed: the mapping keeps the file.
    pub(crate) ours: OwnedFd,
}

impl Files {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self { inotify: sys::inotify()?, watches: Mutex::default() })
    }

    /// What becomes readable when a file has been closed for the last time.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Makes a file of `size` bytes and maps it.
    ///
    /// The caller gets an open file description of its own, so its last close is told apart from ours.
    pub(crate) fn create(&self, size: u64) -> Result<NewFile, Errno> {
        let len = usize::try_from(size).map_err(|_| Errno::ENOMEM)?;
        let ours = unnamed()?;
        sys::truncate(ours.as_fd(), size)?;
        let mapping = Arc::new(Mapping::new(ours.as_fd(), len)?);
        let theirs = sys::open(&by_number(&ours)?, 0)?;
        let id = sys::file_id(theirs.as_raw_fd())?;
        let wd = sys::inotify_watch_close(self.inotify.as_fd(), &by_number(&theirs)?)?;
        let watch = Watch { id, _ours: Arc::clone(&mapping) };
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).insert(wd, watch);
        Ok(NewFile { theirs, id, mapping, ours })
    }

    /// The files whose last use has ended since the last call. A mapping counts as a use.
    pub(crate) fn closed(&self) -> Vec<FileId> {
        let mut closed = Vec::new();
        let mut buf = [0u8; 4096];
        loop {
            let n = match sys::read(self.inotify.as_fd(), &mut buf) {
                Ok(n) if n > 0 => n,
                _ => break,
            };
            let mut rest = buf.get(..n).unwrap_or_default();
            // An event: wd, mask, cookie, length of the name that follows (a multiple of the header's alignment).
            while let Some((head, tail)) = rest.split_first_chunk::<16>() {
                let word = |i: usize| {
                    head.get(i..i + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
                };
                let (wd, mask, name) = (word(0) as i32, word(4), word(12) as usize);
                if mask & libc::IN_CLOSE_WRITE != 0 {
                    let watch = self.watches.lock().unwrap_or_else(PoisonError::into_inner).remove(&wd);
                    if let Some(watch) = watch {
                        sys::inotify_unwatch(self.inotify.as_fd(), wd);
                        closed.push(watch.id);
                    }
                }
                rest = tail.get(name..).unwrap_or_default();
            }
        }
        closed
    }
}

fn by_number(fd: &OwnedFd) -> Result<CString, Errno> {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(|_| Errno::EINVAL)
}

/// A file without a name, in memory where possible.
fn unnamed() -> Result<OwnedFd, Errno> {
    for dir in [c"/dev/shm", c"/tmp", c"/var/tmp"] {
        if let Ok(file) = sys::open(dir, libc::O_TMPFILE) {
            return Ok(file);
        }
    }
    sys::memfd(c"gunyah")
}

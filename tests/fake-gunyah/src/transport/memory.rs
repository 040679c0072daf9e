//! What the driver reads from and knows about the process that calls it.

use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use super::sys::{self, FileId};
use super::vma::{self, Vma};
use crate::errno::Errno;

/// The process that makes a call, named by the calling thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// The calling thread.
    pub(crate) tid: u32,
    /// Whether that is a thread of this process.
    pub(crate) local: bool,
}

impl Caller {
    pub(crate) fn new(tid: u32, own_tgid: u32) -> Self {
        Self { tid, local: sys::is_thread_of(own_tgid, tid) }
    }

    /// Copies `N` bytes from the caller's memory.
    pub(crate) fn read_array<const N: usize>(&self, addr: u64) -> Result<[u8; N], Errno> {
        let mut buf = [0; N];
        sys::process_read(self.tid, addr, &mut buf)?;
        Ok(buf)
    }

    /// Copies `len` bytes from the caller's memory.
    pub(crate) fn read_bytes(&self, addr: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut buf = vec![0; len];
        sys::process_read(self.tid, addr, &mut buf)?;
        Ok(buf)
    }

    /// Copies a C string of at most `max` bytes; `None` if it is longer or cannot be read.
    pub(crate) fn read_c_string(&self, addr: u64, max: usize) -> Option<Vec<u8>> {
        let page = sys::page_size() as u64;
        let mut out = Vec::new();
        let mut at = addr;
        while out.len() <= max {
            // Never across a page: the string may end just before memory that isn't there.
            let chunk = (page - at % page).min(256);
            let bytes = self.read_bytes(at, chunk as usize).ok()?;
            if let Some(end) = bytes.iter().position(|b| *b == 0) {
                out.extend_from_slice(bytes.get(..end)?);
                return (out.len() <= max).then_some(out);
            }
            out.extend_from_slice(&bytes);
            at = at.checked_add(chunk)?;
        }
        None
    }

    /// The file behind one of the caller's descriptors.
    pub(crate) fn file_id(&self, fd: RawFd) -> Result<FileId, Errno> {
        if self.local {
            return sys::file_id(fd);
        }
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(format!("/proc/{}/fd/{fd}", self.tid)).map_err(|_| Errno::EBADF)?;
        Ok(FileId { dev: meta.dev(), ino: meta.ino() })
    }

    /// A duplicate of one of the caller's eventfds. `EBADF`: not open. `EINVAL`: no eventfd.
    pub(crate) fn eventfd(&self, fd: RawFd) -> Result<OwnedFd, Errno> {
        let owner = if self.local { "self".to_owned() } else { self.tid.to_string() };
        let link = std::fs::read_link(format!("/proc/{owner}/fd/{fd}")).map_err(|_| Errno::EBADF)?;
        if link.as_os_str() != "anon_inode:[eventfd]" {
            return Err(Errno::EINVAL);
        }
        if self.local { sys::dup(fd) } else { sys::fetch_fd(self.tgid(), fd) }
    }

    /// The caller's process.
    pub(crate) fn tgid(&self) -> u32 {
        if self.local { std::process::id() } else { self.status_field("Tgid:").unwrap_or(self.tid) }
    }

    /// Whether the caller may lock as much memory as it likes (`CAP_IPC_LOCK`).
    pub(crate) fn may_lock_any(&self) -> bool {
        const CAP_IPC_LOCK: u32 = 14;
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.tid)).unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
        effective & (1 << CAP_IPC_LOCK) != 0
    }

    fn status_field(&self, name: &str) -> Option<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.tid)).ok()?;
        status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    }

    /// Resolves a path that the caller gave, relative to its directory or to one of its descriptors.
    pub(crate) fn absolute(&self, dirfd: RawFd, path: PathBuf) -> PathBuf {
        if path.is_absolute() {
            return path;
        }
        let base = if dirfd == libc::AT_FDCWD {
            format!("/proc/{}/cwd", self.tid)
        } else {
            format!("/proc/{}/fd/{dirfd}", self.tid)
        };
        std::fs::read_link(base).unwrap_or_default().join(path)
    }

    /// Whether the caller's memory from `addr` on is mapped for `len` bytes, and writable if asked.
    pub(crate) fn is_mapped(&self, addr: u64, len: u64, writable: bool) -> bool {
        let allows = |vma: &Vma| vma.readable && (vma.writable || !writable);
        vma::covering(self.tid, addr, len).is_some_and(|all| all.iter().all(allows))
    }
}

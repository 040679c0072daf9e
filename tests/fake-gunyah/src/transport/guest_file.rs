//! A file of guest memory of the driver's making.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::mapping::Mapping;
use super::sys;
use crate::errno::Errno;

/// The file, as this process has it.
#[derive(Debug)]
pub(crate) struct GuestFile {
    fd: OwnedFd,
    mapping: Arc<Mapping>,
    /// Where the guest has what it was lent of this, at the same offsets.
    lent: Mutex<Option<Arc<OwnedFd>>>,
}

impl GuestFile {
    pub(crate) fn new(fd: OwnedFd, mapping: Arc<Mapping>) -> Self {
        Self { fd, mapping, lent: Mutex::default() }
    }

    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Frees a part of it, wherever that is. The next to touch it finds zeros.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let files = std::iter::once(self.as_fd()).chain(lent.as_ref().map(|file| file.as_fd()));
        files.into_iter().try_for_each(|file| sys::fallocate(file, mode, offset, len))
    }

    /// Fills the holes in a part of it with zeros.
    pub(crate) fn fill(&self, offset: u64, len: u64) -> Result<(), Errno> {
        sys::fallocate(self.as_fd(), libc::FALLOC_FL_KEEP_SIZE, offset, len)
    }

    /// The guest's own file, made when there is none yet: it gets this file's size.
    #[cfg_attr(not(all(feature = "kvm", target_arch = "aarch64")), expect(dead_code, reason = "KVM's"))]
    pub(crate) fn lent(
        &self,
        make: impl FnOnce(u64) -> Result<OwnedFd, Errno>,
    ) -> Result<Arc<OwnedFd>, Errno> {
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*lent {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(make(self.mapping.len() as u64)?);
        *lent = Some(Arc::clone(&file));
        Ok(file)
    }
}

impl AsFd for GuestFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

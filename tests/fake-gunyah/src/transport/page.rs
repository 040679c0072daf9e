//! The page that a vCPU's file shares with user space.
#![expect(unsafe_code, reason = "accesses the page while user space does")]

use std::sync::Arc;

use super::mapping::Mapping;

/// The bytes of a mapped file. User space may write any of them at any time, so there is never a reference into them, and
/// each byte that the driver needs is read once.
#[derive(Clone)]
pub(crate) struct SharedPage(Arc<Mapping>);

impl SharedPage {
    pub(crate) fn new(mapping: Arc<Mapping>) -> Self {
        Self(mapping)
    }

    /// Reads `buf.len()` bytes at `offset`; bytes beyond the page read as zero.
    pub(crate) fn read(&self, offset: usize, buf: &mut [u8]) {
        for (i, byte) in buf.iter_mut().enumerate() {
            let at = offset.saturating_add(i);
            // SAFETY: `at` is inside the mapping, which lives as long as `self`.
            *byte = if at < self.0.len() { unsafe { self.0.base().add(at).read_volatile() } } else { 0 };
        }
    }

    /// Writes `data` at `offset`; bytes beyond the page are dropped.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            let at = offset.saturating_add(i);
            if at < self.0.len() {
                // SAFETY: `at` is inside the mapping, which lives as long as `self`.
                unsafe { self.0.base().add(at).write_volatile(*byte) };
            }
        }
    }

    /// One byte.
    pub(crate) fn byte(&self, offset: usize) -> u8 {
        let mut byte = [0];
        self.read(offset, &mut byte);
        byte[0]
    }
}

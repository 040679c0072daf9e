//! A vCPU's run page in the hands of somebody else.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

use gunyah_ioctls::VcpuFd;

/// A vCPU's page, mapped once more.
pub(crate) struct SecondMapping(NonNull<AtomicU8>);

// SAFETY: the mapping belongs to the process, and only its first byte is used, as an atomic.
unsafe impl Send for SecondMapping {}
// SAFETY: as above.
unsafe impl Sync for SecondMapping {}

impl SecondMapping {
    pub(crate) fn new(vcpu: &VcpuFd) -> Self {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe {
            let (prot, fd) = (libc::PROT_READ | libc::PROT_WRITE, vcpu.as_fd().as_raw_fd());
            libc::mmap(std::ptr::null_mut(), 4096, prot, libc::MAP_SHARED, fd, 0)
        };
        assert_ne!(page, libc::MAP_FAILED);
        Self(NonNull::new(page.cast()).unwrap())
    }

    pub(crate) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: mapped until `self` is dropped.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SecondMapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.0.as_ptr().cast(), 4096) };
    }
}

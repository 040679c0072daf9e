//! The page that a vCPU shares with the kernel.
//!
//! The kernel, kickers on other threads and (in the worst case) a hostile hypervisor write it at any time. So there is
//! never a reference into it: fields are read and written by single volatile accesses, each read once, and what was read
//! is judged by the caller.
#![expect(unsafe_code, reason = "this file owns the accesses to the run page")]

use std::mem::{offset_of, size_of};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use gunyah_bindings::android::{
    gunyah_vcpu_run, gunyah_vcpu_run_mmio, gunyah_vcpu_run_page_fault, gunyah_vcpu_run_status,
    gunyah_vm_exit_info,
};
use gunyah_bindings::v11;

use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::{ops, sys};

/// A vCPU's run page.
#[derive(Debug)]
pub(crate) struct RunPage {
    mapping: Mapping,
}

const IMMEDIATE_EXIT: usize = offset_of!(gunyah_vcpu_run, immediate_exit);
const EXIT_REASON: usize = offset_of!(gunyah_vcpu_run, exit_reason);
const EXIT: usize = offset_of!(gunyah_vcpu_run, __bindgen_anon_1);

const MMIO_ADDR: usize = EXIT + offset_of!(gunyah_vcpu_run_mmio, phys_addr);
const MMIO_DATA: usize = EXIT + offset_of!(gunyah_vcpu_run_mmio, data);
const MMIO_LEN: usize = EXIT + offset_of!(gunyah_vcpu_run_mmio, len);
const MMIO_IS_WRITE: usize = EXIT + offset_of!(gunyah_vcpu_run_mmio, is_write);
const MMIO_RESUME: usize = EXIT + offset_of!(gunyah_vcpu_run_mmio, resume_action);

const STATUS: usize = EXIT + offset_of!(gunyah_vcpu_run_status, status);
const EXIT_INFO: usize = EXIT + offset_of!(gunyah_vcpu_run_status, exit_info);
const EXIT_TYPE: usize = EXIT_INFO + offset_of!(gunyah_vm_exit_info, type_);
const REASON_SIZE: usize = EXIT_INFO + offset_of!(gunyah_vm_exit_info, reason_size);
const REASON: usize = EXIT_INFO + offset_of!(gunyah_vm_exit_info, reason);

const FAULT_ADDR: usize = EXIT + offset_of!(gunyah_vcpu_run_page_fault, phys_addr);
const FAULT_ATTEMPT: usize = EXIT + offset_of!(gunyah_vcpu_run_page_fault, attempt);

// The forms of all flavours agree where they overlap, so one set of offsets serves every host.
const _: () = {
    assert!(size_of::<gunyah_vcpu_run>() == size_of::<v11::gh_vcpu_run>());
    assert!(EXIT == offset_of!(v11::gh_vcpu_run, __bindgen_anon_1));
    assert!(MMIO_LEN == EXIT + offset_of!(v11::gh_vcpu_run_mmio, len));
    assert!(MMIO_IS_WRITE == EXIT + offset_of!(v11::gh_vcpu_run_mmio, is_write));
    assert!(REASON == EXIT_INFO + offset_of!(v11::gh_vm_exit_info, reason));
};

impl RunPage {
    /// Maps the run page of the vCPU behind `fd`.
    pub(crate) fn map(fd: BorrowedFd<'_>, flavour: crate::Flavour) -> Result<Self> {
        let op = ops::VCPU_MMAP_SIZE;
        let size = op.call(fd, 0).map_err(|error| op.error(error, Some(flavour)))?;
        let have = usize::try_from(size).unwrap_or(0);
        Self::of_size(fd, have)
    }

    pub(crate) fn of_size(fd: BorrowedFd<'_>, have: usize) -> Result<Self> {
        let need = size_of::<gunyah_vcpu_run>();
        // Never more than a page: some kernels fall over a null pointer when a later page of this file is touched.
        if have < need {
            return Err(Error::ShortRunPage { have, need });
        }
        let len = have.min(sys::page_size());
        let mapping = Mapping::new(fd, 0, len).map_err(|source| Error::Os {
            call: "mmap",
            doing: "mapping the vCPU's run page",
            source,
        })?;
        Ok(Self { mapping })
    }

    #[inline]
    fn field<T>(&self, offset: usize) -> NonNull<T> {
        debug_assert!(offset + size_of::<T>() <= self.mapping.len());
        // SAFETY: the offset comes from the structure that `of_size` found to fit in the mapping.
        unsafe { self.mapping.start().byte_add(offset).cast() }
    }

    #[inline]
    fn read<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: in bounds and aligned (offsets of the structure, start of a page). Callers read plain integers and byte
        // arrays only, for which any bytes are valid; the page is no Rust object, so a concurrent write by the kernel is
        // no data race on one, and a volatile read happens once.
        unsafe { self.field::<T>(offset).read_volatile() }
    }

    #[inline]
    fn write<T: Copy>(&self, offset: usize, value: T) {
        // SAFETY: as in `read`.
        unsafe { self.field::<T>(offset).write_volatile(value) }
    }

    /// The one field that other threads write, too.
    #[inline]
    fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the byte is inside the mapping, which outlives the borrow of `self`, and within the process it is only
        // accessed through this atomic. The kernel's accesses are single bytes.
        unsafe { AtomicU8::from_ptr(self.field::<u8>(IMMEDIATE_EXIT).as_ptr()) }
    }

    /// Makes the next or current `VCPU_RUN` end before it enters the guest. Async-signal-safe.
    pub(crate) fn set_immediate_exit(&self) {
        self.immediate_exit().store(1, Ordering::Release);
    }

    /// Lets `VCPU_RUN` enter the guest again.
    #[inline]
    pub(crate) fn clear_immediate_exit(&self) {
        self.immediate_exit().store(0, Ordering::Relaxed);
    }

    /// Forgets the last exit, so that a new one can be told from it.
    #[inline]
    pub(crate) fn clear_exit_reason(&self) {
        self.write(EXIT_REASON, 0_u32);
    }

    #[inline]
    pub(crate) fn exit_reason(&self) -> u32 {
        self.read(EXIT_REASON)
    }

    #[inline]
    pub(crate) fn mmio_addr(&self) -> u64 {
        self.read(MMIO_ADDR)
    }

    /// The data bytes as a little-endian number.
    #[inline]
    pub(crate) fn mmio_data(&self) -> u64 {
        u64::from_le(self.read(MMIO_DATA))
    }

    #[inline]
    pub(crate) fn set_mmio_data(&self, value: u64) {
        self.write(MMIO_DATA, value.to_le());
    }

    #[inline]
    pub(crate) fn mmio_len(&self) -> u32 {
        self.read(MMIO_LEN)
    }

    #[inline]
    pub(crate) fn mmio_is_write(&self) -> u8 {
        self.read(MMIO_IS_WRITE)
    }

    pub(crate) fn set_mmio_resume(&self, action: u8) {
        self.write(MMIO_RESUME, action);
    }

    pub(crate) fn status(&self) -> u32 {
        self.read(STATUS)
    }

    pub(crate) fn exit_type(&self) -> u16 {
        self.read(EXIT_TYPE)
    }

    pub(crate) fn reason_size(&self) -> u32 {
        self.read(REASON_SIZE)
    }

    pub(crate) fn reason(&self) -> [u8; 8] {
        self.read(REASON)
    }

    pub(crate) fn fault_addr(&self) -> u64 {
        self.read(FAULT_ADDR)
    }

    pub(crate) fn fault_attempt(&self) -> i32 {
        self.read(FAULT_ATTEMPT)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use super::*;

    /// A file that can stand in for a vCPU's page.
    pub(crate) fn page_file(len: i64) -> OwnedFd {
        // SAFETY: a fresh descriptor of ours, sized before it is used.
        unsafe {
            let fd = libc::memfd_create(c"run-page".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            assert_eq!(libc::ftruncate(fd, len), 0);
            OwnedFd::from_raw_fd(fd)
        }
    }

    #[test]
    fn a_page_smaller_than_the_structure_is_refused() {
        let file = page_file(4096);
        let error = RunPage::of_size(file.as_fd(), 39).unwrap_err();
        assert!(matches!(error, Error::ShortRunPage { have: 39, need: 40 }), "{error:?}");
        assert!(RunPage::of_size(file.as_fd(), 40).is_ok());
    }

    #[test]
    fn no_more_than_a_page_is_mapped() {
        let file = page_file(1 << 24);
        let page = RunPage::of_size(file.as_fd(), 1 << 24).unwrap();
        assert_eq!(page.mapping.len(), sys::page_size());
    }

    #[test]
    fn fields_lie_where_the_abi_says() {
        let file = page_file(i64::try_from(sys::page_size()).unwrap());
        let page = RunPage::of_size(file.as_fd(), 40).unwrap();
        let bytes: Vec<u8> = (0..40).collect();
        // SAFETY: 40 bytes fit in the page; pwrite goes to the same pages as the mapping.
        let written =
            unsafe { libc::pwrite(std::os::fd::AsRawFd::as_raw_fd(&file), bytes.as_ptr().cast(), 40, 0) };
        assert_eq!(written, 40);
        assert_eq!(page.exit_reason(), 0x0b0a_0908);
        assert_eq!(page.mmio_addr(), 0x1716_1514_1312_1110);
        assert_eq!(page.mmio_data(), 0x1f1e_1d1c_1b1a_1918);
        assert_eq!(page.mmio_len(), 0x2322_2120);
        assert_eq!(page.mmio_is_write(), 0x24);
        assert_eq!(page.status(), 0x1312_1110);
        assert_eq!(page.exit_type(), 0x1514);
        assert_eq!(page.reason_size(), 0x1b1a_1918);
        assert_eq!(page.reason(), [0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23]);
        assert_eq!(page.fault_addr(), 0x1716_1514_1312_1110);
        assert_eq!(page.fault_attempt(), 0x1b1a_1918);
        page.set_mmio_resume(1);
        page.set_immediate_exit();
        let mut back = [0_u8; 40];
        // SAFETY: the buffer takes 40 bytes.
        let read =
            unsafe { libc::pread(std::os::fd::AsRawFd::as_raw_fd(&file), back.as_mut_ptr().cast(), 40, 0) };
        assert_eq!((read, back[0], back[37]), (40, 1, 1));
    }
}

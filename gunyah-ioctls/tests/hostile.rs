//! A kernel or hypervisor that leaves nonsense in the run page, and the answers that only some hosts take.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod common;

use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use fake_gunyah::hyp::{HypError, state};
use fake_gunyah::{Answer, Flavour, Script};
use gunyah_ioctls::{Error, VcpuExit, VcpuFd};

/// The test's own mapping of a run page, to write what no kernel should.
#[derive(Clone, Copy)]
struct Page(NonNull<u8>);
// SAFETY: an address; the mapping stays for the whole test.
unsafe impl Send for Page {}

impl Page {
    fn of(vcpu: &VcpuFd) -> Self {
        // SAFETY: a new mapping of the page.
        let start = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let fd = vcpu.as_fd().as_raw_fd();
            libc::mmap(std::ptr::null_mut(), common::page_size(), prot, libc::MAP_SHARED, fd, 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        Self(NonNull::new(start.cast()).unwrap())
    }

    fn write(self, bytes: &[(usize, u64, usize)]) {
        for (offset, value, len) in bytes {
            for (index, byte) in value.to_le_bytes()[..*len].iter().enumerate() {
                // SAFETY: inside the page.
                unsafe { self.0.add(offset + index).write_volatile(*byte) };
            }
        }
    }

    fn unmap(self) {
        // SAFETY: made by `of` and not used any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), common::page_size()) };
    }
}

/// What `run` makes of a page: the guest sleeps, the page is written as if a finished exit had been overtaken by the
/// signal of a kick.
fn run_with(page_bytes: &'static [(usize, u64, usize)]) -> Vec<Result<VcpuExit, Error>> {
    let page = Arc::new(Mutex::new(None::<Page>));
    let kick = Arc::new(Mutex::new(None::<gunyah_ioctls::KickHandle>));
    let script = Script::from_fn({
        let (page, kick) = (Arc::clone(&page), Arc::clone(&kick));
        move |_| {
            page.lock().unwrap().unwrap().write(page_bytes);
            kick.lock().unwrap().as_ref().unwrap().kick();
            Answer::state(state::EXPECTS_WAKEUP, [0; 3])
        }
    });
    common::on(Flavour::V11, [script], |_| {
        let (mut vm, _ram) = common::started_vm(1);
        let mut vcpu = vm.vcpus.remove(0);
        *page.lock().unwrap() = Some(Page::of(&vcpu));
        *kick.lock().unwrap() = Some(vcpu.kick_handle());
        let first = vcpu.run();
        let results = vec![first, vcpu.run(), vcpu.run()];
        page.lock().unwrap().take().unwrap().unmap();
        *kick.lock().unwrap() = None;
        results
    })
}

const REASON: usize = 8;
const LEN: usize = 32;
const IS_WRITE: usize = 36;

#[test]
fn nonsense_lengths_are_errors_that_stay() {
    for (bytes, field, value) in [
        (&[(REASON, 1, 4), (LEN, 200, 4)][..], "mmio.len", 200),
        (&[(REASON, 1, 4), (LEN, 0, 4)], "mmio.len", 0),
        (&[(REASON, 1, 4), (LEN, 3, 4), (IS_WRITE, 1, 1)], "mmio.len", 3),
        (&[(REASON, 1, 4), (LEN, u32::MAX as u64, 4)], "mmio.len", u32::MAX.into()),
        (&[(REASON, 1, 4), (LEN, 4, 4), (IS_WRITE, 2, 1)], "mmio.is_write", 2),
    ] {
        for result in run_with(bytes) {
            let Err(Error::InvalidRunPage { field: f, value: v }) = result else { panic!("{result:?}") };
            assert_eq!((f, v), (field, value));
        }
    }
}

#[test]
fn a_nonsense_status_is_an_error() {
    let mut results = run_with(&[(REASON, 2, 4), (16, 9, 4)]).into_iter();
    let first = results.next().unwrap();
    assert!(matches!(first, Err(Error::InvalidRunPage { field: "status.status", value: 9 })), "{first:?}");
}

#[test]
fn an_unknown_exit_reason_is_passed_on_and_the_kick_comes_after() {
    let results = run_with(&[(REASON, 77, 4)]);
    assert!(matches!(results[0], Ok(VcpuExit::Unknown(77))), "{results:?}");
    assert!(matches!(results[1], Ok(VcpuExit::Interrupted)), "{results:?}");
}

#[test]
fn an_exit_that_a_kick_overtook_is_returned_first() {
    let results = run_with(&[
        (REASON, 1, 4),
        (16, 0x4000, 8),
        (24, 0xffff_ffff_1234, 8),
        (LEN, 2, 4),
        (IS_WRITE, 1, 1),
    ]);
    let data = [0x34, 0x12, 0, 0, 0, 0, 0, 0];
    assert!(
        matches!(results[0], Ok(VcpuExit::MmioWrite { addr: 0x4000, data: d, len: 2 }) if d == data),
        "{results:?}"
    );
    assert!(matches!(results[1], Ok(VcpuExit::Interrupted)), "{results:?}");
}

#[test]
fn a_repeated_page_fault_is_given_up() {
    let script = Script::from_fn(|_| Answer::state(state::PAGE_FAULT, [0x9000_0000, 0, 0]));
    common::on(Flavour::Android15, [script], |_| {
        let (mut vm, _ram) = common::started_vm(1);
        let mut vcpu = vm.vcpus.remove(0);
        for _ in 0..VcpuFd::PAGE_FAULT_LIMIT {
            let exit = vcpu.run().unwrap();
            assert_eq!(exit, VcpuExit::PageFault { addr: 0x9000_0000, attempt: libc::ENOENT });
        }
        let error = vcpu.run().unwrap_err();
        let limit = VcpuFd::PAGE_FAULT_LIMIT;
        assert!(
            matches!(error, Error::PageFaultLoop { addr: 0x9000_0000, times, .. } if times == limit),
            "{error:?}"
        );
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::PageFault { .. }));
    });
}

#[test]
fn an_access_is_failed_where_the_host_can() {
    for (flavour, can) in [(Flavour::V11, false), (Flavour::Android14, false), (Flavour::Android16, true)] {
        let mut step = 0;
        let script = Script::from_fn(move |resume| {
            step += 1;
            match step {
                1 => Answer::mmio_read(0, 4),
                2 => {
                    assert_eq!(resume[1], if can { 2 } else { 0 });
                    Answer::mmio_write(0, 4, 1)
                }
                3 => {
                    assert_eq!(resume[1], if can { 2 } else { 0 });
                    Answer::exit(1, &[])
                }
                _ => Answer::state(state::POWERED_OFF, [0; 3]),
            }
        });
        common::on(flavour, [script], |_| {
            let (mut vm, _ram) = common::started_vm(1);
            let mut vcpu = vm.vcpus.remove(0);
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioRead { .. }));
            assert!(matches!(vcpu.retry_mmio(), Err(Error::NotInAbi { .. })));
            if can {
                vcpu.fail_mmio().unwrap();
                assert!(matches!(vcpu.fail_mmio(), Err(Error::InvalidArgument { .. })));
            } else {
                assert!(matches!(vcpu.fail_mmio(), Err(Error::NotInAbi { .. })));
                vcpu.complete_mmio_read(&[0xff; 4]).unwrap();
            }
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioWrite { .. }));
            if can {
                vcpu.fail_mmio().unwrap();
            }
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
        });
    }
}

#[test]
fn hypervisor_errors_are_named_and_busy_is_waited_out() {
    let script = Script::new()
        .error(HypError::NoMem)
        .error(HypError::Busy)
        .error(HypError::Busy)
        .mmio_write(0, 1, 1)
        .error(HypError::Retry)
        .exit(1, &[]);
    common::on(Flavour::V11, [script], |_| {
        let (mut vm, _ram) = common::started_vm(1);
        let mut vcpu = vm.vcpus.remove(0);
        let error = vcpu.run().unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOMEM));
        assert!(error.to_string().starts_with("GH_VCPU_RUN failed"), "{error}");
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioWrite { .. }));
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
    });
}

#[test]
fn a_host_that_stays_busy_is_an_error_in_the_end() {
    let script = Script::from_fn(|_| Answer::Error(HypError::Busy));
    common::on(Flavour::V11, [script], |_| {
        let (mut vm, _ram) = common::started_vm(1);
        let mut vcpu = vm.vcpus.remove(0);
        assert_eq!(vcpu.run().unwrap_err().errno(), Some(libc::EBUSY));
        vcpu.kick_handle().kick();
        assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
    });
}

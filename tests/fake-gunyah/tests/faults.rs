//! Faults on demand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use common::*;
use fake_gunyah::{Builder, Errno, Fake, Fault, Guest, Script};

fn fake(script: Script) -> Builder {
    Fake::builder().guest(Guest::scripts([script]))
}

#[test]
fn the_nth_call_fails() {
    let fake = fake(Script::new().exit(1, &[]))
        .fault(Fault::on(CREATE_VM).nth(2).fails(Errno::ENOMEM))
        .fault(Fault::on(ADD_FUNCTION).fails(Errno::ENOSPC))
        .build()
        .unwrap();
    for _ in 0..2 {
        fake.run(|_| {
            let device = open().unwrap();
            let create = || ioctl(device.as_raw_fd(), CREATE_VM, 0);
            let first = create().unwrap();
            assert_eq!(create(), Err(Errno::ENOMEM), "each run counts anew");
            let third = create().unwrap();
            assert_ne!(first, third);
            let vm = Vm::new();
            for _ in 0..3 {
                assert_eq!(vm.vcpu(0).map(|_| ()), Err(Errno::ENOSPC));
            }
        })
        .unwrap();
    }
}

#[test]
fn a_delayed_call_holds_up_nobody_else() {
    let delay = Duration::from_millis(200);
    let fake = fake(Script::new().mmio_write(1, 1, 1))
        .fault(Fault::on(VCPU_RUN).nth(1).delayed(delay))
        .build()
        .unwrap();
    fake.run(|_| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        let start = Instant::now();
        std::thread::scope(|scope| {
            let run = scope.spawn(|| vcpu.run());
            while start.elapsed() < delay / 2 {
                assert_eq!(ioctl(vcpu.fd.as_raw_fd(), VCPU_MMAP_SIZE, 0), Ok(page_size() as i64));
            }
            assert_eq!(run.join().unwrap(), Ok(0));
        });
        assert!(start.elapsed() >= delay);
    })
    .unwrap();
}

#[test]
fn garbage_in_the_page() {
    let fake = fake(Script::new().repeat(3, |s| s.mmio_read(0x1000, 4)))
        .fault(Fault::on(VCPU_RUN).nth(2).writes_page(8, &77u32.to_le_bytes()))
        .fault(Fault::on(VCPU_RUN).nth(3).writes_page(32, &200u32.to_le_bytes()))
        .build()
        .unwrap();
    fake.run(|_| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        assert_eq!((vcpu.run(), vcpu.reason()), (Ok(0), EXIT_MMIO));
        assert_eq!((vcpu.run(), vcpu.reason()), (Ok(0), 77));
        assert_eq!((vcpu.run(), vcpu.mmio().1), (Ok(0), 200));
    })
    .unwrap();
}

#[test]
fn the_vm_dies_under_the_vmm() {
    let fake = fake(Script::new().repeat(9, |s| s.mmio_read(0x1000, 4)))
        .fault(Fault::on(VCPU_RUN).nth(2).vm_exits(4, &[9; 4]))
        .build()
        .unwrap();
    fake.run(|_| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        assert_eq!((vcpu.run(), vcpu.reason()), (Ok(0), EXIT_MMIO));
        assert_eq!((vcpu.run(), vcpu.reason()), (Ok(0), EXIT_STATUS));
        assert_eq!(vcpu.status(), (2, 4, 4, [9, 9, 9, 9, 0, 0, 0, 0]));
    })
    .unwrap();
}

#[test]
fn a_wakeup_that_never_comes() {
    let fake = fake(Script::new().wfi().exit(1, &[])).lose_wakeup(1).build().unwrap();
    fake.run(|handle| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        std::thread::scope(|scope| {
            let run = scope.spawn(|| vcpu.run());
            std::thread::sleep(Duration::from_millis(20));
            assert!(handle.wake(0));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!run.is_finished());
            assert!(handle.wake(0), "the second one does");
            assert_eq!(run.join().unwrap(), Ok(0));
        });
    })
    .unwrap();
}

//! What keeps an object alive, and what its end does; eventfds in both directions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

mod common;

use std::os::fd::AsRawFd;
use std::time::Duration;

use common::*;
use fake_gunyah::{Errno, Fake, Flavour, Guest, Script, Target};

#[test]
fn a_vcpu_keeps_its_vm() {
    with_vcpu(Script::new().wfi().mmio_write(1, 1, 1), |_, _, _| ());
    with_scripts([Script::new().mmio_write(0x1000, 1, 1)], |handle| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        drop(vm);
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_MMIO);
        drop(vcpu);
        gone(handle);
    });
}

#[test]
fn a_duplicate_keeps_the_object() {
    with_scripts([Script::new()], |handle| {
        let vm = Vm::new();
        let duplicate = vm.fd.try_clone().unwrap();
        drop(vm);
        assert_eq!(ioctl(duplicate.as_raw_fd(), VM_START, 0), Ok(0));
        assert!(matches!(handle.objects()[..], [Target::Vm(_)]));
        drop(duplicate);
        gone(handle);
    });
}

#[test]
fn a_mapping_keeps_the_vcpu() {
    with_scripts([Script::new()], |handle| {
        let vm = Vm::new();
        let Vcpu { fd, page } = &*std::mem::ManuallyDrop::new(vm.vcpu(0).unwrap());
        drop(vm);
        unsafe { libc::close(fd.as_raw_fd()) };
        std::thread::sleep(Duration::from_millis(20));
        assert!(
            matches!(handle.objects()[..], [Target::Vm(_), Target::Vcpu(_, 0)]),
            "{:?}",
            handle.objects()
        );
        unsafe { libc::munmap(page.cast(), page_size()) };
        gone(handle);
    });
}

#[test]
fn the_page_is_shared_by_all_who_map_it() {
    with_vcpu(Script::new().mmio_write(0x1234, 1, 1).exit(1, &[]), |_, _, vcpu| {
        let second = Vcpu::new(unsafe { libc::dup(vcpu.fd.as_raw_fd()) });
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(second.mmio().0, 0x1234);
        second.set_immediate_exit(true);
        assert_eq!(vcpu.run(), Err(Errno::EINTR));
        second.set_immediate_exit(false);
        assert_eq!(second.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_STATUS);
    });
}

#[test]
fn a_closed_vcpu_in_use_ends_when_its_call_does() {
    with_vcpu(Script::new().wfi().mmio_write(0x1000, 1, 1), |handle, _, vcpu| {
        let number = unsafe { libc::dup(vcpu.fd.as_raw_fd()) };
        std::thread::scope(|scope| {
            let run = scope.spawn(move || ioctl(number, VCPU_RUN, 0));
            std::thread::sleep(Duration::from_millis(20));
            unsafe { libc::close(number) };
            assert!(handle.wake(0));
            assert_eq!(run.join().unwrap(), Ok(0));
        });
    });
}

#[test]
fn leftovers_are_told() {
    let fake = Fake::builder().guest(Guest::scripts([Script::new()])).build().unwrap();
    let handle = fake
        .run(|handle| {
            std::mem::forget(Vm::new());
            handle.clone()
        })
        .unwrap();
    assert!(matches!(handle.leftovers()[..], [Target::Vm(_)]), "{:?}", handle.leftovers());
}

/// Calls from a process that did not make the VM: refused before anything is copied, and after an answer was taken.
/// A child has copies of whatever descriptors the fake was just using.
#[test]
fn an_early_kernel_leaks_what_never_started() {
    for (flavour, start, leaked) in [
        (Flavour::V11, false, 0),
        (Flavour::Android14Early, false, 1),
        (Flavour::Android14Early, true, 0),
        (Flavour::Android14, false, 0),
    ] {
        let fake = Fake::builder().flavour(flavour).build().unwrap();
        let handle = fake
            .run(|handle| {
                let vm = Vm::new();
                if start {
                    vm.start().unwrap();
                }
                handle.clone()
            })
            .unwrap();
        assert_eq!(handle.leaked_vms(), leaked, "{flavour}");
    }
}

#[test]
fn an_irqfd_rings_its_doorbell() {
    let script = Script::new().wait_doorbell(5).mmio_write(0x1000, 1, 1).wait_doorbell(5).exit(1, &[]);
    with_vcpu(script, |handle, vm, vcpu| {
        let event = eventfd(0);
        vm.irqfd(&event, 5).unwrap();
        std::thread::scope(|scope| {
            let run = scope.spawn(|| vcpu.run());
            std::thread::sleep(Duration::from_millis(10));
            assert!(!run.is_finished());
            eventfd_write(&event);
            assert_eq!(run.join().unwrap(), Ok(0));
        });
        assert_eq!(vcpu.reason(), EXIT_MMIO);
        assert_eq!(handle.doorbells(5), 1);
        // The driver never reads the counter. Another write rings again all the same.
        eventfd_write(&event);
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_STATUS);
        assert_eq!(handle.doorbells(5), 2);
        assert_eq!(eventfd_read(&event), 2);
    });
}

#[test]
fn an_irqfd_before_the_start_is_dropped() {
    with_scripts([Script::new().wait_doorbell(5).exit(1, &[])], |handle| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        let event = eventfd(3);
        vm.irqfd(&event, 5).unwrap();
        eventfd_write(&event);
        eventually("no note", || !handle.notes().is_empty());
        vm.start().unwrap();
        std::thread::scope(|scope| {
            let run = scope.spawn(|| vcpu.run());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!run.is_finished(), "it is never replayed");
            eventfd_write(&event);
            assert_eq!(run.join().unwrap(), Ok(0));
        });
        assert_eq!(handle.doorbells(5), 1);
    });
}

#[test]
fn a_removed_irqfd_is_silent() {
    with_vcpu(Script::new(), |handle, vm, _| {
        let event = eventfd(0);
        vm.irqfd(&event, 5).unwrap();
        eventfd_write(&event);
        eventually("no ring", || handle.doorbells(5) == 1);
        let arg = IrqfdArg { fd: event.as_raw_fd() as u32, label: 5, ..IrqfdArg::default() };
        assert_eq!(vm.remove(FN_IRQFD, &arg), Ok(0));
        eventfd_write(&event);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(handle.doorbells(5), 1);
        // The label is free.
        assert_eq!(vm.irqfd(&event, 5), Ok(0));
    });
}

#[test]
fn an_ioeventfd_takes_a_store_without_an_exit() {
    let script = Script::new()
        .mmio_write(0x1000, 4, 7)
        .mmio_write(0x1000, 1, 9)
        .mmio_write(0x1001, 4, 7)
        .mmio_write(0x2000, 4, 0x1_0000_0007)
        .mmio_write(0x2000, 2, 7)
        .mmio_write(0x2000, 4, 0)
        .mmio_read(0x1000, 4)
        .exit(1, &[]);
    with_vcpu(script, |_, vm, vcpu| {
        let (any, seven) = (eventfd(0), eventfd(0));
        vm.ioeventfd(&any, 0x1000, 4, None).unwrap();
        vm.ioeventfd(&seven, 0x2000, 4, Some(7)).unwrap();
        // Both stores to 0x1000 are taken, whatever their length; the next address is another's.
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.mmio().0, 0x1001);
        assert_eq!(eventfd_read(&any), 2);
        // The first store to 0x2000 matches by its low four bytes; the other length does not.
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!((vcpu.mmio().0, vcpu.mmio().1), (0x2000, 2));
        assert_eq!(eventfd_read(&seven), 1);
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!((vcpu.mmio().0, vcpu.mmio().1), (0x2000, 4), "0 does not match");
        // Loads are nobody's.
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!((vcpu.mmio().0, vcpu.mmio().2), (0x1000, 0));
    });
}

/// v11 compares the value as true or false.
#[test]
fn the_value_of_an_ioeventfd() {
    for (flavour, taken) in [(Flavour::V11, true), (Flavour::Android14, false), (Flavour::Android16, false)] {
        let script = Script::new().mmio_write(0x1000, 4, 8).exit(1, &[]);
        let fake = Fake::builder().flavour(flavour).guest(Guest::scripts([script])).build().unwrap();
        fake.run(|_| {
            let vm = Vm::new();
            let vcpu = vm.vcpu(0).unwrap();
            vm.start().unwrap();
            let event = eventfd(0);
            vm.ioeventfd(&event, 0x1000, 4, Some(7)).unwrap();
            assert_eq!(vcpu.run(), Ok(0));
            assert_eq!(vcpu.reason() == EXIT_STATUS, taken, "{flavour}");
            assert_eq!(eventfd_read(&event), u64::from(taken), "{flavour}");
        })
        .unwrap();
    }
}

#[test]
fn a_panic_in_the_closure_is_the_callers() {
    let fake = Fake::builder().build().unwrap();
    let panic = std::panic::catch_unwind(|| fake.run(|_| panic!("on purpose"))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
}

#[test]
fn a_fake_inside_a_fake_says_why_not() {
    let fake = Fake::builder().build().unwrap();
    let inner = Fake::builder().build().unwrap();
    fake.run(|_| {
        let error = inner.run(|_| ()).unwrap_err();
        assert!(error.to_string().contains("EBUSY"), "{error}");
        let error = Fake::builder().build().unwrap_err();
        assert!(error.to_string().contains("EBUSY"), "{error}");
    })
    .unwrap();
}

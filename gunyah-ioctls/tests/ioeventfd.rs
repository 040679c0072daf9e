//! ioeventfds that share an address: what the removal of one does to the others.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod common;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use common::{Event, KERNELS, Kernel, RAM};
use fake_gunyah::{Errno, Fault, Flavour, Guest, Script};
use gunyah_ioctls::causes::Context;
use gunyah_ioctls::{Error, Gunyah, IoEventMatch, VcpuExit, VmFd};

const ADD_FUNCTION: u32 = 0x4010_4704;
const REMOVE_FUNCTION: u32 = 0x4010_4707;
const ADDR: u64 = 0x2000;

fn value(value: u64) -> IoEventMatch {
    IoEventMatch::Value { width: 4, value }
}

fn dup(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

/// Runs the guest to its end. Gives what it stored that ended `run`.
fn stores(vm: &VmFd, mut vcpu: gunyah_ioctls::VcpuFd) -> Vec<(u64, u8)> {
    vm.set_dtb_config(RAM, 4096).unwrap();
    vm.start().unwrap();
    let mut seen = Vec::new();
    loop {
        match vcpu.run().unwrap() {
            VcpuExit::MmioWrite { addr, data, .. } => seen.push((addr, data[0])),
            VcpuExit::Status(_) => return seen,
            other => panic!("{other:?}"),
        }
    }
}

/// A guest that stores 1 and 2, once each.
fn guest() -> Script {
    Script::new().mmio_write(ADDR, 4, 1).mmio_write(ADDR, 4, 2).exit(1, &[])
}

/// v11 takes any value but 0 for a match.
fn exits_after_removal(kernel: Kernel) -> (Vec<(u64, u8)>, u64) {
    if kernel == Kernel::Of(Flavour::V11) { (vec![], 2) } else { (vec![(ADDR, 1)], 1) }
}

#[test]
fn another_at_the_address_stays_though_its_eventfd_is_closed() {
    for kernel in KERNELS {
        common::on(kernel, [guest()], |_| {
            let (first, second) = (Event::new(), Event::new());
            let (vm, _ram) = common::configured_vm(1);
            let removed = vm.fd.add_ioeventfd(&first, ADDR, value(1)).unwrap();
            // The number is closed right after; the kernel, and this test, know the file.
            let number = dup(&second);
            let _stays = vm.fd.add_ioeventfd(&number, ADDR, value(2)).unwrap();
            drop(number);
            removed.remove().unwrap();
            let (exits, signals) = exits_after_removal(kernel);
            let vcpu = vm.vcpus.into_iter().next().unwrap();
            assert_eq!(stores(&vm.fd, vcpu), exits, "{kernel}");
            assert_eq!((first.take(), second.take()), (0, signals), "{kernel}");
        });
    }
}

#[test]
fn another_at_the_address_stays_itself_though_its_number_is_used_again() {
    for kernel in KERNELS {
        for silent in [false, true] {
            common::on(kernel, [guest()], |_| {
                let (first, second, stranger) = (Event::new(), Event::new(), Event::new());
                let (vm, _ram) = common::configured_vm(1);
                let removed = vm.fd.add_ioeventfd(&first, ADDR, value(1)).unwrap();
                let number = dup(&second);
                let _stays = vm.fd.add_ioeventfd(&number, ADDR, value(2)).unwrap();
                // SAFETY: `number` owns its number, and owns the stranger's file under it from now on.
                let reused = unsafe { libc::dup2(stranger.as_fd().as_raw_fd(), number.as_raw_fd()) };
                assert_eq!(reused, number.as_raw_fd());
                if silent {
                    drop(removed);
                } else {
                    removed.remove().unwrap();
                }
                let (exits, signals) = exits_after_removal(kernel);
                let vcpu = vm.vcpus.into_iter().next().unwrap();
                assert_eq!(stores(&vm.fd, vcpu), exits, "{kernel}");
                assert_eq!((first.take(), second.take(), stranger.take()), (0, signals, 0), "{kernel}");
            });
        }
    }
}

#[test]
fn one_that_cannot_be_put_back_is_reported_and_the_others_are_put_back() {
    // Three are added; of the two to be put back, the first fails.
    let fake = Kernel::Of(Flavour::Android14)
        .builder()
        .guest(Guest::scripts([Script::new()
            .mmio_write(ADDR, 4, 2)
            .mmio_write(ADDR, 4, 3)
            .mmio_write(ADDR, 4, 4)
            .exit(1, &[])]))
        .fault(Fault::on(ADD_FUNCTION).nth(5).fails(Errno::ENOMEM))
        // A signal is no failure.
        .fault(Fault::on(ADD_FUNCTION).nth(6).fails(Errno(libc::EINTR)))
        .build()
        .unwrap();
    fake.run(|_| {
        let events: [Event; 4] = std::array::from_fn(|_| Event::new());
        let (vm, _ram) = common::configured_vm(1);
        let removed = vm.fd.add_ioeventfd(&events[1], ADDR, value(1)).unwrap();
        let lost = vm.fd.add_ioeventfd(&events[2], ADDR, value(2)).unwrap();
        let _stays = vm.fd.add_ioeventfd(&events[3], ADDR, value(3)).unwrap();
        let error = removed.remove().unwrap_err();
        assert!(matches!(error, Error::IoEventFdLost { addr: ADDR, .. }), "{error:?}");
        assert_eq!(error.errno(), Some(libc::ENOMEM));
        assert!(error.causes(&Context::default()).iter().count() > 0);
        // The removed one is gone all the same, and its match is free.
        let again = vm.fd.add_ioeventfd(&events[1], ADDR, value(4)).unwrap();
        drop(again);
        // That removal has put back what was lost: nothing of it is forgotten.
        let vcpu = vm.vcpus.into_iter().next().unwrap();
        assert_eq!(stores(&vm.fd, vcpu), [(ADDR, 4)]);
        assert_eq!((events[2].take(), events[3].take()), (1, 1));
        lost.remove().unwrap();
    })
    .unwrap();
}

#[test]
fn one_that_was_lost_can_be_dropped_and_added_again() {
    let fake = Kernel::Of(Flavour::Android14)
        .builder()
        .fault(Fault::on(ADD_FUNCTION).nth(3).fails(Errno::ENOMEM))
        .build()
        .unwrap();
    fake.run(|_| {
        let event = Event::new();
        let vm = Gunyah::new().unwrap().create_vm().unwrap();
        let removed = vm.add_ioeventfd(&event, ADDR, value(1)).unwrap();
        let lost = vm.add_ioeventfd(&event, ADDR, value(2)).unwrap();
        assert!(matches!(removed.remove(), Err(Error::IoEventFdLost { .. })));
        assert_eq!(lost.remove().unwrap_err().errno(), Some(libc::ENOENT));
        vm.add_ioeventfd(&event, ADDR, value(2)).unwrap().remove().unwrap();
    })
    .unwrap();
}

#[test]
fn what_was_lost_is_put_back_by_a_removal_that_finds_nothing() {
    let fake = Kernel::Of(Flavour::Android14)
        .builder()
        .guest(Guest::scripts([Script::new().mmio_write(ADDR, 4, 2).mmio_write(ADDR, 4, 3).exit(1, &[])]))
        .fault(Fault::on(ADD_FUNCTION).nth(5).fails(Errno::ENOMEM))
        .fault(Fault::on(ADD_FUNCTION).nth(6).fails(Errno::ENOMEM))
        .build()
        .unwrap();
    fake.run(|_| {
        let events: [Event; 4] = std::array::from_fn(|_| Event::new());
        let (vm, _ram) = common::configured_vm(1);
        let add = |number: u64| vm.fd.add_ioeventfd(&events[number as usize], ADDR, value(number)).unwrap();
        let (first, second, _third) = (add(1), add(2), add(3));
        assert!(matches!(first.remove(), Err(Error::IoEventFdLost { .. })));
        assert_eq!(second.remove().unwrap_err().errno(), Some(libc::ENOENT));
        let vcpu = vm.vcpus.into_iter().next().unwrap();
        assert_eq!(stores(&vm.fd, vcpu), [(ADDR, 2)]);
        assert_eq!(events[3].take(), 1);
    })
    .unwrap();
}

#[test]
fn one_that_the_kernel_keeps_is_not_put_back() {
    let fake = Kernel::Of(Flavour::Android14)
        .builder()
        .guest(Guest::scripts([Script::new().mmio_write(ADDR, 4, 1).exit(1, &[])]))
        .fault(Fault::on(REMOVE_FUNCTION).nth(1).fails(Errno::ENOMEM))
        .build()
        .unwrap();
    fake.run(|_| {
        let (kept, other) = (Event::new(), Event::new());
        let (vm, _ram) = common::configured_vm(1);
        let unwanted = vm.fd.add_ioeventfd(&kept, ADDR, value(1)).unwrap();
        let sibling = vm.fd.add_ioeventfd(&other, ADDR, value(2)).unwrap();
        assert_eq!(unwanted.remove().unwrap_err().errno(), Some(libc::ENOMEM));
        assert!(matches!(vm.fd.add_ioeventfd(&kept, ADDR, value(1)), Err(Error::InvalidArgument { .. })));
        // The kernel removes both; nobody wants the first.
        sibling.remove().unwrap();
        let vcpu = vm.vcpus.into_iter().next().unwrap();
        assert_eq!(stores(&vm.fd, vcpu), [(ADDR, 1)]);
        assert_eq!((kept.take(), other.take()), (0, 0));
    })
    .unwrap();
}

/// How many descriptors of this process are the same eventfd as `event`. The fake's own are among them.
fn descriptors(event: &Event) -> usize {
    let id = |number: &str| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        info.lines().find(|line| line.starts_with("eventfd-id:")).map(str::to_owned)
    };
    let ours = id(&event.as_fd().as_raw_fd().to_string());
    assert!(ours.is_some(), "this kernel does not tell eventfds apart");
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    numbers.filter(|entry| id(entry.as_ref().unwrap().file_name().to_str().unwrap()) == ours).count()
}

#[test]
fn a_descriptor_is_held_only_where_the_kernel_removes_more_than_it_should() {
    let held = |kernel: Kernel| {
        let mut held = 0;
        common::on(kernel, [], |_| {
            let event = Event::new();
            let vm = Gunyah::new().unwrap().create_vm().unwrap();
            assert_eq!(descriptors(&event), 1);
            let handle = vm.add_ioeventfd(&event, ADDR, value(1)).unwrap();
            let irqfd = vm.add_irqfd(&event, 1, gunyah_ioctls::Trigger::Edge).unwrap();
            held = descriptors(&event);
            irqfd.remove().unwrap();
            handle.remove().unwrap();
            common::eventually(|| descriptors(&event) == 1);
            // Nor is one left by a failure.
            let _one = vm.add_ioeventfd(&event, ADDR, value(1)).unwrap();
            let before = descriptors(&event);
            vm.add_ioeventfd(&event, ADDR, value(1)).unwrap_err();
            vm.add_ioeventfd(&event, ADDR, IoEventMatch::Width(3)).unwrap_err();
            assert_eq!(descriptors(&event), before);
        });
        held
    };
    let usual = held(Flavour::Android15.into());
    for kernel in KERNELS {
        let more = matches!(kernel, Kernel::Of(Flavour::V11 | Flavour::Android14));
        assert_eq!(held(kernel), usual + usize::from(more), "{kernel}");
    }
}

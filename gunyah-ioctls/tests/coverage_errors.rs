//! What each error says, what it becomes as an `io::Error`, and the errors of calls that are rarely refused.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod common;

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;

use common::{RAM, on};
use fake_gunyah::{Errno, Fake, Fault, Flavour};
use gunyah_ioctls::{
    AuthType, BootRegister, CmaMapping, CmaRegion, Error, ExitInfo, ExitType, Feature, GuestMemoryMapping,
    Gunyah, IoEventMatch, Sharing, Trigger, UserMemoryRegion, VcpuExit, VmStatus,
};

fn source(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

#[test]
fn each_error_says_what_failed_and_becomes_an_io_error_of_its_kind() {
    let flavour = gunyah_ioctls::Flavour::Android14;
    let cases: [(Error, &str, ErrorKind, Option<i32>); 17] = [
        (
            Error::Open { path: "/dev/gunyah".into(), source: source(libc::ENOENT) },
            "cannot open /dev/gunyah: No such file or directory (os error 2) (this host offers no Gunyah",
            ErrorKind::NotFound,
            Some(libc::ENOENT),
        ),
        (
            Error::Open { path: "/dev/gunyah".into(), source: source(libc::EMFILE) },
            "cannot open /dev/gunyah: Too many open files (os error 24)",
            source(libc::EMFILE).kind(),
            Some(libc::EMFILE),
        ),
        (
            Error::NotGunyah { path: Some("/dev/null".into()) },
            "/dev/null is not a Gunyah device",
            ErrorKind::Unsupported,
            None,
        ),
        (
            Error::NotGunyah { path: None },
            "the file descriptor is not a Gunyah device",
            ErrorKind::Unsupported,
            None,
        ),
        (
            Error::VendorAbi { path: None },
            "the file descriptor answers as the vendor Gunyah ABI (ioctl type 0xB2",
            ErrorKind::Unsupported,
            None,
        ),
        (
            Error::Ioctl { op: "GH_VM_START", source: source(libc::EPERM), flavour: Some(flavour) },
            "GH_VM_START failed: Operation not permitted (os error 1)",
            ErrorKind::PermissionDenied,
            Some(libc::EPERM),
        ),
        (
            Error::Os { call: "mmap", doing: "mapping the page", source: source(libc::ENOMEM) },
            "mmap failed while mapping the page: Cannot allocate memory (os error 12)",
            ErrorKind::OutOfMemory,
            Some(libc::ENOMEM),
        ),
        (
            Error::NotInAbi { op: "GUNYAH_VM_MAP_MEM", flavour },
            "GUNYAH_VM_MAP_MEM is not part of this host's Gunyah ABI (android14)",
            ErrorKind::Unsupported,
            None,
        ),
        (
            Error::InvalidArgument { op: "GH_VM_START", why: "x is wrong" },
            "GH_VM_START: invalid argument: x is wrong",
            ErrorKind::InvalidInput,
            None,
        ),
        (
            Error::WrongPhase { op: "GH_VM_START", why: "too late" },
            "GH_VM_START: too late",
            ErrorKind::Other,
            None,
        ),
        (
            Error::VmUnusable { op: "GH_VM_START", why: "a lock is held" },
            "GH_VM_START: a lock is held; close the VM and create a new one",
            ErrorKind::Other,
            None,
        ),
        (
            Error::VmClosed { op: "GH_VM_START" },
            "GH_VM_START: the VM is closed already",
            ErrorKind::Other,
            None,
        ),
        (
            Error::IoEventFdLost { addr: 0x2000, source: source(libc::ENOMEM) },
            "the ioeventfd at 0x2000 was removed; this kernel removed another at that address with it, which could not \
             be put back: Cannot allocate memory (os error 12)",
            ErrorKind::OutOfMemory,
            Some(libc::ENOMEM),
        ),
        (
            Error::ShortRunPage { have: 8, need: 40 },
            "the kernel offers a run page of 8 bytes, 40 are needed",
            ErrorKind::InvalidData,
            None,
        ),
        (
            Error::InvalidRunPage { field: "mmio.len", value: 200 },
            "the kernel left 0xc8 in the run page's `mmio.len`",
            ErrorKind::InvalidData,
            None,
        ),
        (Error::UnansweredRead, "the guest's MMIO read has not been answered", ErrorKind::Other, None),
        (
            Error::PageFaultLoop { addr: 0x1000, attempt: libc::ENOENT, times: 5 },
            "the guest has faulted 5 times in a row on address 0x1000; the kernel's own attempts end with No such file",
            ErrorKind::Other,
            None,
        ),
    ];
    for (error, text, kind, errno) in cases {
        let said = error.to_string();
        assert!(said.starts_with(text), "{said}");
        assert_eq!(error.errno(), errno, "{said}");
        let has_source = std::error::Error::source(&error).is_some();
        assert_eq!(has_source, errno.is_some(), "{said}");
        let error = io::Error::from(error);
        assert_eq!(error.kind(), kind, "{said}");
        // Nothing is lost on the way: the words, and the error itself.
        assert_eq!(error.to_string(), said);
        assert!(error.get_ref().unwrap().downcast_ref::<Error>().is_some(), "{said}");
    }
}

#[test]
fn the_end_of_a_vm_is_said_in_words() {
    let words = [
        (0, "the guest asked to end"),
        (1, "the guest turned itself off"),
        (2, "the guest reset itself"),
        (3, "the guest reset itself"),
        (4, "the guest's watchdog bit"),
        (5, "hypervisor or software error"),
        (6, "asynchronous hardware error"),
        (7, "stopped by the host"),
        (8, "exit type 8"),
    ];
    for (raw, text) in words {
        let kind = ExitType::from(raw);
        assert_eq!(kind.to_string(), text);
        let info = ExitInfo { kind, raw, reason_size: 0, reason_bytes: [0; 8] };
        assert_eq!(VmStatus::Exited(info).to_string(), format!("the VM exited: {text}"));
        assert_eq!(VmStatus::Crashed(info).to_string(), "the VM crashed");
    }
    assert_eq!(VmStatus::LoadFailed.to_string(), "the VM could not be loaded");
    assert_eq!(gunyah_ioctls::Flavour::Vendor.to_string(), "vendor");
}

#[test]
fn a_plain_descriptor_is_closed_on_exec_or_not() {
    on(Flavour::V11, [], |_| {
        for close in [true, false] {
            let fd = Gunyah::open_with_cloexec(close).unwrap();
            // SAFETY: the descriptor is open.
            let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags & libc::FD_CLOEXEC != 0, close);
            let gunyah = Gunyah::from(fd);
            assert!(format!("{gunyah:?}").contains("path: None"));
            gunyah.create_vm().unwrap();
        }
    });
    assert_eq!(
        Gunyah::open_with_cloexec_at("/dev/there-is-no-such-node", true).unwrap_err().errno(),
        Some(libc::ENOENT)
    );
}

#[test]
fn an_errno_of_create_vm_is_kept_and_the_next_call_may_succeed() {
    let fake = Fake::builder().fault(Fault::on(0x4700).nth(1).fails(Errno(libc::ENOMEM))).build().unwrap();
    fake.run(|_| {
        let gunyah = Gunyah::new().unwrap();
        let error = gunyah.create_vm().unwrap_err();
        assert!(matches!(&error, Error::Ioctl { op: "GH_CREATE_VM", flavour: None, .. }), "{error:?}");
        assert_eq!(error.errno(), Some(libc::ENOMEM));
        gunyah.create_vm().unwrap();
    })
    .unwrap();
}

#[test]
fn guest_memory_that_does_not_fit_into_the_process_is_an_error_with_its_errno() {
    on(Flavour::V17, [], |_| {
        let gunyah = Gunyah::new().unwrap();
        let page = common::page_size() as u64;
        // 64 TiB, which few times fit into the addresses of a process.
        let huge = gunyah.create_guest_memory(1 << 46, false).unwrap();
        let mut kept = Vec::new();
        let error = loop {
            match huge.map(0, 1 << 46) {
                Ok(mapping) if kept.len() < 8 => kept.push(mapping),
                other => break other.unwrap_err(),
            }
        };
        assert!(matches!(error, Error::Os { call: "mmap", doing: "mapping guest memory", .. }), "{error:?}");
        assert_eq!(error.errno(), Some(libc::ENOMEM));
        drop(kept);
        let vm = gunyah.create_vm().unwrap();
        assert!(vm.features().page_faults() && vm.features().memory_after_start());
        assert!(format!("{:?}", vm.features()).starts_with("v17 ("), "{:?}", vm.features());
        // Shared and lent and as the kernel likes, each once.
        let memory = gunyah.create_guest_memory(4 * page, false).unwrap();
        for (index, sharing) in [Sharing::Default, Sharing::Lend, Sharing::Share].into_iter().enumerate() {
            let offset = index as u64 * page;
            let access = gunyah_ioctls::Access::READ;
            let mapping =
                GuestMemoryMapping { guest_addr: RAM + offset, offset, size: page, access, sharing };
            vm.map_guest_memory(&memory, &mapping).unwrap();
        }
    });
}

#[test]
fn reserved_memory_says_why_it_cannot_be_had() {
    let node = "/dev/gunyah-coverage-region";
    let size = 8 * common::page_size() as u64;
    let fake = Fake::builder().flavour(Flavour::Android16).cma_region(node, size).build().unwrap();
    fake.run(|_| {
        let missing = CmaRegion::open("/dev/there-is-no-such-region").unwrap_err();
        assert_eq!(missing.errno(), Some(libc::ENOENT));
        let other = CmaRegion::open("/dev/null").unwrap().create_memory().unwrap_err();
        assert!(matches!(other, Error::NotGunyah { path: None }), "{other:?}");
        let memory = CmaRegion::open(node).unwrap().create_memory().unwrap();
        let vm = Gunyah::new().unwrap().create_vm().unwrap();
        assert!(vm.features().has(Feature::Cma));
        for (label, sharing) in [(0, Sharing::Default), (1, Sharing::Lend), (2, Sharing::Share)] {
            let page = common::page_size() as u64;
            let piece = |offset| CmaMapping {
                label,
                guest_addr: RAM + u64::from(label) * page,
                offset,
                size: page,
                access: gunyah_ioctls::Access::RWX,
                sharing,
            };
            let wraps = vm.map_cma_memory(&memory, &piece(0_u64.wrapping_sub(page))).unwrap_err();
            assert!(
                matches!(wraps, Error::InvalidArgument { why: "offset + size wraps around", .. }),
                "{wraps:?}"
            );
            vm.map_cma_memory(&memory, &piece(u64::from(label) * page)).unwrap();
        }
    })
    .unwrap();
}

#[test]
fn a_user_range_that_wraps_around_is_refused() {
    on(Flavour::V11, [], |handle| {
        let vm = Gunyah::new().unwrap().create_vm().unwrap();
        let calls = common::calls(handle, &vm);
        let ram = common::Ram::new(2);
        let region =
            UserMemoryRegion { userspace_addr: 0_u64.wrapping_sub(ram.page()), ..ram.region(0, RAM) };
        // SAFETY: refused before the memory is used.
        let error = unsafe { vm.set_user_memory_region(&region) }.unwrap_err();
        assert!(
            matches!(error, Error::InvalidArgument { why: "userspace_addr + memory_size wraps around", .. }),
            "{error:?}"
        );
        assert_eq!(common::calls(handle, &vm), calls);
    });
}

#[test]
fn a_vm_whose_start_failed_takes_no_more_settings() {
    let node = "/dev/gunyah-coverage-late-region";
    let host = |flavour| Fake::builder().flavour(flavour).cma_region(node, 1 << 20);
    let fake = host(Flavour::Android16).start_fails(Errno(libc::ENODEV)).build().unwrap();
    fake.run(|handle| {
        let reserved = CmaRegion::open(node).unwrap().create_memory().unwrap();
        let (vm, ram) = common::configured_vm(0);
        vm.fd.start().unwrap_err();
        let calls = common::calls(handle, &vm.fd);
        // SAFETY: refused before the memory is used.
        let memory = unsafe { vm.fd.set_user_memory_region(&ram.region(9, 0x1000_0000)) };
        for refused in [
            memory,
            vm.fd.set_dtb_config(RAM, 4096),
            vm.fd.set_firmware_config(RAM, 4096),
            vm.fd.set_auth_type(&AuthType::AndroidProtectedVm),
            vm.fd.set_boot_context(BootRegister::Pc, RAM),
            vm.fd.map_cma_memory(&reserved, &cma_mapping()),
            vm.fd.start(),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::WrongPhase { .. }), "{error:?}");
            assert!(error.to_string().contains("the VM's start failed, which is final"), "{error}");
        }
        let error = vm.fd.reclaim_region(RAM, common::page_size() as u64).unwrap_err();
        assert!(matches!(error, Error::WrongPhase { .. }), "{error:?}");
        assert_eq!(common::calls(handle, &vm.fd), calls);
    })
    .unwrap();
    // Reserved memory comes before any start; guest memory after a good one, too.
    let fake = host(Flavour::Android16).build().unwrap();
    fake.run(|_| {
        let reserved = CmaRegion::open(node).unwrap().create_memory().unwrap();
        let (vm, _ram) = common::started_vm(0);
        let error = vm.fd.map_cma_memory(&reserved, &cma_mapping()).unwrap_err();
        assert!(matches!(error, Error::WrongPhase { .. }), "{error:?}");
    })
    .unwrap();
    for fails in [false, true] {
        let fake = host(Flavour::V17);
        let fake = if fails { fake.start_fails(Errno(libc::ENODEV)) } else { fake };
        let fake = fake.build().unwrap();
        fake.run(|_| {
            let page = common::page_size() as u64;
            let (vm, _ram) = common::configured_vm(0);
            let memory = Gunyah::new().unwrap().create_guest_memory(page, false).unwrap();
            assert_eq!(vm.fd.start().is_err(), fails);
            let (access, sharing) = (gunyah_ioctls::Access::RWX, Sharing::Lend);
            let mapping =
                GuestMemoryMapping { guest_addr: 0x1000_0000, offset: 0, size: page, access, sharing };
            match vm.fd.map_guest_memory(&memory, &mapping) {
                Ok(()) => assert!(!fails),
                Err(error) => assert!(fails && matches!(error, Error::WrongPhase { .. }), "{error:?}"),
            }
        })
        .unwrap();
    }
}

/// A piece of reserved memory where the VMs here have none.
fn cma_mapping() -> CmaMapping {
    let (access, sharing) = (gunyah_ioctls::Access::RWX, Sharing::Lend);
    let size = common::page_size() as u64;
    CmaMapping { label: 7, guest_addr: 0x2000_0000, offset: 0, size, access, sharing }
}

/// The fake hangs in some of these, as `an_early_kernel_hangs_after_a_failed_start` among its own tests shows.
#[test]
fn after_a_failed_start_an_early_kernel_is_not_asked_for_anything_that_may_hang() {
    for memory_refused in [false, true] {
        let _watchdog = common::Watchdog::new();
        let builder = Fake::builder()
            .flavour(Flavour::Android14Early)
            .guest(fake_gunyah::Guest::scripts([fake_gunyah::Script::new()]));
        let errno = Errno(libc::EPERM);
        let fake = if memory_refused { builder.memory_refused(errno) } else { builder.start_fails(errno) };
        let mut kept = None;
        let fake = fake.build().unwrap();
        fake.run(|handle| {
            kept = Some(handle.clone());
            let (mut vm, ram) = common::configured_vm(1);
            let event = common::Event::new();
            let irqfd = vm.fd.add_irqfd(&event, 1, Trigger::Edge).unwrap();
            let ioeventfd = vm.fd.add_ioeventfd(&event, 0x1000, IoEventMatch::Any).unwrap();
            let dropped = vm.fd.add_irqfd(&event, 2, Trigger::Edge).unwrap();
            assert_eq!(vm.fd.start().unwrap_err().errno(), Some(libc::EPERM));
            let calls = common::calls(handle, &vm.fd);
            let region = ram.region(9, 0x1000_0000);
            // SAFETY: refused before the memory is used.
            let (shared, lent) =
                unsafe { (vm.fd.set_user_memory_region(&region), vm.fd.lend_user_memory(&region)) };
            drop(dropped);
            let refused = [
                vm.fd.start(),
                shared,
                lent,
                vm.fd.set_dtb_config(RAM, 4096),
                vm.fd.set_firmware_config(RAM, 4096),
                vm.fd.add_vcpu(1).map(drop),
                vm.fd.add_irqfd(&event, 3, Trigger::Edge).map(drop),
                vm.fd.add_ioeventfd(&event, 0x2000, IoEventMatch::Any).map(drop),
                irqfd.remove(),
                ioeventfd.remove(),
            ];
            for (index, answer) in refused.into_iter().enumerate() {
                let error = answer.unwrap_err();
                assert!(matches!(error, Error::VmUnusable { .. }), "{index}: {error:?}");
                assert!(error.to_string().contains("a failed GH_VM_START breaks"), "{error}");
            }
            assert_eq!(common::calls(handle, &vm.fd), calls, "the kernel was asked");
            // Running a vCPU only reads the status.
            let mut vcpu = vm.vcpus.remove(0);
            match vcpu.run() {
                Ok(VcpuExit::Status(VmStatus::LoadFailed)) => assert!(!memory_refused),
                Err(error) => assert!(memory_refused && error.errno() == Some(libc::ENODEV), "{error}"),
                other => panic!("{other:?}"),
            }
            assert!(matches!(vcpu.remove(), Err(Error::VmUnusable { .. })));
        })
        .unwrap();
        assert_eq!(kept.unwrap().leftovers(), []);
    }
}

#[test]
fn a_start_that_a_signal_interrupted_may_be_tried_again() {
    let fake = Fake::builder().fault(Fault::on(0x4703).nth(1).fails(Errno(libc::EINTR))).build().unwrap();
    fake.run(|_| {
        let (vm, _ram) = common::configured_vm(0);
        assert_eq!(vm.fd.start().unwrap_err().errno(), Some(libc::EINTR));
        vm.fd.start().unwrap();
    })
    .unwrap();
}

#[test]
fn a_trusted_vm_is_described_to_the_kernel() {
    on(Flavour::Android16, [], |handle| {
        let vm = Gunyah::new().unwrap().create_vm().unwrap();
        let calls = common::calls(handle, &vm);
        let auth = AuthType::QualcommTrustedVm {
            vm_id: 45,
            peripheral_id: 28,
            guest_phys_addr: RAM,
            size: common::page_size() as u64,
        };
        // Every kernel read ends with EINVAL here, also where it has taken the choice.
        let error = vm.set_auth_type(&auth).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert!(matches!(error, Error::Ioctl { op: "GUNYAH_VM_ANDROID_SET_AUTH_TYPE", .. }), "{error:?}");
        assert_eq!(common::calls(handle, &vm), calls + 1);
    });
}

//! What is found out about a host, and what is said about a host that is none.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod common;

use std::io;
use std::path::PathBuf;

use fake_gunyah::{Fake, Flavour};
use gunyah_ioctls::{AuthType, BootRegister, Error, Feature, Gunyah, IoEventMatch, Trigger, VmFd};

use Feature::*;

const EXPECTED: [(Flavour, &[Feature]); 6] = [
    (Flavour::V11, &[UserMemory]),
    (Flavour::Android14Early, &[UserMemory, Lend, Firmware]),
    (Flavour::Android14, &[UserMemory, Lend, Firmware]),
    (Flavour::Android15, &[UserMemory, Lend, Firmware, BootContext, Reclaim]),
    (
        Flavour::Android16,
        &[UserMemory, Lend, Firmware, BootContext, Reclaim, Cma, AuthType, CheckExtension, VcpuTimerWakeup],
    ),
    (Flavour::V17, &[GuestMemory, BootContext]),
];

#[test]
fn each_flavour_is_recognised_by_what_it_has() {
    for (flavour, expected) in EXPECTED {
        common::on(flavour, [], |handle| {
            let vm = Gunyah::new().unwrap().create_vm().unwrap();
            let found: Vec<_> = vm.features().iter().collect();
            assert_eq!(found, expected, "{flavour}");
            assert_eq!(vm.features().flavour().to_string(), flavour.name());
            let ioctls = common::calls(handle, &vm) - 1;
            assert!(ioctls < 15, "{flavour}: {ioctls} calls");
        });
    }
}

#[test]
fn detection_changes_nothing() {
    for (flavour, _) in EXPECTED {
        common::on(flavour, [fake_gunyah::Script::new().exit(1, &[])], |_| {
            let (vm, _ram) = common::started_vm(1);
            let mut vcpu = vm.vcpus.into_iter().next().unwrap();
            assert!(matches!(vcpu.run().unwrap(), gunyah_ioctls::VcpuExit::Status(_)), "{flavour}");
        });
    }
}

#[test]
fn what_a_host_lacks_is_refused_without_a_call() {
    for (flavour, has) in EXPECTED {
        common::on(flavour, [], |handle| {
            let gunyah = Gunyah::new().unwrap();
            let vm = gunyah.create_vm().unwrap();
            let calls = common::calls(handle, &vm);
            let page = common::page_size() as u64;
            let ram = common::Ram::new(1);
            // SAFETY: called only where it is refused.
            let share = |vm: &VmFd| unsafe { vm.set_user_memory_region(&ram.region(0, 0)) };
            // SAFETY: called only where it is refused.
            let lend = |vm: &VmFd| unsafe { vm.lend_user_memory(&ram.region(0, 0)) };
            type Call<'a> = (Feature, Box<dyn Fn() -> Result<(), Error> + 'a>);
            let all: [Call<'_>; 8] = [
                (UserMemory, Box::new(|| share(&vm))),
                (Lend, Box::new(|| lend(&vm))),
                (GuestMemory, Box::new(|| gunyah.create_guest_memory(page, false).map(drop))),
                (Firmware, Box::new(|| vm.set_firmware_config(0, page))),
                (BootContext, Box::new(|| vm.set_boot_context(BootRegister::Pc, 0))),
                (Reclaim, Box::new(|| vm.reclaim_region(0, page))),
                (AuthType, Box::new(|| vm.set_auth_type(&AuthType::AndroidProtectedVm))),
                (CheckExtension, Box::new(|| vm.check_extension(0).map(drop))),
            ];
            for (feature, call) in all {
                if !has.contains(&feature) {
                    let error = call().unwrap_err();
                    assert!(matches!(error, Error::NotInAbi { .. }), "{flavour} {feature:?}: {error:?}");
                    assert_eq!(error.errno(), None);
                }
            }
            assert_eq!(common::calls(handle, &vm), calls, "{flavour}");
        });
    }
}

#[test]
fn the_vendor_abi_is_named_and_refused() {
    common::on(Flavour::Vendor, [], |handle| {
        let gunyah = Gunyah::new().unwrap();
        let error = gunyah.create_vm().unwrap_err();
        assert!(
            matches!(&error, Error::VendorAbi { path: Some(path) } if path == &PathBuf::from("/dev/gunyah"))
        );
        assert!(error.to_string().contains("0xB2"), "{error}");
        assert_eq!(common::calls(handle, &gunyah), 2, "the open, and one question");
    });
}

#[test]
fn what_is_no_gunyah_is_told_apart() {
    let missing = Gunyah::new_with_path("/dev/there-is-no-such-node").unwrap_err();
    assert_eq!(missing.errno(), Some(libc::ENOENT));
    assert!(missing.to_string().contains("/dev/there-is-no-such-node"), "{missing}");

    let file = std::env::temp_dir().join(format!("gunyah-ioctls-{}", std::process::id()));
    std::fs::write(&file, "no device").unwrap();
    for other in [PathBuf::from("/dev/null"), file.clone()] {
        let error = Gunyah::new_with_path(&other).unwrap().create_vm().unwrap_err();
        assert!(matches!(&error, Error::NotGunyah { path: Some(path) } if *path == other), "{error:?}");
    }
    std::fs::remove_file(&file).unwrap();

    let forbidden =
        Error::Open { path: "/dev/gunyah".into(), source: io::Error::from_raw_os_error(libc::EACCES) };
    assert!(forbidden.to_string().contains("SELinux"), "{forbidden}");
    assert_eq!(io::Error::from(forbidden).kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn another_path_and_a_given_descriptor_work() {
    let fake = Fake::builder().device("/dev/some-gunyah").build().unwrap();
    fake.run(|_| {
        let fd = Gunyah::open_with_cloexec_at("/dev/some-gunyah", false).unwrap();
        // SAFETY: the descriptor is open.
        let flags = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&fd), libc::F_GETFD) };
        assert_eq!(flags, 0);
        let gunyah = Gunyah::from(fd);
        gunyah.create_vm().unwrap();
        let fd = std::os::fd::OwnedFd::from(gunyah);
        Gunyah::from(fd).create_vm().unwrap();
    })
    .unwrap();
}

#[test]
fn an_early_android14_vm_is_not_used_after_a_failed_addition() {
    common::on(Flavour::Android14Early, [], |handle| {
        let vm = Gunyah::new().unwrap().create_vm().unwrap();
        let no_eventfd = std::fs::File::open("/dev/null").unwrap();
        let failed = vm.add_irqfd(&no_eventfd, 0, Trigger::Edge).unwrap_err();
        assert_eq!(failed.errno(), Some(libc::EINVAL), "{failed:?}");
        let calls = common::calls(handle, &vm);
        let event = common::Event::new();
        let refused = vm.add_ioeventfd(&event, 0, IoEventMatch::Any).unwrap_err();
        assert!(matches!(refused, Error::VmUnusable { .. }), "{refused:?}");
        assert_eq!(common::calls(handle, &vm), calls);
    });
}

#[test]
fn a_failed_start_is_final() {
    for flavour in [Flavour::V11, Flavour::Android14Early, Flavour::Android16] {
        let errno = fake_gunyah::Errno(libc::ENODEV);
        let fake = Fake::builder().flavour(flavour).start_fails(errno).build().unwrap();
        fake.run(|_| {
            let (vm, _ram) = common::configured_vm(0);
            assert_eq!(vm.fd.start().unwrap_err().errno(), Some(libc::ENODEV));
            let again = vm.fd.start().unwrap_err();
            assert!(matches!(again, Error::WrongPhase { .. } | Error::VmUnusable { .. }), "{again:?}");
        })
        .unwrap();
    }
}

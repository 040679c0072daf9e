//! What speaks for and against each cause: one case for each thing that can be known, with what is then said.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::io;

use fake_gunyah::Fake;
use gunyah_ioctls::causes::{self, Context, Likelihood, Limit, Operation, Range, Region};
use gunyah_ioctls::{Error, Feature, Features, Flavour, Gunyah};

use Flavour::{Android14, Android15, V11, V17, Vendor};
use Likelihood::{Likely, Possible, Unlikely};
use Operation::*;

const MIB: u64 = 1 << 20;

/// A context is filled in, and the cause must be found with this likelihood and this evidence.
struct Case {
    failure: (Operation, i32, Flavour),
    cause: &'static str,
    given: fn(&mut Context),
    likelihood: Likelihood,
    seen: Option<&'static str>,
}

fn case(
    failure: (Operation, i32, Flavour),
    cause: &'static str,
    given: fn(&mut Context),
    likelihood: Likelihood,
    seen: impl Into<Option<&'static str>>,
) -> Case {
    Case { failure, cause, given, likelihood, seen: seen.into() }
}

fn check(cases: impl IntoIterator<Item = Case>) {
    for (number, case) in cases.into_iter().enumerate() {
        let (operation, errno, flavour) = case.failure;
        let mut context = Context::default();
        context.flavour = Some(flavour);
        (case.given)(&mut context);
        let found = causes::of(operation, errno, &context);
        let cause = found.iter().find(|cause| cause.id() == case.cause);
        let cause = cause.unwrap_or_else(|| panic!("{number}: no {} in {found}", case.cause));
        assert_eq!(
            (cause.likelihood(), cause.evidence()),
            (case.likelihood, case.seen),
            "{number}: {}",
            case.cause
        );
    }
}

fn region(guest_phys_addr: u64, size: u64) -> Region {
    Region { label: 0, guest_phys_addr, size, userspace_addr: None, lent: false }
}

fn ask(context: &mut Context, size: u64) {
    context.asked = Some(region(0x8000_0000, size));
}

#[test]
fn memory_that_is_locked() {
    const AT: (Operation, i32, Flavour) = (SetUserMemory, libc::ENOMEM, Android14);
    check([
        case(AT, "memlock", |_| {}, Possible, None),
        case(
            AT,
            "memlock",
            |c| c.host.memlock = Some(Limit::Unlimited),
            Unlikely,
            "RLIMIT_MEMLOCK is unlimited",
        ),
        case(
            AT,
            "memlock",
            |c| {
                c.host.memlock = Some(Limit::At(64 * MIB));
                ask(c, 32 * MIB);
            },
            Unlikely,
            "RLIMIT_MEMLOCK is 64 MiB, 32 MiB are needed",
        ),
        // What is locked already counts, and so does what the VM has already.
        case(
            AT,
            "memlock",
            |c| {
                c.host.memlock = Some(Limit::At(64 * MIB));
                c.host.locked = Some(16 * MIB);
                c.regions = vec![region(0, 32 * MIB)];
                ask(c, 32 * MIB);
            },
            Likely,
            "RLIMIT_MEMLOCK is 64 MiB, 80 MiB are needed",
        ),
        case(AT, "memlock", |c| c.host.memlock = Some(Limit::At(8 * MIB)), Likely, "RLIMIT_MEMLOCK is 8 MiB"),
        case(
            AT,
            "memlock",
            |c| {
                c.host.memlock = Some(Limit::At(100));
                c.host.ipc_lock = Some(true);
            },
            Possible,
            "RLIMIT_MEMLOCK is 100 bytes; CAP_IPC_LOCK, which this process has, should lift it",
        ),
        case(
            AT,
            "memlock",
            |c| c.host.memlock = Some(Limit::At(1024 * MIB)),
            Possible,
            "RLIMIT_MEMLOCK is 1024 MiB",
        ),
    ]);
}

#[test]
fn memory_that_the_host_has() {
    const AT: (Operation, i32, Flavour) = (StartVm, libc::ENOMEM, Android14);
    const PAGES: (Operation, i32, Flavour) = (RunVcpu, libc::ENOMEM, V17);
    check([
        case(AT, "page-array", |_| {}, Possible, None),
        case(
            AT,
            "page-array",
            |c| ask(c, 4096 * MIB),
            Likely,
            "a region of 4096 MiB needs 8 MiB of contiguous memory",
        ),
        case(AT, "page-array", |c| ask(c, 64 * MIB), Possible, None),
        case(AT, "host-memory", |_| {}, Possible, None),
        case(
            AT,
            "host-memory",
            |c| {
                c.host.memory_available = Some(100 * MIB);
                ask(c, 200 * MIB);
            },
            Likely,
            "100 MiB are available, 200 MiB are asked for",
        ),
        case(
            AT,
            "host-memory",
            |c| {
                c.host.memory_available = Some(300 * MIB);
                c.host.memory_pressure = Some(12.5);
                ask(c, 200 * MIB);
            },
            Likely,
            "something waited for memory in 12.5 % of the last 10 seconds",
        ),
        case(
            AT,
            "host-memory",
            |c| {
                c.host.memory_available = Some(300 * MIB);
                c.host.memory_total = Some(12_000 * MIB);
            },
            Likely,
            "only 300 MiB are available",
        ),
        case(
            AT,
            "host-memory",
            |c| {
                c.host.memory_available = Some(6000 * MIB);
                c.host.memory_total = Some(12_000 * MIB);
                c.host.memory_pressure = Some(0.1);
            },
            Unlikely,
            "6000 MiB are available",
        ),
        case((StartVm, libc::ENOMEM, Android15), "unpinnable-pages", |_| {}, Possible, None),
        case(
            (StartVm, libc::ENOMEM, Android15),
            "unpinnable-pages",
            |c| {
                c.host.memory_free = Some(500 * MIB);
                c.host.cma_free = Some(300 * MIB);
            },
            Likely,
            "300 MiB of 500 MiB free memory are in contiguous-memory areas",
        ),
        case(
            (StartVm, libc::ENOMEM, Android15),
            "unpinnable-pages",
            |c| {
                c.host.memory_free = Some(500 * MIB);
                c.host.cma_free = Some(250 * MIB);
            },
            Possible,
            "250 MiB of 500 MiB free memory are in contiguous-memory areas",
        ),
        case(PAGES, "hypervisor-page-tables", |_| {}, Possible, None),
        case(
            PAGES,
            "hypervisor-page-tables",
            |c| {
                c.host.free_in_huge_blocks = Some(512 * MIB);
                ask(c, 2048 * MIB);
            },
            Likely,
            "512 MiB of the host's free memory are in blocks of 2 MiB or more",
        ),
        case(
            PAGES,
            "hypervisor-page-tables",
            |c| {
                c.host.free_in_huge_blocks = Some(4096 * MIB);
                ask(c, 2048 * MIB);
            },
            Possible,
            "4096 MiB of the host's free memory are in blocks of 2 MiB or more",
        ),
    ]);
}

#[test]
fn where_memory_was_put() {
    const EINVAL: (Operation, i32, Flavour) = (SetUserMemory, libc::EINVAL, V11);
    const WRAPS: (Operation, i32, Flavour) = (SetUserMemory, libc::EOVERFLOW, V11);
    const EXISTS: (Operation, i32, Flavour) = (SetUserMemory, libc::EEXIST, V11);
    check([
        case(EINVAL, "region-alignment", |_| {}, Possible, None),
        case(EINVAL, "region-alignment", |c| ask(c, 0), Likely, "the size is 0"),
        case(
            EINVAL,
            "region-alignment",
            |c| ask(c, 2 * MIB),
            Unlikely,
            "size and addresses are multiples of the page size",
        ),
        case(WRAPS, "region-wraps", |_| {}, Possible, None),
        case(WRAPS, "region-wraps", |c| ask(c, MIB), Unlikely, "guest address + size does not wrap"),
        case(
            WRAPS,
            "region-wraps",
            |c| c.asked = Some(region(u64::MAX - 0xfff, MIB)),
            Likely,
            "guest address + size is above 2^64",
        ),
        case(EXISTS, "region-overlap", |_| {}, Possible, None),
        case(EXISTS, "region-overlap", |c| ask(c, MIB), Possible, None),
        case(
            EXISTS,
            "region-overlap",
            |c| {
                c.regions = vec![region(0, MIB)];
                ask(c, MIB);
            },
            Unlikely,
            "the known regions do not overlap with it",
        ),
        // A range that wraps around overlaps with nothing that can be named.
        case(
            EXISTS,
            "region-overlap",
            |c| {
                c.regions = vec![region(0x8000_0000, MIB)];
                c.asked = Some(region(u64::MAX - 0xfff, MIB));
            },
            Unlikely,
            "the known regions do not overlap with it",
        ),
        case(EXISTS, "region-label", |_| {}, Possible, None),
        case(EXISTS, "region-label", |c| ask(c, MIB), Possible, None),
        case(
            EXISTS,
            "region-label",
            |c| {
                c.regions = vec![Region { label: 3, ..region(0, MIB) }];
                ask(c, MIB);
            },
            Unlikely,
            "no known region has label 0",
        ),
        case(
            EXISTS,
            "region-label",
            |c| {
                c.regions = vec![region(0x1000, MIB)];
                ask(c, MIB);
            },
            Likely,
            "label 0 is used by the region at 0x1000",
        ),
    ]);
}

#[test]
fn what_was_given_before_the_start() {
    const DTB: (Operation, i32, Flavour) = (StartVm, libc::EINVAL, V11);
    const SMALL: (Operation, i32, Flavour) = (StartVm, libc::EINVAL, Android15);
    const FIRMWARE: (Operation, i32, Flavour) = (StartVm, libc::EINVAL, Android14);
    const REFUSED: (Operation, i32, Flavour) = (StartVm, libc::ENODEV, Android14);
    const UNKNOWN: (Operation, i32, Flavour) = (StartVm, libc::EOPNOTSUPP, V17);
    fn dtb(context: &mut Context, size: u64) {
        context.dtb = Some(Range { guest_phys_addr: 0x8000_0000, size });
    }
    fn firmware(context: &mut Context) {
        context.firmware = Some(Range { guest_phys_addr: 0x8000_0000, size: 0x10_0000 });
    }
    check([
        case(DTB, "dtb-outside", |_| {}, Possible, None),
        case(DTB, "dtb-outside", |c| dtb(c, 4096), Possible, None),
        case(
            DTB,
            "dtb-outside",
            |c| {
                dtb(c, 4096);
                c.regions = vec![region(u64::MAX - 0xfff, MIB)];
            },
            Likely,
            "no region holds the devicetree's 0x80000000+0x1000",
        ),
        case(SMALL, "dtb-below-page", |_| {}, Possible, None),
        case(SMALL, "dtb-below-page", |c| dtb(c, 4095), Likely, "the devicetree's size is 4095"),
        case(SMALL, "dtb-below-page", |c| dtb(c, 4096), Unlikely, "the devicetree's size is 4096"),
        case(DTB, "dtb-rejected", |c| dtb(c, 100), Likely, "the devicetree has no room to grow"),
        case(DTB, "dtb-rejected", |c| dtb(c, 8192), Possible, None),
        case(
            FIRMWARE,
            "firmware-outside",
            |_| {},
            Unlikely,
            "no firmware was declared, as far as is known here",
        ),
        case(FIRMWARE, "firmware-outside", firmware, Possible, None),
        case(
            FIRMWARE,
            "firmware-outside",
            |c| {
                firmware(c);
                c.regions = vec![region(0x8000_0000, 2 * MIB)];
            },
            Unlikely,
            "the firmware lies inside a region",
        ),
        case(
            FIRMWARE,
            "firmware-outside",
            |c| {
                firmware(c);
                c.regions = vec![region(0x8000_1000, MIB)];
            },
            Likely,
            "no region holds the whole firmware",
        ),
        case(REFUSED, "image-shared", |_| {}, Possible, None),
        case(REFUSED, "image-shared", |c| dtb(c, 4096), Possible, None),
        case(
            REFUSED,
            "image-shared",
            |c| {
                dtb(c, 4096);
                c.regions = vec![region(0x8000_0000, MIB)];
            },
            Likely,
            "the devicetree's region is shared",
        ),
        case(
            REFUSED,
            "image-shared",
            |c| {
                dtb(c, 4096);
                c.regions = vec![Region { lent: true, ..region(0x8000_0000, MIB) }];
            },
            Unlikely,
            "the devicetree's region is lent",
        ),
        case(REFUSED, "shared-without-shm", |_| {}, Possible, None),
        case(
            REFUSED,
            "shared-without-shm",
            |c| c.regions = vec![region(0, MIB); 2],
            Unlikely,
            "the regions are all lent, or all shared",
        ),
        case(
            REFUSED,
            "shared-without-shm",
            |c| c.regions = vec![region(0, MIB), Region { lent: true, ..region(MIB, MIB) }],
            Likely,
            "1 regions are shared, 1 are lent",
        ),
        case(REFUSED, "too-many-parcels", |_| {}, Possible, None),
        case(
            REFUSED,
            "too-many-parcels",
            |c| c.regions = vec![region(0, MIB); 16],
            Unlikely,
            "this VM has 16 regions",
        ),
        case(
            REFUSED,
            "too-many-parcels",
            |c| c.regions = vec![region(0, MIB); 17],
            Likely,
            "this VM has 17 regions, each of which is a parcel",
        ),
        case(REFUSED, "sm8650-vmid", |c| c.host.soc = Some("sm8650".into()), Likely, "the SoC is sm8650"),
        case(REFUSED, "sm8650-vmid", |c| c.host.soc = Some("SM8750".into()), Unlikely, "the SoC is SM8750"),
        case(REFUSED, "sm8650-vmid", |c| c.host.soc = Some("Tensor".into()), Possible, None),
        case(UNKNOWN, "rm-no-boot-context", |_| {}, Possible, None),
        case(
            UNKNOWN,
            "rm-no-boot-context",
            |c| c.boot_context = Some(false),
            Unlikely,
            "no boot register was set",
        ),
        case(
            UNKNOWN,
            "rm-no-boot-context",
            |c| c.boot_context = Some(true),
            Likely,
            "a boot register was set",
        ),
    ]);
}

#[test]
fn whether_the_vm_has_started() {
    const RUN: (Operation, i32, Flavour) = (RunVcpu, libc::ENODEV, V11);
    const REGISTER: (Operation, i32, Flavour) = (SetBootContext, libc::EINVAL, V17);
    let (yes, no) = ("the VM has started", "the VM has not started");
    check([
        case(RUN, "run-before-start", |_| {}, Possible, None),
        case(RUN, "run-before-start", |c| c.started = Some(false), Likely, no),
        case(RUN, "run-before-start", |c| c.started = Some(true), Unlikely, yes),
        case(REGISTER, "boot-register-late", |_| {}, Possible, None),
        case(REGISTER, "boot-register-late", |c| c.started = Some(false), Unlikely, no),
        case(REGISTER, "boot-register-late", |c| c.started = Some(true), Likely, yes),
    ]);
}

#[test]
fn what_the_host_shows_of_itself() {
    const FILES: (Operation, i32, Flavour) = (AddVcpu, libc::EMFILE, V11);
    const DENIED: (Operation, i32, Flavour) = (Open, libc::EACCES, V11);
    const MISSING: (Operation, i32, Flavour) = (Open, libc::ENOENT, V11);
    check([
        case(FILES, "files-of-process", |_| {}, Possible, None),
        case(
            FILES,
            "files-of-process",
            |c| {
                c.host.open_files = Some(1020);
                c.host.open_files_limit = Some(Limit::At(1024));
            },
            Likely,
            "1020 files are open, the limit is 1024",
        ),
        case(
            FILES,
            "files-of-process",
            |c| {
                c.host.open_files = Some(10);
                c.host.open_files_limit = Some(Limit::At(1024));
            },
            Unlikely,
            "10 files are open, the limit is 1024",
        ),
        case(
            FILES,
            "files-of-process",
            |c| {
                c.host.open_files = Some(1020);
                c.host.open_files_limit = Some(Limit::Unlimited);
            },
            Unlikely,
            "1020 files are open, the limit is unlimited",
        ),
        case(DENIED, "selinux", |_| {}, Unlikely, "no SELinux is visible"),
        case(
            DENIED,
            "selinux",
            |c| c.host.selinux_enforcing = Some(false),
            Unlikely,
            "SELinux is permissive",
        ),
        case(DENIED, "selinux", |c| c.host.selinux_enforcing = Some(true), Possible, "SELinux is enforcing"),
        case(DENIED, "node-permission", |_| {}, Possible, None),
        case(DENIED, "node-permission", |c| c.host.uid = Some(0), Unlikely, "this is root"),
        case(
            DENIED,
            "node-permission",
            |c| c.host.uid = Some(2000),
            Likely,
            "the user id is 2000, and phones ship the node for root alone",
        ),
        case(MISSING, "node-elsewhere", |_| {}, Possible, None),
        case(
            MISSING,
            "node-elsewhere",
            |c| c.host.kernel_release = Some("5.15.78-android13".into()),
            Likely,
            "the kernel is 5.15.78-android13",
        ),
        case(
            MISSING,
            "node-elsewhere",
            |c| c.host.kernel_release = Some("6.6.30".into()),
            Unlikely,
            "the kernel is 6.6.30",
        ),
        case(MISSING, "node-elsewhere", |c| c.host.kernel_release = Some("odd".into()), Possible, None),
        case(
            (CreateVm, libc::EINVAL, Vendor),
            "vendor-abi",
            |_| {},
            Likely,
            "the device answers unknown ioctls with EINVAL, as vendor kernels do",
        ),
    ]);
}

/// What a fake host answers when it is asked for its features.
fn features(fake: Fake) -> Features {
    fake.run(|_| *Gunyah::new().unwrap().create_vm().unwrap().features()).unwrap()
}

#[test]
fn what_the_host_answered_when_it_was_asked() {
    let mut context = Context::default();
    let android15 = Fake::builder().flavour(fake_gunyah::Flavour::Android15).build().unwrap();
    context.features = Some(features(android15));
    // The flavour comes with the features.
    let found = causes::of(MapGuestMemory, libc::ENOTTY, &context);
    assert_eq!(found[0].id(), "no-guest-memory");
    assert_eq!(found[0].likelihood(), Likely);
    assert!(found[0].evidence().unwrap().starts_with("the host has android15 ("), "{found}");
    // It said that it has it.
    let found = causes::of(ReclaimRegion, libc::ENOTTY, &context);
    assert_eq!((found[0].id(), found[0].likelihood()), ("no-reclaim", Unlikely));
    assert_eq!(found[0].evidence(), Some("the host answered that it has it"));
    // Nothing is known.
    let found = causes::of(ReclaimRegion, libc::ENOTTY, &Context::default());
    assert_eq!((found[0].likelihood(), found[0].evidence()), (Likely, None));
}

#[test]
fn a_host_that_mixes_has_the_causes_of_both() {
    let mixed = Fake::builder().host(fake_gunyah::Host::Open2023).build().unwrap();
    let mut context = Context::default();
    context.features = Some(features(mixed));
    let found = context.features.unwrap();
    assert!(found.has(Feature::GuestMemory) && found.has(Feature::UserMemory), "{found}");
    let ids = |operation| -> Vec<_> {
        causes::of(operation, libc::ENOMEM, &context).iter().map(causes::Cause::id).collect()
    };
    // v17 alone does not count locked memory; user memory does, at the call or on touch.
    assert!(ids(StartVm).contains(&"memlock"));
    assert!(ids(SetUserMemory).contains(&"memlock"));
    // Only v17 has these.
    assert!(ids(StartVm).contains(&"dtb-forced-share"));
}

#[test]
fn lists_and_sets_can_be_walked_and_read() {
    let found = causes::of(SetUserMemory, libc::ENOMEM, &Context::default());
    let (count, first) = (found.len(), found[0].id());
    let owned: Vec<_> = found.into_iter().collect();
    assert_eq!((owned.len(), owned[0].id()), (count, first));

    let flavours = |operation, errno, id: &str| {
        let found = causes::of(operation, errno, &Context::default());
        found.iter().find(|cause| cause.id() == id).unwrap().flavours().to_string()
    };
    assert_eq!(flavours(Open, libc::ENOENT, "no-driver"), "every flavour");
    assert_eq!(flavours(RunVcpu, libc::EPERM, "foreign-process"), "android15, android16");
    assert_eq!(format!("{:>9}|{:<8}|", Limit::Unlimited, Limit::At(7)), "unlimited|7       |");
    assert_eq!(format!("{:<9}|", Possible), "possible |");
    for operation in Operation::ALL {
        let title = causes::of(operation, libc::EIO, &Context::default()).to_string();
        assert!(title.starts_with(&format!("{operation} failed with ")), "{title}");
    }
}

#[test]
fn other_system_calls_lead_to_their_operations() {
    let os = |call, doing, errno| Error::Os { call, doing, source: io::Error::from_raw_os_error(errno) };
    let first = |error: Error| error.causes(&Context::default()).first().map(causes::Cause::id);
    assert_eq!(first(os("mmap", "mapping guest memory", libc::EPERM)), Some("guest-memory-lent-here"));
    assert_eq!(first(os("mmap", "allocating reserved memory", libc::EBUSY)), Some("cma-taken"));
    assert_eq!(first(os("fallocate", "freeing guest memory", libc::EBUSY)), Some("punch-busy"));
    assert_eq!(first(os("timer_create", "preparing deferred kicks", libc::EAGAIN)), None);
}

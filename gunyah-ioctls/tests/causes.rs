//! The table of causes, held against a list of every errno that Gunyah kernels are known to answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use gunyah_ioctls::causes::{self, Context, Host, Likelihood, Limit, Operation, Range, Region};
use gunyah_ioctls::{Error, Flavour};

use Flavour::{Android14, Android14Early, Android15, Android16, V11, V17, Vendor};
use Operation::*;

const DRIVEN: &[Flavour] = &[V11, Android14Early, Android14, Android15, Android16, V17];
const USER_MEMORY: &[Flavour] = &[V11, Android14Early, Android14, Android15, Android16];
const PINNED: &[Flavour] = &[V11, Android14Early, Android14];
const ON_TOUCH: &[Flavour] = &[Android15, Android16];
const PAGED: &[Flavour] = &[Android15, Android16, V17];
const EARLY: &[Flavour] = &[V11, Android14Early];
const OWNED: &[Flavour] = &[Android14, Android15, Android16];
const ALL: &[Flavour] = &[Vendor, V11, Android14Early, Android14, Android15, Android16, V17];

/// Written out by hand from what is known of the kernels: operation, errnos, and the flavours that answer so.
///
/// The table must have a cause for every line here, and must not claim an errno that is not here.
const KNOWN: &[(Operation, &str, &[Flavour])] = &[
    // Opening the node. ENXIO and ENODEV: a node without a driver behind it. EPERM: a container.
    (Open, "ENOENT EACCES EPERM ENXIO ENODEV EMFILE ENFILE", ALL),
    // Creating a VM.
    (CreateVm, "EINVAL", ALL),
    (CreateVm, "ENOMEM EMFILE ENFILE", DRIVEN),
    (CreateVm, "ENOTTY", ALL),
    // The Resource Manager's errors, where the VM's id is allocated at creation.
    (CreateVm, "ENOMEM ENODEV EPERM EBUSY EOPNOTSUPP EINVAL EBADMSG EIO E2BIG", EARLY),
    // Regions.
    (SetUserMemory, "EINVAL EOVERFLOW EEXIST ENOMEM EFAULT EINTR", USER_MEMORY),
    (SetUserMemory, "EPERM", OWNED),
    (SetUserMemory, "EOPNOTSUPP", EARLY),
    (SetUserMemory, "ENOTTY", &[V17]),
    (
        LendUserMemory,
        "EINVAL EOVERFLOW EEXIST ENOMEM EFAULT EINTR",
        &[Android14Early, Android14, Android15, Android16],
    ),
    (LendUserMemory, "EPERM", OWNED),
    (LendUserMemory, "EOPNOTSUPP", &[Android14Early]),
    (LendUserMemory, "ENOTTY", &[V11, V17]),
    // Reclaim, with the hypervisor's errors of unmapping and donating. The first 6.6 builds lack it.
    (ReclaimRegion, "EPERM EFAULT EINVAL EAGAIN ENODEV EBUSY EACCES EIO EOPNOTSUPP ENOMEM", ON_TOUCH),
    (ReclaimRegion, "ENOTTY", &[V11, Android14Early, Android14, V17, Android15]),
    // Devicetree, firmware, boot registers.
    (SetDtbConfig, "EOVERFLOW EFAULT", DRIVEN),
    (SetFirmwareConfig, "EFAULT", &[Android14Early, Android14, Android15, Android16]),
    (SetFirmwareConfig, "ENOTTY", &[V11, V17, Android14Early]),
    (SetBootContext, "EINVAL EINTR ENOMEM EFAULT", PAGED),
    (SetBootContext, "ENOTTY ENODEV", PINNED),
    // Who vouches, and extensions.
    (SetAuthType, "EFAULT EINVAL EOPNOTSUPP ENOENT ENOMEM", &[Android16]),
    (SetAuthType, "ENOTTY", &[V11, Android14Early, Android14, Android15, V17]),
    (CheckExtension, "ENOTTY", DRIVEN),
    // The start.
    (StartVm, "EINVAL EPERM ENOMEM ENODEV EBUSY EOPNOTSUPP EBADMSG EIO E2BIG EINTR", DRIVEN),
    (StartVm, "ENOENT", PAGED),
    // Functions.
    (AddVcpu, "EINVAL ENOMEM EFAULT ENOENT ENODEV EMFILE ENFILE", DRIVEN),
    (AddVcpu, "EEXIST", &[V11, Android14Early, Android14, Android15, V17]),
    (AddVcpu, "EOPNOTSUPP", EARLY),
    (AddIrqfd, "EINVAL ENOMEM EFAULT ENOENT EBADF", DRIVEN),
    (AddIrqfd, "EEXIST", &[V11, Android14Early, Android14, Android15, V17]),
    (AddIoeventfd, "EINVAL ENOMEM EFAULT ENOENT EBADF EEXIST", DRIVEN),
    (RemoveFunction, "EINTR ENOMEM EFAULT", DRIVEN),
    (RemoveFunction, "ENOENT", &[Android14, Android15, Android16, V17]),
    // vCPUs. The run page's mapping is an ordinary mmap.
    (VcpuMmapSize, "EINVAL ENOTTY", DRIVEN),
    (MapRunPage, "ENOMEM EAGAIN", DRIVEN),
    (RunVcpu, "ENODEV EINTR EAGAIN ENOMEM EACCES EBUSY EIO EOPNOTSUPP EINVAL", DRIVEN),
    (RunVcpu, "EPERM", ON_TOUCH),
    // The kernel's attempt at a page that the guest touched.
    (PageFault, "ENOENT EPERM ENOMEM ENODEV EAGAIN EBUSY", PAGED),
    (PageFault, "EFAULT", ON_TOUCH),
    (PageFault, "EIO", &[Android15]),
    (PageFault, "EOPNOTSUPP", &[Android16]),
    // Guest memory.
    (CreateGuestMemory, "EINVAL EMFILE ENFILE ENOMEM EFAULT", &[V17]),
    (CreateGuestMemory, "ENOTTY", USER_MEMORY),
    (MapGuestMemoryHere, "EINVAL ENOMEM EBUSY EPERM EAGAIN", &[V17]),
    (PunchGuestMemory, "EOPNOTSUPP EINVAL ENOMEM EINTR EBUSY", &[V17]),
    (MapGuestMemory, "EINVAL EEXIST ENOENT ENOMEM EFAULT", &[V17]),
    (MapGuestMemory, "ENOTTY", USER_MEMORY),
    // Reserved regions.
    (CreateCmaMemory, "EMFILE ENFILE ENOMEM", &[Android16]),
    (CreateCmaMemory, "ENOTTY", &[V11, Android14Early, Android14, Android15, V17]),
    (MapCmaMemoryHere, "EBUSY EINVAL ENOMEM", &[Android16]),
    (ReadCmaMemory, "EACCES", &[Android16]),
    (MapCmaMemory, "EPERM EINVAL EOVERFLOW EBADF EEXIST EFAULT ENOMEM", &[Android16]),
    (MapCmaMemory, "ENOTTY", &[V11, Android14Early, Android14, Android15, V17]),
];

fn errno(name: &str) -> i32 {
    match name {
        "EPERM" => libc::EPERM,
        "ENOENT" => libc::ENOENT,
        "EINTR" => libc::EINTR,
        "EIO" => libc::EIO,
        "ENXIO" => libc::ENXIO,
        "E2BIG" => libc::E2BIG,
        "EBADF" => libc::EBADF,
        "EAGAIN" => libc::EAGAIN,
        "ENOMEM" => libc::ENOMEM,
        "EACCES" => libc::EACCES,
        "EFAULT" => libc::EFAULT,
        "EBUSY" => libc::EBUSY,
        "EEXIST" => libc::EEXIST,
        "ENODEV" => libc::ENODEV,
        "EINVAL" => libc::EINVAL,
        "ENFILE" => libc::ENFILE,
        "EMFILE" => libc::EMFILE,
        "ENOTTY" => libc::ENOTTY,
        "EOVERFLOW" => libc::EOVERFLOW,
        "EBADMSG" => libc::EBADMSG,
        "EOPNOTSUPP" => libc::EOPNOTSUPP,
        other => panic!("unknown errno {other}"),
    }
}

/// KNOWN, one entry per (operation, errno).
fn known() -> BTreeMap<(String, i32), (Operation, Vec<Flavour>)> {
    let mut map: BTreeMap<(String, i32), (Operation, Vec<Flavour>)> = BTreeMap::new();
    for (operation, names, flavours) in KNOWN {
        for name in names.split_whitespace() {
            let entry =
                map.entry((format!("{operation:?}"), errno(name))).or_insert((*operation, Vec::new()));
            entry.1.extend(
                flavours.iter().copied().filter(|flavour| !entry.1.contains(flavour)).collect::<Vec<_>>(),
            );
        }
    }
    map
}

fn on(flavour: Flavour) -> Context {
    let mut context = Context::default();
    context.flavour = Some(flavour);
    context
}

fn ids(causes: &causes::Causes) -> Vec<&'static str> {
    causes.iter().map(causes::Cause::id).collect()
}

#[test]
fn every_known_errno_has_a_cause_on_every_flavour_that_answers_it() {
    let mut missing = Vec::new();
    for ((name, errno), (operation, flavours)) in known() {
        for flavour in flavours {
            let found = causes::of(operation, errno, &on(flavour));
            if !found.iter().any(|cause| cause.flavours().contains(flavour)) {
                missing.push(format!("{name} {} on {flavour}", io::Error::from_raw_os_error(errno)));
            }
        }
        assert!(!causes::of(operation, errno, &Context::default()).is_empty(), "{name} {errno}");
    }
    assert!(missing.is_empty(), "no cause for:\n{}", missing.join("\n"));
}

#[test]
fn every_operation_has_a_known_errno() {
    for operation in Operation::ALL {
        assert!(KNOWN.iter().any(|(known, ..)| *known == operation), "{operation:?}");
    }
}

#[test]
fn the_table_claims_no_errno_that_is_not_known_and_every_row_is_reached() {
    let known = known();
    let mut reached = BTreeSet::new();
    let mut all = BTreeSet::new();
    for (operation, errno, id, flavours) in causes::table() {
        all.insert(id);
        let (_, expected) = known
            .get(&(format!("{operation:?}"), errno))
            .unwrap_or_else(|| panic!("row {id}: {operation:?} is not known to answer {errno}"));
        for flavour in flavours.iter() {
            // ENOTTY rows may cover builds between flavours; all others must be listed.
            if errno != libc::ENOTTY && !expected.contains(&flavour) {
                // A shared row of both region ioctls: lending does not exist on every flavour with user memory.
                assert_eq!(
                    (operation, flavour),
                    (LendUserMemory, V11),
                    "row {id}: {operation:?} {errno} on {flavour}"
                );
                continue;
            }
            let found = causes::of(operation, errno, &on(flavour));
            assert!(ids(&found).contains(&id), "row {id} is not found on {flavour}");
            reached.insert(id);
        }
    }
    assert_eq!(all, reached);
    assert!(all.len() > 90, "{} rows", all.len());
}

#[test]
fn every_row_says_what_to_check_and_what_to_do() {
    let mut seen = BTreeMap::new();
    for (operation, errno, id, _) in causes::table() {
        for cause in &causes::of(operation, errno, &Context::default()) {
            assert!(cause.text().len() > 10 && !cause.text().ends_with('.'), "{id}: {}", cause.text());
            assert!(!cause.check().is_empty() && !cause.remedy().is_empty(), "{id}");
            assert!(
                cause.id().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{id}"
            );
            // One id, one cause.
            assert_eq!(*seen.entry(cause.id()).or_insert(cause.text()), cause.text(), "{id} is used twice");
        }
    }
}

#[test]
fn every_ioctl_name_of_the_headers_leads_to_its_operations() {
    let names = [
        ("GH_CREATE_VM", CreateVm),
        ("GUNYAH_CREATE_VM", CreateVm),
        ("GH_VM_SET_USER_MEM_REGION", SetUserMemory),
        ("GH_VM_ANDROID_LEND_USER_MEM", LendUserMemory),
        ("GUNYAH_VM_ANDROID_LEND_USER_MEM", LendUserMemory),
        ("GUNYAH_VM_ANDROID_RECLAIM_REGION", ReclaimRegion),
        ("GH_VM_SET_DTB_CONFIG", SetDtbConfig),
        ("GUNYAH_VM_ANDROID_SET_FW_CONFIG", SetFirmwareConfig),
        ("GUNYAH_VM_SET_BOOT_CONTEXT", SetBootContext),
        ("GUNYAH_VM_ANDROID_SET_AUTH_TYPE", SetAuthType),
        ("GUNYAH_VM_ANDROID_CHECK_EXTENSION", CheckExtension),
        ("GH_VM_START", StartVm),
        ("GUNYAH_VM_START", StartVm),
        ("GH_VM_ADD_FUNCTION", AddVcpu),
        ("GH_VM_ADD_FUNCTION", AddIrqfd),
        ("GH_VM_ADD_FUNCTION", AddIoeventfd),
        ("GH_VM_REMOVE_FUNCTION", RemoveFunction),
        ("GH_VCPU_MMAP_SIZE", VcpuMmapSize),
        ("GH_VCPU_RUN", RunVcpu),
        ("GUNYAH_CREATE_GUEST_MEM", CreateGuestMemory),
        ("GUNYAH_VM_MAP_MEM", MapGuestMemory),
        ("GUNYAH_ANDROID_CREATE_CMA_MEM_FD", CreateCmaMemory),
        ("GUNYAH_VM_ANDROID_MAP_CMA_MEM", MapCmaMemory),
    ];
    for (name, operation) in names {
        assert!(Operation::by_ioctl(name).contains(&operation), "{name}");
    }
    assert!(Operation::by_ioctl("KVM_RUN").is_empty());
}

fn ioctl(op: &'static str, errno: i32, flavour: Option<Flavour>) -> Error {
    Error::Ioctl { op, source: io::Error::from_raw_os_error(errno), flavour }
}

fn main_region(size: u64) -> Region {
    Region { label: 0, guest_phys_addr: 0x8000_0000, size, userspace_addr: None, lent: true }
}

#[test]
fn a_low_limit_of_locked_memory_comes_first() {
    let mut context = Context::default();
    context.host.memlock = Some(Limit::At(64 << 10));
    context.host.ipc_lock = Some(false);
    context.asked = Some(main_region(256 << 20));
    let error = ioctl("GH_VM_SET_USER_MEM_REGION", libc::ENOMEM, Some(Android14));
    let found = error.causes(&context);
    assert_eq!(found[0].id(), "memlock");
    assert_eq!(found[0].likelihood(), Likelihood::Likely);
    assert_eq!(found[0].evidence(), Some("RLIMIT_MEMLOCK is 64 KiB, 256 MiB are needed"));

    // The same with the capability is possible; without a limit it goes to the end of the list.
    context.host.ipc_lock = Some(true);
    assert_eq!(error.causes(&context)[0].likelihood(), Likelihood::Possible);
    context.host.memlock = Some(Limit::Unlimited);
    let found = error.causes(&context);
    assert_eq!(
        found.iter().find(|cause| cause.id() == "memlock").unwrap().likelihood(),
        Likelihood::Unlikely
    );
    assert_ne!(found[0].id(), "memlock");

    // v17 counts nothing.
    let found = ioctl("GUNYAH_VM_START", libc::ENOMEM, Some(V17)).causes(&context);
    assert!(!ids(&found).contains(&"memlock"));
    // android15 counts at the start.
    let found = ioctl("GUNYAH_VM_START", libc::ENOMEM, Some(Android15)).causes(&context);
    assert!(ids(&found).contains(&"memlock"));
}

#[test]
fn a_large_region_on_a_fragmented_host_needs_contiguous_memory() {
    let mut context = Context::default();
    context.host.memlock = Some(Limit::Unlimited);
    context.host.largest_free_block = Some(256 << 10);
    context.asked = Some(main_region(4 << 30));
    let error = ioctl("GH_VM_SET_USER_MEM_REGION", libc::ENOMEM, Some(Android14));
    let found = error.causes(&context);
    assert_eq!(found[0].id(), "page-array");
    let evidence = found[0].evidence().unwrap();
    assert!(
        evidence.contains("4096 MiB") && evidence.contains("8 MiB") && evidence.contains("256 KiB"),
        "{evidence}"
    );
    context.asked = Some(main_region(64 << 20));
    let found = error.causes(&context);
    assert_eq!(
        found.iter().find(|cause| cause.id() == "page-array").unwrap().likelihood(),
        Likelihood::Unlikely
    );
}

#[test]
fn geometry_decides_between_the_causes_of_eexist_and_einval() {
    let mut context = Context::default();
    context.regions = vec![main_region(0x1000_0000)];
    context.asked = Some(Region { label: 0, guest_phys_addr: 0x2_0000_0000, ..main_region(0x1000) });
    let error = ioctl("GH_VM_SET_USER_MEM_REGION", libc::EEXIST, Some(V11));
    assert_eq!(error.causes(&context)[0].id(), "region-label");
    context.asked = Some(Region { label: 1, guest_phys_addr: 0x8fff_f000, ..main_region(0x2000) });
    assert_eq!(error.causes(&context)[0].id(), "region-overlap");

    context.asked = Some(Region { guest_phys_addr: 0x8000_0010, ..main_region(0x10_0000) });
    let error = ioctl("GH_VM_SET_USER_MEM_REGION", libc::EINVAL, Some(V11));
    assert_eq!(error.causes(&context)[0].likelihood(), Likelihood::Likely);
    assert!(error.causes(&context)[0].evidence().unwrap().contains("0x80000010"));
    context.asked = Some(Region { guest_phys_addr: u64::MAX - 0xfff, ..main_region(0x10_0000) });
    let error = ioctl("GH_VM_SET_USER_MEM_REGION", libc::EOVERFLOW, Some(V11));
    assert_eq!(error.causes(&context)[0].likelihood(), Likelihood::Likely);
}

#[test]
fn a_devicetree_outside_the_regions_is_named() {
    for (flavour, errno) in [(V11, libc::EINVAL), (Android15, libc::ENOENT)] {
        let mut context = Context::default();
        context.regions = vec![main_region(0x1000_0000)];
        context.dtb = Some(Range { guest_phys_addr: 0x8fff_f000, size: 0x2000 });
        let error = ioctl("GH_VM_START", errno, Some(flavour));
        assert_eq!(error.causes(&context)[0].id(), "dtb-outside");
        assert_eq!(error.causes(&context)[0].likelihood(), Likelihood::Likely);
        context.dtb = Some(Range { guest_phys_addr: 0x8fff_e000, size: 0x2000 });
        let found = error.causes(&context);
        assert_eq!(
            found.iter().find(|one| one.id() == "dtb-outside").unwrap().likelihood(),
            Likelihood::Unlikely
        );
    }
    let mut context = Context::default();
    context.dtb = Some(Range { guest_phys_addr: 0x8000_0000, size: 100 });
    let error = ioctl("GUNYAH_VM_START", libc::EINVAL, Some(Android16));
    assert_eq!(error.causes(&context)[0].id(), "dtb-below-page");
}

#[test]
fn enodev_at_the_start_looks_at_what_was_given() {
    let mut context = Context::default();
    let error = ioctl("GH_VM_START", libc::ENODEV, Some(Android14));
    assert!(error.causes(&context).len() >= 6, "ENODEV has many causes");
    context.regions = vec![main_region(1 << 20), Region { label: 1, lent: false, ..main_region(1 << 20) }];
    assert_eq!(error.causes(&context)[0].id(), "shared-without-shm");
    context.regions.clear();
    context.host.soc = Some("SM8650".to_owned());
    assert_eq!(error.causes(&context)[0].id(), "sm8650-vmid");
    context.host.soc = Some("SM8750".to_owned());
    assert_ne!(error.causes(&context)[0].id(), "sm8650-vmid");
    context.boot_context = Some(true);
    let error = ioctl("GUNYAH_VM_START", libc::EOPNOTSUPP, Some(V17));
    assert_eq!(error.causes(&context)[0].id(), "rm-no-boot-context");
}

#[test]
fn the_errors_without_an_ioctl_have_causes_too() {
    let mut context = Context::default();
    context.host.uid = Some(2000);
    let open = |errno| Error::Open {
        path: PathBuf::from("/dev/gunyah"),
        source: io::Error::from_raw_os_error(errno),
    };
    assert_eq!(open(libc::EACCES).causes(&context)[0].id(), "node-permission");
    context.host.uid = Some(0);
    context.host.selinux_enforcing = Some(true);
    assert_eq!(open(libc::EACCES).causes(&context)[0].id(), "selinux");
    assert_eq!(ids(&Error::NotGunyah { path: None }.causes(&context)), ["not-gunyah"]);
    assert_eq!(ids(&Error::VendorAbi { path: None }.causes(&context)), ["vendor-abi"]);
    let fault = Error::PageFaultLoop { addr: 0, attempt: libc::ENOENT, times: 500 };
    assert_eq!(ids(&fault.causes(&context)), ["fault-nothing-mapped"]);
    let absent = Error::NotInAbi { op: "GUNYAH_VM_SET_BOOT_CONTEXT", flavour: Android14 };
    assert_eq!(ids(&absent.causes(&context)), ["no-boot-context"]);
    let map = Error::Os {
        call: "mmap",
        doing: "mapping the vCPU's run page",
        source: io::Error::from_raw_os_error(libc::EAGAIN),
    };
    assert_eq!(ids(&map.causes(&context)), ["run-page-locked-memory"]);
    // These say themselves what is wrong.
    assert!(Error::UnansweredRead.causes(&context).is_empty());
    assert!(Error::InvalidArgument { op: "GH_VM_START", why: "x" }.causes(&context).is_empty());
}

#[test]
fn the_kind_of_function_narrows_the_list() {
    let error = ioctl("GH_VM_ADD_FUNCTION", libc::EEXIST, Some(V11));
    let mut context = Context::default();
    assert_eq!(ids(&error.causes(&context)).len(), 3);
    context.adding = Some(AddIrqfd);
    assert_eq!(ids(&error.causes(&context)), ["irqfd-label-taken"]);
    // A hint that has nothing to do with the error is ignored.
    context.adding = Some(AddVcpu);
    assert!(!ioctl("GH_VM_START", libc::ENODEV, Some(V11)).causes(&context).is_empty());
}

#[test]
fn an_errno_of_other_flavours_is_explained_as_unlikely() {
    // android16 is not known to refuse a duplicate vCPU, but hosts mix.
    let found = causes::of(AddVcpu, libc::EEXIST, &on(Android16));
    assert_eq!(ids(&found), ["vcpu-id-taken"]);
    assert_eq!(found[0].likelihood(), Likelihood::Unlikely);
    assert!(!found[0].flavours().contains(Android16));
    let none = causes::of(CheckExtension, libc::EIO, &Context::default());
    assert!(none.is_empty());
    assert!(none.to_string().contains("no cause of this is on record"), "{none}");
}

#[test]
fn the_report_reads_well() {
    let mut context = Context::default();
    context.host.memlock = Some(Limit::At(64 << 10));
    let report = ioctl("GUNYAH_VM_START", libc::ENOMEM, Some(Android15)).causes(&context).to_string();
    let mut lines = report.lines();
    assert_eq!(lines.next(), Some("GUNYAH_VM_START failed: Cannot allocate memory (os error 12)"));
    assert!(lines.next().unwrap().starts_with("  1. [likely] the limit of locked memory (RLIMIT_MEMLOCK)"));
    assert_eq!(lines.next(), Some("     seen:  RLIMIT_MEMLOCK is 64 KiB"));
    assert!(lines.next().unwrap().starts_with("     check: ulimit -l"));
    assert!(lines.next().unwrap().starts_with("     do:    ulimit -l unlimited"));
    assert_eq!(
        ioctl("GUNYAH_VM_START", libc::ENOMEM, None).to_string(),
        "GUNYAH_VM_START failed: Cannot allocate memory (os error 12)",
        "the error itself stays short"
    );
}

fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let root = std::env::temp_dir().join(format!("gunyah-causes-{}-{name}", std::process::id()));
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

#[test]
fn the_host_is_read_from_files() {
    let root = tree(
        "phone",
        &[
            ("proc/sys/kernel/osrelease", "6.1.118-android14-11-g0123456789ab\n"),
            (
                "proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max locked memory         65536                unlimited            bytes     \n\
                 Max open files            1024                 4096                 files     \n",
            ),
            (
                "proc/self/status",
                "Name:\tx\nUid:\t2000\t2000\t2000\t2000\nVmLck:\t    128 kB\nCapEff:\t0000000000004000\n",
            ),
            ("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 500 kB\nMemAvailable: 600 kB\nCmaFree: 300 kB\n"),
            (
                "proc/buddyinfo",
                "Node 0, zone   Normal   5   0   0   0   0   0   0   0   0   1   2\n\
                 Node 0, zone  Movable   0   1   0   0   0   0   0   0   0   0   0\n",
            ),
            (
                "proc/pressure/memory",
                "some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=1.00 avg60=0 avg300=0 total=0\n",
            ),
            ("vendor/build.prop", "# x\nro.soc.model=SM8650\n"),
            ("sys/fs/selinux/enforce", "1"),
        ],
    );
    let host = Host::observe_under(&root, 4096);
    assert_eq!(host.kernel_version(), Some((6, 1)));
    assert_eq!(host.soc.as_deref(), Some("SM8650"));
    assert_eq!((host.memlock, host.memlock_hard), (Some(Limit::At(65536)), Some(Limit::Unlimited)));
    assert_eq!(host.open_files_limit, Some(Limit::At(1024)));
    assert_eq!((host.uid, host.locked, host.ipc_lock), (Some(2000), Some(128 << 10), Some(true)));
    assert_eq!((host.memory_total, host.memory_free), (Some(1000 << 10), Some(500 << 10)));
    assert_eq!((host.memory_available, host.cma_free), (Some(600 << 10), Some(300 << 10)));
    assert_eq!(host.largest_free_block, Some(4 << 20));
    assert_eq!(host.free_in_huge_blocks, Some((2 << 20) + 2 * (4 << 20)));
    assert_eq!(host.memory_pressure, Some(12.5));
    assert_eq!(host.selinux_enforcing, Some(true));
    fs::remove_dir_all(root).unwrap();

    let nothing = Host::observe_under(&PathBuf::from("/there/is/nothing/here"), 4096);
    assert!(
        nothing.kernel_release.is_none() && nothing.memlock.is_none() && nothing.largest_free_block.is_none()
    );
}

#[test]
fn this_host_is_read_without_a_panic_and_its_limit_is_that_of_getrlimit() {
    let host = Context::observe().host;
    assert!(host.kernel_release.is_some());
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[allow(unsafe_code)]
    // SAFETY: `limit` is valid for writes.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    assert_eq!(answer, 0);
    let expected =
        if limit.rlim_cur == libc::RLIM_INFINITY { Limit::Unlimited } else { Limit::At(limit.rlim_cur) };
    assert_eq!(host.memlock, Some(expected));
}

#[test]
fn garbage_in_proc_is_no_panic() {
    for (name, text) in [
        ("empty", ""),
        ("words", "Max locked memory x y\nNode zone\nCapEff: zz\n\u{0}"),
        ("huge", "MemTotal: 99999999999999999999 kB\nNode 0, zone A 99999999999999999999 1\n"),
    ] {
        let files = [
            "proc/sys/kernel/osrelease",
            "proc/self/limits",
            "proc/self/status",
            "proc/meminfo",
            "proc/buddyinfo",
            "proc/pressure/memory",
        ];
        let root = tree(name, &files.map(|file| (file, text)));
        let mut context = Context::default();
        context.host = Host::observe_under(&root, 4096);
        for ((_, errno), (operation, _)) in known() {
            let _ = causes::of(operation, errno, &context).to_string();
        }
        fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn errors_of_a_kernel_lead_to_their_causes() {
    use fake_gunyah::Fake;
    use gunyah_ioctls::Gunyah;

    // A start without a devicetree in any region.
    for (flavour, first) in
        [(fake_gunyah::Flavour::V11, "dtb-outside"), (fake_gunyah::Flavour::Android15, "dtb-outside")]
    {
        let fake = Fake::builder().flavour(flavour).build().unwrap();
        let found = fake
            .run(|_| {
                let vm = Gunyah::new().unwrap().create_vm().unwrap();
                vm.set_dtb_config(0x8000_0000, 0x1000).unwrap();
                let error = vm.start().unwrap_err();
                let mut context = Context::default();
                context.features = Some(*vm.features());
                ids(&error.causes(&context))
            })
            .unwrap();
        assert_eq!(found[0], first, "{flavour}: {found:?}");
    }
    // A hypervisor without vCPUs for the host to schedule, and the vendors' ABI.
    let fake = Fake::builder().without_vcpus().build().unwrap();
    let found = fake
        .run(|_| {
            let vm = Gunyah::new().unwrap().create_vm().unwrap();
            ids(&vm.add_vcpu(0).unwrap_err().causes(&Context::default()))
        })
        .unwrap();
    assert_eq!(found, ["no-proxy-vcpus"]);
    let fake = Fake::builder().flavour(fake_gunyah::Flavour::Vendor).build().unwrap();
    let found = fake
        .run(|_| ids(&Gunyah::new().unwrap().create_vm().unwrap_err().causes(&Context::default())))
        .unwrap();
    assert_eq!(found, ["vendor-abi"]);
}

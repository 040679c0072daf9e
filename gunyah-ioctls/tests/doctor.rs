//! The doctor of the examples: on this machine, on each fake flavour, and on files of other hosts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(unsafe_code)]

#[path = "../examples/doctor/doctor/mod.rs"]
mod doctor;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use fake_gunyah::{Fake, Flavour};
use serde_json::Value;

/// The files of a host, removed at the end.
struct Host(PathBuf);

impl Host {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("gunyah-doctor-{}-{number}", std::process::id()));
        let host = Self(dir);
        for (path, text) in files {
            host.write(path, text);
        }
        host
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn remove(&self, path: &str) -> &Self {
        let path = self.0.join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// A phone on which nothing is wrong: android15, root shell, no limits.
    fn phone() -> Self {
        Self::new(&[
            ("dev/gunyah", ""),
            ("proc/sys/kernel/osrelease", "6.6.30-android15-8-gabcdef\n"),
            ("proc/sys/kernel/hostname", "SECRET-host\n"),
            ("proc/cmdline", "androidboot.serialno=SECRET\n"),
            ("proc/device-tree/serial-number", "SECRET\0"),
            ("proc/device-tree/compatible", "qcom,sm8750-mtp\0qcom,sm8750\0"),
            ("proc/device-tree/hypervisor/compatible", "qcom,gunyah-hypervisor-1.0\0simple-bus\0"),
            ("proc/device-tree/hypervisor/rm/compatible", "gunyah-resource-manager\0"),
            (
                "proc/self/limits",
                "Max locked memory         unlimited            unlimited            bytes\n",
            ),
            ("proc/self/status", "Uid:\t0\t0\t0\t0\nVmLck:\t0 kB\nCapEff:\t000001ffffffffff\n"),
            ("proc/self/attr/current", "u:r:su:s0\0"),
            (
                "proc/meminfo",
                "MemTotal: 12000000 kB\nMemFree: 6000000 kB\nMemAvailable: 8000000 kB\nCmaFree: 100 kB\n",
            ),
            ("proc/buddyinfo", "Node 0, zone Normal 1 1 1 1 1 1 1 1 1 1 1000\n"),
            ("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"),
            ("proc/modules", "gunyah 1 0 - Live 0x0\nqcom_smem 1 0 - Live 0x0\n"),
            ("sys/fs/selinux/enforce", "1"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            (
                "sys/kernel/mm/transparent_hugepage/shmem_enabled",
                "always within_size [advise] never deny force\n",
            ),
            (
                "sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled",
                "always [inherit] madvise never\n",
            ),
            ("vendor/build.prop", "ro.soc.model=SM8750\nro.serialno=SECRET\n"),
            ("dev/kmsg", "6,1,0,-;Linux version\n"),
            ("apex/com.android.virt/bin/crosvm", ""),
            ("dev/block/by-name/pvmfw_a", ""),
        ])
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the doctor in this process.
fn run(args: &[&str]) -> (u8, String) {
    let mut out = Vec::new();
    let args = std::iter::once("doctor").chain(args.iter().copied());
    let code = doctor::run(args.map(Into::into), &mut out);
    (code, String::from_utf8(out).unwrap())
}

fn on(host: &Host, args: &[&str]) -> (u8, String) {
    let mut all = vec!["--root", host.0.to_str().unwrap()];
    all.extend(args);
    run(&all)
}

fn json(host: &Host, args: &[&str]) -> (u8, Value) {
    let mut all = vec!["--json"];
    all.extend(args);
    let (code, text) = on(host, &all);
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["exit_code"], code);
    (code, value)
}

fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap()
}

/// Runs it with a fake kernel whose device is the host's node.
fn faked<T: Send>(host: &Host, flavour: Flavour, body: impl FnOnce(&fake_gunyah::Handle) -> T + Send) -> T {
    let fake = Fake::builder().flavour(flavour).device(host.path("dev/gunyah")).build().unwrap();
    let mut kept = None;
    let answer = fake
        .run(|handle| {
            kept = Some(handle.clone());
            body(handle)
        })
        .unwrap();
    assert_eq!(kept.unwrap().leftovers(), [], "left open");
    answer
}

#[test]
fn a_missing_node_is_exit_code_1_in_one_line_and_with_a_way_forward() {
    let (code, text) = run(&["--device", "/dev/there-is-no-gunyah-here", "--huge-pages", "0"]);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("problem  Gunyah device: cannot open /dev/there-is-no-gunyah-here: No such file"),
        "{text}"
    );
    assert!(text.contains("This host cannot run Gunyah VMs from here."), "{text}");
    #[cfg(not(target_arch = "aarch64"))]
    assert!(text.contains("Gunyah runs on arm64") && text.contains("fake-gunyah"), "{text}");
    assert!(text.contains("--- paste this in a bug report"), "{text}");
}

#[test]
fn something_else_under_the_name_is_said() {
    for path in ["/dev/null", "/proc/self/exe", "/"] {
        let (code, text) = run(&["--device", path, "--probe", "--huge-pages", "0"]);
        assert_eq!(code, 1, "{text}");
        if path == "/dev/null" {
            assert!(text.contains("/dev/null is not a Gunyah device"), "{text}");
            assert!(text.contains("creating a VM: the device is no Gunyah"), "{text}");
        } else {
            assert!(text.contains(&format!("cannot open {path}:")), "{text}");
        }
    }
}

/// What this machine allows, found out without the doctor.
mod here {
    use std::io::Error;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    const HUGEPAGE: i32 = 14;
    const POPULATE_READ: i32 = 22;
    const POPULATE_WRITE: i32 = 23;
    const COLLAPSE: i32 = 25;
    const HUGE: usize = 2 << 20;

    fn errno() -> i32 {
        Error::last_os_error().raw_os_error().unwrap()
    }

    /// Makes the memory so large that it holds `size` bytes at a multiple of 2 MiB; gives their address.
    fn with_memory<T>(size: usize, body: impl FnOnce(*mut libc::c_void) -> T) -> T {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, unmapped below; `start` lies in its first 2 MiB.
        unsafe {
            let mapping = libc::mmap(std::ptr::null_mut(), size + HUGE, access, flags, -1, 0);
            assert_ne!(mapping, libc::MAP_FAILED);
            let start = mapping.byte_add(mapping.align_offset(HUGE).min(HUGE));
            let answer = body(start);
            libc::munmap(mapping, size + HUGE);
            answer
        }
    }

    fn advise(start: *mut libc::c_void, size: usize, advice: i32) -> Result<(), i32> {
        // SAFETY: inside a mapping that nothing refers to.
        if unsafe { libc::madvise(start, size, advice) } == 0 { Ok(()) } else { Err(errno()) }
    }

    fn io_uring() -> Result<OwnedFd, i32> {
        let mut params = [0_u8; 120];
        // SAFETY: 120 bytes to read and write; a descriptor that nothing else owns.
        unsafe {
            let fd = libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr());
            if fd < 0 { Err(errno()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
        }
    }

    /// Each facility and the doctor's word for it.
    pub(crate) fn facilities() -> Vec<(&'static str, String)> {
        let advice = |list: &[i32]| {
            with_memory(HUGE, |start| list.iter().try_for_each(|&advice| advise(start, HUGE, advice)))
        };
        let word =
            |answer: Result<(), i32>| answer.map_or_else(|errno| format!("errno {errno}"), |()| "yes".into());
        vec![
            ("MADV_HUGEPAGE", word(advice(&[HUGEPAGE]))),
            ("MADV_POPULATE_READ", word(advice(&[POPULATE_READ]))),
            ("MADV_POPULATE_WRITE", word(advice(&[POPULATE_WRITE]))),
            ("MADV_COLLAPSE", word(advice(&[HUGEPAGE, POPULATE_WRITE, COLLAPSE]))),
            ("io_uring", word(io_uring().map(drop))),
        ]
    }

    fn pin(size: usize) -> Result<(), (bool, i32)> {
        let ring = io_uring().map_err(|errno| (false, errno))?;
        with_memory(size, |start| {
            let _ = advise(start, size, HUGEPAGE);
            advise(start, size, POPULATE_WRITE).map_err(|errno| (false, errno))?;
            let piece = libc::iovec { iov_base: start, iov_len: size };
            // SAFETY: one iovec, of memory that nothing refers to.
            let answer = unsafe {
                libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), 0, &raw const piece, 1)
            };
            if answer < 0 { Err((true, errno())) } else { Ok(()) }
        })
    }

    /// A line of this process's status, in the number's own base.
    fn status(name: &str, radix: u32) -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim().trim_end_matches("kB").trim(), radix).unwrap()
    }

    /// The level of the finding about pinning, and what it must say.
    pub(crate) fn pinning(size: usize) -> (&'static str, String) {
        const IPC_LOCK: u32 = 14;
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: writes one structure.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) }, 0);
        let counted = status("CapEff:", 16) >> IPC_LOCK & 1 == 0;
        if counted && limit.rlim_cur < size as u64 + status("VmLck:", 10) * 1024 {
            return ("note", "the limit of locked memory is lower".into());
        }
        match pin(size) {
            Ok(()) => ("good", "8 MiB could be pinned".into()),
            Err((registering, errno))
                if !registering
                    || [libc::EPERM, libc::EACCES, libc::EINVAL, libc::ENOSYS].contains(&errno) =>
            {
                ("note", format!("could not be tried: {}", Error::from_raw_os_error(errno)))
            }
            Err((_, errno)) => {
                ("warning", format!("could not be pinned: {}", Error::from_raw_os_error(errno)))
            }
        }
    }
}

#[test]
fn the_running_system_is_tried_and_not_only_read() {
    let (_, text) = run(&["--json", "--huge-pages", "8", "--device", "/dev/null"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let facilities = check(&report, "facilities");
    assert_eq!(facilities["facts"]["memfd"], "yes", "{facilities:#}");
    for (name, expected) in here::facilities() {
        assert_eq!(facilities["facts"][name], expected, "{name}: {facilities:#}");
    }
    let missing = facilities["facts"].as_object().unwrap().values().any(|answer| answer != "yes");
    assert_eq!(facilities["level"], if missing { "note" } else { "good" }, "{facilities:#}");
    let huge = check(&report, "huge-pages");
    if huge["facts"]["enabled"].as_str().is_some_and(|setting| setting != "never") {
        let percent = huge["facts"]["percent"].as_u64();
        assert!(percent.is_some_and(|percent| percent <= 100) || huge["level"] == "note", "{huge:#}");
    }
    let pinned = check(&report, "pinning");
    let (level, words) = here::pinning(8 << 20);
    assert_eq!(pinned["level"], level, "{pinned:#}");
    assert!(pinned["summary"].as_str().unwrap().contains(&words), "{words:?}: {pinned:#}");
    if level == "good" {
        assert_eq!(pinned["facts"]["bytes"], 8 << 20, "{pinned:#}");
    }
    let (_, text) = run(&["--json", "--huge-pages", "0", "--device", "/dev/null"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(check(&report, "pinning")["level"], "skipped");
    assert_ne!(check(&report, "kernel")["facts"]["release"], "unknown release");
}

#[test]
fn every_flavour_is_told_by_its_device_and_its_vm() {
    // What creating a VM finds, the exit code with --probe, and features: with a minus sign, what must not be there.
    let expected = [
        (Flavour::V11, 0, "good", "UserMemory -Lend -BootContext -GuestMemory"),
        (Flavour::Android14Early, 2, "unknown", ""),
        (Flavour::Android14, 0, "good", "UserMemory Lend Firmware -BootContext -Reclaim"),
        (Flavour::Android15, 0, "good", "UserMemory Lend BootContext Reclaim -Cma -GuestMemory"),
        (Flavour::Android16, 0, "good", "UserMemory Reclaim Cma AuthType CheckExtension -GuestMemory"),
        (Flavour::V17, 0, "good", "GuestMemory BootContext -UserMemory -Lend"),
        (Flavour::Vendor, 1, "note", ""),
    ];
    for (flavour, expected_code, level, expected_features) in expected {
        let host = Host::phone();
        let (code, report) = faked(&host, flavour, |_| json(&host, &["--probe"]));
        assert_eq!(code, expected_code, "{flavour}: {report:#}");
        let vm = check(&report, "vm");
        assert_eq!(vm["level"], level, "{flavour}: {vm:#}");
        if level == "good" {
            assert_eq!(vm["facts"]["flavour"], flavour.to_string());
            let features = vm["facts"]["features"].as_array().unwrap();
            for name in expected_features.split(' ') {
                let (name, there) = name.strip_prefix('-').map_or((name, true), |name| (name, false));
                assert_eq!(features.iter().any(|feature| feature == name), there, "{flavour} {name}: {vm:#}");
            }
            assert_eq!(check(&report, "functions")["level"], "good", "{flavour}: {report:#}");
            assert_eq!(report["verdict"], "can host");
            assert_eq!(report["conclusion"], "This host can run Gunyah VMs.");
        }
    }
}

#[test]
fn without_probe_no_vm_is_created_and_the_verdict_is_open() {
    for flavour in [Flavour::V11, Flavour::Android14Early, Flavour::Android16, Flavour::V17] {
        let host = Host::phone();
        let (code, report) = faked(&host, flavour, |handle| {
            let answer = json(&host, &[]);
            let calls = handle.calls();
            // The open, and three questions.
            assert!(calls.len() <= 4, "{flavour}: {calls:?}");
            let created =
                calls.iter().any(|call| call.request == 0x4700 && matches!(call.result, Some(Ok(_))));
            assert!(!created, "{flavour}: {calls:?}");
            answer
        });
        assert_eq!(code, 2, "{flavour}: {report:#}");
        assert_eq!(check(&report, "device")["level"], "good");
        assert_eq!(check(&report, "vm")["level"], "skipped");
        assert!(report["conclusion"].as_str().unwrap().contains("--probe"), "{report:#}");
    }
}

#[test]
fn a_vm_is_never_created_on_early_android14() {
    let host = Host::phone();
    let (report, leaked) =
        faked(&host, Flavour::Android14Early, |handle| (json(&host, &["--probe"]).1, handle.leaked_vms()));
    assert_eq!(leaked, 0);
    let summary = check(&report, "vm")["summary"].as_str().unwrap();
    assert!(summary.contains("keeps its id and its memory until a reboot"), "{summary}");
}

#[test]
fn the_vendor_abi_is_explained_kindly() {
    let host = Host::phone();
    host.write("proc/sys/kernel/osrelease", "5.15.104-android13-8\n");
    host.write("vendor/build.prop", "ro.soc.model=SM8550\n");
    let (code, text) = faked(&host, Flavour::Vendor, |_| on(&host, &["--probe"]));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("ioctl type 0xB2"), "{text}");
    assert!(text.contains("starts images that the vendor has signed, by name"), "{text}");
    assert!(text.contains("no permission, changes that"), "{text}");
    assert!(text.contains("causes=[\"vendor-abi\"]"), "{text}");
}

#[test]
fn a_host_that_mixes_features_is_listed_as_it_is() {
    let host = Host::phone();
    let mixed = fake_gunyah::Host::Open2023;
    let fake = Fake::builder().host(mixed).device(host.path("dev/gunyah")).build().unwrap();
    let (code, report) = fake.run(|_| json(&host, &["--probe"])).unwrap();
    assert_eq!(code, 0, "{report:#}");
    let features = check(&report, "vm")["facts"]["features"].as_array().unwrap();
    for name in ["UserMemory", "GuestMemory", "Lend", "BootContext"] {
        assert!(features.iter().any(|feature| feature == name), "{report:#}");
    }
    assert!(!features.iter().any(|feature| feature == "Firmware"), "{report:#}");
}

#[test]
fn a_function_that_the_hypervisor_lacks_is_a_problem_with_its_cause() {
    let host = Host::phone();
    let fake = Fake::builder().without_vcpus().device(host.path("dev/gunyah")).build().unwrap();
    let (code, report) = fake.run(|_| json(&host, &["--probe"])).unwrap();
    assert_eq!(code, 1, "{report:#}");
    let functions = check(&report, "functions");
    assert_eq!(functions["level"], "problem");
    assert_eq!(functions["facts"]["function"], "vCPU");
    assert_eq!(functions["facts"]["causes"][0], "no-proxy-vcpus");
}

#[test]
fn qgunyah_is_tried_when_gunyah_is_missing() {
    let host = Host::phone();
    host.remove("dev/gunyah").write("dev/qgunyah", "");
    let fake = Fake::builder().flavour(Flavour::Vendor).device(host.path("dev/qgunyah")).build().unwrap();
    let (code, report) = fake.run(|_| json(&host, &[])).unwrap();
    assert_eq!(code, 1);
    assert_eq!(check(&report, "device")["facts"]["kind"], "Vendor");
}

#[test]
fn a_snapdragon_laptop_is_told_that_it_wants_el2_and_kvm() {
    let host = Host::new(&[
        ("proc/sys/kernel/osrelease", "6.14.0-27-generic\n"),
        ("proc/device-tree/compatible", "lenovo,yoga-slim7x\0qcom,x1e80100\0"),
        ("dev/null", ""),
    ]);
    let (code, text) = on(&host, &["--probe"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("Gunyah cannot host your VM from here"), "{text}");
    assert!(text.contains("what you want is EL2 for Linux, and KVM"), "{text}");
    assert!(text.contains("KVM and Gunyah cannot both be there"), "{text}");
    assert!(text.contains("there is no KVM"), "{text}");
}

#[test]
fn phones_without_a_node_are_told_apart() {
    let host = Host::phone();
    host.remove("dev/gunyah");
    let (code, report) = json(&host, &[]);
    let device = check(&report, "device");
    assert_eq!(code, 1);
    assert_eq!(device["facts"]["situation"], "Phone");
    assert!(device["details"].to_string().contains("has not made a node"), "{device:#}");

    host.write("proc/sys/kernel/osrelease", "5.10.149-android12-9\n");
    host.write("dev/gh_virtio_backend_trustedvm", "")
        .write("sys/kernel/load_guestvm_trustedvm/boot_guestvm", "");
    let (_, report) = json(&host, &[]);
    assert_eq!(check(&report, "device")["facts"]["situation"], "VendorPhone");
    assert!(check(&report, "device")["advice"].to_string().contains("crosvm and QEMU fail here as well"));
    let nodes = check(&report, "nodes")["facts"]["found"].to_string();
    assert!(
        nodes.contains("gh_virtio_backend_trustedvm") && nodes.contains("load_guestvm_trustedvm"),
        "{nodes}"
    );

    let server = Host::new(&[
        ("proc/device-tree/compatible", "example,board\0"),
        ("proc/sys/kernel/osrelease", "6.12.0\n"),
        ("dev/kvm", ""),
    ]);
    let (_, report) = json(&server, &[]);
    assert!(check(&report, "device")["advice"].to_string().contains("this machine has KVM: use that"));
}

/// A node that may not be opened, by root either.
fn denied(host: &Host, args: &'static [&'static str]) -> (u8, Value) {
    fs::set_permissions(host.path("dev/gunyah"), fs::Permissions::from_mode(0o000)).unwrap();
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: changes whose files this thread may open, and nothing of the others. Root loses its
                // privilege for files; other users cannot change, and need not.
                unsafe { libc::setfsuid(65534) };
                json(host, args)
            })
            .join()
            .unwrap()
    })
}

#[test]
fn a_node_that_may_not_be_opened_names_selinux_for_root_and_the_mode_for_others() {
    let host = Host::phone();
    let (code, report) = denied(&host, &[]);
    let device = check(&report, "device");
    assert_eq!(code, 1);
    assert_eq!(device["facts"]["errno"], "13", "{device:#}");
    assert_eq!(device["facts"]["causes"][0], "selinux", "{device:#}");
    assert_eq!(check(&report, "selinux")["facts"]["context"], "u:r:su:s0");
    assert!(check(&report, "selinux")["summary"].as_str().unwrap().contains("enforcing; root"));

    host.write("proc/self/status", "Uid:\t2000\t2000\t2000\t2000\nCapEff:\t0000000000000000\n");
    let (_, report) = denied(&host, &[]);
    assert_eq!(check(&report, "device")["facts"]["causes"][0], "node-permission");
    host.write("sys/fs/selinux/enforce", "0");
    let (_, report) = denied(&host, &[]);
    assert!(check(&report, "selinux")["summary"].as_str().unwrap().contains("permissive; an ordinary user"));
}

#[test]
fn a_low_limit_of_locked_memory_is_a_warning_unless_it_is_lifted() {
    let host = Host::phone();
    host.write(
        "proc/self/limits",
        "Max locked memory         65536                65536                bytes\n",
    );
    host.write("proc/self/status", "Uid:\t0\t0\t0\t0\nCapEff:\t0000000000000000\n");
    let (code, report) = faked(&host, Flavour::Android15, |_| json(&host, &["--probe", "--memory", "2048"]));
    let memlock = check(&report, "memlock");
    assert_eq!((code, &memlock["level"]), (2, &"warning".into()), "{memlock:#}");
    assert_eq!(memlock["summary"], "RLIMIT_MEMLOCK is 64 KiB, the guest has 2048 MiB");
    assert!(memlock["advice"][0].as_str().unwrap().contains("ulimit -l unlimited"));
    assert_eq!(report["conclusion"], "This host can run Gunyah VMs, with the warnings above.");
    // Files of guest memory are not counted.
    let (code, report) = faked(&host, Flavour::V17, |_| json(&host, &["--probe"]));
    assert_eq!((code, &check(&report, "memlock")["level"]), (0, &"note".into()));
    // The capability lifts it.
    host.write("proc/self/status", "Uid:\t0\t0\t0\t0\nCapEff:\t0000000000004000\n");
    let (code, report) = faked(&host, Flavour::Android15, |_| json(&host, &["--probe"]));
    assert_eq!((code, &check(&report, "memlock")["level"]), (0, &"note".into()));
}

#[test]
fn memory_and_huge_pages_are_weighed_against_the_guest() {
    let host = Host::phone();
    let level = |id: &str, args: &[&str]| check(&json(&host, args).1, id)["level"].clone();
    assert_eq!(level("memory", &[]), "good");
    assert_eq!(level("memory", &["--memory", "9000"]), "warning");
    host.write("proc/pressure/memory", "some avg10=42.00 avg60=0.00 avg300=0.00 total=1\n");
    assert_eq!(level("memory", &[]), "warning");
    host.write(
        "proc/meminfo",
        "MemTotal: 12000000 kB\nMemFree: 600000 kB\nMemAvailable: 8000000 kB\nCmaFree: 500000 kB\n",
    );
    assert!(check(&json(&host, &[]).1, "memory")["details"].to_string().contains("contiguous-memory areas"));
    host.write("proc/buddyinfo", "Node 0, zone Normal 1 1 1 1 1 1 1 1 1 0 0\n");
    assert!(check(&json(&host, &[]).1, "memory")["details"].to_string().contains("less than the guest"));

    assert_eq!(level("huge-pages", &[]), "note");
    assert_eq!(check(&json(&host, &[]).1, "huge-pages")["facts"]["sizes_enabled"][0], "2048kB");
    host.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    assert_eq!(level("huge-pages", &[]), "warning");
    host.remove("sys/kernel/mm");
    assert_eq!(level("huge-pages", &[]), "note");
    host.remove("proc/meminfo").remove("proc/self/limits");
    assert_eq!(level("memory", &[]), "note");
    assert_eq!(level("memlock", &[]), "note");
}

#[test]
fn other_vmms_are_found_by_their_files() {
    let host = Host::phone();
    assert_eq!(check(&json(&host, &[]).1, "processes")["level"], "good");
    host.write("proc/77/comm", "crosvm\n");
    fs::create_dir_all(host.path("proc/77/fd")).unwrap();
    symlink("anon_inode:gunyah-vm", host.path("proc/77/fd/3")).unwrap();
    symlink("anon_inode:gunyah-vcpu", host.path("proc/77/fd/4")).unwrap();
    symlink("/dev/null", host.path("proc/77/fd/5")).unwrap();
    host.write("proc/78/comm", "hidden\n");
    let (_, report) = json(&host, &[]);
    let processes = check(&report, "processes");
    assert_eq!(processes["level"], "warning");
    assert_eq!(processes["facts"]["users"][0], "crosvm (77) has 2");
    assert_eq!(processes["facts"]["hidden"], 1);
}

#[test]
fn the_kernel_log_is_decoded() {
    let host = Host::phone();
    host.write(
        "dev/kmsg",
        "3,812,5,-;gunyah_rsc_mgr: RM rejected message 51000015. Error: 7\n SUBSYSTEM=platform\n\
         3,813,5,-;Failed to allocate parcel for DTB: -12\n\
         4,814,5,-;Failed to map guest address 0x80000000: 10\n\
         4,815,5,-;Failed to map guest address 0x80200000: 10\n\
         4,816,5,-;a premature end of something else\n",
    );
    let (_, report) = json(&host, &[]);
    let log = check(&report, "log");
    assert_eq!(log["facts"]["messages"].as_array().unwrap().len(), 3, "{log:#}");
    let details = log["details"].to_string();
    assert!(details.contains("the limit of locked memory"), "{log:#}");
    assert!(details.contains("no memory (ENOMEM)"), "{log:#}");
    assert!(details.contains("2 times: a page could not be mapped"), "{log:#}");
    assert!(!details.contains("SUBSYSTEM"), "{log:#}");
    // A log of dmesg, with times.
    host.write("dev/kmsg", "[   12.5] kvm [1]: HYP mode not available\n");
    assert!(
        check(&json(&host, &[]).1, "log")["details"].to_string().contains("another hypervisor holds EL2")
    );
    host.remove("dev/kmsg");
    assert!(check(&json(&host, &[]).1, "log")["summary"].as_str().unwrap().contains("not readable"));
}

#[test]
fn modules_android_and_the_kernel_are_named() {
    let host = Host::phone();
    host.write("proc/modules", "gunyah_vcpu 1\ngh_hugepage_reserve 1\next4 1\n");
    let (_, report) = json(&host, &[]);
    let modules = check(&report, "modules");
    assert_eq!(modules["summary"], "gunyah_vcpu, gh_hugepage_reserve");
    assert!(modules["details"][0].as_str().unwrap().contains("not part of the kernel"));
    assert_eq!(check(&report, "android")["summary"], "crosvm is there, a pvmfw partition");
    assert_eq!(check(&report, "kernel")["facts"]["expected"], "android15");
    assert_eq!(
        check(&report, "hypervisor")["summary"],
        "the devicetree names Gunyah: this kernel runs under it"
    );

    for (release, soc, expected) in [
        ("5.15.1-android13", "SM8550", "vendor"),
        ("6.1.118-android14-11", "SM8650", "android14"),
        ("6.12.23-android16-5", "SM8850", "android16"),
        ("6.18.0-android17-0", "X", "android17"),
        ("4.19.0-android", "X", "unknown"),
    ] {
        host.write("proc/sys/kernel/osrelease", release);
        host.write("vendor/build.prop", format!("ro.soc.model={soc}\n"));
        let (_, report) = json(&host, &[]);
        let kernel = check(&report, "kernel");
        assert_eq!(kernel["facts"]["expected"], expected, "{release}");
        assert_eq!(kernel["details"].to_string().contains("VM ids above 0x3f"), soc == "SM8650");
    }
}

#[test]
fn a_guest_kernel_is_looked_into() {
    let good = "# config\nCONFIG_DMA_RESTRICTED_POOL=y\nCONFIG_VIRTIO=y\nCONFIG_VIRTIO_MMIO=m\nCONFIG_VIRTIO_PCI=y\nCONFIG_SERIAL_8250_CONSOLE=y\n";
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let embedded = |config: &str| {
        [b"MZ\0\xff code ", b"IKCFG_ST".as_slice(), &gzip(config.as_bytes()), b"IKCFG_ED rest"].concat()
    };
    let host = Host::phone();
    let level = |bytes: &[u8]| {
        host.write("guest", bytes);
        let path = host.path("guest");
        let (_, report) = json(&host, &["--guest-kernel", path.to_str().unwrap()]);
        check(&report, "guest-kernel").clone()
    };
    for bytes in [good.as_bytes().to_vec(), gzip(good.as_bytes()), embedded(good), gzip(&embedded(good))] {
        assert_eq!(level(&bytes)["level"], "good");
    }
    let debian = good.replace("CONFIG_DMA_RESTRICTED_POOL=y", "# CONFIG_DMA_RESTRICTED_POOL is not set");
    let finding = level(&embedded(&debian));
    assert_eq!(finding["level"], "warning");
    assert_eq!(finding["facts"]["missing"][0], "CONFIG_DMA_RESTRICTED_POOL");
    assert_eq!(level(good.replace("CONFIG_VIRTIO_PCI=y\n", "").as_bytes())["level"], "note");
    // Either UART will do.
    let pl011 = good.replace("SERIAL_8250_CONSOLE", "SERIAL_AMBA_PL011_CONSOLE");
    assert_eq!(level(pl011.as_bytes())["level"], "good");
    let silent = level(good.replace("CONFIG_SERIAL_8250_CONSOLE=y\n", "").as_bytes());
    assert_eq!(
        (&silent["level"], &silent["facts"]["missing"][0]),
        (&"note".into(), &"CONFIG_SERIAL_8250_CONSOLE".into())
    );
    let sme = level(format!("{good}CONFIG_ARM64_SME=y\n").as_bytes());
    assert_eq!(sme["level"], "good");
    assert!(sme["advice"].to_string().contains("arm64.nosme"), "{sme}");
    assert_eq!(level(b"MZ\0\xff no configuration CONFIG_ \nCONFIG_X=y\n")["level"], "unknown");
    assert_eq!(level(b"\x1f\x8b broken")["level"], "unknown");
    assert_eq!(level(b"IKCFG_ST")["level"], "unknown");
    assert_eq!(level(b"")["level"], "unknown");
    host.remove("guest");
    let (_, report) = json(&host, &["--guest-kernel", "/there/is/none"]);
    assert_eq!(check(&report, "guest-kernel")["level"], "unknown");
}

#[test]
fn a_guests_devicetree_is_checked() {
    let host = Host::phone();
    let mut tree = vm_fdt::FdtWriter::new().unwrap();
    let root = tree.begin_node("").unwrap();
    let memory = tree.begin_node("memory@80000000").unwrap();
    tree.property_string("device_type", "memory").unwrap();
    tree.end_node(memory).unwrap();
    tree.end_node(root).unwrap();
    host.write("guest.dtb", tree.finish().unwrap());
    let path = host.path("guest.dtb");
    let args = ["--dtb", path.to_str().unwrap()];
    let finding = check(&json(&host, &args).1, "guest-tree").clone();
    assert_eq!(finding["level"], "warning", "{finding:#}");
    let codes = finding["facts"]["codes"].to_string();
    assert!(codes.contains("no-config") && codes.contains("memory-name"), "{codes}");
    assert!(finding["details"].to_string().contains("/memory@80000000"), "{finding:#}");
    // It says nothing against the host.
    let (code, text) = faked(&host, Flavour::V11, |_| on(&host, &["--probe", args[0], args[1]]));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("This host can run Gunyah VMs, with the warnings above."), "{text}");
    assert!(text.contains("no-config"), "{text}");

    host.write("guest.dtb", "no tree");
    assert_eq!(check(&json(&host, &args).1, "guest-tree")["level"], "warning");
    assert_eq!(check(&json(&host, &["--dtb", "/there/is/none"]).1, "guest-tree")["level"], "unknown");
    assert_eq!(check(&json(&host, &[]).1, "guest-tree")["level"], "skipped");
}

#[test]
fn nothing_personal_is_printed() {
    let host = Host::phone();
    for args in [&["--probe"][..], &["--json", "--probe"]] {
        let (_, text) = faked(&host, Flavour::Android15, |_| on(&host, args));
        assert!(!text.contains("SECRET"), "{text}");
    }
}

#[test]
fn an_empty_root_and_garbage_are_no_panic() {
    let nothing = Host::new(&[("x", "")]);
    assert_eq!(on(&nothing, &["--probe"]).0, 1);
    let host = Host::phone();
    for file in [
        "proc/sys/kernel/osrelease",
        "proc/device-tree/compatible",
        "proc/self/limits",
        "proc/self/status",
        "proc/meminfo",
        "proc/buddyinfo",
        "proc/modules",
        "sys/kernel/mm/transparent_hugepage/enabled",
        "dev/kmsg",
    ] {
        host.write(file, b"\xff\xfe\0[\n]999999999999999999999999 kB;;,\n");
    }
    let (code, report) = json(&host, &[]);
    assert_eq!((code, report["schema"].as_u64()), (1, Some(1)), "{report:#}");
}

#[test]
fn help_and_wrong_options_have_their_exit_codes() {
    let (code, text) = run(&["--help"]);
    assert_eq!(code, 0);
    for part in ["Exit codes:", "Examples:", "--guest-kernel", "No serial numbers", "--dtb"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(run(&["--no-such-option"]).0, 64);
    assert_eq!(run(&["--memory", "much"]).0, 64);
}

#[test]
fn a_process_of_its_own_gets_the_exit_code() {
    // Started by itself, below, this test is the doctor's process.
    if let Ok(args) = std::env::var("DOCTOR_ARGS") {
        let args = std::iter::once("doctor").chain(args.split(' '));
        let code = doctor::run(args.map(Into::into), &mut std::io::stdout());
        std::process::exit(code.into());
    }
    let host = Host::phone();
    let root = host.0.to_str().unwrap();
    for (flavour, expected) in [(Flavour::Android16, 0), (Flavour::Vendor, 1), (Flavour::Android14Early, 2)] {
        let fake = Fake::builder().flavour(flavour).device(host.path("dev/gunyah")).build().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "a_process_of_its_own_gets_the_exit_code",
            "--nocapture",
            "--test-threads=1",
        ]);
        command
            .env("DOCTOR_ARGS", format!("--root {root} --probe"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let status = fake.spawn(command).unwrap().wait().unwrap();
        assert_eq!(status.code(), Some(expected), "{flavour}");
    }
}

/// The same process without io_uring: the two findings that try it say so, with what the kernel answered.
#[test]
fn what_the_running_system_refuses_is_said() {
    use std::os::unix::process::CommandExt;

    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "a_process_of_its_own_gets_the_exit_code", "--nocapture", "--test-threads=1"])
        .env("DOCTOR_ARGS", "--json --huge-pages 8 --device /dev/null");
    // SAFETY: between fork and exec only two calls that change the child, with a program on its stack.
    unsafe {
        command.pre_exec(|| {
            let step = |code: u32, k: u32, jf: u8| libc::sock_filter { code: code as u16, jt: 0, jf, k };
            let mut steps = [
                step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
                step(EQUAL, libc::SYS_io_uring_setup as u32, 1),
                step(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
                step(RETURN, libc::SECCOMP_RET_ALLOW, 0),
            ];
            let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
            {
                return Ok(());
            }
            Err(std::io::Error::last_os_error())
        });
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // The test program's own words come first.
    let report: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
    let facilities = check(&report, "facilities");
    assert_eq!(facilities["facts"]["io_uring"], "errno 1", "{facilities:#}");
    assert_eq!(facilities["level"], "note", "{facilities:#}");
    let pinned = check(&report, "pinning");
    assert_eq!(pinned["level"], "note", "{pinned:#}");
    let words = pinned["summary"].as_str().unwrap();
    let limited = words.contains("the limit of locked memory is lower");
    assert!(limited || words.contains("could not be tried: Operation not permitted"), "{words}");
}

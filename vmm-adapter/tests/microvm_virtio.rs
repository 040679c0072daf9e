//! microvm's virtio devices from end to end: a bare-metal guest with drivers of its own, on the fake's interpreter.
#![cfg(feature = "gunyah")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]
#![allow(unsafe_code, reason = "signals for a child")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Tree, example};
use fake_gunyah::{Fake, Flavour, Guest};

const SECTORS: usize = 64;
const PROTECTED: [Flavour; 5] =
    [Flavour::Android14Early, Flavour::Android14, Flavour::Android15, Flavour::Android16, Flavour::V17];

/// A directory of a test's own, gone after it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        // Sockets' paths must be short.
        let path = std::env::temp_dir().join(format!("microvm-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn disk(&self, name: &str) -> String {
        let path = self.path(name);
        fs::write(&path, (0..SECTORS * 512).map(|at| (at / 7) as u8).collect::<Vec<u8>>()).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The guest's checksum, FNV-1a.
fn sum(bytes: &[u8]) -> String {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// The guest, or the one that you built elsewhere (see its notes).
fn guest() -> PathBuf {
    let checked_in = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guests/compiled");
    std::env::var_os("A64_GUESTS").map_or_else(|| checked_in.into(), PathBuf::from).join("virtio.bin")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(example("microvm"));
    command.arg("--kernel").arg(guest()).args(["--memory", "4M"]).args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\r', "")
}

/// What the guest said, which ended well.
fn good(output: &Output) -> String {
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(said.ends_with("done\n"), "{said}");
    said
}

/// One line on standard error, and an exit code.
fn fails(arguments: &[&str], code: i32, words: &[&str]) {
    let output = run(arguments);
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
    let last = complaint.lines().last().unwrap();
    for word in words {
        assert!(last.contains(word), "{arguments:?}: no {word:?} in {last:?}");
    }
}

/// Runs microvm on a fake kernel in this process.
fn on_fake(flavour: Flavour, arguments: &[&str]) -> Output {
    let fake = Fake::builder().flavour(flavour).guest(Guest::code()).build().unwrap();
    fake.run(|_| run(&[&["--device", "/dev/gunyah"], arguments].concat())).unwrap()
}

/// What the guest writes to a disk: a pattern, and zeros in sectors 1 and 2.
fn written() -> Vec<u8> {
    let byte = |sector: usize, at: usize| (sector * 7 + at * 13 + 1) as u8;
    let mut disk: Vec<u8> = (0..SECTORS * 512).map(|at| byte(at / 512, at % 512)).collect();
    disk[512..1536].fill(0);
    disk
}

#[test]
fn a_disk_is_read_and_written() {
    let scratch = Scratch::new("rw");
    let disk = scratch.disk("disk");
    let before = fs::read(&disk).unwrap();
    let said = good(&run(&["--disk", &format!("{disk},serial=root")]));
    let read = format!("disk root: {SECTORS} sectors, sum {}", sum(&before));
    assert!(said.contains(&read), "{said}");
    let statuses = "flush: status 0, zeros: status 0, beyond the end: status 1, unknown: status 2";
    assert!(said.contains(&format!("{statuses}, sum {}", sum(&written()))), "{said}");
    assert_eq!(fs::read(&disk).unwrap(), written());
}

#[test]
fn a_read_only_disk_stays_as_it_is_and_disks_have_an_order() {
    let scratch = Scratch::new("ro");
    let (first, second) = (scratch.disk("first"), scratch.disk("second"));
    let before = fs::read(&first).unwrap();
    let said = good(&run(&["--disk", &format!("{first},ro"), "--disk", &second]));
    let disks: Vec<&str> = said.lines().filter(|line| line.contains(" sectors")).collect();
    assert!(disks[0].starts_with("disk disk0:") && disks[1].starts_with("disk disk1:"), "{said}");
    assert!(said.contains("write: status 1"), "{said}");
    assert_eq!((fs::read(&first).unwrap(), fs::read(&second).unwrap()), (before, written()));
}

#[test]
fn without_ioeventfds_it_is_the_same() {
    let scratch = Scratch::new("noio");
    let disk = scratch.disk("disk");
    let stat = |output: &Output, name: &str| -> u64 {
        let stats = text(&output.stderr);
        let line = stats.lines().find(|line| line.contains("disk0: ")).unwrap().to_owned();
        let before = line.split(name).next().unwrap().trim();
        before.rsplit([' ', ',']).next().unwrap().parse().unwrap()
    };
    let with = run(&["--disk", &format!("{disk},ro"), "--stats"]);
    let without = run(&["--disk", &format!("{disk},ro"), "--stats", "--no-ioeventfd"]);
    assert_eq!(good(&with), good(&without));
    assert_eq!(stat(&with, " notify exits"), 0);
    // One for each request: all sectors, the name, the refused write.
    assert_eq!(stat(&without, " notify exits"), SECTORS as u64 + 2);
    assert_eq!(stat(&with, " requests"), SECTORS as u64 + 2);
    assert!(stat(&with, " interrupts") >= SECTORS as u64);
    assert!(text(&with.stderr).contains("vcpu0:\nexit "), "{}", text(&with.stderr));
}

#[test]
fn drivers_can_come_again_and_hostile_ones_stop_the_device_only() {
    let scratch = Scratch::new("again");
    let disk = format!("{},ro", scratch.disk("disk"));
    let said = good(&run(&["--disk", &disk, "--cmdline", "twice"]));
    assert_eq!(said.matches("write: status 1").count(), 2, "{said}");

    let output = run(&["--disk", &disk, "--cmdline", "hostile"]);
    let said = good(&output);
    assert!(said.contains("needs reset") && said.contains("write: status 1"), "{said}");
    let complaint = text(&output.stderr);
    let line =
        "disk0 stops until the guest resets it: the guest put a buffer at 0x12345678, where it has no memory";
    assert_eq!(complaint.matches(line).count(), 1, "{complaint}");
}

#[test]
fn disks_that_cannot_be() {
    let scratch = Scratch::new("bad");
    let odd = scratch.path("odd");
    fs::write(&odd, [0; 1000]).unwrap();
    fails(&["--disk", &odd], 1, &["1000 bytes", "truncate -s %512"]);
    fails(&["--disk", "/no/such/disk"], 1, &["cannot open the disk /no/such/disk"]);
    let disk = scratch.disk("disk");
    fails(&["--disk", &disk, "--disk", &disk], 1, &["in use by another VM"]);
    let many = vec!["--disk"; 33].into_iter().zip(std::iter::repeat_n(format!("{disk},ro"), 33));
    let many: Vec<String> = many.flat_map(|(option, disk)| [option.to_owned(), disk]).collect();
    fails(&many.iter().map(String::as_str).collect::<Vec<_>>(), 1, &["room for 32 virtio devices"]);
}

#[test]
fn protected_guests_use_the_pool() {
    let scratch = Scratch::new("pool");
    for flavour in PROTECTED {
        let disk = scratch.disk("disk");
        let output = on_fake(flavour, &["--protected", "--dma-pool", "2M", "--rng", "--disk", &disk]);
        let said = good(&output);
        assert!(said.starts_with("pool\n") && said.contains(&sum(&written())), "{flavour}: {said}");
        assert!(said.contains("rng: 256 bytes"), "{flavour}: {said}");
        assert_eq!(fs::read(&disk).unwrap(), written(), "{flavour}");
    }
    // Without devices there is nothing to share.
    let dtb = scratch.path("dtb");
    assert!(good(&on_fake(Flavour::Android14, &["--protected", "--dtb", &dtb])).starts_with("no pool"));
    assert!(!Tree::read(&fs::read(dtb).unwrap()).has("/reserved-memory"));
}

#[test]
fn what_a_protected_guest_lacks_is_named() {
    let scratch = Scratch::new("lent");
    let disk = scratch.disk("disk");
    for flavour in PROTECTED {
        let output = on_fake(flavour, &["--protected", "--disk", &disk, "--cmdline", "lent"]);
        assert!(good(&output).contains("needs reset"), "{flavour}");
        let complaint = text(&output.stderr);
        assert!(complaint.contains("lacks CONFIG_DMA_RESTRICTED_POOL=y"), "{flavour}: {complaint}");
    }
    let output = on_fake(Flavour::Android14, &["--protected", "--disk", &disk, "--cmdline", "noplatform"]);
    assert!(good(&output).contains("features refused"));
    assert!(text(&output.stderr).contains("VIRTIO_F_ACCESS_PLATFORM"), "{}", text(&output.stderr));
}

#[test]
fn a_kernel_that_tells_its_configuration_is_warned_of() {
    let scratch = Scratch::new("ikconfig");
    let (kernel, disk) = (scratch.path("kernel"), scratch.disk("disk"));
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zip.write_all(b"CONFIG_VIRTIO_MMIO=y\n# CONFIG_DMA_RESTRICTED_POOL is not set\n").unwrap();
    fs::write(&kernel, [&fs::read(guest()).unwrap()[..], b"IKCFG_ST", &zip.finish().unwrap()].concat())
        .unwrap();
    let fake = Fake::builder().flavour(Flavour::Android14).guest(Guest::code()).build().unwrap();
    let run = |kind: &str| {
        let mut command = Command::new(example("microvm"));
        let arguments =
            ["--device", "/dev/gunyah", "--memory", "4M", "--kernel", &kernel, "--disk", &disk, kind];
        text(&command.args(arguments).stdin(Stdio::null()).output().unwrap().stderr)
    };
    fake.run(|_| {
        let said = run("--protected");
        assert!(said.contains("built without CONFIG_DMA_RESTRICTED_POOL"), "{said}");
        assert!(!said.contains("CONFIG_VIRTIO_MMIO"), "{said}");
    })
    .unwrap();
    let fake = Fake::builder().flavour(Flavour::V11).guest(Guest::code()).build().unwrap();
    fake.run(|_| assert!(!run("--plain").contains("built without"))).unwrap();
}

#[test]
fn the_tree_describes_the_devices() {
    let scratch = Scratch::new("tree");
    let (disk, dtb) = (format!("{},ro", scratch.disk("disk")), scratch.path("dtb"));
    let output = on_fake(Flavour::Android14, &["--protected", "--disk", &disk, "--rng", "--dtb", &dtb]);
    good(&output);
    let tree = Tree::read(&fs::read(&dtb).unwrap());
    let pool = "/reserved-memory/dma-pool@80400000";
    assert_eq!(tree.cells(&format!("{pool}:reg")), [0, 0x8040_0000, 0, 16 << 20]);
    for (node, addr, spi) in
        [("virtio_mmio@10010000", 0x1001_0000, 1), ("virtio_mmio@10011000", 0x1001_1000, 2)]
    {
        let node = format!("/{node}");
        assert_eq!(tree.texts(&format!("{node}:compatible")), ["virtio,mmio"]);
        assert_eq!(tree.cells(&format!("{node}:reg")), [0, addr, 0, 0x200]);
        assert_eq!(tree.cells(&format!("{node}:interrupts")), [0, spi, 1], "edge, as the irqfd");
        assert_eq!(tree.cells(&format!("{node}:memory-region")), tree.cells(&format!("{pool}:phandle")));
        assert!(tree.has(&format!("{node}:dma-coherent")));
        let bell = format!("/gunyah-vm-config/vdevices/bell-{spi:x}:interrupts");
        assert_eq!(tree.cells(&bell), [0, spi, 1]);
    }
    let lint = Command::new(example("lint")).arg(&dtb).output().unwrap();
    assert_eq!(lint.status.code(), Some(0), "{}", text(&lint.stdout));
}

#[test]
fn frames_come_back_from_a_wire() {
    let scratch = Scratch::new("net");
    let path = scratch.path("wire");
    let listener = UnixListener::bind(&path).unwrap();
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 777];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..count]).unwrap();
        }
    });
    let said = good(&run(&["--net", &format!("socket={path},mac=52:54:00:12:34:56")]));
    assert!(said.contains("net 525400123456: 16 of 16 frames came back"), "{said}");
    echo.join().unwrap();
    fails(&["--net", &format!("socket={}", scratch.path("none"))], 1, &["cannot connect to", "none"]);
}

#[test]
fn a_missing_passt_says_what_to_install() {
    let output = command(&["--net", "user"]).env("PATH", "/nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("apt-get install passt"), "{}", text(&output.stderr));
}

/// Passts that this process made.
fn passts(parent: u32) -> Vec<u32> {
    let numbers =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_ours = |pid: &u32| {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        let (name, rest) = stat.rsplit_once(") ").unwrap();
        name.contains("(passt") && rest.split(' ').nth(1) == Some(&parent.to_string())
    };
    numbers.filter(is_ours).collect()
}

/// Whether a process runs: one that nobody has waited for does not.
fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

#[test]
fn passt_goes_with_microvm_however_that_ends() {
    let required = std::env::var_os("MICROVM_PASST").is_some_and(|value| value == "required");
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let mut command = command(&["--net", "user", "--cmdline", "spin"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let passt = loop {
            if let [passt] = passts(child.id())[..] {
                break passt;
            }
            if child.try_wait().unwrap().is_some() {
                let complaint = text(&wait(&mut child).stderr);
                assert!(complaint.contains("apt-get install passt"), "{complaint}");
                assert!(!required, "passt is missing: apt-get install passt");
                return eprintln!(
                    "not checked with passt, as MICROVM_PASST=required is not set: {complaint}"
                );
            }
            assert!(Instant::now() < deadline, "there is no passt");
            thread::sleep(Duration::from_millis(10));
        };
        // It sets itself up, as somebody else if it was started by root.
        thread::sleep(Duration::from_millis(500));
        assert!(runs(passt), "it has ended: {}", text(&wait(&mut child).stderr));
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        wait(&mut child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while runs(passt) {
            assert!(Instant::now() < deadline, "passt runs on after signal {signal}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn the_consoles_and_random_numbers() {
    let output = command(&["--console", "virtio", "--rng", "--cmdline", "echo"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            child.stdin.take().unwrap().write_all(b"stressed\n")?;
            child.wait_with_output()
        })
        .unwrap();
    let said = good(&output);
    assert!(said.contains("hello from the virtio console\ndesserts\n"), "{said}");
    let sum = |said: &str| said.split("rng: 256 bytes, sum ").nth(1).unwrap()[..16].to_owned();
    let again = good(&run(&["--rng"]));
    assert_ne!(sum(&said), sum(&again), "the numbers differ each time");
}

fn wait_for(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} does not appear", path.display());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Somebody on the host who sends back what the guest sends to port 1234.
fn echo(path: &str) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(format!("{path}_1234")).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut back = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut back).unwrap();
        back.shutdown(Shutdown::Both).unwrap();
    })
}

/// Microvm with a guest that serves one program at port 52.
fn serve(path: &str) -> Child {
    let mut command = command(&["--vsock", &format!("cid=3,uds={path}"), "--cmdline", "serve"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(Path::new(path));
    child
}

/// A program that the guest serves. It refuses until it does.
fn connect(path: &str) -> (UnixStream, BufReader<UnixStream>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "the guest does not serve");
        let mut stream = UnixStream::connect(path).unwrap();
        // It may be closed at once.
        let _ = stream.write_all(b"CONNECT 52\n");
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        let _ = reader.read_line(&mut line);
        if line.starts_with("OK ") {
            return (stream, reader);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn programs_of_host_and_guest_meet() {
    let scratch = Scratch::new("vsock");
    let path = scratch.path("v");
    let echo = echo(&path);
    let mut child = serve(&path);
    let (mut stream, mut reader) = connect(&path);
    let data: Vec<u8> = (0..150_000_u32).map(|n| (n / 5) as u8).collect();
    let theirs = data.clone();
    let writer = thread::spawn(move || {
        stream.write_all(&theirs).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    reader.read_to_end(&mut back).unwrap();
    assert!(back == data, "{} bytes", back.len());
    writer.join().unwrap();
    let said = good(&wait(&mut child));
    assert!(said.contains("vsock cid 3: refused, echo good") && said.contains("served"), "{said}");
    echo.join().unwrap();
    assert!(!Path::new(&path).exists(), "the socket goes with the VM");
}

/// Programs that cannot be served, for want of files, hear so; and when there are files again the next ones are served.
#[test]
fn programs_that_find_no_file_left_are_turned_away() {
    let scratch = Scratch::new("files");
    let path = scratch.path("v");
    let echo = echo(&path);
    let mut child = serve(&path);
    // From now on the device's driver is there.
    echo.join().unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count();
    let limit = libc::rlimit { rlim_cur: open as libc::rlim_t + 4, rlim_max: 1024 };
    let pid = child.id() as libc::pid_t;
    // SAFETY: the limit lives across the call, and no old one is asked for.
    assert_eq!(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) }, 0);
    // They say nothing, so the first of them are kept.
    let silent: Vec<_> = (0..30).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for mut stream in silent.iter().skip(20) {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it hears the end");
    }
    drop(silent);
    let (mut stream, mut reader) = connect(&path);
    stream.write_all(b"all is well").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = String::new();
    reader.read_to_string(&mut back).unwrap();
    assert_eq!(back, "all is well");
    good(&wait(&mut child));
}

fn wait(child: &mut Child) -> Output {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    Output { status: child.wait().unwrap(), stdout, stderr }
}

#[test]
fn a_signal_ends_everything_in_order() {
    let scratch = Scratch::new("signal");
    let (path, disk) = (scratch.path("v"), scratch.disk("disk"));
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let arguments = [
            "--vsock",
            &format!("cid=3,uds={path}"),
            "--disk",
            &disk,
            "--rng",
            "--stats",
            "--cmdline",
            "spin",
        ];
        let mut child = command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(Path::new(&path));
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        let output = wait(&mut child);
        assert_eq!(output.status.code(), Some(128 + signal), "{}", text(&output.stderr));
        assert!(!Path::new(&path).exists());
        assert!(text(&output.stderr).contains("microvm: disk0: "), "{}", text(&output.stderr));
    }
}

#[test]
fn a_file_says_what_the_options_say() {
    let scratch = Scratch::new("config");
    let (disk, file) = (scratch.disk("disk"), scratch.path("vm.toml"));
    fs::write(
        &file,
        format!("rng = true\n[[disk]]\npath = \"{disk}\"\nread-only = true\nserial = \"file\"\n"),
    )
    .unwrap();
    let said = good(&run(&["--config", &file]));
    assert!(
        said.contains("disk file: ") && said.contains("rng: ") && said.contains("write: status 1"),
        "{said}"
    );
    let said = good(&run(&["--config", &file, "--disk", &format!("{disk},serial=option")]));
    assert!(said.contains("disk option: ") && !said.contains("write: "), "{said}");

    // What it comes to, printed, comes to the same.
    let printed = run(&["--config", &file, "--print-config", "--net", "user", "--cmdline", "a \"b\""]);
    assert_eq!(printed.status.code(), Some(0), "{}", text(&printed.stderr));
    fs::write(&file, &printed.stdout).unwrap();
    let again =
        Command::new(example("microvm")).args(["--config", &file, "--print-config"]).output().unwrap();
    assert_eq!(text(&again.stdout), text(&printed.stdout));

    fs::write(&file, "cpus = 1\ncpu = 2\n").unwrap();
    fails(&["--config", &file], 2, &["vm.toml: line 2", "unknown field `cpu`", "`cpus`"]);
    fails(&["--config", "/no/such/file"], 2, &["cannot read /no/such/file"]);
    fails(&["--vsock", "cid=2,uds=/tmp/v"], 2, &["no guest can have the cid 2"]);
}

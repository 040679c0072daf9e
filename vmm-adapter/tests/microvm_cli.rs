//! The microvm example as a program: what it prints, and its exit codes.
#![cfg(feature = "gunyah")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]
#![allow(unsafe_code, reason = "a pseudo-terminal")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Tree, example};
use fake_gunyah::{Errno, Fake, Flavour, Guest, Script};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(example("microvm"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Fails with one line on standard error that has all of `words` in it.
fn fails(arguments: &[&str], words: &[&str]) {
    fails_with(1, arguments, words);
}

/// The same for what the host refuses.
fn is_refused(arguments: &[&str], words: &[&str]) {
    fails_with(34, arguments, words);
}

fn fails_with(code: i32, arguments: &[&str], words: &[&str]) {
    let output = run(arguments);
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
    let last = complaint.lines().last().unwrap();
    for word in words {
        assert!(last.contains(word), "{arguments:?}: no {word:?} in {last:?}");
    }
    assert_eq!(text(&output.stdout), "", "{arguments:?}");
}

/// A directory of a test's own.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("microvm-{name}-{}", std::process::id()));
    let path = if fs::create_dir_all(&path).is_ok() { path } else { std::env::temp_dir().join(name) };
    fs::create_dir_all(&path).unwrap();
    path
}

/// A flat image of these instructions.
fn image(name: &str, words: &[u32]) -> String {
    let path = scratch("images").join(name);
    fs::write(&path, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    path.to_str().unwrap().to_owned()
}

const HVC: u32 = 0xd400_0002;
const OFF: [u32; 3] = [0x5280_0100, 0x72b0_8000, HVC]; // mov w0, #8; movk w0, #0x8400, lsl #16
const RESET: [u32; 3] = [0x5280_0120, 0x72b0_8000, HVC]; // mov w0, #9; movk w0, #0x8400, lsl #16
const SLEEP: [u32; 2] = [0xd503_207f, 0x17ff_ffff]; // wfi; b .-4

#[test]
fn the_built_in_guest_runs() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout).replace('\r', ""),
        "Hello from a Gunyah guest.\nCPU 0 is up.\ntest device: 8 passed, 0 failed\nThere is no second CPU.\nPowering off.\n"
    );
    if !Path::new("/dev/gunyah").exists() {
        assert_eq!(text(&output.stderr).lines().count(), 1);
        assert!(
            text(&output.stderr).contains("has no /dev/gunyah: using a fake"),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn more_cpus_come_up() {
    for cpus in ["2", "5"] {
        let output = run(&["--cpus", cpus]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("CPU 1 is up."));
    }
}

#[test]
fn a_device_that_is_not_there() {
    fails(&["--device", "/no/such/gunyah"], &["/no/such/gunyah", "No such file"]);
}

#[test]
fn a_device_that_is_no_gunyah() {
    fails(&["--device", "/dev/null"], &["/dev/null is not a Gunyah device"]);
    let file = image("a-file", &[0]);
    fails(&["--device", &file], &[&file, "is not a Gunyah device"]);
    fails(&["--device", "/"], &["cannot open /", "directory"]);
}

#[test]
fn a_device_that_may_not_be_opened() {
    // Root may open everything, so try as somebody else, who must be able to reach a copy of the program.
    let dir = std::env::temp_dir().join(format!("microvm-forbidden-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let (program, node) = (dir.join("microvm"), dir.join("node"));
    fs::copy(example("microvm"), &program).unwrap();
    File::create(&node).unwrap();
    for (path, mode) in [(&dir, 0o755), (&program, 0o755), (&node, 0o000)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = Command::new(&program);
    command.arg("--device").arg(&node).stdin(Stdio::null());
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.contains("Permission denied") && complaint.contains(node.to_str().unwrap()),
        "{complaint}"
    );
}

#[test]
fn images_that_do_not_fit_or_are_none() {
    let big = image("big", &vec![0xd503_201f; 1 << 19]);
    fails(&["--kernel", &big, "--memory", "1M"], &["big is too big", "2048 KiB", "has 1024 KiB", "--memory"]);
    // There is room for the image, and none for the tree behind it.
    fails(&["--kernel", &big, "--memory", "2M"], &["devicetree needs", "--memory"]);
    let small = image("small", &OFF);
    fails(&["--kernel", &small, "--initrd", &big, "--memory", "2M"], &["initrd is too big", "2048 KiB"]);
    fails(&["--kernel", "/no/such/kernel"], &["cannot read /no/such/kernel", "No such file"]);
    fails(&["--kernel", &small, "--initrd", "/no/such/initrd"], &["cannot read /no/such/initrd"]);
    fails(&["--kernel", &image("empty", &[])], &["empty is empty"]);
    fails(&["--kernel", &image("elf", &[0x464c_457f, 0])], &["elf is an ELF file", "arm64 Image"]);
    fails(&["--kernel", &image("gzip", &[0x0008_8b1f])], &["gzip is compressed by gzip"]);
}

#[test]
fn memory_that_cannot_be() {
    fails(&["--memory", "2049K"], &["0x80000000", "0x200400", "not aligned to the page size"]);
    fails(&["--memory", "2000G"], &["0x80000000", "beyond 40 bits"]);
    for wrong in ["0", "2MB", "-1", "lots", "99999999999G"] {
        assert_eq!(run(&[&format!("--memory={wrong}")]).status.code(), Some(2), "{wrong}");
    }
}

/// The kernel's list of a region's pages is for 2 GiB at most: larger guests get two regions, and the tree shows both.
#[test]
fn large_memory_comes_in_regions_that_the_host_takes() {
    let tree = scratch("large").join("large.dtb");
    let output = run(&["--memory", "3G", "--dtb", tree.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let tree = Tree::read(&fs::read(&tree).unwrap());
    assert_eq!(tree.cells("/memory:reg"), [0, 0x8000_0000, 0, 0x8000_0000, 1, 0, 0, 0x4000_0000]);
    assert_eq!(tree.cells("/gunyah-vm-config/memory:size-max"), [0, 0xc000_0000]);
}

#[test]
fn prepared_memory_is_reported() {
    let output = run(&["--memory", "8M", "--prepare"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("memory at 0x80000000: 8 MiB ready, "), "{}", text(&output.stderr));
}

#[test]
fn odd_numbers_of_cpus() {
    for odd in ["0", "65", "4294967295"] {
        fails(&["--cpus", odd], &[odd, "1 to 64 are possible"]);
    }
    for wrong in ["-1", "two", "1.5", "4294967296"] {
        assert_eq!(run(&[&format!("--cpus={wrong}")]).status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn the_command_line_explains_itself() {
    let output = run(&["--help"]);
    let help = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for word in ["Exit codes:", " 32 ", " 33 ", " 34 ", " 35 ", "Examples:", "--kernel", "Ctrl-A x"] {
        assert!(help.contains(word), "{word}");
    }
    assert_eq!(run(&["--no-such-option"]).status.code(), Some(2));
    assert_eq!(run(&["--initrd", "x"]).status.code(), Some(2), "an initrd needs a kernel");
}

#[test]
fn power_off_reset_and_crash_differ() {
    assert_eq!(run(&["--kernel", &image("off", &OFF)]).status.code(), Some(0));
    let reset = run(&["--kernel", &image("reset", &RESET)]);
    assert_eq!(reset.status.code(), Some(32));
    assert!(text(&reset.stderr).contains("the guest reset itself (exit type 2"), "{}", text(&reset.stderr));
    // A load of two registers from a device, which nobody carries out. A real processor gives exceptions to the guest.
    let crash = run(&["--kernel", &image("crash", &[0xd2a2_2001, 0x2940_0c22])]);
    assert_eq!(crash.status.code(), Some(33));
    assert!(text(&crash.stderr).contains("the guest crashed") && text(&crash.stderr).contains("exit type 5"));
}

/// The built-in guest is the only one with a test device.
#[test]
fn other_guests_have_no_test_device() {
    let words = [&[0xd282_0001, 0xf2a2_0001, 0xb940_0022][..], &OFF].concat(); // ldr w2, [0x10001000 + ..]
    assert_eq!(run(&["--kernel", &image("elsewhere", &words)]).status.code(), Some(0));
}

#[test]
fn an_image_with_a_header_boots() {
    // b to behind the header; text_offset 0, image_size, flags; the magic.
    let mut words = vec![0; 16];
    words[0] = 0x1400_0010;
    words[4] = 0x1_0000;
    words[14] = 0x644d_5241;
    words.extend(OFF);
    assert_eq!(run(&["--kernel", &image("Image", &words)]).status.code(), Some(0));
    // Its place is not the start of memory, and v11 has no other entry.
    words[2] = 0x8_0000;
    if !Path::new("/dev/gunyah").exists() {
        is_refused(&["--kernel", &image("Image-offset", &words)], &["does not offer an entry point"]);
    }
}

#[test]
fn the_initrd_and_the_tree_are_there() {
    // Prints the byte at 0x8001_0000, where a RAM disk follows a small image.
    let words = [&[0xd2b0_0021, 0x3940_0022, 0xd2a2_0003, 0x3900_0062][..], &OFF].concat();
    let kernel = image("prints", &words);
    let dir = scratch("initrd");
    let (initrd, dtb) = (dir.join("initrd"), dir.join("dtb"));
    fs::write(&initrd, b"!and more").unwrap();
    let arguments =
        ["--kernel", &kernel, "--initrd", initrd.to_str().unwrap(), "--dtb", dtb.to_str().unwrap()];
    let output = run(&[&arguments[..], &["--cmdline", "root=/dev/ram0 quiet", "--memory", "16M"]].concat());
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), "!".to_owned()),
        "{}",
        text(&output.stderr)
    );
    let tree = Tree::read(&fs::read(&dtb).unwrap());
    assert_eq!(tree.texts("/chosen:bootargs"), ["root=/dev/ram0 quiet"]);
    assert_eq!(tree.cells("/chosen:linux,initrd-start"), [0, 0x8001_0000]);
    assert_eq!(tree.cells("/chosen:linux,initrd-end"), [0, 0x8001_0009]);
    assert_eq!(tree.cells("/memory:reg"), [0, 0x8000_0000, 0, 16 << 20]);
    assert_eq!(tree.texts("/chosen:stdout-path"), ["/serial@10000000"]);
    fails(&["--dtb", "/no/such/dir/dtb"], &["cannot write the devicetree to /no/such/dir/dtb"]);
}

/// Waits for a byte from the UART, prints it, and powers off.
fn echo() -> String {
    let words = [
        0xd2a2_0001, // mov x1, #0x10000000
        0x3940_1422, // ldrb w2, [x1, #5]
        0x3607_ffe2, // tbz w2, #0, .-4
        0x3940_0022, // ldrb w2, [x1]
        0x3900_0022, // strb w2, [x1]
    ];
    image("echo", &[&words[..], &OFF].concat())
}

#[test]
fn input_reaches_the_guest() {
    let mut child = Command::new(example("microvm"));
    child.args(["--kernel", &echo()]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    // Ctrl-A is a byte like any other where there is no terminal.
    child.stdin.take().unwrap().write_all(b"\x01x").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stdout),
        (Some(0), b"\x01".to_vec()),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn lost_output_is_said_once_and_the_guest_goes_on() {
    let output = command(&[]).stdout(File::create("/dev/full").unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr).matches("output is lost").count(), 1, "{}", text(&output.stderr));
}

#[test]
fn the_protected_kind_is_refused_where_there_is_none() {
    if !Path::new("/dev/gunyah").exists() {
        is_refused(&["--protected"], &["does not offer memory that the host cannot reach"]);
    }
}

/// Runs microvm, in its process, on a fake kernel in this one.
fn on_fake(fake: &Fake, arguments: &[&str]) -> Output {
    fake.run(|_| run(&[&["--device", "/dev/gunyah"], arguments].concat())).unwrap()
}

#[test]
fn one_program_runs_on_every_flavour() {
    for flavour in [
        Flavour::V11,
        Flavour::Android14Early,
        Flavour::Android14,
        Flavour::Android15,
        Flavour::Android16,
        Flavour::V17,
    ] {
        let fake = Fake::builder().flavour(flavour).guest(Guest::code()).build().unwrap();
        let output = on_fake(&fake, &["--cpus", "2"]);
        assert_eq!(output.status.code(), Some(0), "{flavour}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("test device: 8 passed, 0 failed"), "{flavour}");
        let protected = on_fake(&fake, &["--protected"]);
        let want = if flavour == Flavour::V11 { 34 } else { 0 };
        assert_eq!(protected.status.code(), Some(want), "{flavour}: {}", text(&protected.stderr));
    }
    let vendor = Fake::builder().flavour(Flavour::Vendor).build().unwrap();
    let output = on_fake(&vendor, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("0xB2"), "{}", text(&output.stderr));
}

/// A kernel that answers nonsense, or refuses: one line, and an exit code that is not the guest's.
#[test]
fn a_kernel_that_cannot_be_right() {
    let nonsense = Script::new().mmio_read(0x1000, 200);
    let fake = Fake::builder().guest(Guest::scripts([nonsense])).build().unwrap();
    let output = on_fake(&fake, &[]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert!(complaint.contains("vCPU 0: run failed") && complaint.contains("0xc8"), "{complaint}");

    let fake = Fake::builder().guest(Guest::code()).start_fails(Errno::ENODEV).build().unwrap();
    let output = on_fake(&fake, &[]);
    assert_eq!(output.status.code(), Some(34));
    let complaint = text(&output.stderr);
    assert!(complaint.contains("VM_START") && complaint.contains("No such device"), "{complaint}");

    let limited =
        Fake::builder().flavour(Flavour::Android14).memlock(1 << 20).guest(Guest::code()).build().unwrap();
    let output = on_fake(&limited, &[]);
    assert_eq!(output.status.code(), Some(34));
    assert!(text(&output.stderr).contains("Cannot allocate memory"), "{}", text(&output.stderr));

    // A guest that powers off without the checks has not done its work.
    let idle = Script::new().exit(1, &[0; 4]);
    let fake = Fake::builder().guest(Guest::scripts([idle])).build().unwrap();
    let output = on_fake(&fake, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("0 checks passed and 0 failed, 8 and 0"),
        "{}",
        text(&output.stderr)
    );
}

/// Microvm on a terminal.
struct Terminal {
    ours: File,
    theirs: OwnedFd,
    before: (u32, u32),
    child: Child,
}

/// The settings that raw mode changes.
fn settings(terminal: &OwnedFd) -> (u32, u32) {
    let mut settings = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: the descriptor is open, and zeros are valid for all fields.
    let settings = unsafe {
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), settings.as_mut_ptr()), 0);
        settings.assume_init()
    };
    (settings.c_iflag, settings.c_lflag)
}

/// A pseudo-terminal: our end, and a program's.
fn open_terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    let null = std::ptr::null_mut();
    // SAFETY: both descriptors are written by the call; the other arguments may be null.
    assert_eq!(unsafe { libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()) }, 0);
    // SAFETY: the call has just made them for us.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

impl Terminal {
    /// With a guest that sleeps for ever, when it is in raw mode.
    fn new() -> Self {
        Self::with(&["--kernel", &image("sleeper", &SLEEP)])
    }

    /// With these arguments, when it is in raw mode.
    fn with(arguments: &[&str]) -> Self {
        let (ours, theirs) = open_terminal();
        let before = settings(&theirs);
        let mut command = Command::new(example("microvm"));
        command.args(arguments);
        command.stdin(theirs.try_clone().unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let terminal = Self { ours, theirs, before, child: command.spawn().unwrap() };
        let deadline = Instant::now() + Duration::from_secs(60);
        while settings(&terminal.theirs) == before {
            assert!(Instant::now() < deadline, "the terminal stays as it was");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(settings(&terminal.theirs).1 & (libc::ECHO | libc::ICANON | libc::ISIG), 0);
        terminal
    }

    fn types(&mut self, keys: &[u8]) {
        self.ours.write_all(keys).unwrap();
    }

    /// The exit code. The terminal is as it was then.
    fn ended(mut self) -> Option<i32> {
        let status = self.child.wait().unwrap();
        assert_eq!(settings(&self.theirs), self.before);
        status.code()
    }
}

#[test]
fn ctrl_a_x_quits() {
    let mut terminal = Terminal::new();
    terminal.types(b"ab\x01x");
    assert_eq!(terminal.ended(), Some(35));
}

#[test]
fn ctrl_c_belongs_to_the_guest() {
    let mut terminal = Terminal::new();
    terminal.types(b"\x03");
    std::thread::sleep(Duration::from_millis(100));
    assert!(terminal.child.try_wait().unwrap().is_none());
    terminal.types(b"\x01X");
    assert_eq!(terminal.ended(), Some(35));
}

/// A guest that writes to the UART for ever, and reads nothing.
fn talker() -> String {
    // mov x1, #0x10000000; strb w1, [x1]; b .-4
    image("talker", &[0xd2a2_0001, 0x3900_0021, 0x17ff_ffff])
}

/// Waits until the output's reader, which takes nothing, has as much as there is room for.
fn wait_until_full(child: &mut Child, reader: &impl AsRawFd) {
    // Less room is full sooner, where exits take long; a terminal has little, and a pipe that holds more stays as it is.
    // SAFETY: a number for a descriptor that is open.
    unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    let (mut before, mut waiting) = (-1, 0);
    while before != waiting || waiting == 0 {
        before = waiting;
        std::thread::sleep(Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        // SAFETY: the call writes an int.
        assert_eq!(unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &mut waiting) }, 0);
    }
}

/// The exit code of a child that must end by itself now.
fn ends(child: &mut Child, what: &str) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{what}: it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn output_that_nobody_reads_does_not_keep_it_from_ending() {
    let talker = talker();
    for (console, terminal) in [("serial", false), ("serial", true), ("virtio", false)] {
        for input in [&b""[..], b"a", &[b'a'; 20_000]] {
            let what = format!("{console}, on a terminal: {terminal}, {} bytes of input", input.len());
            let mut command = Command::new(example("microvm"));
            command.args(["--kernel", &talker, "--console", console]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut pty = None;
            if terminal {
                let (ours, theirs) = open_terminal();
                command.stdout(theirs);
                pty = Some(ours);
            }
            let mut child = command.spawn().unwrap();
            // Its own copy of the terminal is gone; the reader must stay, or there would be an error instead.
            drop(command);
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(input).unwrap();
            let stdout = child.stdout.take();
            match (&pty, &stdout) {
                (Some(pty), _) => wait_until_full(&mut child, pty),
                (None, Some(stdout)) => wait_until_full(&mut child, stdout),
                (None, None) => panic!("it has no output"),
            }
            // More, now that it is stuck.
            stdin.write_all(b"b").unwrap();
            std::thread::sleep(Duration::from_millis(100));
            // SAFETY: a signal to a child that has not been waited for.
            assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
            assert_eq!(ends(&mut child, &what), Some(128 + libc::SIGTERM), "{what}");
        }
    }
}

#[test]
fn ctrl_a_x_quits_whatever_waits_for_the_guest() {
    // A guest whose output is stuck, and one that never reads: more is typed than it or the UART have room for.
    let sleeper = image("sleeper", &SLEEP);
    for (kernel, console, stuck) in
        [(talker(), "serial", true), (sleeper.clone(), "serial", false), (sleeper, "virtio", false)]
    {
        let mut terminal = Terminal::with(&["--kernel", &kernel, "--console", console]);
        if stuck {
            let stdout = terminal.child.stdout.take().unwrap();
            wait_until_full(&mut terminal.child, &stdout);
            terminal.child.stdout = Some(stdout);
        }
        for _ in 0..12 {
            terminal.types(&[b'a'; 1000]);
        }
        terminal.types(b"\x01x");
        assert_eq!(ends(&mut terminal.child, console), Some(35));
        assert_eq!(terminal.ended(), Some(35));
    }
}

#[test]
fn signals_end_it_in_order() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let terminal = Terminal::new();
        // SAFETY: a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(terminal.child.id() as i32, signal) }, 0);
        assert_eq!(terminal.ended(), Some(128 + signal));
    }
}

//! A small VMM in C, recorded on the fake, for the tests of record and replay.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, missing_docs)]

#[path = "../c_program/mod.rs"]
mod c_program;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use fake_gunyah::replay::{Recording, parse};
use fake_gunyah::{Answer, Fake, Guest, Script};

pub const FAKE_GUNYAH: &str = env!("CARGO_BIN_EXE_fake-gunyah");

/// A path for a test's own file.
pub fn scratch(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{n}", std::process::id()))
}

/// The VMM, compiled once.
pub fn vmm() -> &'static Path {
    static VMM: OnceLock<PathBuf> = OnceLock::new();
    VMM.get_or_init(|| c_program::compile("record_c/vmm.c"))
}

/// vCPU 0 reads and writes, and ends the VM when vCPU 1, if there is one, has written what it has to write.
pub fn guest(vcpus: u32, rounds: u64) -> Guest {
    let second_is_done = Arc::new(AtomicBool::new(vcpus < 2));
    let (seen, mut step) = (Arc::clone(&second_is_done), 0);
    let first = Script::from_fn(move |resume| {
        step += 1;
        if step <= 2 * rounds && step % 2 == 1 {
            return Answer::mmio_read(0x1000, 4);
        }
        if step <= 2 * rounds {
            return Answer::mmio_write(0x1008, 4, resume[0] & 0xffff_ffff);
        }
        if seen.load(Ordering::Acquire) { Answer::exit(1, &[0x5a]) } else { Answer::state(0, [0; 3]) }
    });
    let mut left = rounds;
    let second = Script::from_fn(move |_| {
        if left > 0 {
            left -= 1;
            return Answer::mmio_write(0x2000, 1, 0x41);
        }
        second_is_done.store(true, Ordering::Release);
        Answer::state(1, [0; 3])
    });
    Guest::scripts([first, second])
}

/// What a program has done.
pub struct Done {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Done {
    /// What one vCPU's thread has printed. Threads print in whatever order they run.
    pub fn of(&self, vcpu: u32) -> Vec<&str> {
        self.out.lines().filter(|line| line.starts_with(&format!("vcpu{vcpu}:"))).collect()
    }
}

fn collect(process: &mut std::process::Child) -> (String, String) {
    let mut stderr = process.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    let mut out = String::new();
    process.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    (out, errors.join().unwrap())
}

/// Runs a command on the fake.
pub fn on_the_fake(guest: Guest, mut command: Command) -> Done {
    let fake = Fake::builder().guest(guest).build().unwrap();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = fake.spawn(command).unwrap();
    let (out, err) = collect(child.process());
    Done { status: child.wait().unwrap(), out, err }
}

/// Runs a command on this host as it is.
pub fn plainly(mut command: Command) -> Done {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = collect(&mut child);
    Done { status: child.wait().unwrap(), out, err }
}

/// Starts a command on the fake, and hands the lines that it prints to `body` together with the recorder's process id.
pub fn with_lines<T>(
    guest: Guest,
    mut command: Command,
    body: impl FnOnce(&mut dyn Iterator<Item = String>, u32) -> T,
) -> (T, ExitStatus) {
    let fake = Fake::builder().guest(guest).build().unwrap();
    command.stdout(Stdio::piped());
    let mut child = fake.spawn(command).unwrap();
    let id = child.id();
    let out = child.process().stdout.take().unwrap();
    let mut lines = BufReader::new(out).lines().map(Result::unwrap);
    let value = body(&mut lines, id);
    // Else a program that still prints would wait for a reader.
    lines.for_each(drop);
    (value, child.wait().unwrap())
}

/// `fake-gunyah record -o FILE -- VMM ARGS…`.
pub fn recorder(file: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(FAKE_GUNYAH);
    command.arg("record").arg("-o").arg(file).arg("--").arg(vmm()).args(args);
    command
}

/// `fake-gunyah replay FLAGS FILE -- VMM ARGS…`.
pub fn replayer(flags: &[&str], file: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(FAKE_GUNYAH);
    command.arg("replay").args(flags).arg(file).arg("--").arg(vmm()).args(args);
    command
}

/// Records the VMM on the fake: what it did, where the recording is, and the recording.
pub fn record(rounds: u64, args: &[&str]) -> (Done, PathBuf, Recording) {
    let file = scratch("recording");
    let vcpus = args[0].parse().unwrap();
    let done = on_the_fake(guest(vcpus, rounds), recorder(&file, args));
    let recording = read(&file);
    (done, file, recording)
}

pub fn read(file: &Path) -> Recording {
    let text = std::fs::read(file).unwrap();
    parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// Writes a recording by hand: a header, and these lines.
pub fn by_hand(lines: &[&str]) -> PathBuf {
    let file = scratch("by-hand");
    let header = r#"{"format":"gunyah-recording","version":1,"page_size":4096}"#;
    std::fs::write(&file, format!("{header}\n{}\n", lines.join("\n"))).unwrap();
    file
}

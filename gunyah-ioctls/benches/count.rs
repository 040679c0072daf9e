//! How many instructions this crate takes, counted by callgrind. `cargo bench --bench count`.
//!
//! Runs itself under `valgrind --tool=callgrind` for two numbers of rounds each and divides the difference, so start-up
//! does not count. The same by hand: `valgrind --tool=callgrind BINARY store gunyah-ioctls 64 100000`.
//!
//! With `--check` only `run` is counted, beside the bare loop, and more than [`AIM`] instructions over it are a failure.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod interposed;

use std::hint::black_box;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering;

use gunyah_ioctls::{Gunyah, VcpuExit};
use interposed::{Bare, LOADS, bare_step, gunyah_step, gunyah_vcpus, kvm_step, kvm_vcpus};

/// What `run` may take over the bare loop, per exit.
const AIM: f64 = 120.0;

const BARE: &str = "bare loop";
const OURS: &str = "gunyah-ioctls";
const KVM: &str = "kvm-ioctls";

/// One line of the table.
#[derive(Clone, Copy)]
struct Case {
    what: &'static str,
    vcpus: usize,
    /// With the baseline first.
    subjects: &'static [&'static str],
    rounds: u64,
}

const fn run(what: &'static str, vcpus: usize) -> Case {
    Case { what, vcpus, subjects: &[BARE, OURS, KVM], rounds: 20_000 }
}

/// `load` has its read answered. `kick` is of a vCPU outside `run`, with the `run` that reports it; `create_vm` is with the
/// detection of what the host has, beside the one call.
const CASES: [Case; 6] = [
    run("store", 1),
    run("store", 64),
    run("load", 1),
    run("load", 64),
    Case { what: "kick", vcpus: 1, subjects: &[OURS], rounds: 20_000 },
    Case { what: "create_vm", vcpus: 0, subjects: &[BARE, OURS], rounds: 1_000 },
];

/// Does it so often.
fn work(what: &str, subject: &str, vcpus: usize, rounds: u64) {
    LOADS.store(u32::from(what == "load"), Ordering::Relaxed);
    match (what, subject) {
        ("kick", _) => {
            let (_vm, mut all) = gunyah_vcpus(vcpus);
            let kick = all[0].kick_handle();
            all[0].run().unwrap();
            for _ in 0..rounds {
                kick.kick();
                assert!(matches!(black_box(all[0].run()), Ok(VcpuExit::Interrupted)));
            }
        }
        ("create_vm", BARE) => {
            for _ in 0..rounds {
                let device = interposed::device();
                // SAFETY: the interposed call, which answers with a new descriptor.
                drop(black_box(unsafe {
                    let fd = libc::ioctl(device.as_raw_fd(), 0x4700 as libc::Ioctl, 0 as libc::c_ulong);
                    OwnedFd::from_raw_fd(fd)
                }));
            }
        }
        ("create_vm", _) => {
            for _ in 0..rounds {
                // A device is asked once what it is, so each VM has one of its own.
                let gunyah = Gunyah::from(interposed::device());
                drop(black_box(gunyah.create_vm().unwrap()));
            }
        }
        (_, BARE) => {
            let mut all: Vec<_> = (0..vcpus).map(|_| Bare::new()).collect();
            in_turn(&mut all, rounds, bare_step);
        }
        (_, KVM) => {
            let (_vm, mut all) = kvm_vcpus(vcpus);
            in_turn(&mut all, rounds, kvm_step);
        }
        _ => {
            let (_vm, mut all) = gunyah_vcpus(vcpus);
            in_turn(&mut all, rounds, gunyah_step);
        }
    }
}

/// One exit of one vCPU after the other.
fn in_turn<V>(all: &mut [V], rounds: u64, step: impl Fn(&mut V) -> u64) {
    let mut next = 0;
    for _ in 0..rounds {
        next = if next + 1 < all.len() { next + 1 } else { 0 };
        black_box(step(&mut all[next]));
    }
}

/// Instructions of one run of this program, from callgrind's last words.
fn collected(case: &Case, subject: &str, rounds: u64) -> Result<u64, String> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args([case.what, subject, &case.vcpus.to_string(), &rounds.to_string()])
        .output()
        .map_err(|error| format!("valgrind cannot be run: {error}; it is Debian's package valgrind"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let words = text.lines().find_map(|line| line.split_once("Collected :"));
    words
        .filter(|_| output.status.success())
        .and_then(|(_, number)| number.trim().parse().ok())
        .ok_or_else(|| format!("callgrind counted nothing:\n{text}"))
}

/// Instructions of one round.
fn per_round(case: &Case, subject: &str) -> Result<f64, String> {
    let few = collected(case, subject, case.rounds)?;
    let many = collected(case, subject, 2 * case.rounds)?;
    let difference = many.checked_sub(few).ok_or("twice the rounds took fewer instructions")?;
    Ok(difference as f64 / case.rounds as f64)
}

fn table() -> Result<(), String> {
    println!("{:<12}{:>6}  {:<16}{:>12}", "what", "vCPUs", "loop", "instructions");
    for case in &CASES {
        for subject in case.subjects {
            let count = per_round(case, subject)?;
            println!("{:<12}{:>6}  {subject:<16}{count:>12.1}", case.what, case.vcpus);
        }
    }
    Ok(())
}

/// Fails when `run` takes more than the aim.
fn check() -> Result<(), String> {
    let mut worst: f64 = 0.0;
    for case in CASES.iter().filter(|case| matches!(case.what, "store" | "load")) {
        let over = per_round(case, OURS)? - per_round(case, BARE)?;
        println!("{} with {} vCPUs: {over:.1} instructions over the bare loop", case.what, case.vcpus);
        // The bare loop does no less than ours, so this would be a mistake of the count.
        if over <= 0.0 {
            return Err("fewer than the bare loop: the count is wrong".to_owned());
        }
        worst = worst.max(over);
    }
    if worst > AIM {
        return Err(format!("run takes {worst:.1} instructions over the bare loop, the aim is {AIM}"));
    }
    println!("run: at most {worst:.1} instructions over the bare loop, the aim is {AIM}");
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let answer = match arguments[..] {
        [what, subject, vcpus, rounds] => {
            work(what, subject, vcpus.parse().unwrap(), rounds.parse().unwrap());
            Ok(())
        }
        ["--check"] => check(),
        _ => table(),
    };
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

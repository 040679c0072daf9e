//! How many instructions `VcpuFd::run` takes per MMIO exit, counted by callgrind. `cargo bench --bench count`.
//!
//! Runs itself under `valgrind --tool=callgrind` for two numbers of rounds each and divides the difference, so start-up
//! does not count. The same by hand: `valgrind --tool=callgrind BINARY gunyah-ioctls store 100000`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod interposed;

use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::Ordering;

use interposed::{Bare, LOADS, bare_step, gunyah_step, gunyah_vcpus, kvm_step, kvm_vcpus};

const SUBJECTS: [&str; 3] = ["bare loop", "gunyah-ioctls", "kvm-ioctls"];
const ROUNDS: u64 = 20_000;

fn work(subject: &str, rounds: u64) {
    match subject {
        "bare loop" => {
            let mut bare = Bare::new();
            (0..rounds).for_each(|_| _ = black_box(bare_step(&mut bare)));
        }
        "gunyah-ioctls" => {
            let (_vm, mut all) = gunyah_vcpus(1);
            (0..rounds).for_each(|_| _ = black_box(gunyah_step(&mut all[0])));
        }
        _ => {
            let (_vm, mut all) = kvm_vcpus(1);
            (0..rounds).for_each(|_| _ = black_box(kvm_step(&mut all[0])));
        }
    }
}

/// Instructions of one run, from callgrind's last words.
fn count(subject: &str, access: &str, rounds: u64) -> Result<u64, String> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args([subject, access, &rounds.to_string()])
        .output()
        .map_err(|error| format!("valgrind cannot be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let words = text.lines().find_map(|line| line.split_once("Collected :"));
    words
        .and_then(|(_, number)| number.trim().parse().ok())
        .ok_or_else(|| format!("callgrind counted nothing:\n{text}"))
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [subject, access, rounds] = &arguments[..] {
        LOADS.store(u32::from(access == "load"), Ordering::Relaxed);
        return work(subject, rounds.parse().unwrap());
    }
    println!("{:<10}{:<16}instructions per exit", "access", "loop");
    for access in ["store", "load"] {
        for subject in SUBJECTS {
            let counted = count(subject, access, ROUNDS)
                .and_then(|few| count(subject, access, 2 * ROUNDS).map(|many| many - few));
            match counted {
                Ok(difference) => {
                    println!("{access:<10}{subject:<16}{:.1}", difference as f64 / ROUNDS as f64)
                }
                Err(why) => {
                    eprintln!("{why}");
                    std::process::exit(1);
                }
            }
        }
    }
}

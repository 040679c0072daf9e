//! Guests made by compilers, on the interpreter. Their source and how they are built is in `tests/guests/compiled`;
//! `A64_GUESTS=DIRECTORY` runs the ones in there instead of those checked in.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod a64_support;
#[path = "../../guests/compiled/rust/src/work.rs"]
mod work;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use a64_support::{Access, Vm};
use fake_gunyah::hyp::state;

fn guests() -> PathBuf {
    std::env::var_os("A64_GUESTS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../guests/compiled")),
        PathBuf::from,
    )
}

fn image(name: &str) -> Vec<u8> {
    let path = guests().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs a guest of one vCPU and gives what it printed.
fn run(name: &str) -> String {
    let mut vm = Vm::new(&image(name), 1);
    let mut output = Vec::new();
    vm.run_to_end(|_, access| match access {
        Access::Write { addr: 0x1000_0000, len: 1, value } => {
            output.push(value as u8);
            0
        }
        other => panic!("{name}: no device there: {other:x?}"),
    });
    let output = String::from_utf8(output).unwrap();
    assert_eq!(vm.machine.faults(), [""; 0], "{name} printed {output}");
    assert_eq!(vm.exits(), [(1, vec![0; 4])], "{name} printed {output}");
    output
}

#[test]
fn c_gives_the_same_results_at_every_optimization() {
    let expected = std::fs::read_to_string(guests().join("checks.txt")).unwrap();
    assert!(expected.ends_with("done\n"));
    for name in ["checks-O0.bin", "checks-O2.bin", "checks-Os.bin", "checks-O3-lse.bin"] {
        assert_eq!(run(name), expected, "{name}");
    }
}

#[test]
fn rust_gives_the_same_results_as_here() {
    let mut expected = String::new();
    work::work(&mut expected).unwrap();
    assert!(expected.ends_with("done\n"));
    for name in ["rust-O0.bin", "rust-O3.bin"] {
        assert_eq!(run(name), expected, "{name}");
    }
}

/// vCPUs on threads of their own, all at once: their atomics and locks must hold.
fn run_on_threads(name: &str, vcpus: u32) -> String {
    let mut vm = Vm::new(&image(name), vcpus);
    let output = Arc::new(Mutex::new(String::new()));
    let preemptions = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for mut engine in vm.engines.drain(..) {
            let (output, log, preemptions) = (output.clone(), vm.log.clone(), &preemptions);
            scope.spawn(move || {
                // Once in a while the host has something else to do.
                let preempt = || preemptions.fetch_add(1, Ordering::Relaxed) % 5 == 0;
                loop {
                    let response = engine.vcpu_run([0; 3], &preempt).unwrap();
                    match response.state {
                        state::MMIO_WRITE => output.lock().unwrap().push(char::from(response.data[2] as u8)),
                        state::POWERED_OFF if !log.exits.lock().unwrap().is_empty() => break,
                        state::POWERED_OFF | state::READY => std::thread::yield_now(),
                        other => panic!("{name}: state {other}, {:x?}", response.data),
                    }
                }
            });
        }
    });
    assert_eq!(vm.exits(), [(1, vec![0; 4])]);
    let output = output.lock().unwrap();
    output.clone()
}

#[test]
fn atomics_hold_between_vcpus() {
    for name in ["smp.bin", "smp-lse.bin"] {
        for vcpus in [1, 2, 4, 8] {
            let n = u64::from(vcpus) * 2000;
            let halves = 0u16.wrapping_sub(n as u16);
            assert_eq!(
                run_on_threads(name, vcpus),
                format!(
                    "cpus {vcpus} added {} swapped {} locked {} small {n} halves {halves}\n",
                    3 * n,
                    5 * n,
                    7 * n
                ),
                "{name}"
            );
        }
    }
}

//! The echo test: a guest loads a number, stores it again, 20 000 times, while signals and kicks rain on the vCPU's thread.
//!
//! The loops that a VMM author writes first, in C, lose exits and answers then. [`VcpuFd::run`] must see every exit, and
//! must know of every answer that it could not save.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "../common/mod.rs"]
mod common;
mod naive;
mod page;
mod storm;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake_gunyah::{Answer, Builder, Fake, Fault, Flavour, Guest, Handle, Host, Script};
use gunyah_bindings::v11;
use gunyah_ioctls::{Gunyah, VcpuExit, VcpuFd, VmFd, block_other_signals};

use page::SecondMapping;
use storm::Victim;

pub(crate) const ADDR: u64 = 0x1000;

/// How often the guest loads and stores. Not all hosts are worth the wait in a debug build.
pub(crate) fn rounds(host: &str) -> u64 {
    let default = if cfg!(debug_assertions) && host != "v11" { 4_000 } else { 20_000 };
    std::env::var("GUNYAH_ECHO_ROUNDS").map_or(default, |text| text.parse().unwrap())
}

/// The hosts: the oldest, the two ways of demand paging, and the one that was seen to mix them.
pub(crate) fn hosts() -> [(&'static str, Builder); 4] {
    let on = |flavour| Fake::builder().flavour(flavour).record_calls(false);
    [
        ("v11", on(Flavour::V11)),
        ("android15", on(Flavour::Android15)),
        ("v17", on(Flavour::V17)),
        ("mixed", Fake::builder().host(Host::Open2023).record_calls(false)),
    ]
}

/// The number that the host answers in a round: never 0, which is what a lost answer reads as.
fn number(round: u64) -> u32 {
    (round as u32).wrapping_mul(1_664_525).wrapping_add(1_013_904_223) | 1
}

/// What the guest got.
#[derive(Debug, Default)]
struct Seen {
    right: AtomicU64,
    zero: AtomicU64,
    wrong: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The guest: each second step stores what the step before has loaded.
fn guest(rounds: u64, seen: &Arc<Seen>) -> Guest {
    let seen = Arc::clone(seen);
    let mut step = 0;
    Guest::scripts([Script::from_fn(move |resume| {
        let round = step / 2;
        let load = step % 2 == 0;
        step += 1;
        if !load {
            let got = resume[0] as u32;
            add(match got {
                _ if got == number(round) => &seen.right,
                0 => &seen.zero,
                _ => &seen.wrong,
            });
            Answer::mmio_write(ADDR + 8, 4, got.into())
        } else if round == rounds {
            Answer::exit(1, &[0; 4])
        } else {
            Answer::mmio_read(ADDR, 4)
        }
    })])
}

/// What the host saw.
#[derive(Debug, Default)]
struct Outcome {
    reads: u64,
    writes: u64,
    interrupted: u64,
    possibly_lost: u64,
}

/// The loop of a VMM. Every exit must come, once, and in the guest's order.
fn serve(vcpu: &mut VcpuFd, mut answered: impl FnMut(&mut VcpuFd, u64)) -> Outcome {
    let mut out = Outcome::default();
    loop {
        match vcpu.run().unwrap() {
            VcpuExit::MmioRead { addr, len } => {
                assert_eq!((addr, len, out.reads), (ADDR, 4, out.writes));
                vcpu.complete_mmio_read(&number(out.reads).to_le_bytes()).unwrap();
                out.reads += 1;
                answered(vcpu, out.reads);
            }
            VcpuExit::MmioWrite { addr, len, data } => {
                assert_eq!((addr, len, out.reads), (ADDR + 8, 4, out.writes + 1));
                let got = u32::from_le_bytes(*data.first_chunk().unwrap());
                assert!(got == 0 || got == number(out.writes), "{got:#x} in round {}", out.writes);
                out.writes += 1;
            }
            VcpuExit::Interrupted => out.interrupted += 1,
            VcpuExit::Status(_) => break,
            other => panic!("{other:?}"),
        }
    }
    out.possibly_lost = vcpu.answers_possibly_lost();
    out
}

fn vm() -> (VmFd, VcpuFd) {
    let vm = Gunyah::new().unwrap().create_vm().unwrap();
    let vcpu = vm.add_vcpu(0).unwrap();
    vm.start().unwrap();
    (vm, vcpu)
}

/// Runs the echo on every host with `body` as the VMM, checks that no exit was lost, and lets `check` judge the answers.
fn echo(
    what: &str,
    body: impl Fn(VmFd, VcpuFd) -> Outcome + Sync,
    check: impl Fn(&str, &Outcome, &Seen, &Handle),
) {
    echo_with(None, what, body, check);
}

/// The same, on hosts with a fault.
fn echo_with(
    fault: Option<Fault>,
    what: &str,
    body: impl Fn(VmFd, VcpuFd) -> Outcome + Sync,
    check: impl Fn(&str, &Outcome, &Seen, &Handle),
) {
    storm::install_handlers();
    for (name, host) in hosts() {
        let _watchdog = common::Watchdog::new();
        let seen = Arc::new(Seen::default());
        let rounds = rounds(name);
        let host = fault.iter().fold(host, |host, fault| host.fault(fault.clone()));
        let fake = host.guest(guest(rounds, &seen)).build().unwrap();
        let mut kept = None;
        let outcome = fake
            .run(|handle| {
                kept = Some(handle.clone());
                let (vm, vcpu) = vm();
                body(vm, vcpu)
            })
            .unwrap();
        let handle = kept.unwrap();
        println!(
            "{what} on {name}: {outcome:?} {seen:?} fake: answers lost {}, exits overtaken {}",
            handle.answers_lost(),
            handle.exits_lost()
        );
        assert_eq!(handle.leftovers(), [], "{name}");
        assert_eq!((outcome.reads, outcome.writes), (rounds, rounds), "{name}: an exit was lost");
        let [right, zero, wrong] =
            [&seen.right, &seen.zero, &seen.wrong].map(|count| count.load(Ordering::Relaxed));
        assert_eq!((right + zero, wrong), (rounds, 0), "{name}");
        assert_eq!(
            zero,
            handle.answers_lost(),
            "{name}: a guest reads 0 when its answer was lost, and only then"
        );
        assert!(zero <= outcome.possibly_lost, "{name}: {zero} lost, {} counted", outcome.possibly_lost);
        check(name, &outcome, &seen, &handle);
    }
}

#[test]
fn without_signals_nothing_is_lost_and_nothing_counted() {
    echo(
        "plain",
        |_vm, mut vcpu| serve(&mut vcpu, |_, _| {}),
        |name, outcome, _, handle| {
            assert_eq!((outcome.interrupted, outcome.possibly_lost), (0, 0), "{name}");
            assert_eq!(handle.exits_lost(), 0, "{name}");
        },
    );
}

/// On KVM an exit is completed by running once more with `immediate_exit` set. Here that loses the answer; a kick before
/// `run` must end the `run` and lose nothing.
#[test]
fn a_kick_with_an_answer_outstanding_loses_nothing() {
    echo(
        "kick before run",
        |_vm, mut vcpu| {
            serve(&mut vcpu, |vcpu, reads| {
                if reads % 100 == 0 {
                    vcpu.kick_handle().kick();
                    assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
                }
            })
        },
        |name, outcome, seen, _| {
            assert_eq!(seen.right.load(Ordering::Relaxed), rounds(name), "{name}");
            assert_eq!((outcome.interrupted, outcome.possibly_lost), (0, 0), "{name}");
        },
    );
}

/// Foreign signals that land between the entry of `VCPU_RUN` and the guest cost answers, whatever user space does. Each
/// must have been counted, and exits must survive.
#[test]
fn a_storm_of_signals_loses_no_exit_and_every_lost_answer_is_counted() {
    // A short run on a busy machine can miss what is to be shown. Then it is run again, on all hosts.
    let shown = Mutex::new(BTreeSet::new());
    for _ in 0..20 {
        echo(
            "signals",
            |_vm, mut vcpu| {
                let victims = [Victim::default()];
                let over = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| storm::signals(&victims, storm::INTERRUPTING, &over));
                    victims[0].enter();
                    let outcome = serve(&mut vcpu, |_, _| {});
                    victims[0].leave();
                    over.store(true, Ordering::Release);
                    outcome
                })
            },
            |name, outcome, _, handle| {
                if outcome.interrupted > 0 && handle.exits_lost() > 0 {
                    shown.lock().unwrap().insert(name.to_owned());
                }
            },
        );
        if shown.lock().unwrap().len() == hosts().len() {
            return;
        }
    }
    panic!("signals overtook exits on {shown:?} only, so nothing was proved");
}

/// Signals with SA_RESTART make calls start over behind everybody's back, so a vCPU's thread blocks them.
#[test]
fn blocked_signals_do_no_harm() {
    echo(
        "blocked signals",
        |_vm, mut vcpu| {
            let victims = [Victim::default()];
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| storm::signals(&victims, storm::RESTARTING, &over));
                block_other_signals().unwrap();
                victims[0].enter();
                let outcome = serve(&mut vcpu, |_, _| {});
                victims[0].leave();
                over.store(true, Ordering::Release);
                outcome
            })
        },
        |name, outcome, _, _| {
            assert_eq!((outcome.interrupted, outcome.possibly_lost), (0, 0), "{name}");
        },
    );
}

#[test]
fn kicks_from_other_threads_lose_no_exit_and_every_lost_answer_is_counted() {
    echo(
        "kicks",
        |_vm, mut vcpu| {
            let handles = [vcpu.kick_handle()];
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let kickers = [1, 2].map(|seed| {
                    let (handles, over) = (&handles, &over);
                    scope.spawn(move || storm::kicks(handles, seed, over))
                });
                block_other_signals().unwrap();
                let outcome = serve(&mut vcpu, |_, _| {});
                over.store(true, Ordering::Release);
                let kicks: u64 = kickers.map(|kicker| kicker.join().unwrap()).into_iter().sum();
                assert!(
                    outcome.interrupted <= kicks,
                    "{} interruptions by {kicks} kicks",
                    outcome.interrupted
                );
                outcome
            })
        },
        |name, outcome, _, _| assert!(outcome.interrupted > 0, "{name}: no kick hit"),
    );
}

/// Somebody sets `immediate_exit` in every entry window: each answer that is lost is counted, and none that is not lost.
#[test]
fn the_count_is_exact_where_the_loss_is_certain() {
    // The 50th answer is the first that the other thread waits for; the 100th RUN carries it. The kernel is slow there, so
    // that the window is hit at least once however busy the machine is.
    let slow = Fault::on(v11::GH_VCPU_RUN).nth(100).delayed(Duration::from_millis(300));
    echo_with(
        Some(slow),
        "immediate_exit in the window",
        |_vm, mut vcpu| {
            let page = SecondMapping::new(&vcpu);
            let (outstanding, over) = (AtomicBool::new(false), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Acquire) {
                        if outstanding.load(Ordering::Acquire) {
                            page.immediate_exit().store(1, Ordering::Release);
                        }
                        std::hint::spin_loop();
                    }
                });
                let mut out = Outcome::default();
                loop {
                    match vcpu.run().unwrap() {
                        VcpuExit::MmioRead { .. } => {
                            vcpu.complete_mmio_read(&number(out.reads).to_le_bytes()).unwrap();
                            out.reads += 1;
                            outstanding.store(out.reads % 50 == 0, Ordering::Release);
                        }
                        VcpuExit::MmioWrite { .. } => out.writes += 1,
                        VcpuExit::Interrupted => {
                            out.interrupted += 1;
                            outstanding.store(false, Ordering::Release);
                        }
                        VcpuExit::Status(_) => break,
                        other => panic!("{other:?}"),
                    }
                }
                over.store(true, Ordering::Release);
                out.possibly_lost = vcpu.answers_possibly_lost();
                out
            })
        },
        |name, outcome, _, handle| {
            assert!(outcome.possibly_lost > 0, "{name}: the window was never hit");
            assert_eq!(outcome.possibly_lost, handle.answers_lost(), "{name}");
        },
    );
}

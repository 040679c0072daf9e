//! Kicks, signals, and what they must not cost.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fake_gunyah::{Answer, Flavour, Handle, Script};
use gunyah_ioctls::{KickHandle, VcpuExit, VcpuFd};

const READ: u64 = 0x1000;
const WRITE: u64 = 0x1008;

fn one_vcpu() -> (common::Vm, VcpuFd, common::Ram) {
    let (mut vm, ram) = common::started_vm(1);
    let vcpu = vm.vcpus.remove(0);
    (vm, vcpu, ram)
}

/// Waits until the vCPU has gone into the kernel so many times.
fn wait_for_runs(handle: &Handle, runs: u64) {
    while handle.runs() < runs {
        thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn a_kick_ends_a_sleeping_run_once() {
    let script = Script::new().wfi().mmio_write(WRITE, 1, 1).exit(1, &[]);
    common::on(Flavour::V11, [script], |handle| {
        let (_vm, mut vcpu, _ram) = one_vcpu();
        let kick = vcpu.kick_handle();
        let other = thread::spawn({
            let handle = handle.clone();
            move || {
                thread::sleep(Duration::from_millis(20));
                kick.kick();
                thread::sleep(Duration::from_millis(20));
                assert!(handle.wake(0));
            }
        });
        assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioWrite { .. }));
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
        other.join().unwrap();
        assert_eq!(vcpu.answers_possibly_lost(), 0);
    });
}

#[test]
fn a_kick_before_the_run_ends_it_without_a_call_and_keeps_the_answer() {
    let script = Script::new().mmio_read(READ, 4).expect(0x55).exit(1, &[]);
    common::on(Flavour::V11, [script], |handle| {
        let (_vm, mut vcpu, _ram) = one_vcpu();
        let kick = vcpu.kick_handle();
        kick.kick();
        kick.clone().kick();
        assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
        assert_eq!(handle.runs(), 0);
        assert_eq!(vcpu.run().unwrap(), VcpuExit::MmioRead { addr: READ, len: 4 });
        vcpu.complete_mmio_read(&[0x55, 0, 0, 0]).unwrap();
        for _ in 0..3 {
            kick.kick();
            assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
        }
        assert_eq!(handle.runs(), 1);
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
        assert_eq!((vcpu.answers_possibly_lost(), handle.answers_lost()), (0, 0));
    });
}

#[test]
fn a_kick_during_a_run_with_an_answer_waits_until_the_guest_has_it() {
    let script = Script::new().mmio_read(READ, 8).expect(0x1122).wfi().exit(1, &[]);
    common::on(Flavour::V11, [script], |handle| {
        let (_vm, mut vcpu, _ram) = one_vcpu();
        vcpu.run().unwrap();
        vcpu.complete_mmio_read(&0x1122_u64.to_le_bytes()).unwrap();
        let kick = vcpu.kick_handle();
        let other = thread::spawn({
            let handle = handle.clone();
            move || {
                thread::sleep(Duration::from_millis(20));
                kick.kick();
                handle
            }
        });
        assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
        other.join().unwrap();
        assert!(handle.wake(0));
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
        assert_eq!(handle.answers_lost(), 0);
        assert_eq!(vcpu.answers_possibly_lost(), 1, "nobody can tell that it arrived");
    });
}

#[test]
fn a_kick_follows_the_vcpu_to_another_thread() {
    common::on(Flavour::V11, [Script::new().wfi().wfi().wfi()], |handle| {
        let (_vm, vcpu, _ram) = one_vcpu();
        let kick = vcpu.kick_handle();
        let mut vcpu = Some(vcpu);
        for round in 1..=3 {
            let mut moved = vcpu.take().unwrap();
            let thread = thread::spawn(move || {
                let exit = moved.run().unwrap();
                (exit, moved)
            });
            wait_for_runs(handle, round);
            kick.kick();
            let (exit, back) = thread.join().unwrap();
            assert_eq!(exit, VcpuExit::Interrupted);
            vcpu = Some(back);
        }
    });
}

static FROM_HANDLER: AtomicPtr<KickHandle> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn kick_from_handler(_: i32) {
    // SAFETY: null, or set to a handle that lives until the test takes it back.
    if let Some(kick) = unsafe { FROM_HANDLER.load(Ordering::Acquire).as_ref() } {
        kick.kick();
    }
}

#[test]
fn a_signal_handler_may_kick() {
    // Another thread takes the signal, with a handler that restarts system calls: only the kick can end the run.
    // SAFETY: a handler that only does what is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = kick_from_handler as extern "C" fn(i32) as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()), 0);
    }
    common::on(Flavour::V11, [Script::new().wfi()], |handle| {
        let (_vm, mut vcpu, _ram) = one_vcpu();
        let mut kick = vcpu.kick_handle();
        FROM_HANDLER.store(&raw mut kick, Ordering::Release);
        let other = thread::spawn({
            let handle = handle.clone();
            move || {
                wait_for_runs(&handle, 1);
                thread::sleep(Duration::from_millis(10));
                // SAFETY: raises a signal that has a handler on this thread.
                assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
            }
        });
        assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
        other.join().unwrap();
        FROM_HANDLER.store(std::ptr::null_mut(), Ordering::Release);
    });
}

/// The guest loads a new value each time and stores it back. Counts the loads that got 0 for an answer; any other wrong
/// value fails the test.
fn echo(rounds: u32, lost: &Arc<AtomicU64>) -> Script {
    let lost = Arc::clone(lost);
    let mut round = 0;
    let mut store = false;
    Script::from_fn(move |resume| {
        if store {
            if resume[0] == 0 {
                lost.fetch_add(1, Ordering::Relaxed);
            } else {
                assert_eq!(resume[0] as u32, value(round), "round {round}");
            }
            store = false;
            round += 1;
            return Answer::mmio_write(WRITE, 4, resume[0]);
        }
        if round == rounds {
            return Answer::exit(1, &[]);
        }
        store = true;
        Answer::mmio_read(READ, 4)
    })
}

fn value(round: u32) -> u32 {
    round.wrapping_mul(2_654_435_761) | 1
}

/// Runs the echo guest to its end, checks each exit, and counts interruptions.
fn drive(vcpu: &mut VcpuFd) -> (u32, u64) {
    let (mut round, mut interrupted) = (0, 0);
    loop {
        match vcpu.run().unwrap() {
            VcpuExit::MmioRead { addr: READ, len: 4 } => {
                vcpu.complete_mmio_read(&value(round).to_le_bytes()).unwrap();
            }
            VcpuExit::MmioWrite { addr: WRITE, data, len: 4 } => {
                assert!(data[..4] == value(round).to_le_bytes() || data == [0; 8]);
                round += 1;
            }
            VcpuExit::Interrupted => interrupted += 1,
            VcpuExit::Status(_) => return (round, interrupted),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_storm_of_kicks_loses_no_exit_and_counts_what_it_may_cost() {
    for flavour in [Flavour::V11, Flavour::Android15, Flavour::Android16] {
        let rounds = 3000;
        let lost = Arc::new(AtomicU64::new(0));
        common::on(flavour, [echo(rounds, &lost)], |handle| {
            let (_vm, mut vcpu, _ram) = one_vcpu();
            let stop = AtomicBool::new(false);
            let (seen, interrupted) = thread::scope(|scope| {
                for pause in [130, 310] {
                    let kick = vcpu.kick_handle();
                    let stop = &stop;
                    scope.spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            thread::sleep(Duration::from_micros(pause));
                            kick.kick();
                        }
                    });
                }
                let result = drive(&mut vcpu);
                stop.store(true, Ordering::Relaxed);
                result
            });
            assert_eq!(seen, rounds, "{flavour}");
            assert!(interrupted > 0, "{flavour}: the storm never hit");
            assert!(
                handle.answers_lost() <= vcpu.answers_possibly_lost(),
                "{flavour}: a loss was not counted"
            );
            println!(
                "{flavour}: {interrupted} interruptions, {} exits overtaken by a signal, answers lost {} of at most {}",
                handle.exits_lost(),
                handle.answers_lost(),
                vcpu.answers_possibly_lost()
            );
        });
    }
}

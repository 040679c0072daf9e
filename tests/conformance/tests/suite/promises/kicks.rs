//! Kicks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use conformance::asm::{Program, Width};
use vmm_adapter::{Hypervisor, VcpuExit};

use super::io::echo;
use crate::mailbox::{MAILBOX, Mailbox, mailbox};
use crate::rig::{self, Rig, guest};
use crate::target::Probe;

pub fn a_kick_before_run_counts_once(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = guest(hypervisor);
    program.store_at(Width::Word, MAILBOX, 1).power_off();
    let rig = Rig::new(hypervisor, 1, &[], &program);
    let kicker = rig.vcpus[0].kicker();
    // Before the start too.
    kicker.kick();
    let mut rig = rig.start();
    kicker.kick();
    rig.vcpus[0].kicker().kick();
    let io = mailbox();
    assert_eq!(rig.vcpus[0].run(&io).unwrap(), VcpuExit::Interrupted);
    assert_eq!(io.stores(), [], "the guest has not run");
    rig.run_to_the_end(&io);
    assert_eq!(io.stores().len(), 1);
}

/// Lets `body` run, kicks when the guest is there, and wants to see it interrupted, several times.
fn interrupted_in(hypervisor: &dyn Hypervisor, program: &Program) {
    let mut rig = Rig::one(hypervisor, program);
    let kicker = rig.vcpus[0].kicker();
    let io = mailbox();
    for _ in 0..20 {
        std::thread::scope(|scope| {
            let vcpu = &mut rig.vcpus[0];
            let io = &io;
            let run = scope.spawn(move || vcpu.run(io).unwrap());
            while io.stores().is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            kicker.kick();
            assert_eq!(run.join().unwrap(), VcpuExit::Interrupted);
        });
    }
    assert_eq!(io.stores().len(), 1);
}

pub fn a_kick_ends_a_sleep(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = guest(hypervisor);
    program.store_at(Width::Word, MAILBOX, 1);
    let again = program.here();
    program.wfi().branch(again);
    interrupted_in(hypervisor, &program);
}

pub fn a_kick_ends_a_spin(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = guest(hypervisor);
    program.store_at(Width::Word, MAILBOX, 1);
    let again = program.here();
    program.branch(again);
    interrupted_in(hypervisor, &program);
}

/// Several threads kick at random moments; each answer is checked by its echo.
///
/// A kick may cost an answer only where the vCPU reports it as possibly lost: the guest reads 0 then. It never costs an exit.
pub fn kicks_lose_no_exit_and_no_answer(hypervisor: &dyn Hypervisor, probe: &Probe) {
    const ROUNDS: u64 = 3000;
    let mut rig = Rig::one(hypervisor, &echo(hypervisor, ROUNDS));
    let next = AtomicU64::new(1);
    let io = Mailbox::new(|_, _| next.fetch_add(1, Ordering::Relaxed));
    let done = AtomicBool::new(false);
    let interrupted = std::thread::scope(|scope| {
        for seed in 1..4_u64 {
            let (kicker, done) = (rig.vcpus[0].kicker(), &done);
            scope.spawn(move || {
                let mut random = seed;
                while !done.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    std::thread::sleep(Duration::from_micros(random >> 54));
                    kicker.kick();
                }
            });
        }
        let mut interrupted = 0;
        let exit = loop {
            match rig.vcpus[0].run(&io).unwrap() {
                VcpuExit::Interrupted => interrupted += 1,
                exit => break exit,
            }
        };
        done.store(true, Ordering::Relaxed);
        rig::assert_off(&*rig.vm, exit);
        interrupted
    });
    assert!(interrupted > 0);

    let echoes: Vec<u64> = io.stores().iter().map(|(_, _, value)| *value).collect();
    assert_eq!(echoes.len() as u64, ROUNDS, "every load and every store came");
    assert_eq!(next.load(Ordering::Relaxed), ROUNDS + 1, "and came once");
    let wrong: Vec<_> = (1..).zip(&echoes).filter(|(given, echoed)| given != *echoed).collect();
    assert!(wrong.iter().all(|(_, echoed)| **echoed == 0), "{wrong:?}");
    let lost = wrong.len() as u64;
    assert!(lost <= rig.vcpus[0].answers_possibly_lost(), "{lost} were lost, not all of them reported");
    if let Some(dropped) = probe.answers_lost() {
        assert_eq!(lost, dropped, "after {interrupted} interruptions");
    }
}

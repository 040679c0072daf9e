//! How VMs end, and more than one vCPU.

use std::sync::atomic::{AtomicU64, Ordering};

use conformance::asm::{Program, Width, psci};
use vmm_adapter::{Hypervisor, IoHandler, Phase, VcpuExit};

use crate::mailbox::{MAILBOX, Mailbox, mailbox};
use crate::rig::{RAM, Rig};
use crate::target::Probe;

/// Runs every vCPU on a thread of its own, to its end.
fn run_all(rig: &mut Rig, io: &dyn IoHandler) -> Vec<VcpuExit> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            rig.vcpus.iter_mut().map(|vcpu| scope.spawn(move || vcpu.run(io).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

pub fn power_off_ends_every_vcpu_for_good(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = Program::new();
    program.power_off();
    let mut rig = Rig::new(hypervisor, 3, &[], &program).start();
    for _ in 0..3 {
        for exit in run_all(&mut rig, &mailbox()) {
            let VcpuExit::PowerOff(details) = exit else { panic!("{exit:?}") };
            assert_eq!(details.raw_type, Some(1));
            assert_eq!(rig.vm.phase(), Phase::Stopped);
        }
    }
}

pub fn reset_is_told_from_power_off(hypervisor: &dyn Hypervisor, _: &Probe) {
    let mut program = Program::new();
    program.psci(psci::SYSTEM_RESET);
    let hang = program.here();
    program.branch(hang);
    let mut rig = Rig::one(hypervisor, &program);
    let exit = rig.vcpus[0].run(&mailbox()).unwrap();
    let VcpuExit::Reset(details) = exit else { panic!("{exit:?}") };
    assert_eq!(details.raw_type, Some(2));
}

/// A guest that executes what is no instruction, without vectors.
pub fn a_crash_keeps_the_raw_words(hypervisor: &dyn Hypervisor, probe: &Probe) {
    if probe.objects().is_none() {
        // On hardware such a guest faults for ever, and was seen to take the host with it.
        return;
    }
    let mut program = Program::new();
    program.word(0);
    let mut rig = Rig::one(hypervisor, &program);
    let exit = rig.vcpus[0].run(&mailbox()).unwrap();
    let VcpuExit::Crashed(details) = exit else { panic!("{exit:?}") };
    assert_eq!(details.raw_type, Some(5));
    assert!(details.reason_size > 0 && !details.reason().is_empty(), "{details}");
}

/// CPU 0 turns the others on; each reports its number and turns itself off; CPU 0 waits for all and powers off.
pub fn secondary_cpus_come_up_and_go(hypervisor: &dyn Hypervisor, _: &Probe) {
    const CPUS: u64 = 4;
    let mut program = Program::new();
    // CPU 0 comes in here and goes on behind the secondaries' part.
    program.word(0x1400_0000 | 9);
    let secondary = RAM + program.offset();
    program.mov(1, MAILBOX).cpu_number(5).store(Width::Word, 5, 1);
    program.psci(psci::CPU_OFF);
    while program.offset() < 36 {
        program.word(0xd503_201f);
    }
    assert_eq!(program.offset(), 36);
    program.mov(1, MAILBOX).cpu_number(5).store(Width::Word, 5, 1);
    for cpu in 1..CPUS {
        program.mov(1, cpu).mov(2, secondary).mov(3, 0).psci(psci::CPU_ON);
        program.mov(1, MAILBOX + 8).store(Width::Double, 0, 1);
    }
    // The mailbox answers how many have not reported yet.
    program.mov(1, MAILBOX);
    let wait = program.here();
    program.load(Width::Word, 2, 1).branch_if(2, wait).power_off();

    let mut rig = Rig::new(hypervisor, CPUS as u32, &[], &program).start();
    let reported = AtomicU64::new(0);
    let io =
        Counting { inner: Mailbox::new(|_, _| CPUS - reported.load(Ordering::SeqCst)), reported: &reported };
    for exit in run_all(&mut rig, &io) {
        assert!(matches!(exit, VcpuExit::PowerOff(_)), "{exit:?}");
    }
    let stores = io.inner.stores();
    let answers: Vec<_> = stores.iter().filter(|(addr, ..)| *addr == MAILBOX + 8).collect();
    assert!(answers.len() == 3 && answers.iter().all(|(_, _, answer)| *answer == 0), "{stores:x?}");
    let mut numbers: Vec<u64> =
        stores.iter().filter(|(addr, ..)| *addr == MAILBOX).map(|(_, _, number)| *number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3]);
}

/// Counts the CPUs that have reported.
struct Counting<'a, F> {
    inner: Mailbox<F>,
    reported: &'a AtomicU64,
}

impl<F: Fn(u64, usize) -> u64 + Sync> IoHandler for Counting<'_, F> {
    fn mmio_read(&self, addr: vm_memory::GuestAddress, data: &mut [u8]) -> vmm_adapter::IoOutcome {
        self.inner.mmio_read(addr, data)
    }

    fn mmio_write(&self, addr: vm_memory::GuestAddress, data: &[u8]) -> vmm_adapter::IoOutcome {
        let outcome = self.inner.mmio_write(addr, data);
        if addr.0 == MAILBOX {
            self.reported.fetch_add(1, Ordering::SeqCst);
        }
        outcome
    }
}

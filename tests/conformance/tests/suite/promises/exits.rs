//! How VMs end, and more than one vCPU.

use std::sync::atomic::{AtomicU64, Ordering};

use conformance::asm::{Width, psci};
use vmm_adapter::{Backend, ExitCause, Feature, GuestArch, Hypervisor, IoHandler, Phase, VcpuExit};

use crate::mailbox::{MAILBOX, Mailbox, mailbox};
use crate::rig::{self, RAM, Rig, guest};
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
    let mut program = guest(hypervisor);
    program.power_off();
    let mut rig = Rig::new(hypervisor, 3, &[], &program).start();
    for _ in 0..3 {
        for exit in run_all(&mut rig, &mailbox()) {
            rig::assert_off(&*rig.vm, exit);
            if let VcpuExit::PowerOff(details) = exit {
                assert_eq!(details.cause, ExitCause::SystemOff);
                // Gunyah's type of exit, KVM's number of the exit "system event".
                let raw = if rig.vm.capabilities().backend() == Backend::Gunyah { 1 } else { 24 };
                assert_eq!(details.raw_type, Some(raw));
            }
            assert_eq!(rig.vm.phase(), Phase::Stopped);
        }
    }
}

pub fn reset_is_told_from_power_off(hypervisor: &dyn Hypervisor, probe: &Probe) {
    if !hypervisor.capabilities().has(Feature::GuestPower) {
        return probe.inapplicable("the guest's power is the business of the VMM's devices");
    }
    let mut program = guest(hypervisor);
    program.psci(psci::SYSTEM_RESET);
    let hang = program.here();
    program.branch(hang);
    let mut rig = Rig::one(hypervisor, &program);
    let exit = rig.vcpus[0].run(&mailbox()).unwrap();
    let VcpuExit::Reset(details) = exit else { panic!("{exit:?}") };
    assert_eq!(details.cause, ExitCause::SystemReset);
    if rig.vm.capabilities().backend() == Backend::Gunyah {
        assert_eq!(details.raw_type, Some(2));
    }
}

/// A guest that executes what is no instruction, without vectors.
pub fn a_crash_keeps_the_raw_words(hypervisor: &dyn Hypervisor, probe: &Probe) {
    let caps = hypervisor.capabilities();
    if caps.has(Feature::GuestPower) && probe.objects().is_none() {
        return probe.inapplicable(
            "on arm64 hardware such a guest faults for ever, and was seen to take the host with it",
        );
    }
    let mut program = guest(hypervisor);
    if probe.is_hardware() {
        // Its own exceptions are the guest's. What cannot be carried out is a load of two registers from a device.
        program.mov(1, MAILBOX).word(0x2940_0c22);
    } else {
        program.undefined();
    }
    let mut rig = Rig::one(hypervisor, &program);
    let exit = rig.vcpus[0].run(&mailbox()).unwrap();
    let VcpuExit::Crashed(details) = exit else { panic!("{exit:?}") };
    if rig.vm.capabilities().backend() == Backend::Gunyah {
        assert_eq!(details.raw_type, Some(5));
        assert!(details.reason_size > 0 && !details.reason().is_empty(), "{details}");
    } else {
        // KVM's number of the exit "shutdown".
        assert_eq!(details.raw_type, Some(8));
    }
}

/// A load of two registers from a device is nothing that a processor describes, so nobody can carry it out.
pub fn an_access_that_cannot_be_carried_out_ends_the_vm(hypervisor: &dyn Hypervisor, probe: &Probe) {
    let caps = hypervisor.capabilities();
    if caps.guest_arch() != GuestArch::Arm64 {
        return probe.inapplicable("this processor's accesses can all be carried out");
    }
    let is_kvm = caps.backend() == Backend::Kvm;
    if !is_kvm && probe.objects().is_none() {
        return probe.inapplicable("what the hypervisor does then was not seen");
    }
    let mut program = guest(hypervisor);
    program.mov(1, MAILBOX);
    let place = RAM + program.offset();
    program.word(0x2940_0c22);
    let mut rig = Rig::one(hypervisor, &program);
    for _ in 0..2 {
        let exit = rig.vcpus[0].run(&mailbox()).unwrap();
        let VcpuExit::Crashed(details) = exit else { panic!("{exit:?}") };
        assert_eq!(details.cause, ExitCause::Fault);
        assert_eq!(details.raw_type, Some(if is_kvm { 28 } else { 5 }));
        if is_kvm {
            assert_eq!(details.reason(), place.to_le_bytes());
        }
        assert_eq!(rig.vm.phase(), Phase::Stopped);
    }
}

/// CPU 0 turns the others on; each reports its number and turns itself off; CPU 0 waits for each and powers off.
pub fn secondary_cpus_come_up_and_go(hypervisor: &dyn Hypervisor, _: &Probe) {
    const CPUS: u64 = 4;
    let mut program = guest(hypervisor);
    // Both parts are shorter than this.
    let secondary = RAM + 0x1000;
    program.mov(1, MAILBOX).cpu_number(5).store(Width::Word, 5, 1);
    for cpu in 1..CPUS {
        program.mov(1, cpu).mov(2, secondary).cpu_on();
        program.mov(1, MAILBOX + 8).store(Width::Double, 0, 1);
        // One after the other: on x86_64 they share a place for where they start.
        program.mov(1, MAILBOX).mov(3, CPUS - cpu - 1);
        let wait = program.here();
        // The mailbox answers how many have not reported yet.
        program.load(Width::Word, 2, 1).sub_register(2, 2, 3).branch_if(2, wait);
    }
    program.power_off();
    program.align(0x1000);
    assert_eq!(RAM + program.offset(), secondary);
    program.mov(1, MAILBOX).cpu_number(5).store(Width::Word, 5, 1);
    program.cpu_off();

    let mut rig = Rig::new(hypervisor, CPUS as u32, &[], &program).start();
    let reported = AtomicU64::new(0);
    let io =
        Counting { inner: Mailbox::new(|_, _| CPUS - reported.load(Ordering::SeqCst)), reported: &reported };
    for exit in run_all(&mut rig, &io) {
        rig::assert_off(&*rig.vm, exit);
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

//! The machine: power states, PSCI, waiting, MMIO and faults, as the driver sees them.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod a64_support;

use a64_support::{RAM_BASE, Vm};
use fake_gunyah::hyp::{HypError, VcpuRunResp, state};

const DEVICE: u64 = 0x1000_0000;

const HVC: u32 = 0xd400_0002;
const LOOP: u32 = 0x1400_0000; // b .
const READ: u32 = 0xb940_0041; // ldr w1, [x2]
const WRITE: u32 = 0xf900_0040; // str x0, [x2]

/// `movz`/`movk`: puts a number into a register.
fn set(register: u32, value: u64) -> Vec<u32> {
    (0..4)
        .map(|i| {
            (if i == 0 { 0xd280_0000 } else { 0xf280_0000 })
                | i << 21
                | ((value >> (16 * i)) as u32 & 0xffff) << 5
                | register
        })
        .collect()
}

/// Calls a function by HVC and stores what x0 holds then to the device.
fn call(function: u64, arguments: &[u64]) -> Vec<u32> {
    let mut words = Vec::new();
    for (register, argument) in (1..).zip(arguments) {
        words.extend(set(register, *argument));
    }
    words.extend(set(0, function));
    words.push(HVC);
    words.extend(set(2, DEVICE));
    words.push(WRITE);
    words
}

fn answer(state: u64, data: [u64; 3]) -> VcpuRunResp {
    VcpuRunResp { state, data }
}

const POWERED_OFF: VcpuRunResp = VcpuRunResp { state: state::POWERED_OFF, data: [0; 3] };

/// What one call by vCPU 0 of a VM with two gives.
fn result_of(function: u64, arguments: &[u64]) -> u64 {
    let mut vm = Vm::of_words(&call(function, arguments), 2);
    let response = vm.run(0, 0);
    assert_eq!((response.state, response.data[0], response.data[1]), (state::MMIO_WRITE, DEVICE, 8));
    assert!(vm.exits().is_empty());
    response.data[2]
}

#[test]
fn psci_answers() {
    const NOT_SUPPORTED: u64 = 0xffff_ffff;
    const INVALID: u64 = 0xffff_fffe;
    const WIDE: u64 = 0xffff_ffff_0000_0000;
    for (function, arguments, result) in [
        (0x8400_0000, &[][..], 0x1_0001), // VERSION
        (0x8000_0000, &[], 0x1_0001),     // SMCCC_VERSION
        (0x8400_0006, &[], 2),            // MIGRATE_INFO_TYPE
        (0x8400_000a, &[0x8400_0003], 0), // FEATURES
        (0x8400_000a, &[0xc400_0003], 0),
        (0x8400_000a, &[0xc400_0012], 0),
        (0x8400_000a, &[0x8000_0000], 0),
        (0x8400_000a, &[0xc400_0000], NOT_SUPPORTED),
        (0x8400_000a, &[0x8400_0005], NOT_SUPPORTED),
        (0x8400_0004, &[0, 0], 0), // AFFINITY_INFO
        (0x8400_0004, &[1, 0], 1),
        (0xc400_0004, &[0, 0], 0),
        (0xc400_0004, &[2, 0], WIDE | INVALID),
        (0xc400_0004, &[0x1_0000_0000, 0], WIDE | INVALID),
        (0x8400_0004, &[0, 1], INVALID),
        (0xc400_0003, &[0, RAM_BASE, 0], WIDE | 0xffff_fffc), // CPU_ON: already on
        (0x8400_0003, &[0, RAM_BASE, 0], 0xffff_fffc),
        (0xc400_0003, &[2, RAM_BASE, 0], WIDE | INVALID),
        (0xc400_0003, &[1 << 40 | 1, RAM_BASE, 0], WIDE | INVALID),
        (0xc400_0003, &[1, RAM_BASE + 2, 0], WIDE | 0xffff_fff7),
        (0xc400_0003, &[1, DEVICE, 0], WIDE | 0xffff_fff7),
        (0xc400_0003, &[1, RAM_BASE, 0], 0),
        (0xc400_0001, &[1 << 16], WIDE | INVALID), // CPU_SUSPEND: power down
        (0xc400_0012, &[5], WIDE | INVALID),       // SYSTEM_RESET2: an unknown type
        (0x8400_0005, &[], NOT_SUPPORTED),         // MIGRATE
        (0xc400_0008, &[], WIDE | NOT_SUPPORTED),  // SYSTEM_OFF has no 64-bit form
        (0x8600_0000, &[], NOT_SUPPORTED),
        (0xdead_beef, &[], WIDE | NOT_SUPPORTED),
    ] {
        assert_eq!(result_of(function, arguments), result, "{function:x} {arguments:x?}");
    }
}

#[test]
fn the_ends_of_a_vm() {
    for (function, arguments, exit_type, reason) in [
        (0x8400_0008, &[][..], 1, vec![0; 4]),
        (0x8400_0009, &[], 2, vec![0; 4]),
        (
            0xc400_0012,
            &[0x8000_0001, 0x1122_3344_5566_7788],
            3,
            vec![1, 0, 0, 0x80, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0],
        ),
        (0x8400_0012, &[0, 0xffff_ffff_0000_0007], 3, vec![0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let mut vm = Vm::of_words(&call(function, arguments), 2);
        assert_eq!(vm.run(0, 0), POWERED_OFF);
        assert_eq!(vm.exits(), [(exit_type, reason)]);
        assert_eq!((vm.run(0, 0), vm.run(1, 0)), (POWERED_OFF, POWERED_OFF));
        assert_eq!(vm.exits().len(), 1);
        assert!(vm.machine.faults().is_empty());
    }
}

#[test]
fn cpu_on_goes_through_pending_to_on_and_cpu_off_back() {
    let info = call(0xc400_0004, &[1, 0]);
    let mut program = call(0xc400_0003, &[1, RAM_BASE + 0x1000, 0xabcd]);
    program.extend(call(0xc400_0003, &[1, RAM_BASE + 0x1000, 0xabcd]));
    for _ in 0..4 {
        program.extend(&info);
    }
    program.resize(0x400, 0);
    program.extend(set(2, DEVICE + 8)); // CPU 1: shows its argument, then goes off
    program.push(WRITE);
    program.extend(set(0, 0x8400_0002));
    program.push(HVC);

    let mut vm = Vm::of_words(&program, 2);
    let shown = |value| answer(state::MMIO_WRITE, [DEVICE, 8, value]);
    assert_eq!(vm.run(1, 0), POWERED_OFF);
    assert_eq!(vm.run(0, 0), shown(0));
    assert_eq!(*vm.log.woken.lock().unwrap(), [0, 1]);
    assert_eq!(vm.run(0, 0), shown(-5i64 as u64), "on its way: ON_PENDING");
    assert_eq!(vm.run(0, 0), shown(2));
    assert_eq!(vm.run(1, 0), answer(state::MMIO_WRITE, [DEVICE + 8, 8, 0xabcd]));
    assert_eq!(vm.run(0, 0), shown(0));
    assert_eq!(vm.run(1, 0), POWERED_OFF);
    assert_eq!(vm.run(1, 0), POWERED_OFF);
    assert_eq!(vm.run(0, 0), shown(1));
    assert_eq!(*vm.log.woken.lock().unwrap(), [0, 1], "turned on once");
}

#[test]
fn a_read_is_answered_by_the_next_run_whatever_its_word_0_holds() {
    let mut program = set(2, DEVICE);
    program.extend([READ, 0xf900_0441, LOOP]); // str x1, [x2, #8]
    let mut vm = Vm::of_words(&program, 1);
    assert_eq!(vm.run(0, 99), answer(state::MMIO_READ, [DEVICE, 4, 0]));
    let response = vm.run(0, 0xffff_ffff_1234_5678);
    assert_eq!(response, answer(state::MMIO_WRITE, [DEVICE + 8, 8, 0x1234_5678]));
}

#[test]
fn an_access_can_be_retried_or_fail() {
    let mut program = set(2, DEVICE);
    program.extend([READ, LOOP]);
    let read = answer(state::MMIO_READ, [DEVICE, 4, 0]);
    let mut vm = Vm::of_words(&program, 1);
    assert_eq!(vm.run(0, 0), read);
    for _ in 0..3 {
        assert_eq!(vm.engines[0].vcpu_run([5, 1, 0], &|| true).unwrap(), read);
    }
    // An action that does not exist is refused, and the access still waits.
    assert_eq!(vm.engines[0].vcpu_run([5, 3, 0], &|| true), Err(HypError::Invalid));
    // An abort for a guest without vectors is the end of it.
    let pc = RAM_BASE + 16;
    assert_eq!(vm.engines[0].vcpu_run([5, 2, 0], &|| true).unwrap(), answer(state::FAULT, [pc, 0, 0]));
    let (exit_type, reason) = &vm.exits()[0];
    assert_eq!((*exit_type, &reason[..4]), (5, &[5, 0, 0, 0][..]));
    assert_eq!(vm.run(0, 0), POWERED_OFF);
}

#[test]
fn an_unknown_instruction_ends_the_vm_and_is_named() {
    // fmov d0, x0 on vCPU 1
    let mut program = call(0xc400_0003, &[1, RAM_BASE + 0x1000, 0]);
    program.push(LOOP);
    program.resize(0x400, 0);
    program.push(0x9e67_0000);
    let mut vm = Vm::of_words(&program, 2);
    vm.run(0, 0);
    assert_eq!(vm.run(1, 0), answer(state::FAULT, [RAM_BASE + 0x1000, 0x9e67_0000, 0]));
    let reason = [1, 0, 1, 0, 0, 0, 0x67, 0x9e, 0, 0x10, 0, 0x80, 0, 0, 0, 0];
    assert_eq!(vm.exits(), [(5, reason.to_vec())]);
    assert_eq!(vm.machine.faults(), ["vCPU 1: unknown instruction 0x9e670000 at 0x80001000"]);
    assert_eq!((vm.run(0, 0), vm.run(1, 0)), (POWERED_OFF, POWERED_OFF));
}

#[test]
fn other_conduits_are_faults() {
    for (word, what) in [(0xd400_0022, "HVC with an immediate"), (0xd400_0003, "SMC")] {
        let mut vm = Vm::of_words(&[0xd503_201f, word], 1);
        assert_eq!(vm.run(0, 0), answer(state::FAULT, [RAM_BASE + 4, u64::from(word), 0]));
        assert!(vm.machine.faults()[0].contains(what), "{:?}", vm.machine.faults());
    }
}

#[test]
fn a_loop_gives_way_to_the_host_and_to_the_end() {
    let mut vm = Vm::of_words(&[LOOP], 1);
    let asked = std::cell::Cell::new(0);
    let preempt = || asked.replace(asked.get() + 1) == 3;
    assert_eq!(vm.engines[0].vcpu_run([0; 3], &preempt).unwrap(), answer(state::READY, [0; 3]));
    assert_eq!(asked.get(), 4);
    let machine = vm.machine.clone();
    let stopping = || {
        machine.stop();
        false
    };
    assert_eq!(vm.engines[0].vcpu_run([0; 3], &stopping).unwrap(), POWERED_OFF);
    assert!(vm.exits().is_empty(), "the host knows that it stopped the VM");
}

#[test]
fn before_the_start_every_vcpu_is_off() {
    let ram = a64_support::VecRam::new(RAM_BASE, 4096, &[]);
    let log = std::sync::Arc::new(a64_support::Log::default());
    let machine = fake_gunyah::hyp::machine::Machine::new(ram, log.clone(), 1);
    let mut engines = [machine.engine(0), machine.engine(7)];
    for engine in &mut engines {
        assert_eq!(engine.vcpu_run([0; 3], &|| false).unwrap(), POWERED_OFF);
    }
    machine.start(RAM_BASE, 0);
    assert_eq!(*log.woken.lock().unwrap(), [0]);
    assert_eq!(engines[1].vcpu_run([0; 3], &|| false).unwrap(), POWERED_OFF);
    assert_eq!(engines[0].vcpu_run([0; 3], &|| false).unwrap().state, state::FAULT, "a word of zeros is UDF");
}

#[test]
fn code_that_changes_is_seen_after_ic() {
    // str w0, [x2] over the `b .` behind an `ic`, which is in the line that is being executed.
    let mut program = set(0, 0xd400_0002); // hvc #0
    program.extend(set(2, RAM_BASE + 4 * 15));
    program.extend([0xb900_0040, 0xd508_751f]); // ic iallu
    program.extend(set(0, 0x8400_0008));
    program.push(0xd503_201f);
    assert_eq!(program.len(), 15);
    program.push(LOOP);
    let mut vm = Vm::of_words(&program, 1);
    assert_eq!(vm.engines[0].vcpu_run([0; 3], &|| true).unwrap(), POWERED_OFF);
    assert_eq!(vm.exits().len(), 1);
}

//! Guests that take interrupts, on the machine alone: every step is where the test wants it.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod a64_support;

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use a64_support::{GICD, GICR, RAM_BASE, VecRam, Vm, gic};
use conformance::asm::{Program, SystemRegister, Width, psci};
use conformance::interrupts::{self, Gic, SPI, VIRTUAL_TIMER, mailbox};
use fake_gunyah::hyp::machine::Machine;
use fake_gunyah::hyp::{VcpuRunResp, VmEvents, state};

const MAILBOX: u64 = 0x1000_3000;
const DEVICE: u64 = 0x1000_4000;
const GIC: Gic = Gic { distributor: GICD, redistributors: GICR };
const ASLEEP: VcpuRunResp = VcpuRunResp { state: state::EXPECTS_WAKEUP, data: [0; 3] };

/// A guest that has set the GIC up, with SPIs 0 to 3 on, and then does this. Interrupts are masked.
fn guest(body: impl FnOnce(&mut Program)) -> Vm {
    let mut program = Program::new();
    let start = program.label();
    program.branch(start);
    let vectors = interrupts::vectors(&mut program, |program| {
        // The handler quiets the timer, whatever came.
        program.write_register(SystemRegister::CNTV_CTL_EL0, 31);
    });
    program.place(start);
    interrupts::enter(&mut program, vectors, MAILBOX);
    GIC.set_up_distributor(&mut program);
    GIC.set_up_cpu(&mut program, 1 << VIRTUAL_TIMER);
    for spi in 0..4 {
        GIC.enable(&mut program, SPI + spi, true);
    }
    body(&mut program);
    let hang = program.here();
    program.branch(hang);
    Vm::new(&program.bytes(), 2)
}

/// What the handler stores: it took this.
fn took(intid: u32) -> VcpuRunResp {
    VcpuRunResp { state: state::MMIO_WRITE, data: [MAILBOX + mailbox::TAKEN, 4, intid.into()] }
}

const ASKS: VcpuRunResp = VcpuRunResp { state: state::MMIO_READ, data: [MAILBOX + mailbox::END, 4, 0] };

/// What a mark of the guest is: a store to the device.
fn mark(program: &mut Program, value: u64) {
    program.store_at(Width::Word, DEVICE, value);
}

fn marked(value: u64) -> VcpuRunResp {
    VcpuRunResp { state: state::MMIO_WRITE, data: [DEVICE, 4, value] }
}

fn ready_at_once(vm: &mut Vm) -> VcpuRunResp {
    vm.engines[0].vcpu_run([0; 3], &|| true).unwrap()
}

#[test]
fn waiting_ends_with_an_interrupt_that_is_masked() {
    let mut vm = guest(|program| {
        program.wfi();
        mark(program, 1);
        program.wfi();
        mark(program, 2);
    });
    assert_eq!(vm.run(0, 0), ASLEEP);
    assert_eq!(vm.run(0, 0), ASLEEP, "running it does not wake it");
    vm.machine.raise(SPI + 9);
    assert_eq!(vm.run(0, 0), ASLEEP, "this one is not enabled");
    assert_eq!(*vm.log.woken.lock().unwrap(), [0]);
    vm.machine.raise(SPI + 1);
    assert_eq!(*vm.log.woken.lock().unwrap(), [0, 0], "woken; vCPU 1 is off and is not");
    assert_eq!(vm.run(0, 0), marked(1));
    assert_eq!(vm.run(0, 0), marked(2), "nobody took it, so it is still there");
}

#[test]
fn an_interrupt_before_the_wait_ends_it() {
    let mut vm = guest(|program| {
        mark(program, 1);
        program.wfi();
        mark(program, 2);
    });
    assert_eq!(vm.run(0, 0), marked(1));
    vm.machine.raise(SPI);
    let woken = vm.log.woken.lock().unwrap().len();
    assert_eq!(vm.run(0, 0), marked(2));
    assert_eq!(vm.log.woken.lock().unwrap().len(), woken, "nobody slept");
}

#[test]
fn suspend_is_a_wait() {
    let mut vm = guest(|program| {
        program.mov(1, 0).psci(0xc400_0001);
        program.mov(8, DEVICE).store(Width::Word, 0, 8);
    });
    assert_eq!(vm.run(0, 0), ASLEEP);
    vm.machine.raise(SPI);
    assert_eq!(vm.run(0, 0), marked(0));
}

#[test]
fn who_sets_nothing_up_sleeps_for_ever() {
    let mut program = Program::new();
    let again = program.here();
    program.wfi().branch(again);
    let mut vm = Vm::new(&program.bytes(), 1);
    let ram = VecRam::new(RAM_BASE, 4096, &program.bytes());
    let without_gic = Machine::new(ram, vm.log.clone(), 1);
    without_gic.start(RAM_BASE, 0);
    let mut engine = without_gic.engine(0);
    vm.log.woken.lock().unwrap().clear();
    for _ in 0..3 {
        assert_eq!((vm.run(0, 0), engine.vcpu_run([0; 3], &|| false)), (ASLEEP, Ok(ASLEEP)));
        vm.machine.raise(SPI);
        without_gic.raise(SPI);
    }
    assert!(vm.log.woken.lock().unwrap().is_empty());
    without_gic.stop();
    assert_eq!(engine.vcpu_run([0; 3], &|| false).unwrap().state, state::POWERED_OFF);
}

#[test]
fn an_interrupt_is_taken_once_and_the_guest_goes_on() {
    let mut vm = guest(|program| {
        mark(program, 1);
        program.unmask_irq();
        mark(program, 2);
        mark(program, 3);
    });
    assert_eq!(vm.run(0, 0), marked(1));
    vm.machine.raise(SPI + 3);
    vm.machine.raise(SPI + 2);
    // Between the two instructions, the lower number first.
    for intid in [SPI + 2, SPI + 3] {
        assert_eq!(vm.run(0, 0), took(intid));
        assert_eq!(vm.run(0, 0), ASKS);
    }
    assert_eq!(vm.run(0, 0), marked(2));
    vm.machine.raise(SPI + 2);
    assert_eq!(vm.run(0, 0), took(SPI + 2));
    vm.machine.raise(SPI + 2);
    assert_eq!(vm.run(0, 0), ASKS);
    assert_eq!(vm.run(0, 0), took(SPI + 2), "one that came while the other was handled");
    assert_eq!(vm.run(0, 0), ASKS);
    assert_eq!(vm.run(0, 0), marked(3));
    assert_eq!(ready_at_once(&mut vm).state, state::READY);
    vm.machine.raise(SPI + 1);
    assert_eq!(vm.run(0, 0), took(SPI + 1), "also out of a loop");
    assert_eq!(vm.run(0, 0), ASKS);
    assert_eq!(vm.run(0, 1).state, state::POWERED_OFF);
    assert_eq!(vm.exits().len(), 1);
}

#[test]
fn a_window_of_one_instruction_lets_an_interrupt_in() {
    let mut vm = guest(|program| {
        mark(program, 1);
        program.unmask_irq().mask_irq();
        mark(program, 2);
    });
    assert_eq!(vm.run(0, 0), marked(1));
    vm.machine.raise(SPI);
    assert_eq!(vm.run(0, 0), took(SPI));
    assert_eq!(vm.run(0, 0), ASKS);
    assert_eq!(vm.run(0, 0), marked(2));
}

/// Each thing that the guest does to its own GIC is seen before its next instruction.
#[test]
fn what_the_guest_does_to_itself_comes_at_once() {
    let pend: fn(&mut Program) = |program| {
        program.mov(0, GICD + 0x204).mov(1, 1 << 2).store(Width::Word, 1, 0);
    };
    let sgi: fn(&mut Program) = |program| {
        program.mov(0, GICR + 0x1_0100).mov(1, 1 << 5).store(Width::Word, 1, 0);
        interrupts::send_sgi(program, 0, 5);
    };
    let timer: fn(&mut Program) = |program| {
        program.mov(0, 1).write_register(SystemRegister::CNTV_CVAL_EL0, 31);
        program.write_register(SystemRegister::CNTV_CTL_EL0, 0);
    };
    for (what, intid) in [(pend, SPI + 2), (sgi, 5), (timer, VIRTUAL_TIMER)] {
        let mut vm = guest(|program| {
            program.unmask_irq();
            what(program);
            mark(program, 1);
        });
        assert_eq!(vm.run(0, 0), took(intid));
        assert_eq!(vm.run(0, 0), ASKS);
        assert_eq!(vm.run(0, 0), marked(1));
    }
}

#[test]
fn an_interrupt_without_vectors_is_a_fault() {
    let mut program = Program::new();
    GIC.set_up_distributor(&mut program);
    GIC.set_up_cpu(&mut program, 0);
    GIC.enable(&mut program, SPI, true);
    mark(&mut program, 1);
    program.unmask_irq();
    let mut vm = Vm::new(&program.bytes(), 1);
    assert_eq!(vm.run(0, 0), marked(1));
    vm.machine.raise(SPI);
    assert_eq!(vm.run(0, 0).state, state::FAULT);
    assert!(vm.machine.faults()[0].contains("interrupt with no vectors set"), "{:?}", vm.machine.faults());
    assert_eq!(vm.exits()[0].1[0], 6);
}

#[test]
fn the_frames_are_no_business_of_the_host() {
    // A pair has no syndrome, so not even the hypervisor can emulate it.
    let mut vm = guest(|program| {
        program.mov(0, GICD + 0xffe8).load(Width::Word, 1, 0);
        program.mov(8, DEVICE).store(Width::Word, 1, 8);
        program.word(0xa940_0801); // ldp x1, x2, [x0]
    });
    assert_eq!(vm.run(0, 0), marked(0x3b));
    assert_eq!(vm.run(0, 0).state, state::FAULT);
    assert!(vm.machine.faults()[0].contains("which is not RAM"), "{:?}", vm.machine.faults());
}

fn wait_for_wakeup(vm: &Vm, seen: usize) {
    let started = Instant::now();
    while vm.log.woken.lock().unwrap().len() <= seen {
        assert!(started.elapsed() < Duration::from_secs(60), "nobody was woken");
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn a_timer_wakes_who_sleeps() {
    for _ in 0..20 {
        let mut vm = guest(|program| {
            // 2 ms
            program.mov(0, 2_000_000).write_register(SystemRegister::CNTV_TVAL_EL0, 0);
            program.mov(0, 1).write_register(SystemRegister::CNTV_CTL_EL0, 0).unmask_irq();
            program.wfi();
            mark(program, 1);
        });
        let seen = vm.log.woken.lock().unwrap().len();
        assert_eq!(vm.run(0, 0), ASLEEP);
        wait_for_wakeup(&vm, seen);
        assert_eq!(vm.run(0, 0), took(VIRTUAL_TIMER));
        assert_eq!(vm.run(0, 0), ASKS);
        assert_eq!(vm.run(0, 0), marked(1));
    }
}

#[test]
fn a_timer_interrupts_who_spins() {
    let mut vm = guest(|program| {
        program.mov(0, 500_000).write_register(SystemRegister::CNTV_TVAL_EL0, 0);
        program.mov(0, 1).write_register(SystemRegister::CNTV_CTL_EL0, 0).unmask_irq();
    });
    assert_eq!(vm.run(0, 0), took(VIRTUAL_TIMER));
}

/// The alarm for the old time does not keep the new one from coming.
#[test]
fn a_timer_that_is_set_anew_counts_anew() {
    let set = |program: &mut Program, ticks| {
        program.read_register(0, SystemRegister::CNTVCT_EL0).mov(1, ticks).add_register(0, 0, 1);
        program.write_register(SystemRegister::CNTV_CVAL_EL0, 0);
        program.mov(0, 1).write_register(SystemRegister::CNTV_CTL_EL0, 0);
    };
    let mut vm = guest(|program| {
        set(program, 3_600_000_000_000);
        program.wfi();
        // Takes the interrupt that came instead, by polling.
        program.read_register(0, SystemRegister::new(3, 0, 12, 12, 0));
        program.write_register(SystemRegister::new(3, 0, 12, 12, 1), 0);
        program.mov(8, DEVICE).store(Width::Word, 0, 8);
        set(program, 1_000_000);
        program.wfi();
        mark(program, 1);
    });
    assert_eq!(vm.run(0, 0), ASLEEP);
    vm.machine.raise(SPI + 1);
    let seen = vm.log.woken.lock().unwrap().len();
    assert_eq!(vm.run(0, 0), marked((SPI + 1).into()));
    if vm.run(0, 0) == ASLEEP {
        wait_for_wakeup(&vm, seen);
        assert_eq!(vm.run(0, 0), marked(1));
    }
}

#[test]
fn a_cpu_that_comes_back_has_its_interface_closed() {
    let mut vm = guest(|program| {
        let entry = program.label();
        program.address(2, entry).mov(1, 1).mov(3, 0).psci(psci::CPU_ON);
        mark(program, 1);
        program.mov(1, 1).mov(3, 0).address(2, entry).psci(psci::CPU_ON);
        mark(program, 2);
        let hang = program.here();
        program.branch(hang).place(entry);
        program.read_register(0, SystemRegister::new(3, 0, 12, 12, 7));
        program.mov(8, DEVICE + 8).store(Width::Word, 0, 8);
        GIC.set_up_cpu(program, 1 << VIRTUAL_TIMER);
        program.write_register(SystemRegister::CNTV_CVAL_EL0, 31);
        program.mov(0, 1).write_register(SystemRegister::CNTV_CTL_EL0, 0);
        program.read_register(0, SystemRegister::new(3, 0, 12, 1, 0)); // ISR_EL1
        program.mov(8, DEVICE + 16).store(Width::Word, 0, 8).psci(psci::CPU_OFF);
    });
    let shows = |offset, value| VcpuRunResp { state: state::MMIO_WRITE, data: [DEVICE + offset, 4, value] };
    for round in 1..=2 {
        assert_eq!(vm.run(0, 0), marked(round));
        assert_eq!(vm.run(1, 0), shows(8, 0), "group 1 is off");
        assert_eq!(vm.run(1, 0), shows(16, 1 << 7), "the timer's IRQ is pending");
        assert_eq!(vm.run(1, 0).state, state::POWERED_OFF);
    }
}

/// A driver that sleeps when it is told to, and only wakes when it is told to.
#[derive(Default)]
struct Sleepers {
    /// Wake-ups by vCPU, and whether the VM has ended.
    state: Mutex<(Vec<u32>, bool)>,
    changed: Condvar,
}

impl VmEvents for Sleepers {
    fn wake(&self, id: u32) {
        self.state.lock().unwrap().0.push(id);
        self.changed.notify_all();
    }

    fn vm_exited(&self, _exit_type: u16, _reason: &[u8]) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Sleepers {
    /// Sleeps until vCPU `id` is woken. False: the VM has ended.
    fn sleep(&self, id: u32) -> bool {
        let state = self.state.lock().unwrap();
        let (mut state, timeout) = self
            .changed
            .wait_timeout_while(state, Duration::from_secs(60), |(woken, ended)| {
                !*ended && !woken.contains(&id)
            })
            .unwrap();
        assert!(!timeout.timed_out(), "vCPU {id} sleeps for ever");
        state.0.retain(|woken| *woken != id);
        !state.1
    }
}

/// Two CPUs pass an SGI to and fro, each sleeping until it comes; timers of all lengths and signals of the host come in
/// between. A wake-up that is lost ends the test.
#[test]
fn no_wake_up_is_lost() {
    const PASSES: u64 = 3000;
    const PASS: u32 = 3;
    let mut program = Program::new();
    let (start, secondary) = (program.label(), program.label());
    program.branch(start);
    let vectors = interrupts::vectors(&mut program, |program| {
        let (other, done, first) = (program.label(), program.label(), program.label());
        // A timer's or the host's: stop the timer. The SGI: set it, and pass on.
        program.sub(17, 16, PASS).branch_if(17, other);
        program.mov(17, 0x3fff).and(17, 21, 17).write_register(SystemRegister::CNTV_TVAL_EL0, 17);
        program.mov(17, 1).write_register(SystemRegister::CNTV_CTL_EL0, 17);
        program.mov(17, 40503).add_register(21, 21, 17).cpu_number(17).branch_unless(17, first);
        interrupts::send_sgi(program, 0, PASS);
        program.branch(done).place(first);
        program.sub(19, 19, 1);
        let again = program.label();
        program.branch_if(19, again).power_off().place(again);
        interrupts::send_sgi(program, 1, PASS);
        program.branch(done).place(other);
        program.write_register(SystemRegister::CNTV_CTL_EL0, 31);
        program.place(done);
    });
    program.place(start);
    interrupts::enter(&mut program, vectors, RAM_BASE + 0x8000);
    GIC.set_up_distributor(&mut program);
    GIC.set_up_cpu(&mut program, 1 << VIRTUAL_TIMER | 1 << PASS);
    GIC.enable(&mut program, SPI, true);
    program.mov(19, PASSES).mov(21, 0);
    program.mov(1, 1).address(2, secondary).mov(3, 0).psci(psci::CPU_ON);
    interrupts::serve(&mut program);
    program.place(secondary);
    interrupts::enter(&mut program, vectors, RAM_BASE + 0x8000);
    GIC.set_up_cpu(&mut program, 1 << VIRTUAL_TIMER | 1 << PASS);
    program.mov(21, 7);
    interrupts::send_sgi(&mut program, 0, PASS);
    interrupts::serve(&mut program);

    let ram = VecRam::new(RAM_BASE, 1 << 20, &program.bytes());
    let events = Arc::new(Sleepers::default());
    let machine = Machine::with_gic(ram, events.clone(), 2, Some(gic(2)));
    machine.start(RAM_BASE, 0);
    std::thread::scope(|scope| {
        for id in 0..2 {
            let (mut engine, events) = (machine.engine(id), &events);
            scope.spawn(move || {
                loop {
                    match engine.vcpu_run([0; 3], &|| false).unwrap().state {
                        state::EXPECTS_WAKEUP | state::POWERED_OFF if events.sleep(id) => {}
                        state::EXPECTS_WAKEUP | state::POWERED_OFF => break,
                        other => panic!("state {other}"),
                    }
                }
            });
        }
        while !events.state.lock().unwrap().1 {
            machine.raise(SPI);
            std::thread::sleep(Duration::from_micros(50));
        }
    });
    assert!(machine.faults().is_empty(), "{:?}", machine.faults());
}

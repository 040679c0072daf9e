//! Interrupts that arrive in the guest, which takes them as a driver would and tells which they were.

use std::sync::{Arc, Mutex};

use conformance::asm::{Program, SystemRegister, Width, psci};
use conformance::interrupts::{self, Gic, SGI, SPECIAL, SPI, VIRTUAL_TIMER, mailbox};
use vm_memory::GuestAddress;
use vmm_adapter::{
    Bus, Feature, GicLayout, GuestArch, Hypervisor, IoOutcome, IrqLine, Kicker, MmioDevice, MsiFrame,
    MsiPool, Trigger, VcpuExit, VmConfig,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::eventually;
use crate::mailbox::{MAILBOX, SIZE};
use crate::rig::{self, Rig};
use crate::target::Probe;

/// The host's side of the guests' mailboxes.
#[derive(Default)]
struct Desk {
    /// CPU and number of each interrupt, in the order in which they were taken.
    taken: Mutex<Vec<(u32, u32)>>,
    ready: Mutex<Vec<u32>>,
    other: Mutex<Vec<u64>>,
    /// The CPU and number of the interrupt with which the guest is to turn the machine off.
    end_with: Option<(u32, u32)>,
}

fn number(data: &[u8]) -> u64 {
    data.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl MmioDevice for Desk {
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
        let end = self.end_with.is_some_and(|last| self.taken.lock().unwrap().contains(&last));
        let answer = match offset % mailbox::SIZE {
            mailbox::END => u8::from(end),
            // How many CPUs can be interrupted.
            mailbox::OTHER => self.ready.lock().unwrap().len() as u8,
            other => panic!("a load from {other:#x}"),
        };
        data.fill(0);
        data[0] = answer;
        IoOutcome::Handled
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome {
        let cpu = (offset / mailbox::SIZE) as u32;
        match offset % mailbox::SIZE {
            mailbox::TAKEN => {
                let intid = number(data) as u32;
                // Something came, and was gone when the guest looked: nothing arrived.
                if intid < SPECIAL {
                    self.taken.lock().unwrap().push((cpu, intid));
                }
            }
            mailbox::READY => self.ready.lock().unwrap().push(cpu),
            mailbox::OTHER => self.other.lock().unwrap().push(number(data)),
            mailbox::EXCEPTION => panic!("an exception: ESR_EL1 is {:#x}", number(data)),
            other => panic!("CPU {cpu} stores to {other:#x}"),
        }
        IoOutcome::Handled
    }
}

impl Desk {
    /// The guest is to turn the machine off with an interrupt on this line of CPU 0.
    fn until(line: IrqLine) -> Self {
        Self { end_with: Some((0, SPI + line.spi)), ..Self::default() }
    }

    /// The numbers of the interrupts that came.
    fn taken(&self) -> Vec<u32> {
        self.taken.lock().unwrap().iter().map(|(_, intid)| *intid).collect()
    }

    /// Waits until so many interrupts have come.
    fn has_taken(&self, count: usize) {
        eventually("interrupts arrive", || self.taken.lock().unwrap().len() >= count);
    }

    fn is_ready(&self, cpus: usize) {
        eventually("the guest gets ready", || self.ready.lock().unwrap().len() >= cpus);
    }
}

fn gic(vcpus: u32) -> Gic {
    let layout = GicLayout::below_1gib(vcpus);
    Gic { distributor: layout.distributor.0, redistributors: layout.redistributors.0 }
}

/// A guest that sets itself up to be interrupted on its first CPU, by these lines and these of the CPU's own, and then
/// does this. The last argument runs in the handler.
fn guest(
    vcpus: u32,
    lines: &[IrqLine],
    own: u32,
    body: impl FnOnce(&mut Program, &dyn Fn(&mut Program)),
    before_end: impl FnOnce(&mut Program),
) -> Program {
    let gic = gic(vcpus);
    let mut program = Program::new();
    let start = program.label();
    program.branch(start);
    let vectors = interrupts::vectors(&mut program, before_end);
    let set_up_cpu = |program: &mut Program| {
        interrupts::enter(program, vectors, MAILBOX);
        gic.set_up_cpu(program, own);
    };
    program.place(start);
    gic.set_up_distributor(&mut program);
    set_up_cpu(&mut program);
    for line in lines {
        gic.enable(&mut program, SPI + line.spi, line.trigger == Trigger::Edge);
    }
    body(&mut program, &set_up_cpu);
    program
}

/// A guest of one CPU that only takes interrupts.
fn listener(hypervisor: &dyn Hypervisor, lines: &[IrqLine]) -> Program {
    let mut program = rig::guest(hypervisor);
    if let Some(code) = program.x86() {
        let pins: Vec<_> = lines.iter().map(|line| (line.spi, line.trigger == Trigger::Edge)).collect();
        code.listen(&pins, MAILBOX, false);
        return program;
    }
    let listen = |program: &mut Program, _: &dyn Fn(&mut Program)| {
        interrupts::say_ready(program);
        interrupts::serve(program);
    };
    guest(1, lines, 0, listen, |_| ())
}

/// Ends the runs of a test that has failed.
struct KicksOnPanic(Vec<Arc<dyn Kicker>>);

impl Drop for KicksOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.iter().for_each(|kicker| kicker.kick());
        }
    }
}

/// Runs the VM while `host` does its part, until the guest turns the machine off.
fn run(rig: &mut Rig, bus: &Bus<'_>, host: impl FnOnce()) {
    std::thread::scope(|scope| {
        let _kicks = KicksOnPanic(rig.vcpus.iter().map(|vcpu| vcpu.kicker()).collect());
        let mut runs = Vec::new();
        for vcpu in &mut rig.vcpus {
            let vm = rig.vm.clone();
            runs.push(scope.spawn(move || {
                let exit = vcpu.run(bus).unwrap();
                rig::assert_off(&*vm, exit);
            }));
        }
        host();
        for run in runs {
            run.join().unwrap();
        }
    });
}

fn bus(desk: &Desk) -> Bus<'_> {
    let mut bus = Bus::new();
    bus.add(GuestAddress(MAILBOX), SIZE, desk).unwrap();
    bus
}

fn event() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

/// The line of the last interrupt. x86_64 has 24.
const LAST: IrqLine = IrqLine::edge(20);

fn is_arm64(hypervisor: &dyn Hypervisor) -> bool {
    hypervisor.capabilities().guest_arch() == GuestArch::Arm64
}

/// Whether guests can be interrupted at all: some hosts run x86_64 guests by KVM's emulator, which has no interrupts in 64-bit
/// mode. The guest interrupts itself to find out, so a line that does not work is still found.
fn interruptible(hypervisor: &dyn Hypervisor, probe: &Probe) -> bool {
    /// KVM's number of the exit "internal error".
    const INTERNAL_ERROR: u16 = 17;
    let mut program = rig::guest(hypervisor);
    let Some(code) = program.x86() else { return true };
    code.listen(&[(1, true)], MAILBOX, true);
    let desk = Desk::until(IrqLine::edge(1));
    match Rig::one(hypervisor, &program).vcpus[0].run(&bus(&desk)).unwrap() {
        VcpuExit::Crashed(details) if details.raw_type == Some(INTERNAL_ERROR) => {
            probe.inapplicable(
                "this host's KVM emulates 64-bit guests, and its emulator cannot interrupt them",
            );
            false
        }
        _ => {
            assert_eq!(desk.taken(), [SPI + 1]);
            true
        }
    }
}

/// A VM that takes `lines` and [`LAST`], with an event bound to each.
fn bound(hypervisor: &dyn Hypervisor, lines: &[IrqLine]) -> (Rig, Vec<EventFd>) {
    let lines: Vec<IrqLine> = lines.iter().copied().chain([LAST]).collect();
    let rig = Rig::new(hypervisor, 1, &lines, &listener(hypervisor, &lines)).start();
    let events: Vec<EventFd> = lines.iter().map(|_| event()).collect();
    for (event, line) in events.iter().zip(lines) {
        rig.vm.register_irqfd(event, line).unwrap();
    }
    (rig, events)
}

/// What the hypervisor counted, where it can be asked.
fn rang(probe: &Probe, line: IrqLine, times: u64) {
    if let Some(rung) = probe.doorbells(line.spi) {
        assert_eq!(rung, times, "line {}", line.spi);
    }
}

/// Each signal waits until the guest took the one before.
fn each_signal_is_one_interrupt(hypervisor: &dyn Hypervisor, probe: &Probe, line: IrqLine) {
    const SIGNALS: usize = 20;
    if !interruptible(hypervisor, probe) {
        return;
    }
    let (mut rig, events) = bound(hypervisor, &[line]);
    let desk = Desk::until(LAST);
    run(&mut rig, &bus(&desk), || {
        desk.is_ready(1);
        for signal in 1..=SIGNALS {
            events[0].write(1).unwrap();
            desk.has_taken(signal);
        }
        events[1].write(1).unwrap();
    });
    let mut want = vec![SPI + line.spi; SIGNALS];
    want.push(SPI + LAST.spi);
    assert_eq!(desk.taken(), want);
    rang(probe, line, SIGNALS as u64);
}

pub fn a_signal_on_an_edge_line_is_one_interrupt(hypervisor: &dyn Hypervisor, probe: &Probe) {
    each_signal_is_one_interrupt(hypervisor, probe, IrqLine::edge(7));
}

pub fn a_signal_on_a_level_line_is_one_interrupt(hypervisor: &dyn Hypervisor, probe: &Probe) {
    each_signal_is_one_interrupt(hypervisor, probe, IrqLine::level(11));
}

pub fn lines_do_not_get_into_each_others_way(hypervisor: &dyn Hypervisor, probe: &Probe) {
    // The first, two neighbours, both sides of a register's end, and the last.
    if !interruptible(hypervisor, probe) {
        return;
    }
    let all = match hypervisor.capabilities() {
        caps if caps.guest_arch() != GuestArch::Arm64 => vec![3, 4, 15, 16, 23],
        caps => vec![0, 3, 4, 31, 32, 255, probe.last_spi(caps)],
    };
    let lines: Vec<IrqLine> = all.into_iter().map(IrqLine::edge).collect();
    let silent = IrqLine::edge(5);
    let all: Vec<IrqLine> = lines.iter().copied().chain([silent]).collect();
    let (mut rig, events) = bound(hypervisor, &all);
    let desk = Desk::until(LAST);
    run(&mut rig, &bus(&desk), || {
        desk.is_ready(1);
        for event in &events[..lines.len()] {
            event.write(1).unwrap();
        }
        desk.has_taken(lines.len());
        events[all.len()].write(1).unwrap();
    });
    let mut taken = desk.taken();
    assert_eq!(taken.pop(), Some(SPI + LAST.spi));
    taken.sort_unstable();
    assert!(taken.iter().copied().eq(lines.iter().map(|line| SPI + line.spi)), "{taken:?}");
    lines.into_iter().for_each(|line| rang(probe, line, 1));
    rang(probe, silent, 0);
}

/// The guest sleeps with interrupts masked. That there is one ends the sleep all the same.
pub fn an_interrupt_ends_a_sleep(hypervisor: &dyn Hypervisor, probe: &Probe) {
    if !is_arm64(hypervisor) {
        return probe.inapplicable(
            "masked interrupts end no sleep there; the listeners of other promises sleep unmasked",
        );
    }
    let line = IrqLine::edge(9);
    let sleep = |program: &mut Program, _: &dyn Fn(&mut Program)| {
        interrupts::say_ready(program);
        program.wfi();
        interrupts::say_ready(program);
        program.power_off();
    };
    let mut rig = Rig::new(hypervisor, 1, &[line], &guest(1, &[line], 0, sleep, |_| ())).start();
    let fd = event();
    rig.vm.register_irqfd(&fd, line).unwrap();
    let desk = Desk::default();
    run(&mut rig, &bus(&desk), || {
        desk.is_ready(1);
        fd.write(1).unwrap();
    });
    assert_eq!((desk.ready.lock().unwrap().len(), desk.taken()), (2, vec![]));
}

pub fn an_unbound_line_is_silent(hypervisor: &dyn Hypervisor, probe: &Probe) {
    if !interruptible(hypervisor, probe) {
        return;
    }
    let line = IrqLine::edge(10);
    let (mut rig, events) = bound(hypervisor, &[line]);
    let vm = rig.vm.clone();
    let desk = Desk::until(LAST);
    run(&mut rig, &bus(&desk), || {
        desk.is_ready(1);
        events[0].write(1).unwrap();
        desk.has_taken(1);
        vm.unregister_irqfd(&events[0], line).unwrap();
        events[0].write(1).unwrap();
        // Some hypervisors take a counter that is not 0 for a signal when it is bound, and some leave it when they see one.
        while events[0].read().is_ok() {}
        vm.register_irqfd(&events[0], line).unwrap();
        events[0].write(1).unwrap();
        desk.has_taken(2);
        events[1].write(1).unwrap();
    });
    let intid = SPI + line.spi;
    assert_eq!(desk.taken(), [intid, intid, SPI + LAST.spi]);
    rang(probe, line, 2);
}

pub fn a_message_is_the_interrupt_of_its_vector(hypervisor: &dyn Hypervisor, probe: &Probe) {
    if !hypervisor.capabilities().has(Feature::MsiPool) {
        return probe.inapplicable("messages go to the local APICs there");
    }
    const POOL: MsiPool = MsiPool { base: 64, count: 8, frame: GuestAddress(0x1100_0000) };
    /// Of the frame: where messages go.
    const SETSPI: u64 = 0x40;
    let vectors: Vec<u32> = (0..POOL.count).map(|vector| SPI + POOL.base + vector).collect();
    let mut config = VmConfig::new(1).with_msi(POOL);
    config.irq_lines = vec![LAST];
    let lines: Vec<IrqLine> = config.lines().collect();
    // The guest's stores are what a device's messages are to the bus.
    let stores = |program: &mut Program, _: &dyn Fn(&mut Program)| {
        interrupts::say_ready(program);
        program.unmask_irq();
        for intid in &vectors {
            program.store_at(Width::Word, POOL.frame.0 + SETSPI, (*intid).into());
        }
        interrupts::serve(program);
    };
    let program = guest(1, &lines, 0, stores, |_| ());
    let rig = Rig::with_config(hypervisor, config, &program);
    let frame = MsiFrame::new(&rig.vm).unwrap();
    let mut rig = rig.start();
    let last = event();
    rig.vm.register_irqfd(&last, LAST).unwrap();
    let desk = Desk::until(LAST);
    let mut bus = bus(&desk);
    bus.add(POOL.frame, MsiFrame::SIZE, &frame).unwrap();
    run(&mut rig, &bus, || {
        desk.has_taken(vectors.len());
        // And the VMM's own devices, which store nothing.
        for (taken, vector) in (vectors.len() + 1..).zip((0..POOL.count).rev()) {
            assert!(frame.signal(frame.message(vector).unwrap().data));
            desk.has_taken(taken);
        }
        last.write(1).unwrap();
    });
    let mut taken = desk.taken();
    assert_eq!(taken.pop(), Some(SPI + LAST.spi));
    let by_host = taken.split_off(vectors.len());
    taken.sort_unstable();
    assert_eq!(taken, vectors, "the guest's own");
    assert!(by_host.iter().eq(vectors.iter().rev()), "the host's: {by_host:?}");
    assert_eq!(frame.stray(), 0);
    (POOL.base..POOL.base + POOL.count).for_each(|spi| rang(probe, IrqLine::edge(spi), 2));
}

/// CPU 0 interrupts CPU 1, whose handler interrupts CPU 0.
pub fn cpus_interrupt_each_other(hypervisor: &dyn Hypervisor, probe: &Probe) {
    if !is_arm64(hypervisor) {
        return probe.inapplicable("these guests have no driver for local APICs");
    }
    const THERE: u32 = SGI + 5;
    const BACK: u32 = SGI + 6;
    let own = 1 << THERE | 1 << BACK;
    let two_cpus = |program: &mut Program, set_up_cpu: &dyn Fn(&mut Program)| {
        let secondary = program.label();
        interrupts::say_ready(program);
        program.mov(1, 1).address(2, secondary).mov(3, 0).psci(psci::CPU_ON);
        // The host says how many are ready.
        program.mov(4, MAILBOX + mailbox::OTHER);
        let again = program.here();
        program.load(Width::Word, 5, 4).sub(5, 5, 2).branch_if(5, again);
        interrupts::send_sgi(program, 1, THERE);
        interrupts::serve(program);
        program.place(secondary);
        set_up_cpu(program);
        interrupts::say_ready(program);
        interrupts::serve(program);
    };
    let answer = |program: &mut Program| {
        let done = program.label();
        program.cpu_number(17).branch_unless(17, done);
        interrupts::send_sgi(program, 0, BACK);
        program.place(done);
    };
    let program = guest(2, &[], own, two_cpus, answer);
    let mut rig = Rig::new(hypervisor, 2, &[], &program).start();
    let desk = Desk { end_with: Some((0, BACK)), ..Desk::default() };
    run(&mut rig, &bus(&desk), || ());
    assert_eq!(*desk.taken.lock().unwrap(), [(1, THERE), (0, BACK)]);
}

/// The guest sleeps until its virtual timer's interrupt, which comes at the time or later.
pub fn a_timer_interrupts(hypervisor: &dyn Hypervisor, probe: &Probe) {
    if !is_arm64(hypervisor) {
        return probe.inapplicable("these guests have no driver for local APICs");
    }
    let sleep = |program: &mut Program, _: &dyn Fn(&mut Program)| {
        interrupts::say_ready(program);
        // A 128th of a second.
        program.read_register(0, SystemRegister::CNTFRQ_EL0).shift_right(0, 0, 7);
        program.write_register(SystemRegister::CNTV_TVAL_EL0, 0);
        program.mov(0, 1).write_register(SystemRegister::CNTV_CTL_EL0, 0).isb();
        interrupts::serve(program);
    };
    // Says how late it is and stops the timer, or its line would stay up. X0 and X1 are free where the guest sleeps.
    let stop = |program: &mut Program| {
        program.isb().read_register(0, SystemRegister::CNTVCT_EL0);
        program.read_register(1, SystemRegister::CNTV_CVAL_EL0).sub_register(0, 0, 1);
        program.add(17, 17, mailbox::OTHER as u32).store(Width::Double, 0, 17);
        program.write_register(SystemRegister::CNTV_CTL_EL0, 31).isb();
    };
    let program = guest(1, &[], 1 << VIRTUAL_TIMER, sleep, stop);
    let mut rig = Rig::new(hypervisor, 1, &[], &program).start();
    let desk = Desk { end_with: Some((0, VIRTUAL_TIMER)), ..Desk::default() };
    run(&mut rig, &bus(&desk), || ());
    assert_eq!(desk.taken(), [VIRTUAL_TIMER]);
    let late: Vec<i64> = desk.other.lock().unwrap().iter().map(|late| *late as i64).collect();
    assert!(matches!(late[..], [late] if late >= 0), "{late:?}");
}

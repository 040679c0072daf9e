//! Whole guests.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use conformance::asm::{Program, SystemRegister, Width};
use conformance::interrupts::{self, Gic, SPI, VIRTUAL_TIMER, mailbox};
use fake_gunyah::{Engine, Errno, Flavour};

use crate::common::*;
use crate::rig::*;

const HELLO: &[u8] = include_bytes!("../../../guests/hello.bin");
const PATTERN: u64 = 0x8877_6655_4433_2211;

/// The devices that `hello` knows: the answer to a load.
#[derive(Default)]
struct Devices {
    output: String,
    passed: u64,
    failed: u64,
}

impl Devices {
    fn load(&mut self, addr: u64, len: u32) -> u64 {
        match (addr, len) {
            (0x1000_0005, 1) => 0x60,
            (0x1000_2000, _) => {
                self.passed += 1;
                PATTERN
            }
            (0x1000_2020, 4) => self.passed | self.failed << 16,
            other => panic!("no device there: {other:x?}"),
        }
    }

    fn store(&mut self, addr: u64, len: u32, value: u64) {
        match addr {
            UART => self.output.push(char::from(value as u8)),
            0x1000_2010 if value == !PATTERN & (u64::MAX >> (64 - 8 * len)) => self.passed += 1,
            0x1000_2010 => self.failed += 1,
            other => panic!("no device there: {other:x?}"),
        }
    }

    /// Runs a vCPU to the end.
    fn serve(devices: &std::sync::Mutex<Self>, vcpu: &Vcpu) -> Exit {
        loop {
            match exit(vcpu) {
                Exit::Load { addr, len } => vcpu.answer(devices.lock().unwrap().load(addr, len)),
                Exit::Store { addr, len, value } => devices.lock().unwrap().store(addr, len, value),
                end => return end,
            }
        }
    }
}

pub fn hello_on_every_flavour(engine: Engine) {
    for flavour in FLAVOURS {
        run(engine, flavour, || {
            let rig = Rig::new(flavour, HELLO).started();
            let devices = std::sync::Mutex::new(Devices::default());
            std::thread::scope(|scope| {
                for vcpu in &rig.vcpus {
                    scope.spawn(|| assert_eq!(Devices::serve(&devices, vcpu), OFF, "{flavour}"));
                }
            });
            assert_eq!(
                devices.into_inner().unwrap().output,
                "Hello from a Gunyah guest.\r\nCPU 0 is up.\r\ntest device: 8 passed, 0 failed\r\n\
                 CPU 1 is up.\r\nPowering off.\r\n",
                "{flavour}"
            );
        });
    }
}

fn compiled(name: &str) -> Vec<u8> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../guests/compiled")).join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A register of the translation, by its encoding.
const fn register(crn: u32, crm: u32, op2: u32) -> SystemRegister {
    SystemRegister::new(3, 0, crn, crm, op2)
}

/// Turns the MMU and the caches on: devices below 1 GiB, memory from 2 GiB to 3 GiB, one to one. Compilers want memory that
/// may be accessed unaligned and exclusively, which it may not be without. Then goes to `entry`.
fn with_mmu(table: u64, entry: u64) -> Vec<u8> {
    const MAIR: u64 = 0xff00;
    /// 39 bits of address, cached tables in pages of 4 KiB, and none for the upper half.
    const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23;
    let mut program = Program::new();
    program.mov(0, MAIR).write_register(register(10, 2, 0), 0);
    program.mov(0, TCR).write_register(register(2, 0, 2), 0);
    program.mov(0, table).write_register(register(2, 0, 0), 0);
    // Floating point, which compilers use to copy.
    program.mov(0, 3 << 20).write_register(register(1, 0, 2), 0).isb();
    program.read_register(0, register(1, 0, 0)).mov(1, 1 | 1 << 2 | 1 << 12).or(0, 0, 1);
    program.write_register(register(1, 0, 0), 0).isb();
    // br x1
    program.mov(1, entry).mov(0, 0).word(0xd61f_0020);
    program.bytes()
}

pub fn compiled_guests_compute_what_they_should(engine: Engine) {
    let checks =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../guests/compiled/checks.txt"))
            .unwrap();
    let mut rust = String::new();
    crate::work::work(&mut rust).unwrap();
    let guests = [
        ("checks-O0.bin", &checks),
        ("checks-O2.bin", &checks),
        ("checks-Os.bin", &checks),
        ("checks-O3-lse.bin", &checks),
        ("rust-O0.bin", &rust),
        ("rust-O3.bin", &rust),
    ];
    for (name, expected) in guests {
        // Entered where we say, so that what turns the MMU on can be elsewhere.
        run(engine, Flavour::Android16, || {
            let rig = Rig::with_user_memory(SHARE, &compiled(name));
            let ram = rig.ram.as_ref().unwrap();
            if engine == Engine::Kvm {
                const TABLE: u64 = 3 << 20;
                const START: u64 = TABLE + 0x1000;
                let device = 1 | 1 << 10 | 3 << 53;
                let memory = 2 << 30 | 1 | 1 << 2 | 3 << 8 | 1 << 10;
                let table: Vec<u8> =
                    [device, 0, memory].iter().flat_map(|entry: &u64| entry.to_le_bytes()).collect();
                ram.write(TABLE as usize, &table);
                ram.write(START as usize, &with_mmu(RAM + TABLE, RAM));
                rig.vm.ioctl_with(SET_BOOT_CONTEXT, &[0x100, RAM + START]).unwrap();
            }
            let rig = rig.started();
            let mut output = Vec::new();
            loop {
                match rig.exit() {
                    Exit::Store { addr: UART, len: 1, value } => output.push(value as u8),
                    end => {
                        assert_eq!(end, OFF, "{name} printed {}", String::from_utf8_lossy(&output));
                        break;
                    }
                }
            }
            assert_eq!(String::from_utf8_lossy(&output), *expected, "{name}");
        });
    }
}

pub fn registers_are_those_of_the_boot_context(engine: Engine) {
    // str x1, x30, and sp, sp_el0 and x0 by way of x2, x3 and x0
    let image = image(|program| {
        program.store(Width::Double, 1, 9).add(9, 9, 8).store(Width::Double, 30, 9).add(9, 9, 8);
        program.word(0x9100_03e2).store(Width::Double, 2, 9).add(9, 9, 8);
        program.word(0xd538_4103).store(Width::Double, 3, 9).add(9, 9, 8).store(Width::Double, 0, 9);
    });
    for flavour in [Flavour::Android15, Flavour::Android16, Flavour::V17] {
        run(engine, flavour, || {
            let mut whole = vec![0; 0x100];
            whole.extend_from_slice(&image);
            let rig = Rig::new(flavour, &whole);
            let context: [(u64, u64); 6] = [
                (1, 0x1111),
                (9, DEVICE),
                (30, 0x3030),
                (0x100, RAM + 0x100),
                (0x200, 0x50e0),
                (0x201, 0x51e1),
            ];
            for (register, value) in context {
                rig.vm.ioctl_with(SET_BOOT_CONTEXT, &[register, value]).unwrap();
            }
            let rig = rig.started();
            for (n, value) in (0..).zip([0x1111, 0x3030, 0x51e1, 0x50e0, RAM + DTB]) {
                assert_eq!(rig.exit(), Exit::Store { addr: DEVICE + 8 * n, len: 8, value }, "{flavour}");
            }
            assert_eq!(rig.exit(), OFF);
        });
    }
}

/// The virtual timer goes off, and doorbells ring: by irqfd, of both kinds, each signal once.
pub fn it_has_interrupts_and_a_clock(engine: Engine) {
    const GIC: Gic = Gic { distributor: 0x3fff_0000, redistributors: 0x3ffb_0000 };
    let mut program = Program::new();
    let start = program.label();
    program.branch(start);
    let vectors = interrupts::vectors(&mut program, |program| {
        program.write_register(SystemRegister::CNTV_CTL_EL0, 31);
    });
    program.place(start);
    interrupts::enter(&mut program, vectors, UART);
    GIC.set_up_distributor(&mut program);
    GIC.set_up_cpu(&mut program, 1 << VIRTUAL_TIMER);
    GIC.enable(&mut program, SPI, true);
    GIC.enable(&mut program, SPI + 33, false);
    // The timer, at once.
    program.mov(0, 0).write_register(SystemRegister::new(3, 3, 14, 3, 0), 0);
    program.mov(0, 1).write_register(SystemRegister::CNTV_CTL_EL0, 0).isb();
    program.unmask_irq();
    let again = program.here();
    program.wfi().branch(again);
    let image = program.bytes();
    for flavour in [Flavour::V11, Flavour::Android16] {
        run(engine, flavour, || {
            let rig = Rig::with_user_memory(SHARE, &image);
            let (edge, level) = (eventfd(0), eventfd(0));
            let bind = |fd: &OwnedFd, label, flags| {
                let fd = fd.as_raw_fd() as u32;
                rig.vm.add(FN_IRQFD, &IrqfdArg { fd, label, flags, ..IrqfdArg::default() }).unwrap();
            };
            // Signalled before the start: dropped, and never made up for.
            bind(&edge, 0, 0);
            eventfd_write(&edge);
            bind(&level, 33, 1);
            let rig = rig.started();
            let took = |intid: u32| {
                let taken = Exit::Store { addr: UART + mailbox::TAKEN, len: 4, value: intid.into() };
                assert_eq!(rig.exit(), taken);
                assert_eq!(rig.exit(), Exit::Load { addr: UART + mailbox::END, len: 4 });
                rig.vcpus[0].answer(0);
            };
            took(VIRTUAL_TIMER);
            for _ in 0..20 {
                for (fd, intid) in [(&edge, SPI), (&level, SPI + 33)] {
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            std::thread::sleep(Duration::from_millis(1));
                            eventfd_write(fd);
                        });
                        took(intid);
                    });
                }
            }
            // KVM takes the counter, the driver leaves it.
            assert_eq!(eventfd_read(&edge), 0);
            assert!(eventfd_read(&level) > 0);
        });
    }
}

pub fn it_is_refused_with_a_reason(engine: Engine) {
    let why = engine.check().unwrap_err().to_string();
    assert!(why.contains("arm64 machines"), "{why}");
    assert_eq!(Engine::best(), Engine::Interpreter);
    let fake = fake(engine, Flavour::V11).build().unwrap();
    fake.run(|handle| {
        let rig = Rig::new(Flavour::V11, HELLO);
        assert_eq!(rig.vm.start(), Err(Errno::ENODEV));
        assert!(handle.notes().iter().any(|note| note.contains("arm64 machines")), "{:?}", handle.notes());
    })
    .unwrap();
    // The best of this host is what it has.
    let best = fake_gunyah::Fake::builder().guest(fake_gunyah::Guest::code_on_best()).build().unwrap();
    best.run(|_| {
        let rig = Rig::new(Flavour::V11, &image(|_| ())).started();
        assert_eq!(rig.exit(), OFF);
    })
    .unwrap();
}

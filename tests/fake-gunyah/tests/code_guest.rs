//! arm64 code as a guest: the whole way from the device node to its power-off.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "rm_config/tree.rs"]
#[allow(dead_code, unreachable_pub)]
mod tree;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use common::*;
use fake_gunyah::{Errno, Fake, Flavour, Guest, Handle};

const HELLO: &[u8] = include_bytes!("../../guests/hello.bin");
const RAM: u64 = 0x8000_0000;
const SIZE: usize = 4 << 20;
const DTB: u64 = 1 << 20;
const PATTERN: u64 = 0x8877_6655_4433_2211;

#[derive(Default)]
struct Devices {
    output: Mutex<String>,
    passed: AtomicU32,
    failed: AtomicU32,
}

impl Devices {
    fn read(&self, addr: u64, len: u32) -> u64 {
        match (addr, len) {
            (0x1000_0005, 1) => 0x60,
            (0x1000_2000, _) => {
                self.passed.fetch_add(1, Ordering::Relaxed);
                PATTERN
            }
            (0x1000_2020, 4) => {
                u64::from(self.passed.load(Ordering::Relaxed) | self.failed.load(Ordering::Relaxed) << 16)
            }
            _ => 0,
        }
    }

    fn write(&self, addr: u64, len: u32, value: u64) {
        match addr {
            0x1000_0000 => self.output.lock().unwrap().push(char::from(value as u8)),
            0x1000_2010 => {
                let mask = u64::MAX >> (64 - 8 * len);
                let good = value & mask == !PATTERN & mask;
                if good { &self.passed } else { &self.failed }.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Runs a vCPU until the VM ends.
    fn serve(&self, vcpu: &Vcpu) -> (u32, u16, u32, [u8; 8]) {
        loop {
            vcpu.run().unwrap();
            if vcpu.reason() == EXIT_STATUS {
                return vcpu.status();
            }
            assert_eq!(vcpu.reason(), EXIT_MMIO);
            let (addr, len, is_write, data) = vcpu.mmio();
            if is_write == 1 { self.write(addr, len, data) } else { vcpu.answer(self.read(addr, len)) }
        }
    }
}

fn vm_with(ram: &Ram, tree: &tree::Tree) -> Vm {
    vm_given(ram, tree, SET_USER_MEM_REGION)
}

/// A VM whose memory is given by `call`.
fn vm_given(ram: &Ram, tree: &tree::Tree, call: u32) -> Vm {
    let vm = Vm::new();
    ram.write(0, HELLO);
    let blob = tree.buffer();
    ram.write(DTB as usize, &blob);
    let region = Region {
        label: 0,
        flags: 7,
        guest_phys_addr: RAM,
        memory_size: ram.len as u64,
        userspace_addr: ram.addr as u64,
    };
    vm.ioctl_with(call, &region).unwrap();
    vm.dtb(RAM + DTB, blob.len() as u64).unwrap();
    vm
}

/// A tree for a VM of one piece of memory.
fn good() -> tree::Tree {
    let mut tree = tree::good();
    tree.remove("gunyah-vm-config/vdevices/shm-5");
    tree
}

fn code() -> Fake {
    Fake::builder().guest(Guest::code()).build().unwrap()
}

#[test]
fn the_built_in_guest_runs_on_two_vcpus() {
    for _ in 0..20 {
        let check = |handle: &Handle| {
            let ram = Ram::new(SIZE);
            let vm = vm_with(&ram, &good());
            let vcpus = [vm.vcpu(0).unwrap(), vm.vcpu(1).unwrap()];
            vm.start().unwrap();
            let devices = Devices::default();
            std::thread::scope(|scope| {
                let runs = vcpus.each_ref().map(|vcpu| scope.spawn(|| devices.serve(vcpu)));
                for run in runs {
                    assert_eq!(run.join().unwrap(), (2, 1, 4, [0; 8]), "{:?}", handle.notes());
                }
            });
            assert_eq!(
                *devices.output.lock().unwrap(),
                "Hello from a Gunyah guest.\r\nCPU 0 is up.\r\ntest device: 8 passed, 0 failed\r\n\
                 CPU 1 is up.\r\nPowering off.\r\n"
            );
            handle.clone()
        };
        let handle = code().run(check).unwrap();
        assert_eq!(handle.leftovers(), []);
        assert!(handle.notes().iter().all(|note| !note.contains("instruction")), "{:?}", handle.notes());
    }
}

#[test]
fn the_resource_manager_refuses_a_bad_tree() {
    code()
        .run(|handle| {
            let ram = Ram::new(SIZE);
            let mut tree = good();
            tree.children.retain(|child| child.name != "gunyah-vm-config");
            let vm = vm_with(&ram, &tree);
            let vcpu = vm.vcpu(0).unwrap();
            assert_eq!(vm.start(), Err(Errno::ENODEV));
            // It failed before anything was handed out: there is no vCPU. And it is final.
            assert_eq!(vcpu.run(), Err(Errno::ENODEV));
            assert_eq!(vm.start(), Err(Errno::ENODEV));
            assert!(
                handle.notes().iter().any(|note| note.contains("Resource Manager")),
                "{:?}",
                handle.notes()
            );
        })
        .unwrap();
}

#[test]
fn a_vcpu_that_the_tree_does_not_declare_never_exists() {
    code()
        .run(|_| {
            let ram = Ram::new(SIZE);
            let vm = vm_with(&ram, &good());
            let vcpu = vm.vcpu(2).unwrap();
            vm.start().unwrap();
            assert_eq!(vcpu.run(), Err(Errno::ENODEV));
        })
        .unwrap();
}

#[test]
fn a_tree_outside_all_regions() {
    for (flavour, size, errno) in [
        (Flavour::V11, 4096, Errno::EINVAL),
        (Flavour::Android14Early, 4096, Errno::EINVAL),
        (Flavour::Android14, 4096, Errno::EINVAL),
        (Flavour::Android15, 4096, Errno::ENOENT),
        (Flavour::Android16, 4096, Errno::ENOENT),
        (Flavour::Android15, 4095, Errno::EINVAL),
        (Flavour::Android16, 4095, Errno::EINVAL),
    ] {
        Fake::builder()
            .flavour(flavour)
            .guest(Guest::code())
            .build()
            .unwrap()
            .run(|_| {
                let ram = Ram::new(SIZE);
                let vm = vm_with(&ram, &good());
                vm.dtb(RAM + SIZE as u64 - 2048, size).unwrap();
                assert_eq!(vm.start(), Err(errno), "{flavour}");
            })
            .unwrap();
    }
}

/// Stores X1, X30, SP, SP_EL0 and X0 to where X9 points, and powers off.
const REGISTERS: [u32; 10] = [
    0xf900_0121,
    0xf900_053e,
    0x9100_03e2,
    0xf900_0922,
    0xd538_4103,
    0xf900_0d23,
    0xf900_1120, // stores
    0x5280_0100,
    0x72b0_8000,
    0xd400_0002, // SYSTEM_OFF
];

#[test]
fn the_boot_context_reaches_the_guest() {
    for flavour in [Flavour::Android15, Flavour::Android16, Flavour::V17] {
        let fake = Fake::builder().flavour(flavour).guest(Guest::code()).differences(|d| {
            d.user_memory = true;
            d.lend = true;
        });
        fake.build()
            .unwrap()
            .run(|handle| {
                let ram = Ram::new(SIZE);
                let vm = vm_given(&ram, &good(), LEND_USER_MEM);
                ram.write(0x100, &REGISTERS.map(u32::to_le_bytes).concat());
                let vcpu = vm.vcpu(0).unwrap();
                let context: [(u64, u64); 7] = [
                    (1, 0x1111),
                    (9, 0x1000_0000),
                    (30, 0x3030),
                    (31, 0x9999), // X
                    (0x100, RAM + 0x100),
                    (0x200, 0x50e0),
                    (0x201, 0x51e1), // PC, SP_EL0, SP_EL1
                ];
                for (register, value) in context {
                    vm.ioctl_with(SET_BOOT_CONTEXT, &[register, value]).unwrap();
                }
                vm.start().unwrap();
                let mut stored = Vec::new();
                loop {
                    vcpu.run().unwrap();
                    match vcpu.reason() {
                        EXIT_MMIO => stored.push((vcpu.mmio().0, vcpu.mmio().3)),
                        EXIT_PAGE_FAULT => panic!("{flavour}: a page fault in its memory"),
                        _ => break,
                    }
                }
                let expected = [0x1111, 0x3030, 0x51e1, 0x50e0, RAM + DTB];
                let expected: Vec<_> = (0..).map(|n| 0x1000_0000 + 8 * n).zip(expected).collect();
                assert_eq!(stored, expected, "{flavour}: {:?}", handle.notes());
            })
            .unwrap();
    }
}

#[test]
fn the_first_cpu_that_is_not_disabled_boots() {
    code()
        .run(|_| {
            let ram = Ram::new(SIZE);
            let mut tree = good();
            tree.set("cpus/cpu@0", "status", tree::text("disabled"));
            let vm = vm_with(&ram, &tree);
            ram.write(0, &REGISTERS[7..].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
            let _first = vm.vcpu(0).unwrap();
            let second = vm.vcpu(1).unwrap();
            vm.start().unwrap();
            assert_eq!(second.run(), Ok(0));
            assert_eq!((second.reason(), second.status()), (EXIT_STATUS, (2, 1, 4, [0; 8])));
        })
        .unwrap();
}

/// Whether a guest may execute from memory that it shares with the host.
#[test]
fn shared_memory_is_executable_where_the_kernel_makes_it_so() {
    // The exit: 1 powered off, 5 a fault that the guest has no vectors for.
    let rows: [(Flavour, u32, u16); 8] = [
        (Flavour::V11, SET_USER_MEM_REGION, 1),
        (Flavour::Android14Early, SET_USER_MEM_REGION, 1),
        (Flavour::Android14, SET_USER_MEM_REGION, 1),
        (Flavour::Android14, LEND_USER_MEM, 1),
        (Flavour::Android15, SET_USER_MEM_REGION, 5),
        (Flavour::Android15, LEND_USER_MEM, 1),
        (Flavour::Android16, SET_USER_MEM_REGION, 1),
        (Flavour::Android16, LEND_USER_MEM, 1),
    ];
    for (flavour, call, exit) in rows {
        let fake = Fake::builder().flavour(flavour).guest(Guest::code()).build().unwrap();
        fake.run(|handle| {
            let ram = Ram::new(SIZE);
            let vm = vm_given(&ram, &good(), call);
            ram.write(0, &REGISTERS[7..].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
            let vcpu = vm.vcpu(0).unwrap();
            vm.start().unwrap();
            while vcpu.run() == Err(Errno::EINVAL) {}
            assert_eq!(vcpu.reason(), EXIT_STATUS, "{flavour}");
            assert_eq!(vcpu.status().1, exit, "{flavour} {call:#x}: {:?}", handle.notes());
        })
        .unwrap();
    }
}

/// Loads an instruction from `x9` and jumps there; both must be allowed by the region's access.
#[test]
fn a_region_without_exec_is_not_executed() {
    const JUMP: [u32; 2] = [0xf940_0121, 0xd61f_0120]; // ldr x1, [x9]; br x9
    for (flags, exit) in [(7, 1), (3, 5), (1, 5), (5, 1)] {
        code()
            .run(|_| {
                let (ram, other) = (Ram::new(SIZE), Ram::new(SIZE));
                let vm = vm_with(&ram, &good());
                let off: Vec<_> = REGISTERS[7..].iter().flat_map(|word| word.to_le_bytes()).collect();
                other.write(0, &off);
                // movz x9, #0x9000, lsl #16
                let start = [0xd2b2_0009_u32, JUMP[0], JUMP[1]];
                ram.write(0, &start.map(u32::to_le_bytes).concat());
                vm.region(&Region {
                    label: 1,
                    flags,
                    guest_phys_addr: 0x9000_0000,
                    memory_size: SIZE as u64,
                    userspace_addr: other.addr as u64,
                })
                .unwrap();
                let vcpu = vm.vcpu(0).unwrap();
                vm.start().unwrap();
                vcpu.run().unwrap();
                assert_eq!((vcpu.reason(), vcpu.status().1), (EXIT_STATUS, exit), "flags {flags}");
            })
            .unwrap();
    }
}

/// On android16 a VM is protected when its devicetree is lent, and then what it shares with the host is not executable.
#[test]
fn android16_shared_memory_beside_lent_is_not_executable() {
    for (image, exit) in [(LEND_USER_MEM, 5), (SET_USER_MEM_REGION, 1)] {
        let fake = Fake::builder().flavour(Flavour::Android16).guest(Guest::code()).build().unwrap();
        fake.run(|_| {
            let (ram, other) = (Ram::new(SIZE), Ram::new(SIZE));
            let vm = vm_given(&ram, &good(), image);
            other.write(0, &REGISTERS[7..].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
            // movz x9, #0x9000, lsl #16; br x9
            ram.write(0, &[0xd2b2_0009_u32, 0xd61f_0120].map(u32::to_le_bytes).concat());
            vm.region(&Region {
                label: 1,
                flags: 7,
                guest_phys_addr: 0x9000_0000,
                memory_size: SIZE as u64,
                userspace_addr: other.addr as u64,
            })
            .unwrap();
            let vcpu = vm.vcpu(0).unwrap();
            vm.start().unwrap();
            while vcpu.run() == Err(Errno::EINVAL) {}
            assert_eq!((vcpu.reason(), vcpu.status().1), (EXIT_STATUS, exit));
        })
        .unwrap();
    }
}

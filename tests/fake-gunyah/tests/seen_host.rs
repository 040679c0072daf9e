//! The host that was seen running: the open hypervisor and Resource Manager of December 2023 under a driver of the v17 line.
//!
//! Each row was observed there: what was asked, or the one property of the devicetree that was changed, and what came of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;
#[path = "rm_config/tree.rs"]
#[allow(dead_code, unreachable_pub)]
mod tree;

use common::*;
use fake_gunyah::{Errno, Fake, Guest, Handle, Host, Script};
use tree::{Tree, text, wide, words};

const RAM: u64 = 0x8000_0000;
const SIZE: usize = 4 << 20;
const DTB: usize = 1 << 20;
const DTB_SIZE: usize = 0x8000;
/// The mailbox that guests store to.
const MAILBOX: u64 = 0x1000_0000;
const SHARED: u64 = 0x9000_0000;

const CONFIG: &str = "gunyah-vm-config";
const MEMORY: &str = "gunyah-vm-config/memory";
const INTERRUPTS: &str = "gunyah-vm-config/interrupts";
const BELL: &str = "gunyah-vm-config/vdevices/bell-21";
const SHM: &str = "gunyah-vm-config/vdevices/shm-5";

/// Stores its own address and X0 to the mailbox, and powers off. Waits if it comes back from that.
const GUEST: [u32; 10] = [
    0x1000_0001, // adr x1, .
    0xd2a2_0009, // movz x9, #0x1000, lsl #16
    0xf900_0121, // str x1, [x9]
    0xf900_0520, // str x0, [x9, #8]
    0x5280_0100,
    0x72b0_8000,
    0xd400_0002, // SYSTEM_OFF
    0xf900_0920, // str x0, [x9, #16]
    0xd503_207f, // wfi
    0x17ff_ffff, // b .-4
];

/// A tree as a VMM writes it for one vCPU and one region.
fn good() -> Tree {
    let mut tree = tree::good();
    tree.remove("cpus/cpu@1");
    tree.remove(SHM);
    tree
}

struct World {
    vm: Vm,
    ram: Ram,
    handle: Handle,
}

impl World {
    fn lend(&self, label: u32, addr: u64, ram: &Ram) -> Result<i64> {
        self.give(LEND_USER_MEM, label, addr, ram)
    }

    fn give(&self, call: u32, label: u32, addr: u64, ram: &Ram) -> Result<i64> {
        let region = Region {
            label,
            flags: 7,
            guest_phys_addr: addr,
            memory_size: ram.len as u64,
            userspace_addr: ram.addr as u64,
        };
        self.vm.ioctl_with(call, &region)
    }

    fn load(&self, tree: &Tree) {
        self.ram.write(0, &GUEST.map(u32::to_le_bytes).concat());
        let mut blob = tree.blob();
        assert!(blob.len() <= DTB_SIZE);
        blob.resize(DTB_SIZE, 0);
        self.ram.write(DTB, &blob);
        self.vm.dtb(RAM + DTB as u64, DTB_SIZE as u64).unwrap();
    }

    /// The tree that the guest finds.
    fn tree(&self) -> Tree {
        let bytes: Vec<u8> = (0..DTB_SIZE).map(|at| self.ram.read(DTB + at)).collect();
        Tree::read(&bytes)
    }
}

impl Ram {
    #[allow(unsafe_code)]
    fn read(&self, offset: usize) -> u8 {
        assert!(offset < self.len);
        // SAFETY: inside the mapping.
        unsafe { self.addr.add(offset).read_volatile() }
    }
}

impl Tree {
    /// Whether there is a node at the path.
    fn has(&self, path: &str) -> bool {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        parts.try_fold(self, |node, part| node.children.iter().find(|child| child.name == part)).is_some()
    }

    /// A property's bytes. It must be there.
    fn get(&mut self, path: &str, name: &str) -> Vec<u8> {
        let properties = &self.at(path).properties;
        properties.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}")).1.clone()
    }
}

fn on<T: Send>(host: Host, guest: Guest, body: impl FnOnce(World) -> T + Send) -> T {
    let fake = Fake::builder().host(host).guest(guest).build().unwrap();
    fake.run(|handle| body(World { vm: Vm::new(), ram: Ram::new(SIZE), handle: handle.clone() })).unwrap()
}

/// Lends the image with its tree changed, and starts.
fn start(change: fn(&mut Tree), then: impl FnOnce(&World, Result<i64>, &Vcpu) + Send) {
    on(Host::Open2023, Guest::code(), |world| {
        let mut tree = good();
        change(&mut tree);
        world.lend(0, RAM, &world.ram).unwrap();
        world.load(&tree);
        let vcpu = world.vm.vcpu(0).unwrap();
        let answer = world.vm.start();
        then(&world, answer, &vcpu);
    });
}

/// Runs on through what the host was seen to call busy.
fn run(vcpu: &Vcpu) -> u32 {
    vcpu.clear_reason();
    match vcpu.run() {
        Ok(_) => {}
        Err(Errno::EBUSY) => {
            assert_eq!(vcpu.reason(), 0);
            vcpu.run().unwrap();
        }
        Err(errno) => panic!("{errno}"),
    }
    vcpu.reason()
}

/// The mailbox after a run to the end of the VM: where the guest was, and its X0.
fn whole_run(vcpu: &Vcpu) -> (u64, u64) {
    let mut got = [0; 2];
    for slot in &mut got {
        assert_eq!(run(vcpu), EXIT_MMIO);
        *slot = vcpu.mmio().3;
    }
    assert_eq!((run(vcpu), vcpu.status()), (EXIT_STATUS, (2, 1, 4, [0; 8])));
    (got[0], got[1])
}

#[test]
fn its_calls() {
    for host in Host::ALL {
        on(host, Guest::scripts([]), |world| {
            let device = open().unwrap();
            let ask = |request| world.vm.ioctl(request, 0).unwrap_err();
            use std::os::fd::AsRawFd;
            assert_eq!(ioctl(device.as_raw_fd(), CREATE_GUEST_MEM, 0), Err(Errno::EFAULT));
            for present in [SET_USER_MEM_REGION, LEND_USER_MEM, MAP_MEM, SET_BOOT_CONTEXT] {
                assert_eq!(ask(present), Errno::EFAULT, "{present:#x}");
            }
            for absent in [SET_FW_CONFIG, RECLAIM_REGION, MAP_CMA_MEM, SET_AUTH_TYPE, CHECK_EXTENSION] {
                assert_eq!(ask(absent), Errno::ENOTTY, "{absent:#x}");
            }
        });
    }
}

#[test]
fn one_property_at_a_time() {
    type Row = (&'static str, fn(&mut Tree), Option<Errno>);
    let rows: [Row; 19] = [
        ("nothing changed", |_| (), None),
        ("no gunyah-vm-config", |t| t.remove(CONFIG), Some(Errno::ENODEV)),
        ("no image-name", |t| t.unset(CONFIG, "image-name"), Some(Errno::EINVAL)),
        ("no os-type", |t| t.unset(CONFIG, "os-type"), None),
        ("no size-max", |t| t.unset(MEMORY, "size-max"), None),
        (
            "no cells in memory",
            |t| {
                t.unset(MEMORY, "#address-cells");
                t.unset(MEMORY, "#size-cells");
            },
            None,
        ),
        ("no vdevices", |t| t.remove("gunyah-vm-config/vdevices"), None),
        ("vdevices without generate", |t| t.unset("gunyah-vm-config/vdevices", "generate"), None),
        ("no interrupts node", |t| t.remove(INTERRUPTS), None),
        ("interrupts config as a path", |t| t.set(INTERRUPTS, "config", text("/intc@3fff0000")), None),
        (
            "no interrupt controller to be found",
            |t| {
                t.remove(INTERRUPTS);
                t.unset("", "interrupt-parent");
            },
            Some(Errno::ENODEV),
        ),
        ("no vcpus node", |t| t.remove("gunyah-vm-config/vcpus"), Some(Errno::ENODEV)),
        ("no memory in gunyah-vm-config", |t| t.remove(MEMORY), Some(Errno::ENODEV)),
        ("no /memory at the root", |t| t.remove("memory"), None),
        ("memory@80000000", |t| t.at("memory").name = "memory@80000000".to_owned(), Some(Errno::EINVAL)),
        ("no timer node", |t| t.remove("timer"), None),
        ("a doorbell without peer", |t| t.unset(BELL, "peer-default"), Some(Errno::EINVAL)),
        (
            "a doorbell with a peer",
            |t| {
                t.unset(BELL, "peer-default");
                t.set(BELL, "peer", text("vm-a"));
            },
            None,
        ),
        ("/hypervisor is there", |t| t.children.push(Tree::new("hypervisor")), Some(Errno::EINVAL)),
    ];
    for (what, change, refused) in rows {
        start(change, |world, answer, vcpu| {
            assert_eq!(answer.err(), refused, "{what}: {:?}", world.handle.notes());
            if refused.is_none() {
                assert_eq!(whole_run(vcpu), (RAM, RAM + DTB as u64), "{what}");
            }
        });
    }
}

#[test]
fn without_psci_the_guest_cannot_end_the_vm() {
    start(
        |t| t.remove("psci"),
        |world, answer, vcpu| {
            assert_eq!(answer, Ok(0));
            assert_eq!((run(vcpu), run(vcpu)), (EXIT_MMIO, EXIT_MMIO));
            std::thread::scope(|scope| {
                let last = scope.spawn(|| run(vcpu));
                std::thread::sleep(std::time::Duration::from_millis(100));
                assert!(!last.is_finished(), "SYSTEM_OFF has ended the VM");
                assert!(world.handle.notes().iter().any(|note| note.contains("no psci")));
                assert!(world.handle.vm_exit(7, &[]));
                assert_eq!(last.join().unwrap(), EXIT_STATUS);
            });
        },
    );
}

/// The parcel with the tree is mapped at base-address, whatever its region said; and at a multiple of 2 MiB.
#[test]
fn the_image_is_where_base_address_says() {
    type Row = (fn(&mut Tree), u64, &'static str);
    let rows: [Row; 2] = [
        (|t| t.set(MEMORY, "base-address", wide(0x4_0000_0000)), 0x4_0000_0000, "mapped at base-address"),
        (|t| t.set(MEMORY, "base-address", wide(0x8000_1000)), 0x8020_0000, "becomes 0x80200000"),
    ];
    for (change, base, said) in rows {
        start(change, |world, answer, vcpu| {
            assert_eq!(answer, Ok(0));
            assert!(
                world.handle.notes().iter().any(|note| note.contains(said)),
                "{:?}",
                world.handle.notes()
            );
            assert_eq!(whole_run(vcpu), (base, base + DTB as u64));
            assert_eq!(
                world.tree().get("memory", "reg"),
                [base.to_be_bytes(), (SIZE as u64).to_be_bytes()].concat()
            );
        });
    }
}

#[test]
fn a_label_other_than_0_gets_a_buffer_over_the_guests_memory() {
    for label in [0, 3] {
        on(Host::Open2023, Guest::code(), |world| {
            world.lend(label, RAM, &world.ram).unwrap();
            world.load(&good());
            world.vm.start().unwrap();
            let (mut tree, buffer) = (world.tree(), "reserved-memory/buffer@80000000");
            assert_eq!(tree.has(buffer), label != 0);
            if label != 0 {
                assert!(tree.get(buffer, "no-map").is_empty());
                assert_eq!(
                    tree.get(buffer, "reg"),
                    [RAM.to_be_bytes(), (SIZE as u64).to_be_bytes()].concat()
                );
            }
        });
    }
}

/// What the Resource Manager writes for the guest.
#[test]
fn the_guests_tree() {
    start(
        |t| t.remove("memory"),
        |world, answer, _| {
            assert_eq!(answer, Ok(0));
            let mut tree = world.tree();
            assert_eq!(tree.get("memory", "device_type"), text("memory"));
            assert_eq!(tree.get("memory", "reg"), [RAM.to_be_bytes(), (SIZE as u64).to_be_bytes()].concat());
            let bell = "hypervisor/bell-21";
            assert_eq!(tree.get(bell, "compatible"), text("qcom,gunyah-doorbell"));
            assert_eq!(
                (tree.get(bell, "label"), tree.get(bell, "interrupts")),
                (words(&[33]), words(&[0, 33, 4]))
            );
            assert_eq!(tree.get("chosen", "bootargs"), text("console=ttyS0"), "the rest is as it was");
        },
    );
}

/// Shared memory beside lent memory: with an shm device it works both ways, and without one there is no VM.
#[test]
fn shared_memory_beside_lent() {
    // ldr x2, [x1]; add x2, x2, #1; str x2, [x1, #8]
    const BOTH_WAYS: [u32; 8] = [
        0xd2b2_0001, // movz x1, #0x9000, lsl #16
        0xf940_0022,
        0x9100_0442,
        0xf900_0422,
        0x5280_0100,
        0x72b0_8000,
        0xd400_0002,
        0xd503_207f,
    ];
    let shm = |label: u32| {
        Tree::new("shm-5")
            .with("vdevice-type", text("shm"))
            .flag("peer-default")
            .child(Tree::new("memory").with("label", words(&[label])).with("base", wide(SHARED)))
    };
    for (device, answer) in [(None, Err(Errno::ENODEV)), (Some(6), Err(Errno::ENODEV)), (Some(5), Ok(0))] {
        on(Host::Open2023, Guest::code(), |world| {
            let shared = Ram::new(SIZE);
            shared.write(0, &41_u64.to_le_bytes());
            world.lend(0, RAM, &world.ram).unwrap();
            world.give(SET_USER_MEM_REGION, 5, SHARED, &shared).unwrap();
            let mut tree = good();
            tree.at("gunyah-vm-config/vdevices").children.extend(device.map(shm));
            world.load(&tree);
            world.ram.write(0, &BOTH_WAYS.map(u32::to_le_bytes).concat());
            let vcpu = world.vm.vcpu(0).unwrap();
            assert_eq!(world.vm.start(), answer, "{device:?}: {:?}", world.handle.notes());
            if answer.is_ok() {
                assert_eq!(run(&vcpu), EXIT_STATUS);
                assert_eq!(u64::from_le_bytes(std::array::from_fn(|n| shared.read(8 + n))), 42);
            }
        });
    }
}

#[test]
fn a_production_build_refuses_a_shared_image() {
    for (host, answer) in [(Host::Open2023, Err(Errno::ENODEV)), (Host::Open2023Debug, Ok(0))] {
        on(host, Guest::code(), |world| {
            world.give(SET_USER_MEM_REGION, 0, RAM, &world.ram).unwrap();
            world.load(&good());
            let vcpu = world.vm.vcpu(0).unwrap();
            assert_eq!(world.vm.start(), answer, "{host}: {:?}", world.handle.notes());
            if answer.is_ok() {
                assert_eq!(whole_run(&vcpu), (RAM, RAM + DTB as u64));
            }
        });
    }
}

#[test]
fn the_boot_context_is_taken_and_the_start_fails() {
    on(Host::Open2023, Guest::code(), |world| {
        world.lend(0, RAM, &world.ram).unwrap();
        world.load(&good());
        assert_eq!(world.vm.ioctl_with(SET_BOOT_CONTEXT, &[0x100_u64, RAM]), Ok(0));
        assert_eq!(world.vm.start(), Err(Errno::EOPNOTSUPP));
    });
}

#[test]
fn a_tree_beyond_16_kib_fails() {
    for (padding, good) in [(10 << 10, true), (15 << 10, false), (20 << 10, false)] {
        on(Host::Open2023, Guest::code(), |world| {
            world.lend(0, RAM, &world.ram).unwrap();
            let mut tree = self::good();
            tree.set("chosen", "padding", vec![0; padding]);
            assert!(padding > 15 << 10 || tree.blob().len() < 18 << 10);
            world.load(&tree);
            let answer = world.vm.start();
            assert_eq!(answer.is_ok(), good, "{padding}: {answer:?}");
        });
    }
}

/// Memory that comes after the start is never the guest's: what user memory is here, it is from the start.
#[test]
fn user_memory_after_the_start_never_arrives() {
    on(Host::Open2023, Guest::code(), |world| {
        world.lend(0, RAM, &world.ram).unwrap();
        world.load(&good());
        // movz x9, #0x9000, lsl #16; ldr x1, [x9]
        world.ram.write(0, &[0xd2b2_0009_u32, 0xf940_0121].map(u32::to_le_bytes).concat());
        let vcpu = world.vm.vcpu(0).unwrap();
        world.vm.start().unwrap();
        let late = Ram::new(SIZE);
        assert_eq!(world.give(SET_USER_MEM_REGION, 1, SHARED, &late), Ok(0));
        assert_eq!(run(&vcpu), EXIT_MMIO);
        assert_eq!(vcpu.mmio().0, SHARED);
    });
}

/// The run contract, as a bare loop saw it.
#[test]
fn runs() {
    let script = Script::new().mmio_read(MAILBOX, 4).expect(0).mmio_write(MAILBOX + 8, 4, 0).exit(1, &[0; 4]);
    on(Host::Open2023, Guest::scripts([script, Script::new().powered_off()]), |world| {
        let (vcpu, second) = (world.vm.vcpu(0).unwrap(), world.vm.vcpu(1).unwrap());
        assert_eq!(vcpu.run(), Err(Errno::ENODEV), "before the start");
        world.vm.start().unwrap();
        assert_eq!((vcpu.run(), vcpu.reason()), (Ok(0), EXIT_MMIO));
        // KVM's habit: the answer is taken, and nobody gets it.
        vcpu.answer(0x1234);
        vcpu.set_immediate_exit(true);
        vcpu.clear_reason();
        assert_eq!((vcpu.run(), vcpu.reason()), (Err(Errno::EINTR), 0));
        vcpu.set_immediate_exit(false);
        assert_eq!((vcpu.run(), vcpu.mmio().0), (Ok(0), MAILBOX + 8));
        assert_eq!(world.handle.answers_lost(), 1);
        vcpu.clear_reason();
        assert_eq!((vcpu.run(), vcpu.reason()), (Err(Errno::EBUSY), 0), "busy with the end, once");
        // The other has not run yet: the driver need not ask the hypervisor.
        for vcpu in [&vcpu, &second] {
            assert_eq!((vcpu.run(), vcpu.reason()), (Ok(0), EXIT_STATUS));
            assert_eq!(vcpu.status(), (2, 1, 4, [0; 8]));
            for _ in 0..3 {
                vcpu.clear_reason();
                assert_eq!((vcpu.run(), vcpu.reason()), (Ok(0), 0), "after the end the page is left alone");
            }
        }
    });
}

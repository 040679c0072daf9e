//! Memory that is shared, and memory that is lent.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use conformance::asm::Width;
use fake_gunyah::{Engine, Flavour};

use crate::common::*;
use crate::rig::*;
use crate::vmm;

/// Where guest and host leave things for each other, as offsets.
const FROM_HOST: u64 = 0x20_0000;
const FROM_GUEST: u64 = 0x21_0000;

/// A guest that stores what it finds, plus one, and stops at the device before and after.
fn adder() -> Vec<u8> {
    image(|program| {
        program.store_at(Width::Word, DEVICE, 1);
        program.mov(1, RAM + FROM_HOST).load(Width::Double, 2, 1).add(2, 2, 1);
        program.mov(1, RAM + FROM_GUEST).store(Width::Double, 2, 1);
        program.store_at(Width::Word, DEVICE, 2);
    })
}

fn peek(ram: &Ram, offset: u64) -> u64 {
    unsafe { ram.addr.add(offset as usize).cast::<u64>().read_volatile() }
}

fn poke(ram: &Ram, offset: u64, value: u64) {
    unsafe { ram.addr.add(offset as usize).cast::<u64>().write_volatile(value) };
}

fn stops_at(rig: &Rig, value: u64) {
    assert_eq!(rig.exit(), Exit::Store { addr: DEVICE, len: 4, value });
}

/// A VMM that writes before the start and after, and reads what the guest wrote.
pub fn exchange(call: u32, ram: Ram) {
    // What was there before the VM stays, to the last byte.
    poke(&ram, SIZE as u64 - 8, 0x1a57);
    let rig = Rig::with_ram(call, ram, &tree(), &adder()).started();
    let ram = rig.ram.as_ref().unwrap();
    assert_eq!((peek(ram, SIZE as u64 - 8), peek(ram, FROM_GUEST)), (0x1a57, 0));
    stops_at(&rig, 1);
    poke(ram, FROM_HOST, 41);
    stops_at(&rig, 2);
    assert_eq!(peek(ram, FROM_GUEST), 42);
    assert_eq!(rig.exit(), OFF);
    assert_eq!(peek(ram, FROM_GUEST), 42);
}

/// Memory of a file that has a name of its own here.
pub fn file_memory() -> Ram {
    map_file(&vmm::memfd(SIZE), SIZE)
}

/// Shared memory of no file.
pub fn shared_memory() -> Ram {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    let addr = unsafe { libc::mmap(std::ptr::null_mut(), SIZE, prot, flags, -1, 0) };
    assert_ne!(addr, libc::MAP_FAILED);
    Ram { addr: addr.cast(), len: SIZE }
}

/// How a VMM of another process ends.
fn plays(engine: Engine, flavour: Flavour, role: &str) -> ExitStatus {
    let child = fake(engine, flavour).build().unwrap().spawn(vmm::command(role)).unwrap();
    let handle = child.handle().clone();
    let status = child.wait().unwrap();
    assert_eq!(handle.leftovers(), [], "{role}");
    status
}

fn good(engine: Engine, flavour: Flavour, role: &str) {
    let status = plays(engine, flavour, role);
    assert!(status.success(), "{flavour} {role}: {status}");
}

pub fn a_program_and_its_guest_see_the_same(engine: Engine) {
    for flavour in [Flavour::V11, Flavour::Android14, Flavour::Android16] {
        run(engine, flavour, || exchange(SHARE, Ram::new(SIZE)));
        good(engine, flavour, "sees-its-guests-memory");
    }
}

/// The mappings of files that a VMM may have.
pub fn memory_of_files_is_shared(engine: Engine) {
    for flavour in [Flavour::V11, Flavour::Android16] {
        run(engine, flavour, || exchange(SHARE, file_memory()));
        good(engine, flavour, "sees-its-guests-file");
        // Of memory without a descriptor only root can find the file.
        if unsafe { libc::geteuid() } == 0 {
            good(engine, flavour, "sees-its-guests-shared-memory");
        }
    }
}

pub fn a_region_that_may_not_be_written(engine: Engine) {
    const ROM: u64 = RAM + (16 << 20);
    const READ: u32 = 1;
    let image = image(|program| {
        program.mov(1, ROM).load(Width::Word, 2, 1).mov(1, DEVICE).store(Width::Word, 2, 1);
        program.store_at(Width::Word, ROM, 0xbad);
    });
    run(engine, Flavour::V11, || {
        let rig = Rig::new(Flavour::V11, &image);
        let rom = Ram::new(0x1_0000);
        rom.write(0, &0x600d_u32.to_le_bytes());
        give(&rig.vm, SHARE, 1, ROM, &rom, READ).unwrap();
        let rig = rig.started();
        assert_eq!(rig.exit(), Exit::Store { addr: DEVICE, len: 4, value: 0x600d });
        // The store is an exit like any other, or ends the guest, which has no vectors.
        match rig.exit() {
            Exit::Store { addr: ROM, len: 4, value: 0xbad } => assert_eq!(rig.exit(), OFF),
            Exit::Status { kind: 5, .. } => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(peek(&rom, 0), 0x600d);
    });
}

/// Lends memory, starts, and touches it: this does not come back.
pub fn touch_after_start() {
    let rig = Rig::with_user_memory(LEND, &adder());
    poke(rig.ram.as_ref().unwrap(), FROM_HOST, 1);
    let rig = rig.started();
    stops_at(&rig, 1);
    println!("{}", peek(rig.ram.as_ref().unwrap(), FROM_HOST));
}

/// Lends memory that the guest gets page by page, and touches it before the guest has and after.
pub fn touch_pages() {
    let rig = Rig::with_user_memory(LEND, &adder()).started();
    let ram = rig.ram.as_ref().unwrap();
    stops_at(&rig, 1);
    // The guest has not been here yet.
    poke(ram, FROM_HOST, 41);
    assert_eq!(peek(ram, FROM_GUEST), 0);
    // A system call finds it as well.
    assert_eq!(unsafe { libc::read(open_zero(), ram.addr.add(FROM_HOST as usize + 8).cast(), 8) }, 8);
    stops_at(&rig, 2);
    // Now it has. What a system call is told then depends on the kernel; a touch is the end.
    let refused = unsafe { libc::read(open_zero(), ram.addr.add(FROM_HOST as usize).cast(), 8) };
    assert_eq!((refused, errno()), (-1, fake_gunyah::Errno::EFAULT));
    println!("{}", peek(ram, FROM_HOST));
}

fn open_zero() -> i32 {
    unsafe { libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }
}

/// Lends memory, and has it back at the VM's end, without what was in it.
pub fn get_back() {
    let rig = Rig::with_user_memory(LEND, &adder());
    poke(rig.ram.as_ref().unwrap(), FROM_HOST, 7);
    let mut rig = rig.started();
    stops_at(&rig, 1);
    stops_at(&rig, 2);
    assert_eq!(rig.exit(), OFF);
    let ram = rig.ram.take().unwrap();
    drop(rig);
    // The end may take a moment. A system call tells without a signal whether it has come.
    eventually("the memory is back", || {
        (unsafe { libc::read(open_zero(), ram.addr.add(FROM_GUEST as usize).cast(), 8) }) == 8
    });
    assert_eq!((peek(&ram, FROM_HOST), peek(&ram, FROM_GUEST), peek(&ram, 0)), (0, 0, 0));
    poke(&ram, FROM_GUEST, 9);
    assert_eq!(peek(&ram, FROM_GUEST), 9);
}

fn is_hit_by_sigbus(engine: Engine, flavour: Flavour, role: &str) {
    let status = plays(engine, flavour, role);
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{flavour} {role}: {status}");
}

pub fn lent_memory_is_out_of_reach(engine: Engine) {
    for flavour in [Flavour::Android14Early, Flavour::Android14] {
        is_hit_by_sigbus(engine, flavour, "touches-lent-memory");
        good(engine, flavour, "gets-lent-memory-back");
        run(engine, flavour, get_back);
        dies_with_a_fake_inside(flavour, "fakes-and-touches-lent-memory");
    }
}

pub fn lent_pages_go_one_by_one(engine: Engine) {
    for flavour in [Flavour::Android15, Flavour::Android16] {
        is_hit_by_sigbus(engine, flavour, "touches-lent-pages");
        good(engine, flavour, "gets-lent-memory-back");
        run(engine, flavour, get_back);
        dies_with_a_fake_inside(flavour, "fakes-and-touches-lent-pages");
    }
}

/// A VMM that has the fake in its own process.
fn dies_with_a_fake_inside(flavour: Flavour, role: &str) {
    let status = vmm::command(&format!("{role}@{flavour}")).status().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{flavour} {role}: {status}");
}

pub fn a_program_that_is_traced_is_refused(engine: Engine) {
    // The recorder traces it; the host says why it does not work, where KVM was asked for.
    let scratch = std::env::temp_dir().join(format!("engines-traced-{}", std::process::id()));
    let said = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    struct Said(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Said {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let role = vmm::command("gives-memory");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fake-gunyah"));
    command
        .arg("record")
        .arg("-o")
        .arg(&scratch)
        .arg("--")
        .arg(role.get_program())
        .envs(role.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child =
        fake(engine, Flavour::V11).notices(Said(said.clone())).build().unwrap().spawn(command).unwrap();
    let status = child.wait().unwrap();
    let _ = std::fs::remove_file(&scratch);
    assert_eq!(status.code(), Some(libc::EPERM), "{status}");
    let said = String::from_utf8(said.lock().unwrap().clone()).unwrap();
    assert!(said.contains("KVM cannot have the memory") && said.contains("being traced"), "{said}");
}

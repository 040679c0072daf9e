//! A VM with a program in it, by raw calls.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use conformance::asm::Program;
use fake_gunyah::{Builder, Engine, Fake, Flavour, Guest};

use crate::common::*;
use crate::tree::{self, Tree};

pub const RAM: u64 = 0x8000_0000;
pub const SIZE: usize = 4 << 20;
/// Where the tree is, as an offset.
pub const DTB: u64 = 1 << 20;
/// Addresses without memory.
pub const UART: u64 = 0x1000_0000;
pub const DEVICE: u64 = 0x1000_4000;

pub const SHARE: u32 = SET_USER_MEM_REGION;
pub const LEND: u32 = LEND_USER_MEM;
pub const RWX: u32 = 7;

/// The flavours that run guests, and how each gives a guest its memory.
pub const FLAVOURS: [Flavour; 6] = [
    Flavour::V11,
    Flavour::Android14Early,
    Flavour::Android14,
    Flavour::Android15,
    Flavour::Android16,
    Flavour::V17,
];

pub fn fake(engine: Engine, flavour: Flavour) -> Builder {
    Fake::builder().flavour(flavour).guest(Guest::code_on(engine))
}

/// Runs a VMM of this process.
pub fn run<T: Send>(engine: Engine, flavour: Flavour, body: impl FnOnce() -> T + Send) -> T {
    fake(engine, flavour).build().unwrap().run(|_| body()).unwrap()
}

/// A tree for a VM of one piece of memory and two vCPUs.
pub fn tree() -> Tree {
    let mut tree = tree::good();
    tree.remove("gunyah-vm-config/vdevices/shm-5");
    tree
}

/// A VM with memory, a tree, and what its guest executes.
pub struct Rig {
    pub vm: Vm,
    pub ram: Option<Ram>,
    pub vcpus: Vec<Vcpu>,
}

impl Rig {
    /// With the memory that `flavour` is most sure to take, not started.
    pub fn new(flavour: Flavour, image: &[u8]) -> Self {
        match flavour {
            Flavour::V17 => Self::with_file(image),
            Flavour::V11 => Self::with_user_memory(SHARE, image),
            _ => Self::with_user_memory(LEND, image),
        }
    }

    pub fn with_user_memory(call: u32, image: &[u8]) -> Self {
        Self::with_ram(call, Ram::new(SIZE), &tree(), image)
    }

    pub fn with_ram(call: u32, ram: Ram, tree: &Tree, image: &[u8]) -> Self {
        let vm = Vm::new();
        let blob = fill(&ram, tree, image);
        give(&vm, call, 0, RAM, &ram, RWX).unwrap();
        vm.dtb(RAM + DTB, blob).unwrap();
        let vcpus = (0..2).map(|id| vm.vcpu(id).unwrap()).collect();
        Self { vm, ram: Some(ram), vcpus }
    }

    fn with_file(image: &[u8]) -> Self {
        let vm = Vm::new();
        let file = guest_memory(SIZE as u64);
        let ram = map_file(&file, SIZE);
        let blob = fill(&ram, &tree(), image);
        drop(ram);
        bind(&vm, &file, RAM, 0, SIZE as u64, 0).unwrap();
        vm.dtb(RAM + DTB, blob).unwrap();
        let vcpus = (0..2).map(|id| vm.vcpu(id).unwrap()).collect();
        Self { vm, ram: None, vcpus }
    }

    pub fn started(self) -> Self {
        self.vm.start().unwrap();
        self
    }

    /// Runs vCPU 0 up to its next exit.
    pub fn exit(&self) -> Exit {
        exit(&self.vcpus[0])
    }
}

/// What a vCPU came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Load { addr: u64, len: u32 },
    Store { addr: u64, len: u32, value: u64 },
    Status { status: u32, kind: u16, size: u32, reason: [u8; 8] },
    PageFault { addr: u64, attempt: i32 },
}

pub fn exit(vcpu: &Vcpu) -> Exit {
    vcpu.clear_reason();
    // The host of the end of 2023 apart, an end is no error. Signals are none of these tests' unless they say so.
    while let Err(errno) = vcpu.run() {
        assert_eq!(errno, fake_gunyah::Errno::EINTR);
        if vcpu.reason() != 0 {
            break;
        }
    }
    what(vcpu)
}

/// The exit that is in the page.
pub fn what(vcpu: &Vcpu) -> Exit {
    match vcpu.reason() {
        EXIT_MMIO => match vcpu.mmio() {
            (addr, len, 0, _) => Exit::Load { addr, len },
            (addr, len, _, value) => Exit::Store { addr, len, value: value & (u64::MAX >> (64 - 8 * len)) },
        },
        EXIT_STATUS => {
            let (status, kind, size, reason) = vcpu.status();
            Exit::Status { status, kind, size, reason }
        }
        EXIT_PAGE_FAULT => Exit::PageFault { addr: vcpu.u64(16), attempt: i32::from_ne_bytes(vcpu.get(24)) },
        other => panic!("exit reason {other}"),
    }
}

/// PSCI SYSTEM_OFF.
pub const OFF: Exit = Exit::Status { status: 2, kind: 1, size: 4, reason: [0; 8] };

/// The answer to an access, where there is one: 0 handled, 1 fault, 2 try again.
pub fn resume_action(vcpu: &Vcpu, action: u8) {
    vcpu.set(37, &[action]);
}

/// Puts the image and the tree into memory; gives the size of the tree's buffer.
pub fn fill(ram: &Ram, tree: &Tree, image: &[u8]) -> u64 {
    ram.write(0, image);
    let mut blob = tree.buffer();
    blob.resize(blob.len().next_multiple_of(page_size()), 0);
    ram.write(DTB as usize, &blob);
    blob.len() as u64
}

/// Shares or lends memory.
pub fn give(vm: &Vm, call: u32, label: u32, at: u64, ram: &Ram, flags: u32) -> Result<i64> {
    let region = Region {
        label,
        flags,
        guest_phys_addr: at,
        memory_size: ram.len as u64,
        userspace_addr: ram.addr as u64,
    };
    vm.ioctl_with(call, &region)
}

/// A file of guest memory.
pub fn guest_memory(size: u64) -> OwnedFd {
    let arguments = [1, size, 0, 0, 0, 0, 0, 0];
    let fd = ioctl(open().unwrap().as_raw_fd(), CREATE_GUEST_MEM, std::ptr::from_ref(&arguments) as u64);
    unsafe { OwnedFd::from_raw_fd(fd.unwrap() as RawFd) }
}

/// Binds a piece of such a file; with 0x100, ends that.
pub fn bind(vm: &Vm, file: &OwnedFd, at: u64, offset: u64, size: u64, flags: u32) -> Result<i64> {
    let flags = u64::from(flags | 0x70) | (file.as_raw_fd() as u64) << 32;
    vm.ioctl_with(MAP_MEM, &[at, flags, offset, size])
}

pub fn map_file(file: &OwnedFd, len: usize) -> Ram {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let addr = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(addr, libc::MAP_FAILED);
    Ram { addr: addr.cast(), len }
}

pub fn image(body: impl FnOnce(&mut Program)) -> Vec<u8> {
    let mut program = Program::new();
    body(&mut program);
    program.power_off();
    program.bytes()
}

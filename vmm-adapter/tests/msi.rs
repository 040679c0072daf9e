//! Messages as interrupts: from the guest's store, or a device's thread, to the guest.
#![cfg(feature = "gunyah")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use fake_gunyah::{Fake, Flavour, Guest, Handle};
use vm_memory::GuestAddress;
use vmm_adapter::fdt::{self, GuestTree};
use vmm_adapter::gunyah::Gunyah;
use vmm_adapter::{
    BootContext, Bus, Error, Hypervisor, IoOutcome, MmioDevice, MsiFrame, MsiPool, Sharing, VcpuExit, Vm,
    VmConfig,
};

const RAM: u64 = 0x8000_0000;
const TREE: u64 = RAM + 0x10_0000;
const POOL: MsiPool = MsiPool { base: 64, count: 8, frame: GuestAddress(0x1100_0000) };

fn vm() -> Arc<dyn Vm> {
    Gunyah::open().unwrap().create_vm(&VmConfig::new(1).with_msi(POOL)).unwrap()
}

fn on(flavour: Flavour, body: impl FnOnce(&Handle) + Send) {
    let fake = Fake::builder().flavour(flavour).guest(Guest::code()).build().unwrap();
    let handle = fake
        .run(|handle| {
            body(handle);
            handle.clone()
        })
        .unwrap();
    assert_eq!(handle.leftovers(), [], "{flavour}");
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Stores 67 (0x43) + 32 to SETSPI, sleeps until an interrupt comes, and powers off.
const STORES: [u32; 8] = [
    0x5280_0c60, // mov w0, #99
    0xd2a2_2001, // mov x1, #0x11000000
    0xb900_4020, // str w0, [x1, #0x40]
    0xd503_207f, // wfi
    0x5280_0100,
    0x72b0_8000,
    0xd400_0002, // SYSTEM_OFF
    0x1400_0000, // b .
];

/// A guest of this code, with the frame as its only device.
fn run(code: &[u32], beside: impl FnOnce(&MsiFrame) + Send) {
    let vm = vm();
    let ram = vm.allocate(GuestAddress(RAM), 0x20_0000, Sharing::Shared).unwrap();
    for (addr, word) in (RAM..).step_by(4).zip(code) {
        ram.write(GuestAddress(addr), &word.to_le_bytes()).unwrap();
    }
    ram.write(GuestAddress(TREE), &fdt::write(&*vm, &GuestTree::default()).unwrap()).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let frame = MsiFrame::new(&vm).unwrap();
    let mut bus = Bus::new();
    bus.add(POOL.frame, MsiFrame::SIZE, &frame).unwrap();
    vm.start(&BootContext { entry: GuestAddress(RAM), fdt: GuestAddress(TREE), fdt_size: 0x4000 }).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| beside(&frame));
        let exit = vcpu.run(&bus).unwrap();
        assert!(matches!(exit, VcpuExit::PowerOff(_)), "{exit:?}");
    });
}

#[test]
fn a_store_of_the_guest_interrupts_it() {
    for flavour in [Flavour::V11, Flavour::Android16] {
        on(flavour, |handle| {
            run(&STORES, |_| ());
            assert_eq!(handle.doorbells(67), 1, "{flavour}");
            assert_eq!((64..72).map(|label| handle.doorbells(label)).sum::<u64>(), 1, "{flavour}");
        });
    }
}

#[test]
fn a_device_interrupts_the_guest() {
    on(Flavour::V11, |handle| {
        // The same without the store: it only sleeps.
        run(&STORES[3..], |frame| {
            let message = frame.message(5).unwrap();
            assert_eq!((message.addr.0, message.data), (POOL.frame.0 + 0x40, 64 + 32 + 5));
            eventually("the vCPU never ran", || handle.runs() > 0);
            assert!(frame.signal(message.data));
        });
        eventually("the doorbell was never rung", || handle.doorbells(69) == 1);
    });
}

#[test]
fn the_registers_of_the_frame() {
    on(Flavour::V11, |_| {
        let vm = vm();
        let frame = MsiFrame::new(&vm).unwrap();
        let mut word = [0xff; 4];
        assert_eq!(frame.read(8, &mut word), IoOutcome::Handled);
        assert_eq!(u32::from_le_bytes(word), 96 << 16 | 8);
        let mut wide = [0xff; 8];
        assert_eq!(frame.read(8, &mut wide), IoOutcome::Handled);
        assert_eq!(u64::from_le_bytes(wide), 96 << 16 | 8);
        for offset in [0, 0x40, 0xfcc, 0xfff] {
            let mut byte = [0xff];
            assert_eq!(frame.read(offset, &mut byte), IoOutcome::Handled);
            assert_eq!(byte, [0], "{offset:#x}");
        }
        // Numbers that are not in the pool, and stores that are no messages.
        for data in [0, 31, 95, 104, u32::MAX] {
            assert_eq!(frame.write(0x40, &data.to_le_bytes()), IoOutcome::Handled);
        }
        assert_eq!(frame.stray(), 5);
        assert_eq!(frame.write(0x40, &[0; 2]), IoOutcome::Handled);
        assert_eq!(frame.write(0x44, &[0; 4]), IoOutcome::Handled);
        assert_eq!(frame.stray(), 5);
    });
}

#[test]
fn vectors_are_handed_out_once() {
    on(Flavour::V11, |_| {
        let vm = vm();
        let frame = MsiFrame::new(&vm).unwrap();
        assert_eq!(frame.allocate(3), Some(0..3));
        assert_eq!(frame.allocate(6), None);
        assert_eq!(frame.allocate(5), Some(3..8));
        assert_eq!(frame.allocate(1), None);
        assert_eq!(frame.allocate(0), Some(8..8));
        assert_eq!(frame.allocate(u32::MAX), None);
        assert_eq!(frame.message(8), None);
    });
}

#[test]
fn the_lines_are_the_frames_as_long_as_it_is_there() {
    on(Flavour::V11, |_| {
        let vm = vm();
        let frame = MsiFrame::new(&vm).unwrap();
        let second = MsiFrame::new(&vm).unwrap_err();
        assert!(second.to_string().contains("line 64 is bound already"), "{second}");
        drop(frame);
        drop(MsiFrame::new(&vm).unwrap());
        let without = Gunyah::open().unwrap().create_vm(&VmConfig::new(1)).unwrap();
        assert!(matches!(MsiFrame::new(&without), Err(Error::InvalidArgument { .. })));
    });
}

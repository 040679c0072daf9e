//! Messages as interrupts: from the guest's store, or a device's thread, to the guest.
#![cfg(feature = "gunyah")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

#[path = "../examples/msi/demo.rs"]
mod demo;

use std::sync::{Arc, Mutex};

use conformance::asm::{Program, Width};
use conformance::interrupts::Gic;
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

/// A driver in the guest finds the frame's numbers in its registers, tells a card its messages, and takes an interrupt for
/// each that the card stores.
#[test]
fn a_guest_takes_the_messages_of_a_device() {
    for flavour in [Flavour::V11, Flavour::Android14, Flavour::Android16, Flavour::V17] {
        on(flavour, |handle| {
            let lines = Mutex::new(Vec::new());
            let say = |line| lines.lock().unwrap().push(line);
            let mut taken = demo::run(&Gunyah::open().unwrap(), &say).unwrap();
            let said = lines.into_inner().unwrap();
            taken.sort_unstable();
            assert_eq!(taken, [96, 97, 98, 99], "{flavour}: {said:#?}");
            assert!(said.contains(&"card: vector 3 stores 99 to 0x11000040".to_owned()), "{said:#?}");
            for label in 64..72 {
                assert_eq!(handle.doorbells(label), u64::from(label < 68), "{flavour}");
            }
        });
    }
}

/// A store of the guest itself: it masks the interrupt and polls for it.
#[test]
fn a_store_of_the_guest_interrupts_it() {
    on(Flavour::V11, |handle| {
        let config = VmConfig::new(1).with_msi(POOL);
        let gic = Gic { distributor: config.gic.distributor.0, redistributors: config.gic.redistributors.0 };
        let mut program = Program::new();
        gic.set_up_distributor(&mut program);
        gic.set_up_cpu(&mut program, 0);
        gic.enable(&mut program, 99, true);
        program.store_at(Width::Word, POOL.frame.0 + 0x40, 99).wfi().power_off();
        let vm = vm();
        let ram = vm.allocate(GuestAddress(RAM), 0x20_0000, Sharing::Shared).unwrap();
        ram.write(GuestAddress(RAM), &program.bytes()).unwrap();
        ram.write(GuestAddress(TREE), &fdt::write(&*vm, &GuestTree::default()).unwrap()).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        let frame = MsiFrame::new(&vm).unwrap();
        let mut bus = Bus::new();
        bus.add(POOL.frame, MsiFrame::SIZE, &frame).unwrap();
        vm.start(&BootContext { entry: GuestAddress(RAM), fdt: GuestAddress(TREE), fdt_size: 0x4000 })
            .unwrap();
        let exit = vcpu.run(&bus).unwrap();
        assert!(matches!(exit, VcpuExit::PowerOff(_)), "{exit:?}");
        assert_eq!(
            (64..72).map(|label| handle.doorbells(label)).collect::<Vec<_>>(),
            [0, 0, 0, 1, 0, 0, 0, 0]
        );
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

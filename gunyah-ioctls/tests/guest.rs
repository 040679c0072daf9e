//! A VM from its creation to its end, on the fake kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unsafe_code
)]

mod common;

use common::{Event, Ram, on};
use fake_gunyah::{Flavour, Script};
use gunyah_ioctls::{
    Access, Error, ExitType, Gunyah, IoEventMatch, Trigger, UserMemoryRegion, VcpuExit, VmStatus,
};

#[test]
fn a_guest_reads_writes_and_powers_off() {
    for flavour in common::KERNELS {
        let script = Script::new()
            .mmio_read(0x1000, 4)
            .expect(0x1234_5678)
            .mmio_write(0x1008, 2, 0xdead_beef)
            .ready()
            .mmio_read(0x1010, 8)
            .expect(0x8877_6655_4433_2211)
            .mmio_read(0x1010, 1)
            .expect(0xab)
            .exit(1, &[0; 4]);
        on(flavour, [script], |_| {
            let (vm, _ram) = common::started_vm(1);
            let mut vcpu = vm.vcpus.into_iter().next().unwrap();
            assert_eq!(vcpu.run().unwrap(), VcpuExit::MmioRead { addr: 0x1000, len: 4 });
            vcpu.complete_mmio_read(&0x1234_5678_u32.to_le_bytes()).unwrap();
            let data = [0xef, 0xbe, 0, 0, 0, 0, 0, 0];
            assert_eq!(vcpu.run().unwrap(), VcpuExit::MmioWrite { addr: 0x1008, data, len: 2 });
            assert_eq!(vcpu.run().unwrap(), VcpuExit::MmioRead { addr: 0x1010, len: 8 });
            vcpu.complete_mmio_read(&0x8877_6655_4433_2211_u64.to_le_bytes()).unwrap();
            assert_eq!(vcpu.run().unwrap(), VcpuExit::MmioRead { addr: 0x1010, len: 1 });
            vcpu.complete_mmio_read(&[0xab]).unwrap();
            assert_eq!(vm.fd.exit_status(), None);
            let VcpuExit::Status(VmStatus::Exited(info)) = vcpu.run().unwrap() else { panic!("no exit") };
            assert_eq!((info.kind, info.raw, info.reason_size), (ExitType::SystemOff, 1, 4));
            assert_eq!(vm.fd.exit_status(), Some(VmStatus::Exited(info)));
            assert_eq!(vcpu.answers_possibly_lost(), 0);
        });
    }
}

#[test]
fn the_end_is_returned_again_without_a_call() {
    let scripts = [Script::new().exit(2, &[]), Script::new().powered_off()];
    on(Flavour::V11, scripts, |handle| {
        let (vm, _ram) = common::started_vm(2);
        let mut vcpus = vm.vcpus.into_iter();
        let (mut first, mut second) = (vcpus.next().unwrap(), vcpus.next().unwrap());
        let end = first.run().unwrap();
        assert!(
            matches!(end, VcpuExit::Status(VmStatus::Exited(info)) if info.kind == ExitType::SystemReset)
        );
        let runs = handle.runs();
        for _ in 0..10 {
            assert_eq!(first.run().unwrap(), end);
            assert_eq!(second.run().unwrap(), end);
        }
        assert_eq!(handle.runs(), runs);
    });
}

#[test]
fn a_read_must_be_answered_and_only_once_and_in_full() {
    on(Flavour::V11, [Script::new().mmio_read(0, 4).expect(7).mmio_write(0, 1, 1).exit(1, &[])], |handle| {
        let (vm, _ram) = common::started_vm(1);
        let mut vcpu = vm.vcpus.into_iter().next().unwrap();
        assert!(matches!(vcpu.complete_mmio_read(&[0]), Err(Error::InvalidArgument { .. })));
        vcpu.run().unwrap();
        let runs = handle.runs();
        assert!(matches!(vcpu.run(), Err(Error::UnansweredRead)));
        for wrong in [&[][..], &[0; 3], &[0; 5], &[0; 9]] {
            assert!(matches!(vcpu.complete_mmio_read(wrong), Err(Error::InvalidArgument { .. })));
        }
        assert_eq!(handle.runs(), runs);
        vcpu.complete_mmio_read(&[7, 0, 0, 0]).unwrap();
        assert!(matches!(vcpu.complete_mmio_read(&[8, 0, 0, 0]), Err(Error::InvalidArgument { .. })));
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioWrite { .. }));
        assert!(matches!(vcpu.complete_mmio_read(&[0]), Err(Error::InvalidArgument { .. })));
    });
}

#[test]
fn running_before_the_start_is_enodev() {
    on(Flavour::V11, [Script::new().exit(1, &[])], |_| {
        let (vm, _ram) = common::configured_vm(1);
        let mut vcpu = vm.vcpus.into_iter().next().unwrap();
        assert_eq!(vcpu.run().unwrap_err().errno(), Some(libc::ENODEV));
        vm.fd.start().unwrap();
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
    });
}

#[test]
fn functions_come_and_go() {
    for flavour in common::KERNELS {
        on(flavour, [Script::new()], |handle| {
            let vm = Gunyah::new().unwrap().create_vm().unwrap();
            let event = Event::new();
            let vcpu = vm.add_vcpu(0).unwrap();
            let irqfd = vm.add_irqfd(&event, 5, Trigger::Level).unwrap();
            let any = vm.add_ioeventfd(&event, 0x1000, IoEventMatch::Any).unwrap();
            let values: Vec<_> = (0..3)
                .map(|value| {
                    vm.add_ioeventfd(&event, 0x2000, IoEventMatch::Value { width: 4, value }).unwrap()
                })
                .collect();
            assert_eq!((vcpu.id(), irqfd.label(), any.addr()), (0, 5, 0x1000));
            for again in [
                vm.add_vcpu(0).err(),
                vm.add_irqfd(&event, 5, Trigger::Edge).err(),
                vm.add_ioeventfd(&event, 0x1000, IoEventMatch::Width(4)).err(),
                vm.add_ioeventfd(&event, 0x2000, IoEventMatch::Value { width: 4, value: 2 }).err(),
            ] {
                assert!(matches!(again, Some(Error::InvalidArgument { .. })), "{flavour}: {again:?}");
            }
            vcpu.remove().unwrap();
            irqfd.remove().unwrap();
            any.remove().unwrap();
            for value in values {
                value.remove().unwrap();
            }
            // All of it can be added again, and goes with its handles.
            for _ in 0..2 {
                let _vcpu = vm.add_vcpu(0).unwrap();
                let _irqfd = vm.add_irqfd(&event, 5, Trigger::Edge).unwrap();
                let _any = vm.add_ioeventfd(&event, 0x1000, IoEventMatch::Any).unwrap();
                let _value =
                    vm.add_ioeventfd(&event, 0x2000, IoEventMatch::Value { width: 1, value: 255 }).unwrap();
            }
            // The fake learns of a last close a moment later.
            common::eventually(|| handle.objects().len() == 1);
        });
    }
}

#[test]
fn handles_outlive_their_vm() {
    on(Flavour::V11, [Script::new()], |_| {
        let event = Event::new();
        let vm = Gunyah::new().unwrap().create_vm().unwrap();
        let irqfd = vm.add_irqfd(&event, 0, Trigger::Edge).unwrap();
        let kept = vm.add_irqfd(&event, 1, Trigger::Edge).unwrap();
        let vcpu = vm.add_vcpu(0).unwrap();
        let kick = vcpu.kick_handle();
        drop(vm);
        assert!(matches!(irqfd.remove(), Err(Error::VmClosed { .. })));
        drop(kept);
        drop(vcpu);
        kick.kick();
    });
}

#[test]
fn doorbells_and_ioeventfds_work() {
    let script =
        Script::new().mmio_write(0x2000, 4, 7).mmio_write(0x2000, 4, 8).wait_doorbell(3).exit(1, &[]);
    on(Flavour::Android16, [script], |handle| {
        let (vm, _ram) = common::configured_vm(1);
        let (bell, store) = (Event::new(), Event::new());
        let _irqfd = vm.fd.add_irqfd(&bell, 3, Trigger::Edge).unwrap();
        let _io = vm.fd.add_ioeventfd(&store, 0x2000, IoEventMatch::Value { width: 4, value: 7 }).unwrap();
        vm.fd.start().unwrap();
        let mut vcpu = vm.vcpus.into_iter().next().unwrap();
        let data = [8, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(vcpu.run().unwrap(), VcpuExit::MmioWrite { addr: 0x2000, data, len: 4 });
        assert_eq!(store.take(), 1);
        bell.signal();
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
        assert_eq!(handle.doorbells(3), 1);
    });
}

#[test]
fn memory_is_checked_before_the_kernel_is_asked() {
    for flavour in [Flavour::V11, Flavour::Android14, Flavour::Android16] {
        on(flavour, [Script::new()], |handle| {
            let vm = Gunyah::new().unwrap().create_vm().unwrap();
            let ram = Ram::new(4);
            let page = ram.page();
            let good = ram.region(0, 0x8000_0000);
            // SAFETY: the memory is kept until the VM is closed.
            let add = |region: &UserMemoryRegion| unsafe { vm.set_user_memory_region(region) };
            add(&good).unwrap();
            let calls = common::calls(handle, &vm);
            let bad = [
                UserMemoryRegion { label: 1, ..good },
                UserMemoryRegion { guest_phys_addr: 0x4000_0000, ..good },
                UserMemoryRegion { label: 1, guest_phys_addr: 0x8000_0000 - page, ..good },
                UserMemoryRegion { label: 1, guest_phys_addr: 0x4000_0001, ..good },
                UserMemoryRegion { label: 1, guest_phys_addr: 0x4000_0000, memory_size: 0, ..good },
                UserMemoryRegion { label: 1, guest_phys_addr: 0x4000_0000, memory_size: 100, ..good },
                UserMemoryRegion { label: 1, guest_phys_addr: u64::MAX - page + 1, ..good },
                UserMemoryRegion { label: 1, guest_phys_addr: 0x4000_0000, userspace_addr: page + 1, ..good },
            ];
            for region in bad {
                assert!(matches!(add(&region), Err(Error::InvalidArgument { .. })), "{region:x?}");
            }
            for (addr, size) in [(0, 0), (0, 4095), (0, 5000), (u64::MAX - 4095, 8192)] {
                assert!(matches!(vm.set_dtb_config(addr, size), Err(Error::InvalidArgument { .. })));
            }
            assert_eq!(common::calls(handle, &vm), calls, "{flavour}");
            let read_only = UserMemoryRegion {
                label: 1,
                guest_phys_addr: 0x4000_0000,
                access: Access::READ | Access::EXEC,
                ..good
            };
            add(&read_only).unwrap();
        });
    }
}

#[test]
fn a_phase_is_kept() {
    on(Flavour::V11, [Script::new().exit(1, &[])], |_| {
        let (vm, ram) = common::started_vm(1);
        let late = UserMemoryRegion { label: 9, ..ram.region(9, 0x4000_0000) };
        // SAFETY: refused before the memory is used.
        let late = unsafe { vm.fd.set_user_memory_region(&late) };
        assert!(matches!(late, Err(Error::WrongPhase { .. })), "{late:?}");
        assert!(matches!(vm.fd.set_dtb_config(0x8000_0000, 4096), Err(Error::WrongPhase { .. })));
        // Starting twice is nothing.
        vm.fd.start().unwrap();
    });
}

//! The calls that only some flavours have: memory in all its forms, firmware, initial registers, extensions.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod common;

use common::{Kernel, RAM, Ram, on};
use fake_gunyah::{Fake, Flavour, Guest, Host, Script};
use gunyah_ioctls::{
    Access, AuthType, BootRegister, CmaMapping, CmaRegion, Error, GuestMemoryMapping, Gunyah, Sharing,
    UserMemoryRegion, VcpuExit,
};

fn invalid<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::InvalidArgument { .. })), "{result:?}");
}

fn wrong_phase<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::WrongPhase { .. })), "{result:?}");
}

#[test]
fn lent_and_shared_regions_live_side_by_side() {
    for flavour in [Flavour::Android14Early, Flavour::Android14, Flavour::Android15, Flavour::Android16] {
        on(flavour, [Script::new().exit(1, &[])], |_| {
            let vm = Gunyah::new().unwrap().create_vm().unwrap();
            let (lent, shared) = (Ram::new(4), Ram::new(2));
            // SAFETY: the memory is dropped after the VM (it was declared later, so drop the VM by hand below).
            unsafe {
                vm.lend_user_memory(&lent.region(0, RAM)).unwrap();
                vm.set_user_memory_region(&shared.region(1, RAM + (1 << 30))).unwrap();
                // Lent and shared regions share one space of labels and addresses.
                invalid(vm.set_user_memory_region(&shared.region(0, 0x1000_0000)));
                invalid(vm.lend_user_memory(&shared.region(2, RAM)));
            }
            let mut vcpu = vm.add_vcpu(0).unwrap();
            vm.set_firmware_config(RAM, 4096).unwrap();
            invalid(vm.set_firmware_config(RAM, 0));
            invalid(vm.set_firmware_config(u64::MAX, 2));
            vm.set_dtb_config(RAM, 4096).unwrap();
            vm.start().unwrap();
            wrong_phase(vm.set_firmware_config(RAM, 4096));
            let late = UserMemoryRegion { label: 5, ..shared.region(5, 0x2000_0000) };
            // SAFETY: as above.
            let late = unsafe { vm.set_user_memory_region(&late) };
            if vm.features().user_memory_after_start() {
                late.unwrap();
            } else {
                wrong_phase(late);
            }
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
            drop((vcpu, vm));
        });
    }
}

/// A host that takes both kinds of memory: both work side by side, user memory before the start only.
#[test]
fn both_kinds_of_memory_work_where_both_are() {
    on(Kernel::Mixed(Host::Open2023), [Script::new().exit(1, &[])], |handle| {
        let gunyah = Gunyah::new().unwrap();
        let vm = gunyah.create_vm().unwrap();
        let page = common::page_size() as u64;
        let (lent, shared) = (Ram::new(4), Ram::new(2));
        let guest = gunyah.create_guest_memory(2 * page, false).unwrap();
        let piece = |guest_addr, offset| {
            let (access, sharing) = (Access::RWX, Sharing::Default);
            GuestMemoryMapping { guest_addr, offset, size: page, access, sharing }
        };
        // SAFETY: the memory is dropped after the VM.
        unsafe {
            vm.lend_user_memory(&lent.region(0, RAM)).unwrap();
            vm.set_user_memory_region(&shared.region(1, RAM + (1 << 30))).unwrap();
        }
        vm.map_guest_memory(&guest, &piece(RAM + (2 << 30), 0)).unwrap();
        invalid(vm.map_guest_memory(&guest, &piece(RAM, page)));
        let mut vcpu = vm.add_vcpu(0).unwrap();
        vm.set_dtb_config(RAM, 4096).unwrap();
        vm.start().unwrap();
        vm.map_guest_memory(&guest, &piece(RAM + (3 << 30), page)).unwrap();
        let calls = common::calls(handle, &vm);
        // SAFETY: as above.
        wrong_phase(unsafe { vm.set_user_memory_region(&shared.region(5, 0x2000_0000)) });
        assert_eq!(common::calls(handle, &vm), calls);
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)), "EBUSY is not seen");
        drop((vcpu, vm));
    });
}

#[test]
fn initial_registers_are_set_before_the_start_only() {
    for flavour in [Flavour::Android15, Flavour::Android16, Flavour::V17] {
        on(flavour, [Script::new()], |_| {
            let (vm, _ram) = common::configured_vm(0);
            vm.fd.set_boot_context(BootRegister::Pc, RAM).unwrap();
            vm.fd.set_boot_context(BootRegister::X(0), RAM + 4096).unwrap();
            vm.fd.set_boot_context(BootRegister::Sp(1), RAM + 8192).unwrap();
            invalid(vm.fd.set_boot_context(BootRegister::X(32), 0));
            invalid(vm.fd.set_boot_context(BootRegister::Sp(3), 0));
            vm.fd.start().unwrap();
            wrong_phase(vm.fd.set_boot_context(BootRegister::Pc, 0));
        });
    }
}

#[test]
fn pages_are_reclaimed_from_a_running_guest() {
    for flavour in [Flavour::Android15, Flavour::Android16] {
        on(flavour, [Script::new().mmio_write(0, 1, 0).exit(1, &[])], |handle| {
            let (mut vm, ram) = common::configured_vm(1);
            let page = ram.page();
            wrong_phase(vm.fd.reclaim_region(RAM, page));
            vm.fd.start().unwrap();
            let calls = common::calls(handle, &vm.fd);
            for (addr, size) in [(RAM, 0), (RAM + 1, page), (RAM, page - 1), (u64::MAX - page + 1, 2 * page)]
            {
                invalid(vm.fd.reclaim_region(addr, size));
            }
            assert_eq!(common::calls(handle, &vm.fd), calls);
            vm.fd.reclaim_region(RAM + page, page).unwrap();
            assert!(matches!(vm.vcpus.remove(0).run().unwrap(), VcpuExit::MmioWrite { .. }));
        });
    }
}

#[test]
fn extensions_and_authentication_are_asked_of_android16() {
    on(Flavour::Android16, [Script::new()], |_| {
        let (vm, _ram) = common::configured_vm(0);
        assert!(vm.fd.check_extension(0).unwrap());
        assert!(!vm.fd.check_extension(1).unwrap());
        assert!(!vm.fd.check_extension(u32::MAX).unwrap());
        vm.fd.set_auth_type(&AuthType::AndroidProtectedVm).unwrap();
        vm.fd.set_firmware_config(RAM, 4096).unwrap();
        vm.fd.start().unwrap();
        wrong_phase(vm.fd.set_auth_type(&AuthType::AndroidProtectedVm));
    });
}

#[test]
fn guest_memory_is_made_mapped_and_freed() {
    on(Flavour::V17, [Script::new()], |handle| {
        let gunyah = Gunyah::new().unwrap();
        let vm = gunyah.create_vm().unwrap();
        let page = common::page_size() as u64;
        invalid(gunyah.create_guest_memory(0, false));
        invalid(gunyah.create_guest_memory(page + 1, false));
        invalid(gunyah.create_guest_memory(page, true));
        let memory = gunyah.create_guest_memory(8 * page, false).unwrap();
        assert_eq!(memory.size(), 8 * page);

        let host = memory.map(page, 2 * page).unwrap();
        assert_eq!(host.size() as u64, 2 * page);
        // SAFETY: inside the mapping, which no guest has yet.
        unsafe { host.as_ptr().write_volatile(0x5a) };
        let again = memory.map(0, 8 * page).unwrap();
        // SAFETY: inside the mapping.
        assert_eq!(unsafe { again.as_ptr().add(common::page_size()).read_volatile() }, 0x5a);
        memory.punch_hole(page, page).unwrap();
        // SAFETY: inside the mapping.
        assert_eq!(unsafe { again.as_ptr().add(common::page_size()).read_volatile() }, 0);
        drop((host, again));
        for (offset, size) in
            [(0, 0), (1, page), (8 * page, page), (0, 9 * page), (u64::MAX - page + 1, page)]
        {
            invalid(memory.map(offset, size));
            invalid(memory.punch_hole(offset, size));
        }

        let lend = GuestMemoryMapping {
            guest_addr: RAM,
            offset: 0,
            size: 4 * page,
            access: Access::RWX,
            sharing: Sharing::Lend,
        };
        vm.map_guest_memory(&memory, &lend).unwrap();
        let share = GuestMemoryMapping {
            guest_addr: RAM + 4 * page,
            offset: 4 * page,
            size: 2 * page,
            access: Access::READ | Access::WRITE,
            sharing: Sharing::Share,
        };
        vm.map_guest_memory(&memory, &share).unwrap();
        let calls = common::calls(handle, &vm);
        for wrong in [
            GuestMemoryMapping { guest_addr: RAM + (1 << 30), ..lend },
            GuestMemoryMapping { offset: 6 * page, size: page, ..share },
            GuestMemoryMapping { offset: 7 * page, size: 2 * page, guest_addr: 0, ..share },
            GuestMemoryMapping { offset: 7 * page, size: page, guest_addr: 1, ..share },
            GuestMemoryMapping { offset: 7 * page, size: page, guest_addr: u64::MAX - page + 1, ..share },
        ] {
            invalid(vm.map_guest_memory(&memory, &wrong));
        }
        invalid(vm.unmap_guest_memory(&memory, RAM + page));
        invalid(vm.unmap_guest_memory(&gunyah.create_guest_memory(page, false).unwrap(), RAM));
        assert_eq!(common::calls(handle, &vm), calls + 1, "only the memory above was made");
        vm.unmap_guest_memory(&memory, share.guest_addr).unwrap();
        invalid(vm.unmap_guest_memory(&memory, share.guest_addr));
        vm.map_guest_memory(&memory, &share).unwrap();
        vm.set_dtb_config(RAM, 4096).unwrap();
        vm.start().unwrap();
        // After the start, too.
        let late = GuestMemoryMapping { guest_addr: 0x4000_0000, offset: 6 * page, size: page, ..share };
        vm.map_guest_memory(&memory, &late).unwrap();
    });
}

#[test]
fn huge_pages_need_huge_steps() {
    on(Flavour::V17, [Script::new()], |_| {
        let gunyah = Gunyah::new().unwrap();
        let vm = gunyah.create_vm().unwrap();
        let memory = gunyah.create_guest_memory(4 << 20, true).unwrap();
        let good = GuestMemoryMapping {
            guest_addr: RAM,
            offset: 0,
            size: 2 << 20,
            access: Access::RWX,
            sharing: Sharing::Default,
        };
        invalid(vm.map_guest_memory(&memory, &GuestMemoryMapping { guest_addr: RAM + (1 << 20), ..good }));
        invalid(vm.map_guest_memory(&memory, &GuestMemoryMapping { size: 1 << 20, ..good }));
        invalid(vm.map_guest_memory(&memory, &GuestMemoryMapping { offset: 1 << 20, ..good }));
        vm.map_guest_memory(&memory, &good).unwrap();
    });
}

#[test]
fn reserved_memory_is_allocated_and_given() {
    let node = "/dev/gunyah-test-region";
    let page = common::page_size();
    let fake = Fake::builder()
        .flavour(Flavour::Android16)
        .cma_region(node, 4 * page as u64)
        .guest(Guest::scripts([Script::new().exit(1, &[])]))
        .build()
        .unwrap();
    fake.run(|_| {
        let vm = Gunyah::new().unwrap().create_vm().unwrap();
        let memory = CmaRegion::open(node).unwrap().create_memory().unwrap();
        invalid(memory.map(0));
        invalid(memory.map(page + 1));
        let host = memory.map(2 * page).unwrap();
        assert_eq!(host.size(), 2 * page);
        let mapping = CmaMapping {
            label: 3,
            guest_addr: RAM,
            offset: 0,
            size: 2 * page as u64,
            access: Access::RWX,
            sharing: Sharing::Share,
        };
        invalid(vm.map_cma_memory(&memory, &CmaMapping { guest_addr: RAM + 1, ..mapping }));
        invalid(vm.map_cma_memory(&memory, &CmaMapping { offset: 1, ..mapping }));
        invalid(vm.map_cma_memory(&memory, &CmaMapping { size: 0, ..mapping }));
        vm.map_cma_memory(&memory, &mapping).unwrap();
        invalid(vm.map_cma_memory(&memory, &CmaMapping { guest_addr: 0, ..mapping }));
        invalid(vm.map_cma_memory(&memory, &CmaMapping { label: 4, ..mapping }));
    })
    .unwrap();
}

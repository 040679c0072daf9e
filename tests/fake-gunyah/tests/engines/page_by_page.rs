//! Memory that the guest gets when it touches it.

use conformance::asm::Width;
use fake_gunyah::{Engine, Errno, Flavour};

use crate::common::*;
use crate::rig::*;

/// Where the guest goes, as offsets: a page each.
const PLACES: u64 = 0x20_0000;

/// A guest that stores to one page after the other.
fn walker(pages: u64) -> Vec<u8> {
    image(|program| {
        for page in 0..pages {
            program.mov(1, RAM + PLACES + 4096 * page).mov(2, 1 + page).store(Width::Double, 2, 1);
        }
        program.store_at(Width::Word, DEVICE, pages);
    })
}

pub fn what_cannot_be_locked_is_a_page_fault(engine: Engine) {
    for flavour in [Flavour::Android15, Flavour::Android16] {
        for call in [SHARE, LEND] {
            if call == SHARE && flavour == Flavour::Android15 {
                // It executes nothing from shared memory.
                continue;
            }
            let image = walker(20);
            let fake = fake(engine, flavour);
            // The image's first page, and the tree's, are locked before.
            let ram = Ram::new(SIZE);
            let tree_pages = fill(&ram, &tree(), &image) / 4096;
            let limit = 4096 * (tree_pages + 1 + 8);
            fake.memlock(limit)
                .build()
                .unwrap()
                .run(|_| {
                    let rig = Rig::with_ram(call, ram, &tree(), &image).started();
                    let fault = Exit::PageFault { addr: RAM + PLACES + 8 * 4096, attempt: -Errno::ENOMEM.0 };
                    for _ in 0..3 {
                        // The vCPU stays where it is, however often it runs.
                        assert_eq!(rig.exit(), fault, "{flavour}");
                    }
                    // Room is made where the guest has been.
                    rig.vm.ioctl_with(RECLAIM_REGION, &[RAM + PLACES, 8 * 4096]).unwrap();
                    let fault = Exit::PageFault { addr: RAM + PLACES + 16 * 4096, attempt: -Errno::ENOMEM.0 };
                    assert_eq!(rig.exit(), fault, "{flavour}");
                    rig.vm.ioctl_with(RECLAIM_REGION, &[RAM + PLACES + 8 * 4096, 8 * 4096]).unwrap();
                    assert_eq!(rig.exit(), Exit::Store { addr: DEVICE, len: 4, value: 20 });
                    assert_eq!(rig.exit(), OFF);
                })
                .unwrap();
        }
    }
}

pub fn reclaimed_pages_come_again(engine: Engine) {
    // Stores, waits for the host, loads.
    let image = image(|program| {
        program.mov(1, RAM + PLACES).mov(2, 77).store(Width::Double, 2, 1).store_at(Width::Word, DEVICE, 1);
        program.mov(1, RAM + PLACES).load(Width::Double, 3, 1).mov(1, DEVICE + 8).store(Width::Double, 3, 1);
    });
    for (call, found) in [(SHARE, 77), (LEND, 0)] {
        if call == LEND && engine == Engine::Interpreter {
            // It lets the host keep what it lends.
            continue;
        }
        run(engine, Flavour::Android16, || {
            let rig = Rig::with_user_memory(call, &image).started();
            assert_eq!(rig.exit(), Exit::Store { addr: DEVICE, len: 4, value: 1 });
            rig.vm.ioctl_with(RECLAIM_REGION, &[RAM + PLACES, 4096]).unwrap();
            // A page that was lent comes back empty, for both sides.
            let ram = rig.ram.as_ref().unwrap();
            let here = unsafe { ram.addr.add(PLACES as usize).cast::<u64>().read_volatile() };
            assert_eq!(here, found);
            assert_eq!(rig.exit(), Exit::Store { addr: DEVICE + 8, len: 8, value: found });
            assert_eq!(rig.exit(), OFF);
        });
    }
}

pub fn bindings_come_and_go_while_the_guest_runs(engine: Engine) {
    const MORE: u64 = RAM + (64 << 20);
    const UNMAP: u32 = 0x100;
    const FORCE_SHARE: u32 = 2;
    // Adds one to what is there, again and again, and asks the host in between.
    let image = image(|program| {
        let again = program.here();
        program.mov(1, MORE).load(Width::Double, 2, 1).add(2, 2, 1).store(Width::Double, 2, 1);
        program.mov(1, DEVICE).load(Width::Word, 3, 1).branch_if(3, again);
    });
    run(engine, Flavour::V17, || {
        let rig = Rig::new(Flavour::V17, &image).started();
        let asks = Exit::Load { addr: DEVICE, len: 4 };
        // Nothing is bound there: a page fault or an access without memory, and again.
        let nothing = rig.exit();
        let fault = Exit::PageFault { addr: MORE, attempt: -Errno::ENOENT.0 };
        assert!(nothing == fault || nothing == Exit::Load { addr: MORE, len: 8 }, "{nothing:?}");
        resume_action(&rig.vcpus[0], 2);

        let file = guest_memory(0x4000);
        let here = map_file(&file, 0x4000);
        let counter = || unsafe { here.addr.cast::<u64>().read_volatile() };
        bind(&rig.vm, &file, MORE, 0, 0x4000, FORCE_SHARE).unwrap();
        assert_eq!((rig.exit(), counter()), (asks, 1));
        // A piece of its end goes, the rest stays.
        bind(&rig.vm, &file, MORE + 0x2000, 0x2000, 0x2000, FORCE_SHARE | UNMAP).unwrap();
        rig.vcpus[0].answer(1);
        assert_eq!((rig.exit(), counter()), (asks, 2));
        bind(&rig.vm, &file, MORE, 0, 0x2000, FORCE_SHARE | UNMAP).unwrap();
        rig.vcpus[0].answer(1);
        let gone = rig.exit();
        assert!(gone == fault || gone == Exit::Load { addr: MORE, len: 8 }, "{gone:?}");
        resume_action(&rig.vcpus[0], 2);
        bind(&rig.vm, &file, MORE, 0, 0x1000, FORCE_SHARE).unwrap();
        assert_eq!((rig.exit(), counter()), (asks, 3));
        rig.vcpus[0].answer(0);
        assert_eq!(rig.exit(), OFF);
    });
}

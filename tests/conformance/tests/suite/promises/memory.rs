//! Guest memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use conformance::asm::Width;
use vm_memory::GuestAddress;
use vmm_adapter::{
    Error, Feature, Hypervisor, IoHandler, IoOutcome, MemoryRegion, Sharing, VcpuExit, VmConfig, VmKind,
};

use super::io::with_vectors;
use crate::mailbox::{MAILBOX, Mailbox, mailbox};
use crate::rig::{self, RAM, RAM_SIZE, Rig, guest};
use crate::target::Probe;

pub fn regions_must_fit(hypervisor: &dyn Hypervisor, _: &Probe) {
    let vm = rig::create_vm(hypervisor, VmConfig::new(1));
    let main = if vm.config().kind.is_protected() { Sharing::Private } else { Sharing::Shared };
    let refused = |addr, size, sharing| {
        let answer = vm.allocate(GuestAddress(addr), size, sharing);
        assert!(matches!(answer, Err(Error::InvalidArgument { .. })), "{addr:#x} {size:#x}: {answer:?}");
    };
    refused(RAM, 0, main);
    refused(RAM + 1, RAM_SIZE, main);
    refused(RAM, RAM_SIZE + 1, main);
    refused(u64::MAX - RAM_SIZE + 1, RAM_SIZE, main);
    let end = 1 << vm.capabilities().guest_phys_bits();
    refused(end, RAM_SIZE, main);
    refused(end - RAM_SIZE / 2, RAM_SIZE, main);
    refused(RAM + 0x10_0000, RAM_SIZE, main);
    assert_eq!(vm.memory().len(), 0);
    let ram = rig::give_ram(&*vm);
    refused(RAM, RAM_SIZE, Sharing::Shared);
    refused(RAM + RAM_SIZE - 0x1_0000, RAM_SIZE, Sharing::Shared);
    refused(RAM - RAM_SIZE / 2, RAM_SIZE, Sharing::Shared);
    vm.allocate(GuestAddress(RAM + RAM_SIZE), RAM_SIZE, Sharing::Shared).unwrap();
    assert_eq!(vm.memory().len(), 2);
    assert_eq!(vm.memory()[0].addr(), ram.addr());
}

pub fn memory_is_what_host_and_guest_see(hypervisor: &dyn Hypervisor, _: &Probe) {
    const SHARED: u64 = RAM + (16 << 20);
    let mut program = guest(hypervisor);
    program.mov(1, SHARED + 0x100).load(Width::Double, 2, 1).add(2, 2, 1);
    program.mov(1, SHARED + 0x200).store(Width::Double, 2, 1).power_off();
    let rig = Rig::new(hypervisor, 1, &[], &program);
    let shared = rig.vm.allocate(GuestAddress(SHARED), 0x1_0000, Sharing::Shared).unwrap();
    shared.write(GuestAddress(SHARED + 0x100), &41_u64.to_le_bytes()).unwrap();
    let mut rig = rig.start();
    rig.run_to_the_end(&mailbox());
    let mut back = [0; 8];
    shared.read(GuestAddress(SHARED + 0x200), &mut back).unwrap();
    assert_eq!(u64::from_le_bytes(back), 42);
}

/// A store to it comes to the handler, or faults; the memory stays as it is.
pub fn read_only_memory_is_not_written(hypervisor: &dyn Hypervisor, probe: &Probe) {
    const ROM: u64 = RAM + (16 << 20);
    let program = with_vectors(hypervisor, |program| {
        program.mov(1, ROM).load(Width::Word, 2, 1).mov(3, MAILBOX).store(Width::Word, 2, 3);
        program.store_at(Width::Word, ROM, 0xbad);
    });
    let rig = Rig::new(hypervisor, 1, &[], &program);
    let rom = MemoryRegion::new(GuestAddress(ROM), 0x1_0000, Sharing::Shared).unwrap().read_only();
    rom.write(GuestAddress(ROM), &0x600d_u32.to_le_bytes()).unwrap();
    if !rig.vm.capabilities().has(Feature::ReadOnlyMemory) {
        let refused = rig.vm.map(&rom);
        let Err(Error::Unsupported { feature, .. }) = refused else { panic!("{refused:?}") };
        assert!([Feature::ReadOnlyMemory, Feature::OwnMemory].contains(&feature), "{feature:?}");
        return probe.inapplicable("there is no read-only memory");
    }
    rig.vm.map(&rom).unwrap();
    let mut rig = rig.start();
    let io = mailbox();
    let exit = rig.vcpus[0].run(&io).unwrap();
    assert!(matches!(exit, VcpuExit::PowerOff(_) | VcpuExit::Crashed(_)), "{exit:?}");
    assert_eq!(io.stores()[0], (MAILBOX, 4, 0x600d));
    let mut back = [0; 4];
    rom.read(GuestAddress(ROM), &mut back).unwrap();
    assert_eq!(u32::from_le_bytes(back), 0x600d);
}

pub fn a_plain_vm_shares_its_memory(hypervisor: &dyn Hypervisor, probe: &Probe) {
    const SLOT: u64 = RAM + 0x8000;
    let vm = match hypervisor.create_vm(&VmConfig::new(1).with_kind(VmKind::Plain)) {
        Err(Error::Unsupported { feature: Feature::PlainVm, .. }) => {
            return probe.inapplicable("there are no plain VMs");
        }
        other => other.unwrap(),
    };
    assert!(vm.capabilities().has(Feature::PlainVm));
    let ram = rig::give_ram(&*vm);
    assert_eq!(ram.sharing(), Sharing::Shared);
    let mut program = guest(hypervisor);
    program.store_at(Width::Word, SLOT, 0x0123_4567).power_off();
    rig::load(&*vm, &ram, &program);
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut rig = Rig { vm, ram, vcpus: vec![vcpu] }.start();
    rig.run_to_the_end(&mailbox());
    let mut back = [0; 4];
    rig.ram.read(GuestAddress(SLOT), &mut back).unwrap();
    assert_eq!(u32::from_le_bytes(back), 0x0123_4567);
}

pub fn private_memory_is_out_of_reach(hypervisor: &dyn Hypervisor, probe: &Probe) {
    let config = VmConfig::new(1).with_kind(VmKind::Protected);
    let vm = match hypervisor.create_vm(&config) {
        Err(Error::Unsupported { feature: Feature::PrivateMemory, .. }) => {
            return probe.inapplicable("there is no private memory");
        }
        other => other.unwrap(),
    };
    let shared_main = vm.allocate(GuestAddress(RAM), RAM_SIZE, Sharing::Shared);
    assert!(matches!(shared_main, Err(Error::InvalidArgument { .. })), "{shared_main:?}");
    let ram = rig::give_ram(&*vm);
    assert!(ram.shared().is_none());
    let mut program = guest(hypervisor);
    program.store_at(Width::Word, MAILBOX, 9).power_off();
    rig::load(&*vm, &ram, &program);
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut rig = Rig { vm, ram, vcpus: vec![vcpu] }.start();
    for answer in [rig.ram.write(GuestAddress(RAM), &[0]), rig.ram.read(GuestAddress(RAM), &mut [0])] {
        assert!(matches!(answer, Err(Error::WrongState { .. })), "{answer:?}");
    }
    let io = mailbox();
    rig.run_to_the_end(&io);
    assert_eq!(io.stores(), [(MAILBOX, 4, 9)]);
}

/// Memory that is taken back is no longer there for the guest; its accesses come to the handler.
pub fn memory_can_be_taken_back(hypervisor: &dyn Hypervisor, probe: &Probe) {
    const MORE: u64 = RAM + (16 << 20);
    let mut program = guest(hypervisor);
    program.mov(1, MORE).load(Width::Word, 2, 1).mov(3, MAILBOX).store(Width::Word, 2, 3);
    program.load(Width::Word, 4, 3).load(Width::Word, 2, 1).store(Width::Word, 2, 3).power_off();
    let rig = Rig::new(hypervisor, 1, &[], &program);
    let vm = Arc::clone(&rig.vm);
    if !vm.capabilities().has(Feature::Unmap) {
        let refused = vm.unmap(GuestAddress(RAM));
        assert!(matches!(refused, Err(Error::Unsupported { feature: Feature::Unmap, .. })), "{refused:?}");
        return probe.inapplicable("memory cannot be taken back");
    }
    let more = vm.allocate(GuestAddress(MORE), 0x1_0000, Sharing::Shared).unwrap();
    more.write(GuestAddress(MORE), &7_u32.to_le_bytes()).unwrap();
    for wrong in [RAM, MORE + 0x1000, 0x5000_0000] {
        assert!(matches!(vm.unmap(GuestAddress(wrong)), Err(Error::InvalidArgument { .. })), "{wrong:#x}");
    }
    let mut rig = rig.start();
    // The guest's load from the mailbox is the moment.
    let io = Mailbox::new(|_, _| {
        vm.unmap(GuestAddress(MORE)).unwrap();
        0
    });
    struct AlsoThere<'a, T>(&'a T);
    impl<T: IoHandler> IoHandler for AlsoThere<'_, T> {
        fn mmio_read(&self, addr: GuestAddress, data: &mut [u8]) -> IoOutcome {
            if addr.0 == MORE {
                data.fill(0x11);
                return IoOutcome::Handled;
            }
            self.0.mmio_read(addr, data)
        }
        fn mmio_write(&self, addr: GuestAddress, data: &[u8]) -> IoOutcome {
            self.0.mmio_write(addr, data)
        }
    }
    rig.run_to_the_end(&AlsoThere(&io));
    assert_eq!(io.stores(), [(MAILBOX, 4, 7), (MAILBOX, 4, 0x1111_1111)]);
    assert!(vm.memory().iter().all(|region| region.addr().0 != MORE));
    assert!(vm.unmap(GuestAddress(MORE)).is_err());
}

/// The log names the pages that the guest has written since the last look, and no others; not what it writes while nobody tracks.
pub fn the_dirty_log_names_what_was_written(hypervisor: &dyn Hypervisor, probe: &Probe) {
    const MORE: u64 = RAM + (16 << 20);
    const SIZE: u64 = 1 << 20;
    const SECOND: u64 = 70 * 0x1_0000 / 8;
    let mut program = guest(hypervisor);
    program.store_at(Width::Word, MORE, 1).store_at(Width::Word, MORE + SECOND, 2);
    program.mov(1, MAILBOX).load(Width::Word, 2, 1);
    program.store_at(Width::Word, MORE + SIZE - 4, 3).mov(1, MORE + 0x8000).load(Width::Word, 2, 1);
    program.mov(1, MAILBOX).load(Width::Word, 2, 1);
    program.store_at(Width::Word, MORE + SECOND, 4);
    program.mov(1, MAILBOX).load(Width::Word, 2, 1);
    program.power_off();
    let rig = Rig::new(hypervisor, 1, &[], &program);
    let vm = Arc::clone(&rig.vm);
    let Some(log) = vm.dirty_log() else {
        assert!(!vm.capabilities().has(Feature::DirtyLog));
        return probe.inapplicable("there is no dirty log");
    };
    vm.allocate(GuestAddress(MORE), SIZE, Sharing::Shared).unwrap();
    let (at, nowhere) = (GuestAddress(MORE), GuestAddress(MORE + 0x1000));
    let invalid = |answer: Result<(), Error>| {
        assert!(matches!(answer, Err(Error::InvalidArgument { .. })), "{answer:?}");
    };
    // Not tracked yet.
    invalid(log.take(at).map(drop));
    log.stop(at).unwrap();
    for there_is_none in [log.start(nowhere), log.stop(nowhere), log.take(nowhere).map(drop)] {
        invalid(there_is_none);
    }
    log.start(at).unwrap();
    log.start(at).unwrap();
    let pages = || -> Vec<u64> {
        let words = log.take(at).unwrap();
        let page = SIZE / (64 * words.len() as u64).min(SIZE / 4096);
        let set = |n: &u64| words[*n as usize / 64] >> (n % 64) & 1 == 1;
        (0..64 * words.len() as u64).filter(set).map(|n| n * page).collect()
    };
    let is_page_of = |page: &u64, offset: u64| *page <= offset && offset < page + 0x1_0000;
    let mut rig = rig.start();
    let looks = AtomicU64::new(0);
    let io = Mailbox::new(|_, _| {
        match looks.fetch_add(1, Ordering::Relaxed) {
            0 => {
                let written = pages();
                assert!(
                    written.iter().any(|page| is_page_of(page, 0))
                        && written.iter().any(|page| is_page_of(page, SECOND))
                        && written.len() == 2,
                    "{written:x?}"
                );
                log.stop(at).unwrap();
                log.stop(at).unwrap();
                invalid(log.take(at).map(drop));
            }
            1 => {
                log.start(at).unwrap();
                assert_eq!(pages(), Vec::<u64>::new(), "what was written meanwhile");
            }
            _ => {
                let written = pages();
                assert!(matches!(&written[..], [page] if is_page_of(page, SECOND)), "{written:x?}");
            }
        }
        0
    });
    rig.run_to_the_end(&io);
    assert_eq!(looks.load(Ordering::Relaxed), 3);
    for late in [log.take(at).map(drop), log.start(at), log.stop(at)] {
        assert!(matches!(late, Err(Error::WrongState { .. })), "the VM has ended: {late:?}");
    }
}

/// Pages that were taken back are new ones, filled with zeros, when the guest touches them again; others stay.
pub fn reclaimed_pages_come_back_empty(hypervisor: &dyn Hypervisor, probe: &Probe) {
    const GONE: u64 = RAM + 0x15_0000;
    const KEPT: u64 = GONE + 0x1_0000;
    let mut program = guest(hypervisor);
    program.store_at(Width::Word, GONE, 0xdead).store_at(Width::Word, KEPT, 0xbeef);
    program.mov(3, MAILBOX).load(Width::Word, 4, 3);
    for place in [GONE, KEPT] {
        program.mov(1, place).load(Width::Word, 2, 1).store(Width::Word, 2, 3);
    }
    // A new page is as good as the old one.
    program.store_at(Width::Word, GONE, 7).mov(1, GONE).load(Width::Word, 2, 1).store(Width::Word, 2, 3);
    program.power_off();
    let rig = Rig::new(hypervisor, 1, &[], &program);
    let vm = Arc::clone(&rig.vm);
    let Some(reclaim) = vm.reclaim() else {
        assert!(!vm.capabilities().has(Feature::Reclaim));
        return probe.inapplicable("pages cannot be taken back");
    };
    let early = reclaim.pages(GuestAddress(GONE), 0x1_0000);
    assert!(matches!(early, Err(Error::WrongState { .. })), "{early:?}");
    let mut rig = rig.start();
    for (addr, size) in [(GONE + 1, 0x1_0000), (GONE, 0), (GONE, 0x800), (RAM, RAM_SIZE * 2), (0, 0x1_0000)] {
        let refused = reclaim.pages(GuestAddress(addr), size);
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{addr:#x} {size:#x}: {refused:?}");
    }
    let io = Mailbox::new(|_, _| {
        reclaim.pages(GuestAddress(GONE), 0x1_0000).unwrap();
        0
    });
    rig.run_to_the_end(&io);
    assert_eq!(io.stores(), [(MAILBOX, 4, 0), (MAILBOX, 4, 0xbeef), (MAILBOX, 4, 7)]);
}

/// A region larger than the host takes is refused; pieces of the size that it names are taken.
pub fn regions_are_as_large_as_the_host_takes_them(hypervisor: &dyn Hypervisor, _: &Probe) {
    const PIECE: u64 = 2 << 20;
    let mut config = VmConfig::new(1);
    config.largest_region = Some(PIECE + 1);
    assert!(matches!(hypervisor.create_vm(&config), Err(Error::InvalidArgument { .. })));
    config.largest_region = Some(PIECE);
    let vm = rig::create_vm(hypervisor, config);
    assert_eq!(vm.largest_region(), PIECE);
    let sharing = if vm.config().kind.is_protected() { Sharing::Private } else { Sharing::Shared };
    let refused = vm.allocate(GuestAddress(RAM), 2 * PIECE, sharing);
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
    for number in 0..3 {
        vm.allocate(GuestAddress(RAM + number * PIECE), PIECE, sharing).unwrap();
    }
    let vm = rig::create_vm(hypervisor, VmConfig::new(1));
    assert!(vm.largest_region() >= 1 << 30, "nothing smaller was seen to be needed");
}

/// Memory in chunks is side by side, in order, and seen before the hypervisor has it where that can be.
pub fn memory_comes_in_chunks(hypervisor: &dyn Hypervisor, _: &Probe) {
    const CHUNK: u64 = 2 << 20;
    const REST: u64 = 0x1_0000;
    let mut config = VmConfig::new(1);
    config.largest_region = Some(CHUNK);
    let vm = rig::create_vm(hypervisor, config.clone());
    let sharing = if vm.config().kind.is_protected() { Sharing::Private } else { Sharing::Shared };
    let own = vm.capabilities().has(Feature::OwnMemory);
    let mut seen = Vec::new();
    let regions = vm
        .allocate_chunks(GuestAddress(RAM), 2 * CHUNK + REST, sharing, |region| {
            assert_eq!(vm.memory().len(), seen.len() + usize::from(!own));
            region.write(region.addr(), b"seen")?;
            seen.push((region.addr().0, region.size()));
            Ok(())
        })
        .unwrap();
    let want = [(RAM, CHUNK), (RAM + CHUNK, CHUNK), (RAM + 2 * CHUNK, REST)];
    assert_eq!(seen, want);
    for given in [&regions, &vm.memory()] {
        assert_eq!(given.iter().map(|region| (region.addr().0, region.size())).collect::<Vec<_>>(), want);
        for region in given {
            let mut data = [0; 4];
            region.read(region.addr(), &mut data).unwrap();
            assert_eq!(&data, b"seen");
        }
    }

    let vm = rig::create_vm(hypervisor, config);
    let chunks = |addr, size| vm.allocate_chunks(GuestAddress(addr), size, sharing, |_| Ok(()));
    for (addr, size) in [(RAM, 0), (RAM + 1, CHUNK), (RAM, CHUNK + 1), (u64::MAX - CHUNK + 1, CHUNK)] {
        let refused = chunks(addr, size);
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{addr:#x} {size:#x}: {refused:?}");
    }
    assert_eq!(vm.memory().len(), 0);
    let stop = || Err(Error::InvalidArgument { op: "test", why: "enough".into() });
    let stopped = vm.allocate_chunks(GuestAddress(RAM), 2 * CHUNK, sharing, |region| {
        if region.addr().0 == RAM { Ok(()) } else { stop() }
    });
    assert!(matches!(stopped, Err(Error::InvalidArgument { op: "test", .. })), "{stopped:?}");
    assert_eq!(vm.memory()[0].addr().0, RAM);
}

//! The view that devices get of a VM's memory: the shared part, and nothing else.
#![cfg(feature = "gunyah")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use fake_gunyah::{Fake, Flavour};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};
use vmm_adapter::gunyah::Gunyah;
use vmm_adapter::{Hypervisor, MemoryRegion, Sharing, Vm, VmConfig, VmKind, shared_memory};

const RAM: u64 = 0x8000_0000;
const POOL: u64 = 0x8080_0000;
const SECOND: u64 = 0x8060_0000;

fn with_vm(flavour: Flavour, kind: VmKind, body: impl FnOnce(&dyn Vm) + Send) {
    let fake = Fake::builder().flavour(flavour).build().unwrap();
    fake.run(|_| {
        let vm = Gunyah::open().unwrap().create_vm(&VmConfig::new(1).with_kind(kind)).unwrap();
        body(&*vm);
    })
    .unwrap();
}

/// Lent memory, and two pieces that are not; not in the order of their addresses.
fn give(vm: &dyn Vm) -> MemoryRegion {
    let lent = vm.allocate(GuestAddress(RAM), 2 << 20, Sharing::Private).unwrap();
    vm.allocate(GuestAddress(POOL), 1 << 20, Sharing::Shared).unwrap();
    vm.allocate(GuestAddress(SECOND), 1 << 20, Sharing::Shared).unwrap();
    lent
}

#[test]
fn private_memory_is_not_in_it() {
    for flavour in [Flavour::Android14, Flavour::Android15] {
        with_vm(flavour, VmKind::Protected, |vm| {
            give(vm);
            let memory = shared_memory(vm).unwrap();
            assert_eq!(memory.num_regions(), 2);
            memory.write_obj(7_u64, GuestAddress(POOL + 8)).unwrap();
            memory.write_obj(8_u64, GuestAddress(SECOND)).unwrap();
            // The device's memory is the guest's.
            let mut seen = [0; 8];
            let pool = vm.memory().into_iter().find(|region| region.addr().0 == POOL).unwrap();
            pool.read(GuestAddress(POOL + 8), &mut seen).unwrap();
            assert_eq!(u64::from_le_bytes(seen), 7);
            for outside in [RAM, RAM + (2 << 20) - 1, SECOND - 1, POOL + (1 << 20), 0] {
                let error = memory.read_obj::<u8>(GuestAddress(outside)).unwrap_err();
                assert!(matches!(error, GuestMemoryError::InvalidGuestAddress(_)), "{outside:#x}: {error:?}");
            }
        });
    }
}

#[test]
fn a_vm_without_shared_memory_has_an_empty_view() {
    with_vm(Flavour::Android14, VmKind::Protected, |vm| {
        assert_eq!(shared_memory(vm).unwrap().num_regions(), 0);
        vm.allocate(GuestAddress(RAM), 2 << 20, Sharing::Private).unwrap();
        assert_eq!(shared_memory(vm).unwrap().num_regions(), 0);
    });
}

/// A queue of 8 descriptors: the table, the available ring, the used ring.
fn queue(table: u64) -> Queue {
    let mut queue = Queue::new(8).unwrap();
    queue.set_size(8);
    queue.set_desc_table_address(Some(table as u32), Some((table >> 32) as u32));
    queue.set_avail_ring_address(Some(table as u32 + 0x100), Some((table >> 32) as u32));
    queue.set_used_ring_address(Some(table as u32 + 0x200), Some((table >> 32) as u32));
    queue.set_ready(true);
    queue
}

#[test]
fn virtio_queues_work_on_it_as_it_is() {
    with_vm(Flavour::Android14, VmKind::Protected, |vm| {
        give(vm);
        let memory = shared_memory(vm).unwrap();
        // The guest offers one buffer of 16 bytes, which the device may write.
        memory.write_obj(POOL + 0x1000, GuestAddress(POOL)).unwrap();
        memory.write_obj(16_u32, GuestAddress(POOL + 8)).unwrap();
        memory.write_obj(2_u16, GuestAddress(POOL + 12)).unwrap();
        memory.write_obj(1_u16, GuestAddress(POOL + 0x102)).unwrap();

        let mut queue_in_pool = queue(POOL);
        assert!(queue_in_pool.is_valid(&memory));
        let chain = queue_in_pool.pop_descriptor_chain(&memory).unwrap();
        let head = chain.head_index();
        let buffers: Vec<_> = chain.map(|buffer| (buffer.addr().0, buffer.len())).collect();
        assert_eq!(buffers, [(POOL + 0x1000, 16)]);
        memory.write_slice(b"from the device!", GuestAddress(POOL + 0x1000)).unwrap();
        queue_in_pool.add_used(&memory, head, 16).unwrap();
        assert_eq!(memory.read_obj::<u16>(GuestAddress(POOL + 0x202)).unwrap(), 1);

        // A driver that puts its queue into lent memory is refused, before anything is touched.
        assert!(!queue(RAM).is_valid(&memory));
    });
}

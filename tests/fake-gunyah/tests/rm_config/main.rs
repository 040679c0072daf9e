//! What the fake Resource Manager makes of a devicetree: a good tree, then one thing changed at a time.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod hostile;
mod memory;
mod rules;
mod tree;

use fake_gunyah::rm::{
    Affinity, Interrupt, Range, RmError, RmErrorCode, SharedMemory, Trigger, VmDescription, read_vm_config,
};
use tree::{Tree, good};

/// Reads the good tree after one change.
fn after(change: impl FnOnce(&mut Tree)) -> Result<VmDescription, RmError> {
    let mut tree = good();
    change(&mut tree);
    read_vm_config(&tree.buffer())
}

#[test]
fn a_good_tree_is_described_whole_and_without_a_warning() {
    let vm = after(|_| ()).unwrap();
    assert_eq!(vm.warnings, Vec::<String>::new());
    assert_eq!((vm.vcpus, vm.boot_vcpu, vm.affinity, vm.psci), (2, 0, Affinity::Proxy, true));
    assert_eq!(vm.image_name, "a-vm");
    assert_eq!(
        (vm.base_address, vm.size_min, vm.size_max, vm.firmware),
        (Some(0x8000_0000), Some(0x10_0000), Some(0x4000_0000), None)
    );
    let gic = vm.gic.unwrap();
    assert_eq!(gic.distributor, Range { address: 0x3fff_0000, size: 0x1_0000 });
    assert_eq!(gic.redistributors, Range { address: 0x3ffb_0000, size: 0x4_0000 });
    let bells: Vec<_> = vm.doorbells.iter().map(|bell| (bell.label, bell.interrupt.unwrap())).collect();
    assert_eq!(
        bells,
        [
            (0, Interrupt { intid: 32, trigger: Trigger::Edge }),
            (33, Interrupt { intid: 65, trigger: Trigger::Level })
        ]
    );
    assert_eq!(vm.doorbells[1].interrupt.unwrap().spi(), Some(33));
    assert!(vm.doorbells.iter().all(|bell| bell.source_can_clear));
    assert_eq!(vm.doorbells[1].generate.as_deref(), Some("/hypervisor/bell-21"));
    assert_eq!(vm.shm, [SharedMemory { label: 5, base: Some(0x9000_0000), optional: false }]);
}

/// Another writer's tree is read the same way.
#[test]
fn a_tree_of_vm_fdt_is_read() {
    let mut fdt = vm_fdt::FdtWriter::new().unwrap();
    let write = |fdt: &mut vm_fdt::FdtWriter, tree: &Tree| {
        fn node(fdt: &mut vm_fdt::FdtWriter, tree: &Tree) -> vm_fdt::FdtWriterResult<()> {
            let begun = fdt.begin_node(&tree.name)?;
            for (name, value) in &tree.properties {
                fdt.property(name, value)?;
            }
            tree.children.iter().try_for_each(|child| node(fdt, child))?;
            fdt.end_node(begun)
        }
        node(fdt, tree)
    };
    write(&mut fdt, &good()).unwrap();
    let mut blob = fdt.finish().unwrap();
    blob.resize(blob.len() + 8192, 0);
    assert_eq!(read_vm_config(&blob), after(|_| ()));
}

/// Every code of a Resource Manager's reply has the errno that the driver gives it.
#[test]
fn codes_become_the_drivers_errnos() {
    use RmErrorCode as C;
    let table = [
        (C::NoMem, libc::ENOMEM),
        (C::NoResource, libc::ENODEV),
        (C::Denied, libc::EPERM),
        (C::Busy, libc::EBUSY),
        (C::Unimplemented, libc::EOPNOTSUPP),
        (C::Invalid, libc::EINVAL),
        (C::ArgumentInvalid, libc::EINVAL),
        (C::HandleInvalid, libc::EINVAL),
        (C::ValidateFailed, libc::EINVAL),
        (C::MapFailed, libc::EINVAL),
        (C::MemInvalid, libc::EINVAL),
        (C::MemInUse, libc::EINVAL),
        (C::MemReleased, libc::EINVAL),
        (C::VmidInvalid, libc::EINVAL),
        (C::LookupFailed, libc::EINVAL),
        (C::IrqInvalid, libc::EINVAL),
        (C::IrqInUse, libc::EINVAL),
        (C::IrqReleased, libc::EINVAL),
        (C::Unknown(99), libc::EBADMSG),
    ];
    for (code, errno) in table {
        assert_eq!(code.errno(), errno, "{code}");
    }
    let error = RmError { error: C::NoResource, why: "no memory".to_owned() };
    assert_eq!(error.to_string(), "the Resource Manager answers NORESOURCE: no memory");
    assert_eq!(C::Unknown(99).to_string(), "an unknown code (99)");
}

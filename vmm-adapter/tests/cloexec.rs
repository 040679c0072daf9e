//! What a VMM's child processes inherit: nothing. In a program of its own, since it looks at all file descriptors.
#![cfg(feature = "gunyah")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;

use fake_gunyah::{Fake, Guest};
use vm_memory::GuestAddress;
use vmm_adapter::fdt::{self, GuestTree};
use vmm_adapter::gunyah::Gunyah;
use vmm_adapter::{Hypervisor, MsiFrame, MsiPool, Sharing, VmConfig};

/// The file descriptors that stay open in a program that this one starts.
fn inherited() -> BTreeSet<String> {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap().file_name());
    fds.filter_map(|fd| {
        let fd = fd.to_str().unwrap().to_owned();
        // The one of this look is gone.
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let closes = i32::from_str_radix(flags, 8).unwrap() & libc::O_CLOEXEC != 0;
        let what = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
        (!closes).then(|| format!("{fd}: {}", what.display()))
    })
    .collect()
}

#[test]
fn no_file_descriptor_is_inherited() {
    const RAM: u64 = 0x8000_0000;
    let fake = Fake::builder().guest(Guest::code()).build().unwrap();
    fake.run(|_| {
        let before = inherited();
        let pool = MsiPool { base: 64, count: 8, frame: GuestAddress(0x1100_0000) };
        let vm = Gunyah::open().unwrap().create_vm(&VmConfig::new(1).with_msi(pool)).unwrap();
        let ram = vm.allocate(GuestAddress(RAM), 0x20_0000, Sharing::Shared).unwrap();
        let frame = MsiFrame::new(&vm).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let _tree = fdt::write(&*vm, &GuestTree::default()).unwrap();
        assert_eq!(inherited().difference(&before).collect::<Vec<_>>(), [""; 0]);
        drop((frame, ram, vcpu));
    })
    .unwrap();
}

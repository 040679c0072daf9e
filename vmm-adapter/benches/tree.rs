//! Writing and checking the devicetree of a large VM: 64 vCPUs, 64 devices with an interrupt each.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::Criterion;
use fake_gunyah::Fake;
use vm_memory::GuestAddress;
use vmm_adapter::fdt::lint::{Expect, lint};
use vmm_adapter::fdt::{self, Device, GuestTree};
use vmm_adapter::gunyah::Gunyah;
use vmm_adapter::{Hypervisor, IrqLine, Sharing, VmConfig};

fn tree(c: &mut Criterion) {
    let mut config = VmConfig::new(64);
    config.irq_lines = (0..64).map(IrqLine::edge).collect();
    let vm = Gunyah::open().unwrap().create_vm(&config).unwrap();
    vm.allocate(GuestAddress(0x8000_0000), 64 << 20, Sharing::Shared).unwrap();
    let device = |n: u32| {
        let addr = GuestAddress(0x1000_0000 + 0x1000 * u64::from(n));
        Device::new("virtio_mmio", addr, 0x200, &["virtio,mmio"]).irq(IrqLine::edge(n))
    };
    let guest = GuestTree { devices: (0..64).map(device).collect(), ..GuestTree::default() };
    let blob = fdt::write(&*vm, &guest).unwrap();
    let expect = Expect::of(&*vm);

    let mut group = c.benchmark_group("64 vCPUs and 64 devices");
    // What no writer can do without: a copy of the bytes.
    group.bench_function("copy the tree", |b| b.iter(|| blob.clone()));
    group.bench_function("write the tree", |b| b.iter(|| fdt::write(&*vm, &guest).unwrap()));
    group.bench_function("lint the tree", |b| b.iter(|| lint(&blob, &expect)));
    group.finish();
}

fn main() {
    // Made inside: it cannot go to another thread.
    let run = || {
        let mut criterion = Criterion::default().configure_from_args();
        tree(&mut criterion);
        criterion.final_summary();
    };
    Fake::builder().build().unwrap().run(|_| run()).unwrap();
}

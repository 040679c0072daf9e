//! What an MMIO exit costs through the whole stack: `Vcpu::run`, handler, bus, device. `cargo bench -p vmm-adapter --features kvm
//! --bench exit`.
//!
//! `ioctl` is interposed, as in the benches of gunyah-ioctls: no kernel is in the numbers. The baseline is the bare loop, which makes the
//! call, looks at the page, and knows no devices; the difference is what everything here costs together.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unsafe_code)]

#[path = "../../gunyah-ioctls/benches/interposed/mod.rs"]
mod interposed;

use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use interposed::{Bare, DEVICES, LEFT, LOADS, bare_step};
use vm_memory::GuestAddress;
use vmm_adapter::{
    BootContext, Bus, ExitStats, Hypervisor, IoHandler, IoOutcome, MmioDevice, Sharing, Vcpu, VcpuExit,
    VmConfig,
};

struct Register;

impl MmioDevice for Register {
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
        data.fill(offset as u8);
        IoOutcome::Handled
    }

    fn write(&self, _offset: u64, data: &[u8]) -> IoOutcome {
        black_box(data);
        IoOutcome::Handled
    }
}

fn vcpu() -> Box<dyn Vcpu> {
    let device = gunyah_ioctls::Gunyah::from(interposed::device());
    let vm = vmm_adapter::gunyah::Gunyah::from(device).create_vm(&VmConfig::new(1)).unwrap();
    let ram = vm.allocate(GuestAddress(0x8000_0000), 2 << 20, Sharing::Shared).unwrap();
    let tree = GuestAddress(0x8010_0000);
    ram.write(tree, &vmm_adapter::fdt::write(&*vm, &Default::default()).unwrap()).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    vm.start(&BootContext { entry: ram.addr(), fdt: tree, fdt_size: 0x4000 }).unwrap();
    vcpu
}

fn exits(criterion: &mut Criterion) {
    for (name, loads) in [("store", 0), ("load", 1)] {
        let mut group = criterion.benchmark_group(name);
        LOADS.store(loads, Ordering::Relaxed);
        for devices in [1_u64, 16, 256] {
            DEVICES.store(devices, Ordering::Relaxed);
            let mut bare = Bare::new();
            group.bench_function(format!("bare loop/{devices}"), |bencher| {
                bencher.iter_custom(|rounds| {
                    LEFT.store(u64::MAX, Ordering::Relaxed);
                    let began = Instant::now();
                    for _ in 0..rounds {
                        black_box(bare_step(&mut bare));
                    }
                    began.elapsed()
                });
            });
            let mut bus = Bus::new();
            for n in 0..devices {
                bus.add(GuestAddress(0x1000_0000 + 0x1000 * n), 0x1000, Register).unwrap();
            }
            let mut vcpu = vcpu();
            group.bench_function(format!("adapter, bus and device/{devices}"), |bencher| {
                bencher.iter_custom(|rounds| time(&mut *vcpu, &bus, rounds, None));
            });
            let stats = ExitStats::new();
            group.bench_function(format!("the same, measured by ExitStats/{devices}"), |bencher| {
                bencher.iter_custom(|rounds| time(&mut *vcpu, &bus, rounds, Some(&stats)));
            });
        }
        group.finish();
    }
}

/// One `run` with so many exits, after which a signal ends it.
fn time(
    vcpu: &mut dyn Vcpu,
    io: &dyn IoHandler,
    exits: u64,
    stats: Option<&ExitStats>,
) -> std::time::Duration {
    LEFT.store(exits, Ordering::Relaxed);
    let began = Instant::now();
    let exit = match stats {
        None => vcpu.run(io),
        Some(stats) => stats.run(vcpu, io),
    };
    let took = began.elapsed();
    assert_eq!(exit.unwrap(), VcpuExit::Interrupted);
    took
}

criterion_group!(benches, exits);
criterion_main!(benches);

//! What `VcpuFd::run` costs per MMIO exit, beside a bare loop and beside kvm-ioctls. `cargo bench --bench run`.
//!
//! `ioctl` is interposed: no kernel is in the numbers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod interposed;

use std::hint::black_box;
use std::sync::atomic::Ordering;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use interposed::{Bare, LOADS, bare_step, gunyah_step, gunyah_vcpus, kvm_step, kvm_vcpus};

/// How many vCPUs one thread serves in turn. What is measured is one exit.
const VCPUS: [usize; 3] = [1, 8, 64];

fn exits(criterion: &mut Criterion) {
    for (name, loads) in [("store", 0), ("load", 1)] {
        let mut group = criterion.benchmark_group(name);
        LOADS.store(loads, Ordering::Relaxed);
        for vcpus in VCPUS {
            let mut bare: Vec<_> = (0..vcpus).map(|_| Bare::new()).collect();
            measure(&mut group, "bare loop", &mut bare, bare_step);
            let (_vm, mut all) = gunyah_vcpus(vcpus);
            measure(&mut group, "gunyah-ioctls", &mut all, gunyah_step);
            let (_vm, mut all) = kvm_vcpus(vcpus);
            measure(&mut group, "kvm-ioctls", &mut all, kvm_step);
        }
        group.finish();
    }
}

fn measure<V>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    all: &mut [V],
    step: impl Fn(&mut V) -> u64,
) {
    let mut next = 0;
    group.bench_function(BenchmarkId::new(name, all.len()), |bencher| {
        bencher.iter(|| {
            next = if next + 1 < all.len() { next + 1 } else { 0 };
            black_box(step(&mut all[next]))
        });
    });
}

fn kicks(criterion: &mut Criterion) {
    LOADS.store(0, Ordering::Relaxed);
    let (_vm, mut all) = gunyah_vcpus(1);
    let vcpu = &mut all[0];
    let kick = vcpu.kick_handle();
    vcpu.run().unwrap();
    criterion.bench_function("kick, then the run that reports it", |bencher| {
        bencher.iter(|| {
            kick.kick();
            black_box(vcpu.run().unwrap())
        });
    });
}

criterion_group!(benches, exits, kicks);
criterion_main!(benches);

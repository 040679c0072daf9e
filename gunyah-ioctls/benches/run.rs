//! What `VcpuFd::run` costs per MMIO exit, beside a bare loop and beside kvm-ioctls. `cargo bench --bench run`.
//!
//! `ioctl` is interposed: no kernel is in the numbers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod interposed;

use std::hint::black_box;
use std::sync::atomic::Ordering;

use criterion::{Criterion, criterion_group, criterion_main};
use interposed::{Bare, LOADS, bare_step, gunyah_step, gunyah_vcpu, kvm_step, kvm_vcpu};

fn exits(criterion: &mut Criterion) {
    for (name, loads) in [("store", 0), ("load", 1)] {
        let mut group = criterion.benchmark_group(name);
        LOADS.store(loads, Ordering::Relaxed);
        let mut bare = Bare::new();
        group.bench_function("bare loop", |bencher| bencher.iter(|| black_box(bare_step(&mut bare))));
        let (_vm, mut vcpu) = gunyah_vcpu();
        group.bench_function("gunyah-ioctls", |bencher| bencher.iter(|| black_box(gunyah_step(&mut vcpu))));
        let (_vm, mut vcpu) = kvm_vcpu();
        group.bench_function("kvm-ioctls", |bencher| bencher.iter(|| black_box(kvm_step(&mut vcpu))));
        group.finish();
    }
}

fn kicks(criterion: &mut Criterion) {
    LOADS.store(0, Ordering::Relaxed);
    let (_vm, mut vcpu) = gunyah_vcpu();
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

//! What the fake costs: a call, and an exit of a scripted guest.
#![allow(
    unsafe_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::os::fd::AsRawFd;

use common::{CREATE_VM, VCPU_MMAP_SIZE, Vm, ioctl};
use criterion::Criterion;
use fake_gunyah::{Fake, Guest, Script};

fn main() {
    let mut outside = Criterion::default().configure_from_args();
    // The kernel's own price of a call: the baseline.
    outside.bench_function("ioctl that the kernel refuses", |b| {
        b.iter(|| black_box(ioctl(0, 0x4c00, 0)));
    });
    let empty = Fake::builder().build().unwrap();
    outside.bench_function("a whole empty run", |b| b.iter(|| empty.run(|_| ()).unwrap()));
    outside.final_summary();

    let script = Script::new().repeat(u64::MAX, |s| s.mmio_write(0x1000, 4, 1));
    let fake = Fake::builder().guest(Guest::scripts([script])).record_calls(false).build().unwrap();
    fake.run(|_| {
        let mut inside = Criterion::default().configure_from_args();
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        inside.bench_function("the same beside a fake", |b| b.iter(|| black_box(ioctl(0, 0x4c00, 0))));
        inside.bench_function("shortest call", |b| {
            b.iter(|| black_box(ioctl(vcpu.fd.as_raw_fd(), VCPU_MMAP_SIZE, 0)));
        });
        inside.bench_function("RUN to an MMIO exit", |b| b.iter(|| vcpu.run().unwrap()));
        let device = common::open().unwrap();
        inside.bench_function("CREATE_VM and close", |b| {
            b.iter(|| {
                let fd = ioctl(device.as_raw_fd(), CREATE_VM, 0).unwrap();
                // SAFETY: the descriptor is new and nobody else's.
                unsafe { libc::close(fd as i32) };
            });
        });
        inside.final_summary();
    })
    .unwrap();
}

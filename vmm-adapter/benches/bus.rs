//! What it costs to find a device, against a call of the device itself.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use vm_memory::GuestAddress;
use vmm_adapter::{Bus, IoHandler, IoOutcome, MmioDevice};

struct Register;

impl MmioDevice for Register {
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
        data.fill(offset as u8);
        IoOutcome::Handled
    }

    fn write(&self, _offset: u64, _data: &[u8]) -> IoOutcome {
        IoOutcome::Handled
    }
}

fn bus(c: &mut Criterion) {
    let mut group = c.benchmark_group("a load of 4 bytes");
    let device: Box<dyn MmioDevice> = Box::new(Register);
    group.bench_function("the device itself", |b| {
        b.iter(|| device.read(black_box(4), black_box(&mut [0; 4])));
    });
    for devices in [1_u64, 16, 256] {
        let mut bus = Bus::new();
        for n in 0..devices {
            bus.add(GuestAddress(0x1000_0000 + 0x1000 * n), 0x1000, Register).unwrap();
        }
        // Another device each time, so that no branch is learned by heart.
        let mut n = 0;
        group.bench_function(format!("by a bus with {devices}"), |b| {
            b.iter(|| {
                n = (n * 5 + 3) % devices;
                bus.mmio_read(GuestAddress(0x1000_0004 + 0x1000 * n), black_box(&mut [0; 4]))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bus);
criterion_main!(benches);

//! `RUN`, step by step, with raw system calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use common::*;
use fake_gunyah::{Errno, Script};

#[test]
fn mmio_and_status() {
    let script =
        Script::new().mmio_read(0x1000, 4).expect(0x1234_5678).mmio_write(0x1008, 2, 0xabcd).exit(1, &[0; 4]);
    with_vcpu(script, |handle, _vm, vcpu| {
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_MMIO);
        let (addr, len, is_write, _) = vcpu.mmio();
        assert_eq!((addr, len, is_write), (0x1000, 4, 0));
        vcpu.answer(0x1234_5678);
        assert_eq!(vcpu.run(), Ok(0));
        let (addr, len, is_write, data) = vcpu.mmio();
        assert_eq!((addr, len, is_write, data & 0xffff), (0x1008, 2, 1, 0xabcd));
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_STATUS);
        assert_eq!(vcpu.status(), (2, 1, 4, [0; 8]));
        // From now on every RUN succeeds and leaves the page alone.
        vcpu.clear_reason();
        for _ in 0..3 {
            assert_eq!(vcpu.run(), Ok(0));
            assert_eq!(vcpu.reason(), 0);
        }
        assert_eq!(handle.exits_lost(), 0);
    });
}

#[test]
fn a_script_notices_a_wrong_answer() {
    let fake = fake_gunyah::Fake::builder()
        .guest(fake_gunyah::Guest::scripts([Script::new().mmio_read(0x1000, 4).expect(7).exit(1, &[])]))
        .build()
        .unwrap();
    let error = fake.run(|_| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        vcpu.run().unwrap();
        vcpu.answer(8);
        vcpu.run().unwrap();
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("got 0x8 instead of 0x7"), "{error}");
}

#[test]
fn no_device() {
    assert_eq!(open().unwrap_err(), Errno::ENOENT);
}

//! The built-in guest on the interpreter, with its devices.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod a64_support;

use a64_support::{Access, Vm};

const HELLO: &[u8] = include_bytes!("../../guests/hello.bin");
const PATTERN: u64 = 0x8877_6655_4433_2211;

/// The 16550's two registers that the guest uses, and the test device.
#[derive(Default)]
struct Devices {
    output: String,
    passed: u64,
    failed: u64,
    busy: u32,
}

impl Devices {
    fn access(&mut self, access: Access) -> u64 {
        let low = |len: u64| u64::MAX >> (64 - 8 * len);
        match access {
            // Every other look finds the transmitter busy.
            Access::Read { addr: 0x1000_0005, len: 1 } => {
                self.busy += 1;
                if self.busy % 2 == 0 { 0x60 } else { 0 }
            }
            Access::Write { addr: 0x1000_0000, len: 1, value } => {
                self.output.push(char::from(value as u8));
                0
            }
            Access::Read { addr: 0x1000_2000, len } => {
                self.passed += 1;
                PATTERN & low(len)
            }
            Access::Write { addr: 0x1000_2010, len, value } if value == !PATTERN & low(len) => {
                self.passed += 1;
                0
            }
            Access::Read { addr: 0x1000_2020, len: 4 } => self.passed | (self.failed << 16),
            other => {
                self.failed += 1;
                panic!("no device there: {other:x?}")
            }
        }
    }
}

fn run(vcpus: u32) -> (Devices, Vm) {
    let mut vm = Vm::new(HELLO, vcpus);
    let mut devices = Devices::default();
    vm.run_to_end(|_, access| devices.access(access));
    (devices, vm)
}

#[test]
fn one_vcpu() {
    let (devices, vm) = run(1);
    assert_eq!(
        devices.output,
        "Hello from a Gunyah guest.\r\nCPU 0 is up.\r\ntest device: 8 passed, 0 failed\r\n\
         There is no second CPU.\r\nPowering off.\r\n"
    );
    assert_eq!(vm.exits(), [(1, vec![0; 4])]);
    assert!(vm.machine.faults().is_empty());
}

#[test]
fn two_vcpus() {
    let (devices, vm) = run(2);
    assert_eq!(
        devices.output,
        "Hello from a Gunyah guest.\r\nCPU 0 is up.\r\ntest device: 8 passed, 0 failed\r\n\
         CPU 1 is up.\r\nPowering off.\r\n"
    );
    assert_eq!(vm.exits(), [(1, vec![0; 4])]);
    assert_eq!(*vm.log.woken.lock().unwrap(), [0, 1]);
}

#[test]
fn an_abort_is_reported_and_ends_in_a_reset() {
    let mut vm = Vm::new(HELLO, 1);
    let mut devices = Devices::default();
    // Answer everything up to the first read of the test device, and let that one abort.
    let mut resume = [0, 0, 0];
    while vm.exits().is_empty() {
        let response = vm.engines[0].vcpu_run(resume, &|| false).unwrap();
        let [addr, len, value] = response.data;
        resume = match response.state {
            4 if addr == 0x1000_2000 => [0, 2, 0],
            4 => [devices.access(Access::Read { addr, len }), 0, 0],
            5 => [devices.access(Access::Write { addr, len, value }), 0, 0],
            _ => [0; 3],
        };
    }
    let report = devices.output.lines().last().unwrap();
    // Vector 0x200: from the current level with SP_EL1. ESR: data abort at the same level, external, a read.
    assert!(
        report.starts_with("Exception at vector 0000000000000200, ESR 0000000096000010, ELR 00000000800000"),
        "{report}"
    );
    assert!(report.ends_with(", FAR 0000000010002000"), "{report}");
    assert_eq!(vm.exits(), [(2, vec![0; 4])]);
}

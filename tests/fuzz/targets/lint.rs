//! The lint of a guest's devicetree: any bytes, and any change to a good tree. What it finds no error in the Resource Manager takes.
#![no_main]

use fake_gunyah::rm::read_vm_config;
use libfuzzer_sys::fuzz_target;
use vmm_adapter::fdt::lint::{Expect, Severity, lint};

fuzz_target!(|input: &[u8]| {
    let findings = lint(input, &Expect::default());
    for finding in &findings {
        assert!(finding.to_string().contains(finding.rule.code));
    }
    if findings.iter().all(|finding| finding.rule.severity != Severity::Error) {
        read_vm_config(input).unwrap();
    }
});

//! Whether Gunyah is below this kernel, and whether KVM is instead.

use std::fs::OpenOptions;

use super::super::Examination;
use super::super::finding::{Finding, Level};

pub(super) fn below(examination: &Examination) -> Finding {
    let machine = &examination.machine;
    let kvm = kvm(examination);
    let summary = match (machine.names_gunyah(), machine.hypervisor.is_empty()) {
        (true, _) => "the devicetree names Gunyah: this kernel runs under it",
        (false, false) => "the devicetree names another hypervisor",
        (false, true) if machine.arm64 => {
            "the devicetree names none. Gunyah can be there nonetheless: on PCs it says nothing"
        }
        (false, true) => "there is no devicetree",
    };
    let manager = machine.hypervisor.iter().any(|name| name.contains("resource-manager"));
    let mut finding = Finding::new("hypervisor", Level::Note, summary)
        .detail(kvm)
        .fact("compatible", machine.hypervisor.clone())
        .fact("kvm", kvm);
    if machine.names_gunyah() && !manager {
        finding = finding.detail(
            "there is no node of the Resource Manager: no host driver can find it, so no device node appears",
        );
    }
    finding
}

fn kvm(examination: &Examination) -> &'static str {
    if !examination.machine.kvm_node {
        return "there is no KVM";
    }
    if !examination.root.is_live() {
        return "there is a KVM node";
    }
    match OpenOptions::new().read(true).write(true).open(examination.root.path("dev/kvm")) {
        Ok(_) => "KVM opens",
        Err(_) => "there is a KVM node, which this user cannot open",
    }
}

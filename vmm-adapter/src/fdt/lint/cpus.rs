//! CPUs, how they are turned on, and who schedules them.

use std::collections::BTreeSet;

use super::blob::{Node, Tree};
use super::expect::Expect;
use super::{Findings, rules};

const METHODS: [&str; 2] = ["psci", "qcom,gunyah-hvc"];
const PSCI: [&str; 2] = ["arm,psci-1.0", "arm,psci-0.2"];

pub(super) fn check(tree: &Tree, config: Option<&Node>, expect: &Expect, findings: &mut Findings) {
    let mut path = "/cpus";
    if let Some(config) = config {
        match config.child("vcpus") {
            None => findings.node(&rules::NO_VCPUS, &config.path, "there is no node `vcpus` in it"),
            Some(vcpus) => {
                match vcpus.text("config") {
                    Some(elsewhere) => path = elsewhere,
                    None if vcpus.has("config") => {
                        findings.property(&rules::NO_CPU, vcpus, "config", "it is no path");
                    }
                    None => {}
                }
                match vcpus.text("affinity") {
                    Some("proxy") => {}
                    Some(other) => {
                        findings.property(&rules::NOT_PROXY, vcpus, "affinity", format!("{other:?}"));
                    }
                    None => findings.property(
                        &rules::NOT_PROXY,
                        vcpus,
                        "affinity",
                        "not there, which is \"static\"",
                    ),
                }
            }
        }
    }
    check_nodes(tree, path, expect, findings);
    check_psci(tree, findings);
}

fn check_nodes(tree: &Tree, path: &str, expect: &Expect, findings: &mut Findings) {
    let Some(node) = tree.at(path) else {
        findings.node(&rules::NO_CPU, path, "there is no such node");
        return;
    };
    let is_cpu = |node: &&Node| node.text("device_type") == Some("cpu");
    let cpus: Vec<&Node> = node.children.iter().filter(is_cpu).collect();
    if cpus.is_empty() {
        findings.node(&rules::NO_CPU, &node.path, "no node in it has device_type cpu");
        return;
    }
    let disabled = |cpu: &Node| cpu.text("status") == Some("disabled");
    let boot = cpus.iter().position(|cpu| !disabled(cpu));
    match boot {
        None => {
            findings.node(&rules::NO_BOOT_CPU, &node.path, format!("all {} CPUs are disabled", cpus.len()))
        }
        Some(0) => {}
        Some(id) => findings.node(&rules::BOOT_CPU_LATER, &node.path, format!("the boot CPU is vCPU {id}")),
    }
    let mut seen = BTreeSet::new();
    for (id, cpu) in cpus.iter().enumerate() {
        let method = cpu.text("enable-method");
        if Some(id) != boot && !method.is_some_and(|method| METHODS.contains(&method)) {
            let detail = method.map_or("not there".to_owned(), |method| format!("{method:?}"));
            findings.property(&rules::NO_ENABLE_METHOD, cpu, "enable-method", detail);
        }
        match cpu.number("reg") {
            Some(reg) if seen.insert(reg) => {}
            Some(reg) => findings.property(&rules::CPU_REG, cpu, "reg", format!("{reg:#x} stands twice")),
            None => findings.property(&rules::CPU_REG, cpu, "reg", "there is no such number"),
        }
    }
    if let Some(vcpus) = expect.vcpus {
        if usize::try_from(vcpus) != Ok(cpus.len()) {
            let detail = format!("{} CPUs, and the VMM adds {vcpus} vCPUs", cpus.len());
            findings.node(&rules::CPU_COUNT, &node.path, detail);
        }
    }
}

fn check_psci(tree: &Tree, findings: &mut Findings) {
    let Some(psci) = tree.root.children.iter().find(|node| node.is_compatible(&PSCI)) else {
        findings.node(&rules::NO_PSCI, "/", "no node is compatible with arm,psci-1.0 or arm,psci-0.2");
        return;
    };
    let method = psci.text("method");
    if method != Some("hvc") {
        findings.property(&rules::PSCI_METHOD, psci, "method", format!("{:?}", method.unwrap_or_default()));
    }
}

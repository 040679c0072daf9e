//! The lint example as a program.
#![cfg(feature = "gunyah")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unreachable_pub)]

#[path = "../examples/lint/cli.rs"]
#[allow(dead_code, reason = "its tests run here: cargo runs none of an example")]
mod cli;
mod common;
#[path = "lint_support/tree.rs"]
mod tree;

use std::path::PathBuf;
use std::process::{Command, Output};

use common::example;
use tree::{Node, cells, number, text};

fn lint(arguments: &[&str]) -> Output {
    Command::new(example("lint")).args(arguments).output().unwrap()
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("lint-{}-{name}", std::process::id()))
}

/// Writes a file that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = scratch(name);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_tree_of_microvm_has_no_finding() {
    let file = Scratch::new("microvm.dtb", b"");
    for cpus in ["1", "4"] {
        let made =
            Command::new(example("microvm")).args(["--dtb", file.path(), "--cpus", cpus]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let output = lint(&["--vcpus", cpus, file.path()]);
        assert_eq!((output.status.code(), printed(&output)), (Some(0), "No finding.\n".to_owned()));
    }
    let output = lint(&["--vcpus", "3", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        printed(&output).contains("error[cpu-count] /cpus: 4 CPUs, and the VMM adds 3 vCPUs"),
        "{output:?}"
    );
}

/// As another VMM writes it: a memory node with its address, and a doorbell that nobody may ring.
fn of_another_vmm() -> Vec<u8> {
    Node::new("")
        .with("interrupt-parent", cells(&[1]))
        .add(Node::new("memory@80000000").with("device_type", text("memory")))
        .add(
            Node::new("cpus")
                .add(Node::new("cpu@0").with("device_type", text("cpu")).with("reg", cells(&[0]))),
        )
        .add(
            Node::new("intc")
                .with("compatible", text("arm,gic-v3"))
                .with("#interrupt-cells", cells(&[3]))
                .with("interrupt-controller", Vec::new())
                .with("phandle", cells(&[1])),
        )
        .add(
            Node::new("gunyah-vm-config")
                .with("image-name", text("vm"))
                .add(
                    Node::new("memory")
                        .with("base-address", number(0x8000_0000))
                        .with("size-min", number(1 << 20))
                        .with("size-max", number(1 << 30)),
                )
                .add(Node::new("vcpus").with("affinity", text("proxy")))
                .add(
                    Node::new("vdevices").add(
                        Node::new("bell-4")
                            .with("vdevice-type", text("doorbell"))
                            .with("label", cells(&[4]))
                            .with("interrupts", cells(&[0, 4, 1])),
                    ),
                ),
        )
        .blob()
}

#[test]
fn another_vmms_tree_is_explained() {
    let file = Scratch::new("other.dtb", &of_another_vmm());
    let output = lint(&[file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let text = printed(&output);
    for words in [
        "error[memory-name] /memory@80000000 device_type: the node is called memory@80000000",
        "error[no-peer] /gunyah-vm-config/vdevices/bell-4 peer-default",
        "warning[no-psci] /",
        "fix: add the empty property peer-default",
        "errors: 2, warnings: 1",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }

    let output = lint(&["--json", "--line", "5:edge", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let codes: Vec<_> =
        json.as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["memory-name", "no-peer", "line-without-doorbell", "no-psci"]);
}

#[test]
fn what_cannot_be_checked_is_said() {
    let output = lint(&["/no/such/file.dtb"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("lint: /no/such/file.dtb: No such file"));
    assert_eq!(lint(&[]).status.code(), Some(2));
    assert_eq!(lint(&["--flavour", "v99", "x"]).status.code(), Some(2));
    let file = Scratch::new("text.dtb", b"this is no tree");
    let output = lint(&[file.path()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).starts_with("error[not-a-tree] /"));
}

#[test]
fn the_rules_are_listed() {
    let rules = vmm_adapter::fdt::lint::RULES;
    let text = printed(&lint(&["--rules"]));
    assert!(rules.len() >= 25 && rules.iter().all(|rule| text.contains(&format!("[{}]", rule.code))));
    let json: serde_json::Value = serde_json::from_slice(&lint(&["--rules", "--json"]).stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), rules.len());
}

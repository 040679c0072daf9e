//! Each rule of the lint by a tree that breaks it and no other, and trees that break none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

#[path = "lint_support/tree.rs"]
mod tree;

use std::collections::BTreeSet;

#[cfg(feature = "gunyah")]
use fake_gunyah::Fake;
use fake_gunyah::flavour::{Differences, Pinning};
use fake_gunyah::{Flavour, Host, rm};
use tree::{Node, cells, empty, number, text};
use vmm_adapter::fdt::lint::{Expect, ExpectedRegion, RULES, Severity, lint};
use vmm_adapter::{IrqLine, Sharing};

const RAM: u64 = 0x8000_0000;
const SIZE: u64 = 64 << 20;
const POOL: u64 = RAM + SIZE;
const POOL_SIZE: u64 = 4 << 20;

fn region(label: u32, addr: u64, size: u64, sharing: Sharing) -> ExpectedRegion {
    ExpectedRegion { label, addr, size, sharing }
}

/// What a VMM does that lends the main region and shares a second one.
fn expect() -> Expect {
    let mut expect = Expect::default();
    expect.regions =
        vec![region(0, RAM, SIZE, Sharing::Private), region(1, POOL, POOL_SIZE, Sharing::Shared)];
    expect.lines = vec![IrqLine::edge(0), IrqLine::level(5)];
    expect.vcpus = Some(2);
    expect.fdt = Some(RAM + SIZE - 0x4000);
    expect.entry = Some(RAM);
    expect
}

/// The tree that goes with it, without a finding.
fn good() -> Node {
    let bell = |label: u32, trigger: u32| {
        Node::new(&format!("bell-{label:x}"))
            .with("vdevice-type", text("doorbell"))
            .with("generate", text(&format!("/hypervisor/bell-{label:x}")))
            .with("label", cells(&[label]))
            .with("peer-default", empty())
            .with("interrupts", cells(&[0, label, trigger]))
    };
    let cpu = |id: u32| {
        Node::new(&format!("cpu@{id}"))
            .with("device_type", text("cpu"))
            .with("compatible", text("arm,armv8"))
            .with("enable-method", text("psci"))
            .with("reg", cells(&[id]))
    };
    let shm = Node::new("shm-1").with("vdevice-type", text("shm")).with("peer-default", empty()).add(
        Node::new("memory").with("label", cells(&[1])).with("base", number(POOL)).with("optional", empty()),
    );
    Node::new("")
        .with("#address-cells", cells(&[2]))
        .with("#size-cells", cells(&[2]))
        .with("interrupt-parent", cells(&[1]))
        .add(
            Node::new("chosen")
                .with("stdout-path", text("/serial@10000000:115200"))
                .with("linux,initrd-start", number(RAM + 0x100_0000))
                .with("linux,initrd-end", number(RAM + 0x110_0000)),
        )
        .add(
            Node::new("memory")
                .with("device_type", text("memory"))
                .with("reg", cells(&[0, RAM as u32, 0, SIZE as u32])),
        )
        .add(Node::new("cpus").with("#address-cells", cells(&[1])).add(cpu(0)).add(cpu(1)))
        .add(Node::new("psci").with("compatible", text("arm,psci-1.0")).with("method", text("hvc")))
        .add(
            Node::new("interrupt-controller@3fff0000")
                .with("compatible", text("arm,gic-v3"))
                .with("#interrupt-cells", cells(&[3]))
                .with("interrupt-controller", empty())
                .with("reg", cells(&[0, 0x3fff_0000, 0, 0x1_0000, 0, 0x3ffb_0000, 0, 0x4_0000]))
                .with("phandle", cells(&[1])),
        )
        .add(
            Node::new("timer")
                .with("compatible", text("arm,armv8-timer"))
                .with("interrupts", cells(&[1, 11, 0x108])),
        )
        .add(
            Node::new("serial@10000000")
                .with("compatible", text("ns16550a"))
                .with("reg", cells(&[0, 0x1000_0000, 0, 0x1000]))
                .with("interrupts", cells(&[0, 0, 1])),
        )
        .add(
            Node::new("virtio@10001000")
                .with("compatible", text("virtio,mmio"))
                .with("reg", cells(&[0, 0x1000_1000, 0, 0x1000]))
                .with("interrupts", cells(&[0, 5, 4]))
                .with("memory-region", cells(&[2])),
        )
        .add(
            Node::new("reserved-memory").add(
                Node::new("pool")
                    .with("compatible", text("restricted-dma-pool"))
                    .with("phandle", cells(&[2]))
                    .with("reg", cells(&[0, POOL as u32, 0, POOL_SIZE as u32])),
            ),
        )
        .add(
            Node::new("gunyah-vm-config")
                .with("image-name", text("guest"))
                .with("os-type", text("linux"))
                .add(
                    Node::new("memory")
                        .with("base-address", number(RAM))
                        .with("size-min", number(SIZE))
                        .with("size-max", number(SIZE + POOL_SIZE)),
                )
                .add(Node::new("interrupts").with("config", cells(&[1])))
                .add(Node::new("vcpus").with("affinity", text("proxy")))
                .add(
                    Node::new("vdevices")
                        .with("generate", text("/hypervisor"))
                        .add(bell(0, 1))
                        .add(bell(5, 4))
                        .add(shm),
                ),
        )
}

/// The blob, and as much room behind it as a good VMM leaves.
fn buffer(tree: &Node) -> Vec<u8> {
    let mut blob = tree.blob();
    blob.resize((blob.len() + 4096).next_multiple_of(4096), 0);
    blob
}

fn codes(buffer: &[u8], expect: &Expect) -> Vec<&'static str> {
    lint(buffer, expect).iter().map(|finding| finding.rule.code).collect()
}

type Break = fn(&mut Node, &mut Expect);

const CONFIG: &str = "gunyah-vm-config";
const MEMORY: &str = "gunyah-vm-config/memory";
const BELL: &str = "gunyah-vm-config/vdevices/bell-0";
const SHM: &str = "gunyah-vm-config/vdevices/shm-1";

/// A rule, and how to break it.
const CASES: &[(&str, Break)] = &[
    ("hypervisor-exists", |t, _| t.children.push(Node::new("hypervisor"))),
    ("memory-name", |t, _| t.at("memory").name = "memory@80000000".into()),
    ("root-cells", |t, _| t.set("#address-cells", cells(&[3]))),
    ("root-cells", |t, e| {
        t.set("#size-cells", cells(&[1]));
        e.regions.clear();
        for (name, size) in [("size-min", SIZE), ("size-max", 9 << 30)] {
            t.at(MEMORY).set(name, number(size));
        }
        t.at(MEMORY).set("size-min", number(8 << 30));
    }),
    ("no-config", |t, e| {
        t.remove(CONFIG);
        *e = Expect::default();
    }),
    ("two-configs", |t, _| {
        let mut second = t.at(CONFIG).clone();
        second.name = "qcom,vm-config".into();
        t.children.push(second);
    }),
    ("no-image-name", |t, _| t.at(CONFIG).set("image-name", text(""))),
    ("no-image-name", |t, _| t.at(CONFIG).set("image-name", b"guest".to_vec())),
    ("unknown-attribute", |t, _| {
        t.at(CONFIG).set("vm-attrs", [text("crash-fatal"), text("no-dtb-patch")].concat())
    }),
    ("no-memory", |t, _| t.remove(MEMORY)),
    ("no-base-address", |t, _| t.at(MEMORY).unset("base-address")),
    ("base-unaligned", |t, e| {
        t.at(MEMORY).set("base-address", number(0xffff_ffff_ffff_f000));
        e.regions.clear();
    }),
    ("base-unaligned", |t, e| {
        t.at(MEMORY).set("base-address", number(RAM + 8));
        e.regions.clear();
    }),
    ("base-rounded", |t, e| {
        t.at(MEMORY).set("base-address", number(RAM + 0x1000));
        e.regions.clear();
    }),
    ("base-moved", |t, _| {
        t.at(MEMORY).set("base-address", number(RAM - (2 << 20)));
        t.at(MEMORY).set("size-max", number(SIZE + POOL_SIZE + (2 << 20)));
    }),
    ("size-wrong", |t, _| t.at(MEMORY).set("size-min", number(SIZE + 5))),
    ("size-wrong", |t, _| t.at(MEMORY).set("size-min", number(2 * SIZE))),
    ("size-wrong", |t, _| t.at(MEMORY).set("size-min", vec![1, 2, 3])),
    ("no-size", |t, _| t.at(MEMORY).unset("size-min")),
    ("outside-window", |t, _| t.at(MEMORY).set("size-max", number(SIZE))),
    ("firmware-half", |t, _| t.at(MEMORY).set("firmware-address", number(RAM - 0x40_0000))),
    ("firmware-half", |t, _| t.at(MEMORY).set("firmware-size-max", number(0x40_0000))),
    ("firmware-wrong", |t, _| {
        t.at(MEMORY).set("firmware-address", number(RAM - 0x40_0000));
        t.at(MEMORY).set("firmware-size-max", number(0x40_0000 - 1));
    }),
    ("firmware-overlaps", |t, _| {
        t.at(MEMORY).set("firmware-address", number(RAM));
        t.at(MEMORY).set("firmware-size-max", number(0x40_0000));
    }),
    ("no-firmware", |_, e| e.firmware = true),
    ("no-vcpus", |t, _| t.remove("gunyah-vm-config/vcpus")),
    ("not-proxy", |t, _| t.at("gunyah-vm-config/vcpus").set("affinity", text("static"))),
    ("not-proxy", |t, _| t.at("gunyah-vm-config/vcpus").unset("affinity")),
    ("no-cpu", |t, _| t.remove("cpus")),
    ("no-cpu", |t, _| t.at("cpus").children.clear()),
    ("no-cpu", |t, _| t.at("gunyah-vm-config/vcpus").set("config", text("/processors"))),
    ("no-cpu", |t, _| t.at("gunyah-vm-config/vcpus").set("config", cells(&[0]))),
    ("no-boot-cpu", |t, _| {
        t.at("cpus/cpu@0").set("status", text("disabled"));
        t.at("cpus/cpu@1").set("status", text("disabled"));
    }),
    ("boot-cpu-later", |t, _| t.at("cpus/cpu@0").set("status", text("disabled"))),
    ("no-enable-method", |t, _| t.at("cpus/cpu@1").unset("enable-method")),
    ("no-enable-method", |t, _| t.at("cpus/cpu@1").set("enable-method", text("spin-table"))),
    ("cpu-count", |_, e| e.vcpus = Some(3)),
    ("cpu-reg", |t, _| t.at("cpus/cpu@1").set("reg", cells(&[0]))),
    ("cpu-reg", |t, _| t.at("cpus/cpu@1").unset("reg")),
    ("no-psci", |t, _| t.remove("psci")),
    ("psci-method", |t, _| t.at("psci").set("method", text("smc"))),
    ("no-gic", |t, _| {
        t.unset("interrupt-parent");
        t.remove("gunyah-vm-config/interrupts");
    }),
    ("gic-dangles", |t, _| t.at("gunyah-vm-config/interrupts").set("config", cells(&[9]))),
    ("gic-dangles", |t, _| t.at("gunyah-vm-config/interrupts").set("config", text("/intc"))),
    ("gic-kind", |t, _| t.at("interrupt-controller@3fff0000").set("compatible", text("arm,gic-400"))),
    ("gic-kind", |t, _| t.at("interrupt-controller@3fff0000").set("#interrupt-cells", cells(&[1]))),
    ("gic-kind", |t, _| t.at("interrupt-controller@3fff0000").unset("interrupt-controller")),
    ("gic-in-memory", |t, _| {
        t.at("interrupt-controller@3fff0000").set("reg", cells(&[0, RAM as u32, 0, 0x1_0000]));
    }),
    ("vdevice-type", |t, _| {
        let odd = Node::new("odd").with("vdevice-type", text("teapot"));
        t.at("gunyah-vm-config/vdevices").children.push(odd);
    }),
    ("vdevice-type", |t, _| t.at("gunyah-vm-config/vdevices").children.push(Node::new("odd"))),
    ("no-label", |t, e| {
        t.at(BELL).unset("label");
        e.lines.remove(0);
    }),
    ("label-twice", |t, e| {
        t.at("gunyah-vm-config/vdevices/bell-5").set("label", cells(&[0]));
        e.lines.remove(1);
    }),
    ("no-peer", |t, _| t.at(BELL).unset("peer-default")),
    ("no-interrupt", |t, _| {
        t.at(BELL).unset("interrupts");
        t.at("serial@10000000").unset("interrupts");
    }),
    ("bad-interrupt", |t, _| {
        t.at(BELL).set("interrupts", cells(&[0, 988, 1]));
        t.at("serial@10000000").unset("interrupts");
    }),
    ("bad-interrupt", |t, _| {
        t.at(BELL).set("interrupts", cells(&[1, 2, 1]));
        t.at("serial@10000000").unset("interrupts");
    }),
    ("bad-interrupt", |t, _| {
        t.at(BELL).set("interrupts", cells(&[0, 0, 0]));
        t.at("serial@10000000").unset("interrupts");
    }),
    ("bad-trigger", |t, e| {
        t.at(BELL).set("interrupts", cells(&[0, 0, 2]));
        t.at("serial@10000000").unset("interrupts");
        e.lines.remove(0);
    }),
    ("interrupt-twice", |t, _| {
        t.at("gunyah-vm-config/vdevices/bell-5").set("interrupts", cells(&[0, 0, 4]));
        t.at("virtio@10001000").unset("interrupts");
    }),
    ("line-without-doorbell", |_, e| e.lines.push(IrqLine::edge(7))),
    ("trigger-differs", |_, e| e.lines[0] = IrqLine::level(0)),
    ("device-without-doorbell", |t, _| t.at("serial@10000000").set("interrupts", cells(&[0, 3, 1]))),
    ("device-trigger", |t, _| t.at("serial@10000000").set("interrupts", cells(&[0, 0, 4]))),
    ("device-in-memory", |t, _| t.at("serial@10000000").set("reg", cells(&[0, RAM as u32, 0, 0x1000]))),
    ("device-high", |t, _| t.at("serial@10000000").set("reg", cells(&[0, 0x4000_0000, 0, 0x1000]))),
    ("no-shm-memory", |t, e| {
        t.at(SHM).children.clear();
        e.regions.truncate(1);
        t.remove("reserved-memory");
        t.remove("virtio@10001000");
    }),
    ("device-without-pool", |t, _| t.at("virtio@10001000").unset("memory-region")),
    ("device-without-pool", |t, _| t.at("virtio@10001000").set("memory-region", cells(&[9]))),
    ("device-without-pool", |t, _| t.at("virtio@10001000").set("memory-region", cells(&[1]))),
    ("device-without-pool", |t, _| {
        // Behind a bus, and nobody told the regions.
        let mut pci = t.at("virtio@10001000").clone();
        pci.set("compatible", text("pci-host-cam-generic"));
        pci.unset("memory-region");
        t.children.push(Node::new("soc").add(pci));
    }),
    ("reserved-without-parcel", |t, _| {
        let fence = Node::new("fence").with("reg", cells(&[0, RAM as u32, 0, 0x20_0000]));
        t.at("reserved-memory").children.push(fence);
    }),
    ("parcel-not-reserved", |t, e| {
        e.regions.push(region(2, POOL + POOL_SIZE, POOL_SIZE, Sharing::Shared));
        t.at(MEMORY).set("size-max", number(SIZE + 2 * POOL_SIZE));
        let mut shm = t.at(SHM).clone();
        shm.name = "shm-2".into();
        shm.at("memory").set("label", cells(&[2]));
        t.at("gunyah-vm-config/vdevices").children.push(shm);
    }),
    ("shm-base", |t, _| t.at(SHM).at("memory").set("base", cells(&[1]))),
    ("shm-not-optional", |t, _| t.at(SHM).at("memory").unset("optional")),
    ("shared-without-shm", |t, _| t.remove(SHM)),
    ("fdt-outside-memory", |_, e| e.fdt = Some(0x1000)),
    ("entry-outside-image", |_, e| e.entry = Some(POOL)),
    ("entry-not-first", |_, e| e.entry = Some(RAM + 0x1000)),
    ("image-shared", |_, e| e.regions[0].sharing = Sharing::Shared),
    ("label-not-zero", |_, e| e.regions[0].label = 7),
    ("initrd-outside-memory", |t, _| t.at("chosen").set("linux,initrd-end", number(POOL + 2 * POOL_SIZE))),
    ("initrd-outside-memory", |t, _| t.at("chosen").set("linux,initrd-end", number(RAM))),
    // The shared region is not reserved then, either, which nobody but android14's hosts minds.
    ("no-dma-pool", |t, e| {
        t.remove("reserved-memory");
        e.flavour = Some("android16".into());
    }),
    ("dma-pool-not-shared", |t, e| {
        e.flavour = Some("android16".into());
        t.at("reserved-memory/pool").set("reg", cells(&[0, RAM as u32, 0, POOL_SIZE as u32]));
    }),
    ("stdout-dangles", |t, _| t.at("chosen").set("stdout-path", text("serial0"))),
];

#[test]
fn a_good_tree_has_no_finding() {
    assert_eq!(lint(&buffer(&good()), &expect()), []);
    // Alone, too, and as a file without room behind it.
    assert_eq!(lint(&good().blob(), &Expect::default()), []);
}

#[test]
fn each_rule_is_broken_by_a_tree_that_breaks_no_other() {
    let mut seen = BTreeSet::new();
    for (number, &(code, broken)) in CASES.iter().enumerate() {
        let (mut tree, mut expect) = (good(), expect());
        broken(&mut tree, &mut expect);
        let found = lint(&buffer(&tree), &expect);
        let codes: Vec<_> = found.iter().map(|finding| finding.rule.code).collect();
        assert_eq!(codes, [code], "case {number}: {found:#?}");
        let text = found[0].to_string();
        assert!(text.contains(code) && text.contains(&found[0].node) && text.contains("fix: "), "{text}");
        seen.insert(code);
    }
    // These concern the blob, or need a second finding; they have tests of their own.
    let others =
        ["not-a-tree", "truncated", "malformed", "no-room", "too-big", "whole-pages", "shm-without-region"];
    let known: BTreeSet<_> = RULES.iter().map(|rule| rule.code).collect();
    assert_eq!(known.len(), RULES.len(), "a code stands twice");
    let tested: BTreeSet<_> = seen.into_iter().chain(others).collect();
    assert_eq!(known, tested);
}

#[test]
fn the_blob_itself() {
    let good = good();
    let expect = expect();
    assert_eq!(codes(b"", &expect), ["not-a-tree"]);
    assert_eq!(codes(&[0; 100], &expect), ["not-a-tree"]);
    let blob = good.blob();
    assert_eq!(codes(&blob[..blob.len() - 1], &expect), ["truncated"]);
    let mut old = blob.clone();
    old[23] = 15;
    assert_eq!(codes(&old, &expect), ["malformed"]);
    let mut bare = blob.clone();
    bare.resize(bare.len().next_multiple_of(4096), 0);
    assert_eq!(codes(&bare, &expect), ["no-room"]);
    let mut odd = blob.clone();
    odd.resize(odd.len() + 4097, 0);
    odd.resize(odd.len() | 1, 0);
    assert_eq!(codes(&odd, &expect), ["whole-pages"]);
    let mut big = good;
    big.set("ballast", vec![0; 16 << 10]);
    assert_eq!(codes(&buffer(&big), &expect), ["too-big"]);
}

#[test]
fn firmware_must_not_be_where_the_image_is_moved_to() {
    let mut tree = good();
    tree.at(MEMORY).set("base-address", number(RAM - 0x1000));
    tree.at(MEMORY).set("size-min", number(0x20_0000));
    tree.at(MEMORY).set("size-max", number(0x20_0000));
    tree.at(MEMORY).set("firmware-address", number(RAM + 0x1f_f000));
    tree.at(MEMORY).set("firmware-size-max", number(0x1000));
    let found = codes(&buffer(&tree), &Expect::default());
    assert_eq!(found, ["firmware-overlaps", "base-rounded"]);
    assert!(rm::read_vm_config(&buffer(&tree)).is_err());
}

#[test]
fn a_shared_parcel_must_be_there() {
    let (mut tree, mut expect) = (good(), expect());
    tree.at(SHM).at("memory").unset("optional");
    tree.at(SHM).at("memory").set("label", cells(&[9]));
    expect.flavour = Some("android14".into());
    assert_eq!(codes(&buffer(&tree), &expect), ["shm-without-region", "shared-without-shm"]);
}

/// A warning where the host is not known is an error where the start is refused, and says so.
#[test]
fn what_is_refused_is_an_error_there() {
    let (mut tree, mut expect) = (good(), expect());
    tree.remove(SHM);
    for (flavour, severity) in [
        (None, Severity::Warning),
        (Some("android14"), Severity::Error),
        (Some("open-2023"), Severity::Error),
        (Some("android16"), Severity::Warning),
    ] {
        expect.flavour = flavour.map(str::to_owned);
        let found = lint(&buffer(&tree), &expect);
        assert_eq!((found[0].rule.code, found[0].severity), ("shared-without-shm", severity), "{flavour:?}");
        let text = found[0].to_string();
        assert!(text.starts_with(&format!("{severity}[shared-without-shm]")), "{text}");
        assert_eq!(text.contains("an error on android14-early"), severity == Severity::Warning, "{text}");
    }
}

#[test]
fn a_main_region_that_is_reserved_must_fit_there() {
    let (mut tree, mut expect) = (good(), expect());
    expect.regions[0].label = 7;
    assert_eq!(codes(&buffer(&tree), &expect), ["label-not-zero"]);
    let reserved = tree.at("reserved-memory");
    reserved.set("ranges", empty());
    reserved.set("#size-cells", cells(&[0]));
    assert_eq!(codes(&buffer(&tree), &expect), ["root-cells", "label-not-zero"]);
}

#[test]
fn room_is_wanted_for_each_doorbell() {
    let mut tree = good();
    for label in 0x100..0x128 {
        let mut bell = tree.at(BELL).clone();
        bell.name = format!("bell-{label:x}");
        bell.set("generate", text(&format!("/hypervisor/bell-{label:x}")));
        bell.set("label", cells(&[label]));
        bell.set("interrupts", cells(&[0, label, 1]));
        tree.at("gunyah-vm-config/vdevices").children.push(bell);
    }
    let mut blob = tree.blob();
    // A page and up to another one is left, and more is wanted.
    let page = blob.len().next_multiple_of(4096);
    blob.resize(page + 4096, 0);
    assert_eq!(codes(&blob, &expect()), ["no-room"]);
    blob.resize(page + 4 * 4096, 0);
    assert_eq!(codes(&blob, &expect()), [""; 0]);
}

#[test]
fn findings_of_other_flavours_are_left_out() {
    let (mut tree, mut expect) = (good(), expect());
    tree.at(SHM).at("memory").unset("optional");
    expect.entry = Some(RAM + 0x1000);
    for (flavour, expected) in [
        (None, &["entry-not-first", "shm-not-optional"][..]),
        (Some("android14"), &["entry-not-first"]),
        (Some("android16"), &["shm-not-optional"]),
        (Some("v17"), &["shm-not-optional"]),
        (Some("v11"), &["entry-not-first"]),
        (Some("open-2023"), &["entry-not-first"]),
    ] {
        expect.flavour = flavour.map(str::to_owned);
        assert_eq!(codes(&buffer(&tree), &expect), expected, "{flavour:?}");
    }
}

#[test]
fn no_bytes_make_it_panic() {
    let blob = buffer(&good());
    // Every byte of the header and of the structure, changed in several ways, and every length.
    for at in 0..2600 {
        for value in [0, 1, 4, 9, 0x7f, 0xff] {
            let mut bytes = blob.clone();
            bytes[at] = value;
            let _ = lint(&bytes, &expect());
        }
        let _ = lint(&blob[..at], &expect());
    }
    // A node in a node in a node ...
    let mut deep: Vec<u8> = cells(&[1, 0]);
    for _ in 0..200 {
        deep.extend(cells(&[1, 0x7800_0000]));
    }
    let words = [0xd00d_feed, 40 + deep.len() as u32, 40, 40, 40, 17, 16, 0, 0, deep.len() as u32];
    let deep = [cells(&words), deep].concat();
    let found = lint(&deep, &expect());
    assert!(found.len() == 1 && found[0].detail.contains("64 nodes deep"), "{found:?}");
}

/// A tree with nothing in it but what `structure` says, and these strings.
fn raw(structure: &[u8], strings: &[u8]) -> Vec<u8> {
    let (structure_len, strings_len) = (structure.len() as u32, strings.len() as u32);
    let strings_at = 40 + structure_len;
    let total = strings_at + strings_len;
    let header = cells(&[0xd00d_feed, total, 40, strings_at, 40, 17, 16, 0, strings_len, structure_len]);
    [&header, structure, strings].concat()
}

fn begin(name: &[u8]) -> Vec<u8> {
    let mut bytes = [&cells(&[1])[..], name, &[0]].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Names that many nodes or properties share must not cost memory for each.
#[test]
fn a_small_tree_does_not_cost_much_memory() {
    let why = |blob: &[u8]| {
        let found = lint(blob, &Expect::default());
        assert_eq!(found[0].rule.code, "malformed");
        found[0].detail.clone()
    };
    let long = |len: usize| vec![b'n'; len];
    let ends = |count: usize| cells(&[2]).repeat(count);
    let node = |name: usize| raw(&[begin(b""), begin(&long(name)), ends(2), cells(&[9])].concat(), b"");
    assert_ne!(lint(&node(255), &Expect::default())[0].rule.code, "malformed");
    assert!(why(&node(256)).contains("at most 255 bytes"));
    // A property without a value, whose name is long.
    let property = |name: usize| {
        let structure = [begin(b""), cells(&[3, 0, 0]), ends(1), cells(&[9])].concat();
        raw(&structure, &[long(name), vec![0]].concat())
    };
    assert_ne!(lint(&property(255), &Expect::default())[0].rule.code, "malformed");
    assert!(why(&property(256)).contains("at most 255 bytes"));

    // 16 KiB of names above, and a thousand nodes of a few bytes below.
    let above = begin(&long(255)).repeat(60);
    let below = [begin(b"x"), ends(1)].concat();
    let many =
        |count: usize| [begin(b""), above.clone(), below.repeat(count), ends(61), cells(&[9])].concat();
    assert_ne!(lint(&raw(&many(100), b""), &Expect::default())[0].rule.code, "malformed");
    assert!(why(&raw(&many(1000), b"")).contains("the paths of its nodes"));

    let empty = [begin(b""), cells(&[3, 0, 0]).repeat(20_000), ends(1), cells(&[9])].concat();
    assert!(why(&raw(&empty, b"p\0")).contains("more than 20000 nodes and properties"));
}

/// One property can break a rule thousands of times, and details show what stands in the tree.
#[test]
fn findings_do_not_flood() {
    let (mut tree, expect) = (good(), expect());
    tree.at("serial@10000000").set("interrupts", cells(&[0, 7, 1]).repeat(50_000));
    tree.at(BELL).set("interrupts", cells(&[1]).repeat(50_000));
    tree.at("virtio@10001000").set("memory-region", cells(&[9]).repeat(50_000));
    let found = lint(&buffer(&tree), &expect);
    let count = |code| found.iter().filter(|finding| finding.rule.code == code).count();
    assert_eq!((count("device-without-doorbell"), count("bad-interrupt")), (100, 1));
    assert_eq!(count("device-without-pool"), 1);
    assert!(found.iter().all(|finding| finding.detail.len() < 1100), "{found:#?}");
}

#[test]
fn errors_come_first() {
    let (mut tree, mut expect) = (good(), expect());
    tree.remove("psci");
    expect.vcpus = Some(3);
    let found = lint(&buffer(&tree), &expect);
    let severities: Vec<_> = found.iter().map(|finding| finding.rule.severity).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning]);
}

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

/// Some node of the tree.
fn any_node<'t>(tree: &'t mut Node, random: &mut Random) -> &'t mut Node {
    let mut node = tree;
    while !node.children.is_empty() && random.below(4) > 0 {
        let n = random.below(node.children.len());
        node = &mut node.children[n];
    }
    node
}

fn spoil(tree: &mut Node, random: &mut Random) {
    let name = |random: &mut Random| {
        let names = ["memory", "vcpus", "cpus", "hypervisor", "gunyah-vm-config", "bell-0", "x"];
        names[random.below(names.len())].to_owned()
    };
    let node = any_node(tree, random);
    let properties = node.properties.len();
    match random.below(6) {
        0 if properties > 0 => drop(node.properties.remove(random.below(properties))),
        1 if !node.children.is_empty() => drop(node.children.remove(random.below(node.children.len()))),
        2 if properties > 0 => {
            let value = (0..random.below(17)).map(|_| random.below(256) as u8).collect();
            node.properties[random.below(properties)].1 = value;
        }
        3 if properties > 0 => {
            let value = &mut node.properties[random.below(properties)].1;
            if let Some(at) = value.len().checked_sub(1) {
                let at = random.below(at + 1);
                value[at] ^= 1 << random.below(8);
            }
        }
        4 if !node.children.is_empty() => {
            let mut copy = node.children[random.below(node.children.len())].clone();
            if random.below(2) == 0 {
                copy.name = format!("{}x", copy.name);
            }
            node.children.push(copy);
        }
        5 if !node.children.is_empty() => {
            let n = random.below(node.children.len());
            node.children[n].name = name(random);
        }
        _ => {}
    }
}

/// The lint and the fake Resource Manager have their rules from the same facts and no code in common. What the Resource Manager
/// refuses must have a finding that is an error: so what the lint lets through starts.
#[test]
fn what_the_resource_manager_refuses_has_a_finding() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut refused, mut accepted) = (0, 0);
    for number in 0..20_000 {
        let mut tree = good();
        for _ in 0..=random.below(3) {
            spoil(&mut tree, &mut random);
        }
        let buffer = buffer(&tree);
        let errors = errors(&buffer, &Expect::default());
        match rm::read_vm_config(&buffer) {
            Ok(_) => accepted += u32::from(errors.is_empty()),
            Err(error) => {
                refused += 1;
                assert!(!errors.is_empty(), "tree {number}: {error}\n{tree:#?}");
            }
        }
    }
    println!("{refused} trees refused, all with a finding; {accepted} accepted by both");
    assert!(refused > 1000 && accepted > 1000);
}

fn errors(buffer: &[u8], expect: &Expect) -> Vec<&'static str> {
    let found = lint(buffer, expect).into_iter().filter(|finding| finding.severity == Severity::Error);
    found.map(|finding| finding.rule.code).collect()
}

/// The flavours and hosts that can run guests, with what they do.
fn hosts() -> Vec<(&'static str, Differences)> {
    let flavours = Flavour::ALL.into_iter().filter(|flavour| *flavour != Flavour::Vendor);
    let flavours = flavours.map(|flavour| (flavour.name(), flavour.differences()));
    flavours.chain(Host::ALL.map(|host| (host.name(), host.differences()))).collect()
}

fn lends(host: &Differences) -> bool {
    host.lend || host.guest_memory
}

/// The memory of a VM as this host's kernel hands it to the Resource Manager.
fn parcels(host: &Differences, expect: &Expect) -> Vec<rm::Parcel> {
    let labels = host.user_memory && host.pinning != Pinning::OnDemand;
    let parcel = |region: &ExpectedRegion| rm::Parcel {
        label: labels.then_some(region.label),
        range: rm::Range { address: region.addr, size: region.size },
        lent: region.sharing == Sharing::Private,
        image: (region.addr..region.addr + region.size).contains(&expect.fdt.unwrap()),
    };
    expect.regions.iter().map(parcel).collect()
}

/// Why a start of this VM fails on this host, if it does.
fn refusal(host: &Differences, buffer: &[u8], expect: &Expect) -> Option<String> {
    let parcels = parcels(host, expect);
    if !host.user_memory && host.shared_dtb_fails && parcels.iter().any(|parcel| parcel.image && !parcel.lent)
    {
        return Some("the kernel: the devicetree is in a file that is shared".to_owned());
    }
    let resource_manager = || {
        let vm = rm::read_vm_config(buffer)?;
        rm::check_parcels(&vm, &parcels, host.rm_takes_shared_image)?;
        rm::write_overlay(buffer, &vm, &parcels, host.rm_largest_tree)
    };
    resource_manager().err().map(|error| error.to_string())
}

/// A VM of random memory, and a tree with random faults, on a random host.
fn any_vm(host: &Differences, random: &mut Random) -> (Vec<u8>, Expect) {
    let (mut tree, mut expect) = (good(), expect());
    expect.entry = None;
    if !lends(host) || random.below(4) == 0 {
        expect.regions[0].sharing = Sharing::Shared;
    }
    match random.below(8) {
        0 => expect.regions[0].label = 7,
        1 => drop(expect.regions.pop()),
        2 => expect.regions[1].label = 2,
        3 => expect.regions[1].sharing = expect.regions[0].sharing,
        4 => tree.at(SHM).at("memory").unset("optional"),
        5 => tree.remove(SHM),
        _ => {}
    }
    for _ in 0..random.below(3) {
        spoil(&mut tree, random);
    }
    if random.below(4) == 0 {
        tree.properties.push(("ballast".into(), vec![0; random.below(18 << 10)]));
    }
    if random.below(8) == 0 {
        let vdevices = tree.children.iter_mut().filter(|node| node.name == CONFIG);
        let vdevices = vdevices.flat_map(|config| &mut config.children);
        for vdevices in vdevices.filter(|node| node.name == "vdevices") {
            for label in 0x100..0x100 + random.below(60) as u32 {
                let mut bell = good().at(BELL).clone();
                bell.name = format!("bell-{label:x}");
                bell.set("generate", text(&format!("/hypervisor/bell-{label:x}")));
                bell.set("label", cells(&[label]));
                bell.set("interrupts", cells(&[0, label, 1]));
                vdevices.children.push(bell);
            }
        }
    }
    let mut buffer = tree.blob();
    let room = [0, 0x800, 0x1000, 0x2000, 0x4000][random.below(5)];
    buffer.resize((buffer.len() + room).next_multiple_of(4096), 0);
    (buffer, expect)
}

/// On each host what it refuses has a finding that is an error there, the whole start considered: the reading of the tree, the
/// memory that comes with it, and the room for what is added.
#[test]
fn what_a_host_refuses_has_an_error_there() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (name, host) in hosts() {
        let (mut refused, mut accepted) = (0, 0);
        for number in 0..1500 {
            let (buffer, mut expect) = any_vm(&host, &mut random);
            expect.flavour = Some(name.to_owned());
            let errors = errors(&buffer, &expect);
            match refusal(&host, &buffer, &expect) {
                None => accepted += u32::from(errors.is_empty()),
                Some(why) => {
                    refused += 1;
                    let all = lint(&buffer, &expect);
                    assert!(
                        !errors.is_empty(),
                        "{name}, VM {number}: {why}\n{:#?}\n{all:#?}",
                        expect.regions
                    );
                }
            }
        }
        println!("{name}: {refused} VMs refused, all with an error; {accepted} accepted by both");
        assert!(refused > 150 && accepted > 150, "{name}: {refused} {accepted}");
    }
}

/// Those without an error do start, in the fake kernel as well.
#[cfg(feature = "gunyah")]
#[test]
fn what_has_no_error_starts() {
    use vm_memory::GuestAddress;
    use vmm_adapter::gunyah::Gunyah;
    use vmm_adapter::{BootContext, Hypervisor, VmConfig, VmKind};

    let mut random = Random(0x0123_4567_89ab_cdef);
    let fakes = Flavour::ALL.into_iter().filter(|flavour| *flavour != Flavour::Vendor);
    let fakes =
        fakes.map(|flavour| (flavour.name(), flavour.differences(), Fake::builder().flavour(flavour)));
    let hosts = Host::ALL.map(|host| (host.name(), host.differences(), Fake::builder().host(host)));
    for (name, host, fake) in fakes.chain(hosts) {
        let fake = fake.build().unwrap();
        fake.run(|_| {
            let gunyah = Gunyah::open().unwrap();
            let mut started = 0;
            while started < 25 {
                let (buffer, mut expect) = any_vm(&host, &mut random);
                expect.flavour = Some(name.to_owned());
                let [main, pool] = expect.regions[..] else { continue };
                let labels = (main.label, pool.label) == (0, 1);
                let is_plain = main.sharing == Sharing::Shared;
                if !labels || !errors(&buffer, &expect).is_empty() {
                    continue;
                }
                let kind = if is_plain { VmKind::Plain } else { VmKind::Protected };
                // Plain VMs that start, and of which nobody promises that they run.
                let Ok(vm) = gunyah.create_vm(&VmConfig::new(2).with_kind(kind)) else { continue };
                let ram = vm.allocate(GuestAddress(main.addr), main.size, main.sharing).unwrap();
                vm.allocate(GuestAddress(pool.addr), pool.size, pool.sharing).unwrap();
                let fdt = GuestAddress(RAM + SIZE - 0x1_0000);
                ram.write(fdt, &buffer).unwrap();
                let _vcpus = [0, 1].map(|id| vm.create_vcpu(id).unwrap());
                let boot = BootContext { entry: GuestAddress(RAM), fdt, fdt_size: buffer.len() as u64 };
                vm.start(&boot).unwrap_or_else(|error| panic!("{name}: {}", error.chain()));
                started += 1;
            }
        })
        .unwrap();
    }
}

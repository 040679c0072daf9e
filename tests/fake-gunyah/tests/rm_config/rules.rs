//! One property or node changed at a time.

use fake_gunyah::rm::{Affinity, Interrupt, Range, Trigger, VmDescription};

use crate::after;
use crate::tree::{Tree, text, wide, words};

/// What is expected of the changed tree.
#[derive(Clone, Copy)]
enum Want {
    /// VM_START works, without a warning.
    Starts,
    /// VM_START works, with one warning that has this in it.
    Warns(&'static str),
    /// VM_START fails with this errno; the reason has this in it.
    Fails(i32, &'static str),
}
use Want::{Fails, Starts, Warns};

type Change = fn(&mut Tree);
type Row = (&'static str, Change, Want);

fn check(table: &[Row]) {
    for (what, change, want) in table {
        let got = after(change);
        match (want, &got) {
            (Starts, Ok(vm)) => assert_eq!(vm.warnings, Vec::<String>::new(), "{what}"),
            (Warns(part), Ok(vm)) => {
                assert_eq!(vm.warnings.len(), 1, "{what}: {:?}", vm.warnings);
                assert!(vm.warnings[0].contains(part), "{what}: {:?}", vm.warnings);
            }
            (Fails(errno, part), Err(error)) => {
                assert_eq!(error.error.errno(), *errno, "{what}: {error}");
                assert!(error.why.contains(part), "{what}: {error}");
            }
            _ => panic!("{what}: {got:?}"),
        }
    }
}

const CONFIG: &str = "gunyah-vm-config";
const MEMORY: &str = "gunyah-vm-config/memory";
const VCPUS: &str = "gunyah-vm-config/vcpus";
const INTERRUPTS: &str = "gunyah-vm-config/interrupts";
const BELL: &str = "gunyah-vm-config/vdevices/bell-21";
const SHM: &str = "gunyah-vm-config/vdevices/shm-5";
const INTC: &str = "intc@3fff0000";

/// The outcomes that were observed with the open Resource Manager.
#[test]
fn what_was_seen() {
    check(&[
        ("no gunyah-vm-config", |t| t.remove(CONFIG), Fails(libc::ENODEV, "gunyah-vm-config")),
        ("no image-name", |t| t.unset(CONFIG, "image-name"), Fails(libc::EINVAL, "image-name")),
        ("no os-type", |t| t.unset(CONFIG, "os-type"), Starts),
        ("no size-max", |t| t.unset(MEMORY, "size-max"), Starts),
        (
            "no cells in memory",
            |t| {
                t.unset(MEMORY, "#address-cells");
                t.unset(MEMORY, "#size-cells");
            },
            Starts,
        ),
        ("no vdevices", |t| t.remove("gunyah-vm-config/vdevices"), Starts),
        ("vdevices without generate", |t| t.unset("gunyah-vm-config/vdevices", "generate"), Starts),
        ("no interrupts node", |t| t.remove(INTERRUPTS), Starts),
        ("interrupts config as a path", |t| t.set(INTERRUPTS, "config", text("/intc@3fff0000")), Starts),
        ("no vcpus node", |t| t.remove(VCPUS), Fails(libc::ENODEV, "vcpus")),
        ("no memory in gunyah-vm-config", |t| t.remove(MEMORY), Fails(libc::ENODEV, "memory")),
        ("no /memory at the root", |t| t.remove("memory"), Starts),
        (
            "memory@80000000",
            |t| t.at("memory").name = "memory@80000000".to_owned(),
            Fails(libc::EINVAL, "/memory@80000000"),
        ),
        ("no /psci", |t| t.remove("psci"), Warns("no PSCI")),
        ("no timer node", |t| t.remove("timer"), Starts),
        ("another base-address", |t| t.set(MEMORY, "base-address", wide(0x4_0000_0000)), Starts),
        (
            "base-address not aligned to 2 MiB",
            |t| t.set(MEMORY, "base-address", wide(0x8000_1000)),
            Warns("becomes 0x80200000"),
        ),
    ]);
}

#[test]
fn the_config_node() {
    check(&[
        ("the older name", |t| t.at(CONFIG).name = "qcom,vm-config".to_owned(), Starts),
        (
            "a name that only begins alike",
            |t| t.at(CONFIG).name = "gunyah-vm-config2".to_owned(),
            Fails(libc::ENODEV, ""),
        ),
        ("a unit address", |t| t.at(CONFIG).name = "gunyah-vm-config@0".to_owned(), Fails(libc::ENODEV, "")),
        (
            "not at the root",
            |t| {
                let config = t.at(CONFIG).clone();
                t.remove(CONFIG);
                t.at("chosen").children.push(config);
            },
            Fails(libc::ENODEV, "no VM is described"),
        ),
        ("both names", |t| t.children.push(Tree::new("qcom,vm-config")), Warns("/qcom,vm-config is ignored")),
        ("an empty image-name", |t| t.set(CONFIG, "image-name", text("")), Fails(libc::EINVAL, "image-name")),
        (
            "an image-name without its NUL",
            |t| t.set(CONFIG, "image-name", b"vm".to_vec()),
            Fails(libc::EINVAL, "image-name"),
        ),
        (
            "an image-name that is a list",
            |t| t.set(CONFIG, "image-name", b"a\0b\0".to_vec()),
            Fails(libc::EINVAL, "image-name"),
        ),
        ("known attributes", |t| t.set(CONFIG, "vm-attrs", b"crash-fatal\0no-reset\0".to_vec()), Starts),
        ("an unknown attribute", |t| t.set(CONFIG, "vm-attrs", text("no-dtb-patch")), Warns("no-dtb-patch")),
        (
            "/hypervisor exists",
            |t| t.children.push(Tree::new("hypervisor")),
            Fails(libc::EINVAL, "/hypervisor"),
        ),
        ("a hypervisor node elsewhere", |t| t.at("chosen").children.push(Tree::new("hypervisor")), Starts),
        (
            "a misnamed memory node deep in the tree",
            |t| t.at("chosen").children.push(Tree::new("memory@0").with("device_type", text("memory"))),
            Fails(libc::EINVAL, "/chosen/memory@0"),
        ),
        (
            "a tree larger than 16 KiB",
            |t| t.set("chosen", "rng-seed", vec![0; 16 << 10]),
            Warns("beyond 16384"),
        ),
    ]);
}

#[test]
fn memory() {
    check(&[
        ("no base-address", |t| t.unset(MEMORY, "base-address"), Starts),
        ("base-address in one cell", |t| t.set(MEMORY, "base-address", words(&[0x8000_0000])), Starts),
        (
            "base-address of 5 bytes",
            |t| t.set(MEMORY, "base-address", vec![0; 5]),
            Fails(libc::EINVAL, "5 bytes"),
        ),
        (
            "base-address not page aligned",
            |t| t.set(MEMORY, "base-address", wide(0x8000_0800)),
            Fails(libc::EINVAL, "0x80000800"),
        ),
        (
            "base-address at the end",
            |t| t.set(MEMORY, "base-address", wide(0xffff_ffff_ffff_f000)),
            Fails(libc::EINVAL, "the end"),
        ),
        (
            "size-min not page aligned",
            |t| t.set(MEMORY, "size-min", wide(1)),
            Fails(libc::EINVAL, "size-min"),
        ),
        (
            "size-max not page aligned",
            |t| t.set(MEMORY, "size-max", wide(4097)),
            Fails(libc::EINVAL, "size-max"),
        ),
        (
            "firmware below the image",
            |t| {
                t.set(MEMORY, "firmware-address", wide(0x7fc0_0000));
                t.set(MEMORY, "firmware-size-max", wide(0x40_0000));
            },
            Starts,
        ),
        (
            "firmware one page into the image",
            |t| {
                t.set(MEMORY, "firmware-address", wide(0x7fc0_1000));
                t.set(MEMORY, "firmware-size-max", wide(0x40_0000));
            },
            Fails(libc::EINVAL, "firmware"),
        ),
    ]);
    let vm = after(|t| {
        t.set(MEMORY, "base-address", wide(0x8000_1000));
        t.set(MEMORY, "firmware-address", wide(0x1000));
        t.set(MEMORY, "firmware-size-max", wide(0x2000));
    });
    let vm = vm.unwrap();
    assert_eq!(vm.base_address, Some(0x8020_0000));
    assert_eq!(vm.firmware, Some(Range { address: 0x1000, size: 0x2000 }));
}

#[test]
fn cpus() {
    check(&[
        ("no config: /cpus is the default", |t| t.unset(VCPUS, "config"), Starts),
        (
            "config names nothing",
            |t| t.set(VCPUS, "config", text("/processors")),
            Fails(libc::ENODEV, "/processors"),
        ),
        ("config is no path", |t| t.set(VCPUS, "config", words(&[1])), Fails(libc::EINVAL, "no path")),
        ("no cpus node", |t| t.remove("cpus"), Fails(libc::ENODEV, "/cpus")),
        (
            "cpus elsewhere",
            |t| {
                t.at("cpus").name = "processors".to_owned();
                t.set(VCPUS, "config", text("/processors"));
            },
            Starts,
        ),
        (
            "no cpu nodes",
            |t| {
                t.remove("cpus/cpu@0");
                t.remove("cpus/cpu@1");
            },
            Fails(libc::ENODEV, "can boot"),
        ),
        (
            "all disabled",
            |t| {
                t.set("cpus/cpu@0", "status", text("disabled"));
                t.set("cpus/cpu@1", "status", text("disabled"));
            },
            Fails(libc::ENODEV, "can boot"),
        ),
        ("the boot CPU needs no enable-method", |t| t.unset("cpus/cpu@0", "enable-method"), Starts),
        (
            "a secondary needs one",
            |t| t.unset("cpus/cpu@1", "enable-method"),
            Fails(libc::EINVAL, "/cpus/cpu@1"),
        ),
        (
            "spin-table is none",
            |t| t.set("cpus/cpu@1", "enable-method", text("spin-table")),
            Fails(libc::EINVAL, "enable-method"),
        ),
        ("by hypercall", |t| t.set("cpus/cpu@1", "enable-method", text("qcom,gunyah-hvc")), Starts),
        (
            "a disabled first CPU is a secondary",
            |t| {
                t.set("cpus/cpu@0", "status", text("disabled"));
                t.unset("cpus/cpu@0", "enable-method");
            },
            Fails(libc::EINVAL, "/cpus/cpu@0"),
        ),
        (
            "PSCI by cpu-idle-states",
            |t| {
                t.remove("psci");
                t.set("cpus/cpu@1", "cpu-idle-states", vec![]);
            },
            Starts,
        ),
        ("PSCI 0.2", |t| t.set("psci", "compatible", text("arm,psci-0.2")), Starts),
        ("PSCI in a list", |t| t.set("psci", "compatible", b"arm,psci-1.1\0arm,psci-1.0\0".to_vec()), Starts),
        ("PSCI 0.1 is not known", |t| t.set("psci", "compatible", text("arm,psci")), Warns("no PSCI")),
        ("not proxy", |t| t.set(VCPUS, "affinity", text("sticky")), Warns("proxy")),
        ("no affinity", |t| t.unset(VCPUS, "affinity"), Warns("proxy")),
        (
            "an unknown affinity",
            |t| t.set(VCPUS, "affinity", text("floating")),
            Fails(libc::EINVAL, "floating"),
        ),
        (
            "an affinity that is no text",
            |t| t.set(VCPUS, "affinity", vec![0xff; 3]),
            Fails(libc::EINVAL, "no text"),
        ),
        (
            "an affinity-map of the wrong length",
            |t| {
                t.set(VCPUS, "affinity", text("pinned"));
                t.set(VCPUS, "affinity-map", words(&[0]));
            },
            Fails(libc::EINVAL, "1 entries for 2"),
        ),
        (
            "an affinity-map of the right length",
            |t| {
                t.set(VCPUS, "affinity", text("pinned"));
                t.set(VCPUS, "affinity-map", words(&[0, 1]));
            },
            Warns("proxy"),
        ),
        ("a map means nothing to a proxy VM", |t| t.set(VCPUS, "affinity-map", words(&[0])), Starts),
    ]);
    let one = |change: fn(&mut Tree)| -> VmDescription { after(change).unwrap() };
    assert_eq!(one(|t| t.set("cpus/cpu@0", "status", text("disabled"))).boot_vcpu, 1);
    assert_eq!(one(|t| t.remove("cpus/cpu@1")).vcpus, 1);
    assert_eq!(one(|t| t.at("cpus").children.push(Tree::new("cpu-map"))).vcpus, 2);
    assert_eq!(one(|t| t.unset(VCPUS, "affinity")).affinity, Affinity::Static);
    assert!(!one(|t| t.remove("psci")).psci);
    assert!(
        one(|t| {
            t.remove("psci");
            t.set("cpus/cpu@0", "cpu-idle-states", vec![]);
        })
        .psci
    );
    assert!(!one(|_| ()).no_timer_wakeups);
    assert!(one(|t| t.set(VCPUS, "no-timer-wakeups", vec![])).no_timer_wakeups);
}

#[test]
fn the_interrupt_controller() {
    check(&[
        ("found by the root's interrupt-parent", |t| t.unset(INTERRUPTS, "config"), Starts),
        ("found by config alone", |t| t.unset("", "interrupt-parent"), Starts),
        (
            "found by nothing",
            |t| {
                t.unset("", "interrupt-parent");
                t.remove(INTERRUPTS);
            },
            Fails(libc::ENODEV, "the root's interrupt-parent"),
        ),
        ("config by base name", |t| t.set(INTERRUPTS, "config", text("/intc")), Starts),
        (
            "config names nothing",
            |t| t.set(INTERRUPTS, "config", text("/gic")),
            Fails(libc::ENODEV, "config"),
        ),
        (
            "config is an unknown phandle",
            |t| t.set(INTERRUPTS, "config", words(&[9])),
            Fails(libc::ENODEV, "config"),
        ),
        (
            "config names another node",
            |t| t.set(INTERRUPTS, "config", text("/psci")),
            Fails(libc::ENODEV, "/psci, which is none"),
        ),
        (
            "the old phandle name",
            |t| {
                t.unset(INTC, "phandle");
                t.set(INTC, "linux,phandle", words(&[1]));
            },
            Starts,
        ),
        ("no GICv3", |t| t.set(INTC, "compatible", text("arm,gic-400")), Warns("arm,gic-v3")),
        (
            "two cells",
            |t| t.set(INTC, "#interrupt-cells", words(&[2])),
            Fails(libc::EINVAL, "#interrupt-cells"),
        ),
        ("no cells", |t| t.unset(INTC, "#interrupt-cells"), Fails(libc::EINVAL, "#interrupt-cells")),
    ]);
}

/// A `reg` of 64-bit cells.
fn ranges(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

#[test]
fn the_frames_of_the_interrupt_controller() {
    check(&[
        ("no reg", |t| t.unset(INTC, "reg"), Warns("no interrupts")),
        ("one range", |t| t.set(INTC, "reg", ranges(&[0x3fff_0000, 0x1_0000])), Warns("no interrupts")),
        ("nine cells", |t| t.set("", "#size-cells", words(&[9])), Warns("no interrupts")),
        (
            "a small distributor",
            |t| t.set(INTC, "reg", ranges(&[0x3fff_0000, 0x1000, 0x3ffb_0000, 0x4_0000])),
            Warns("no interrupts"),
        ),
        (
            "a crooked address",
            |t| t.set(INTC, "reg", ranges(&[0x3fff_0000, 0x1_0000, 0x3ffb_1000, 0x4_0000])),
            Warns("no interrupts"),
        ),
        (
            "an overlap",
            |t| t.set(INTC, "reg", ranges(&[0x3fff_0000, 0x1_0000, 0x3ffb_0000, 0x5_0000])),
            Warns("no interrupts"),
        ),
        (
            "beyond the end",
            |t| t.set(INTC, "reg", ranges(&[0x3fff_0000, 0x1_0000, 0u64.wrapping_sub(0x2_0000), 0x4_0000])),
            Warns("no interrupts"),
        ),
        (
            "one redistributor",
            |t| t.set(INTC, "reg", ranges(&[0x3fff_0000, 0x1_0000, 0x3ffb_0000, 0x2_0000])),
            Warns("for 1 of 2 vCPUs"),
        ),
    ]);
    assert_eq!(after(|t| t.unset(INTC, "reg")).unwrap().gic, None);
    assert_eq!(after(|t| t.set(INTC, "compatible", text("arm,gic-400"))).unwrap().gic, None);
    let small = after(|t| {
        t.set("", "#address-cells", words(&[1]));
        t.set("", "#size-cells", words(&[1]));
        t.set(INTC, "reg", words(&[0x3fff_0000, 0x1_0000, 0x3ffb_0000, 0x4_0000]));
    });
    assert_eq!(small.unwrap().gic, after(|_| ()).unwrap().gic, "cells of one word");
}

#[test]
fn doorbells() {
    check(&[
        ("no peer", |t| t.unset(BELL, "peer-default"), Fails(libc::EINVAL, "peer")),
        (
            "a named peer",
            |t| {
                t.unset(BELL, "peer-default");
                t.set(BELL, "peer", text("vm-a"));
            },
            Starts,
        ),
        ("no label", |t| t.unset(BELL, "label"), Fails(libc::EINVAL, "label")),
        ("a label of two words", |t| t.set(BELL, "label", words(&[1, 2])), Fails(libc::EINVAL, "label")),
        ("no interrupts", |t| t.unset(BELL, "interrupts"), Starts),
        (
            "interrupts of two cells",
            |t| t.set(BELL, "interrupts", words(&[0, 1])),
            Fails(libc::EINVAL, "8 bytes"),
        ),
        ("empty interrupts", |t| t.set(BELL, "interrupts", vec![]), Fails(libc::EINVAL, "0 bytes")),
        (
            "two interrupts",
            |t| t.set(BELL, "interrupts", words(&[0, 9, 1, 0, 10, 1])),
            Warns("only the first"),
        ),
        ("trigger 0", |t| t.set(BELL, "interrupts", words(&[0, 1, 0])), Fails(libc::EINVAL, "trigger 0")),
        ("trigger 3", |t| t.set(BELL, "interrupts", words(&[0, 1, 3])), Fails(libc::EINVAL, "trigger 3")),
        ("no generate", |t| t.unset(BELL, "generate"), Warns("generate")),
        ("two of a label", |t| t.set(BELL, "label", words(&[0])), Warns("label 0")),
        ("a PPI", |t| t.set(BELL, "interrupts", words(&[1, 5, 1])), Warns("only SPIs")),
        ("two of an interrupt", |t| t.set(BELL, "interrupts", words(&[0, 0, 1])), Warns("interrupt 32")),
        ("no vdevice-type", |t| t.unset(BELL, "vdevice-type"), Warns("no vdevice-type")),
        ("an unknown vdevice-type", |t| t.set(BELL, "vdevice-type", text("teapot")), Warns("teapot")),
        ("a type the fake lacks", |t| t.set(BELL, "vdevice-type", text("rm-rpc")), Warns("makes no rm-rpc")),
    ]);
    let vm = after(|t| t.set(BELL, "qcom,label", words(&[7]))).unwrap();
    assert_eq!(vm.doorbells[1].label, 7);
    let vm = after(|t| t.unset(BELL, "interrupts")).unwrap();
    assert_eq!(vm.doorbells[1].interrupt, None);
    let vm = after(|t| t.unset(BELL, "vdevice-type")).unwrap();
    assert_eq!(vm.doorbells.len(), 1);
}

/// Interrupt specifiers: the first and the last line of each kind, and the first that is none.
#[test]
fn interrupt_cells() {
    let decoded = |cells: [u32; 3]| {
        let mut tree = crate::good();
        tree.set(BELL, "interrupts", words(&cells));
        fake_gunyah::rm::read_vm_config(&tree.buffer()).map(|vm| vm.doorbells[1].interrupt.unwrap())
    };
    let intid = |kind: u32, number: u32| decoded([kind, number, 1]).map(|line| line.intid);
    for (kind, last, first_intid) in [(0, 987, 32), (1, 15, 16), (2, 1023, 4096), (3, 63, 1056)] {
        assert_eq!(intid(kind, 0), Ok(first_intid));
        assert_eq!(intid(kind, last), Ok(first_intid + last));
        assert_eq!(intid(kind, last + 1).unwrap_err().error.errno(), libc::EINVAL);
    }
    assert!(intid(4, 0).is_err());
    assert!(intid(0, u32::MAX).is_err());
    let edge = |flags| decoded([0, 1, flags]).map(|line| line.trigger);
    assert_eq!([edge(1), edge(2)], [Ok(Trigger::Edge), Ok(Trigger::Edge)]);
    assert_eq!([edge(4), edge(8)], [Ok(Trigger::Level), Ok(Trigger::Level)]);
    assert_eq!(decoded([1, 11, 0x108]), Ok(Interrupt { intid: 27, trigger: Trigger::Level }));
    assert_eq!(decoded([1, 11, 0x108]).unwrap().spi(), None);
}

#[test]
fn shared_memory() {
    check(&[
        (
            "no memory node",
            |t| t.at(SHM).children.clear(),
            Fails(libc::ENODEV, "/gunyah-vm-config/vdevices/shm-5"),
        ),
        ("no label", |t| t.at(SHM).at("memory").properties.clear(), Fails(libc::EINVAL, "label")),
        ("no base", |t| t.at(SHM).unset("memory", "base"), Starts),
    ]);
    let vm = after(|t| {
        t.at(SHM).unset("memory", "base");
        t.at(SHM).set("memory", "optional", vec![]);
    });
    let shm = vm.unwrap().shm[0];
    assert_eq!((shm.label, shm.base, shm.optional), (5, None, true));
}

/// Two things are wrong: the first in the documented order is reported.
#[test]
fn the_first_finding_wins() {
    let steps: [(Change, &str); 8] = [
        (|t| t.children.push(Tree::new("hypervisor")), "/hypervisor"),
        (|t| t.at("memory").name = "memory@0".to_owned(), "device_type"),
        (|t| t.unset(CONFIG, "image-name"), "image-name"),
        (|t| t.remove(MEMORY), "no node memory"),
        (|t| t.remove(VCPUS), "no node vcpus"),
        (|t| t.remove(INTC), "interrupt controller"),
        (|t| t.unset("gunyah-vm-config/vdevices/bell-0", "label"), "bell-0"),
        (|t| t.unset(BELL, "label"), "bell-21"),
    ];
    for first in 0..steps.len() {
        let error = after(|tree| steps[first..].iter().for_each(|(change, _)| change(tree))).unwrap_err();
        assert!(error.why.contains(steps[first].1), "{first}: {error}");
    }
}

//! The devicetree that is written, read again: by a plain reader, and by the fake's Resource Manager.
#![cfg(feature = "gunyah")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unreachable_pub)]

mod common;

use common::Tree;
use fake_gunyah::rm::{self, Trigger as RmTrigger};
use fake_gunyah::{Fake, Flavour};
use vm_memory::GuestAddress;
use vmm_adapter::fdt::lint::{Expect, lint};
use vmm_adapter::fdt::{self, Device, GuestTree, Value};
use vmm_adapter::gunyah::Gunyah;
use vmm_adapter::{Hypervisor, IrqLine, MsiPool, Sharing, Vm, VmConfig, VmKind};

const RAM: GuestAddress = GuestAddress(0x8000_0000);

/// Writes the tree of a VM that `prepare` gave its memory.
fn blob(
    flavour: Flavour,
    config: &VmConfig,
    guest: &GuestTree,
    prepare: impl FnOnce(&dyn Vm) + Send,
) -> Vec<u8> {
    let fake = Fake::builder().flavour(flavour).build().unwrap();
    let write = || {
        let vm = Gunyah::open().unwrap().create_vm(config).unwrap();
        prepare(&*vm);
        let tree = fdt::write(&*vm, guest).unwrap();
        let mut expect = Expect::of(&*vm);
        expect.flavour = Some(flavour.name().to_owned());
        let mut findings = lint(&tree, &expect);
        // The largest of them may be as large as it is, and plain VMs depend on the Resource Manager on android14.
        findings.retain(|finding| !["too-big", "image-shared"].contains(&finding.rule.code));
        assert_eq!(findings, []);
        tree
    };
    fake.run(|_| write()).unwrap()
}

fn plain_ram(vm: &dyn Vm) {
    vm.allocate(RAM, 0x40_0000, Sharing::Shared).unwrap();
}

/// What the Resource Manager makes of it, with the room behind it that Gunyah wants.
fn described(blob: &[u8]) -> rm::VmDescription {
    let mut buffer = blob.to_vec();
    buffer.resize((blob.len() + 4096).next_multiple_of(4096), 0);
    rm::read_vm_config(&buffer).unwrap()
}

#[test]
fn a_whole_tree() {
    let uart = Device::new("serial", GuestAddress(0x1000_0000), 8, &["ns16550a"])
        .irq(IrqLine::edge(0))
        .with("clock-frequency", Value::U32(1_843_200));
    let rtc = Device::new("rtc", GuestAddress(0x1000_1000), 0x1000, &["arm,pl031", "arm,primecell"])
        .irq(IrqLine::level(1))
        .clocked()
        .with("a-flag", Value::Empty)
        .with("wide", Value::U64(1 << 32))
        .with("cells", Value::Cells(vec![1, 2, 3]))
        .with("label", Value::Text("clock".into()));
    let guest = GuestTree {
        model: "a model".into(),
        compatible: "maker,model".into(),
        cmdline: "console=ttyS0".into(),
        initrd: Some((GuestAddress(0x8010_0000), 0x1234)),
        stdout: Some(uart.path()),
        rng_seed: vec![1, 2, 3, 4],
        dma_pool: None,
        devices: vec![uart, rtc],
    };
    let config = VmConfig::new(3).with_irq_line(IrqLine::edge(0)).with_irq_line(IrqLine::level(1));
    let blob = blob(Flavour::V11, &config, &guest, plain_ram);
    let tree = Tree::read(&blob);

    assert_eq!(tree.texts(":model"), ["a model"]);
    assert_eq!(tree.texts(":compatible"), ["maker,model"]);
    assert_eq!(tree.texts("/chosen:bootargs"), ["console=ttyS0"]);
    assert_eq!(tree.cells("/chosen:linux,initrd-start"), [0, 0x8010_0000]);
    assert_eq!(tree.cells("/chosen:linux,initrd-end"), [0, 0x8010_1234]);
    assert_eq!(tree.texts("/chosen:stdout-path"), ["/serial@10000000"]);
    assert_eq!(tree.bytes("/chosen:rng-seed"), [1, 2, 3, 4]);
    assert_eq!(tree.cells("/memory:reg"), [0, 0x8000_0000, 0, 0x40_0000]);
    assert_eq!(tree.texts("/memory:device_type"), ["memory"]);

    assert_eq!(tree.children("/cpus"), ["cpu@0", "cpu@1", "cpu@2"]);
    assert_eq!(tree.cells("/cpus/cpu@2:reg"), [2]);
    assert_eq!(tree.texts("/cpus/cpu@2:enable-method"), ["psci"]);
    assert_eq!(tree.bytes("/cpus/cpu@2:cpu-idle-states"), [0_u8; 0]);
    assert_eq!(tree.texts("/psci:compatible"), ["arm,psci-1.0", "arm,psci-0.2"]);
    assert_eq!(tree.texts("/psci:method"), ["hvc"]);

    let gic = "/interrupt-controller@3fff0000";
    assert_eq!(tree.cells(&format!("{gic}:reg")), [0, 0x3fff_0000, 0, 0x1_0000, 0, 0x3ff9_0000, 0, 0x6_0000]);
    assert_eq!(tree.cells(&format!("{gic}:phandle")), tree.cells(":interrupt-parent"));
    let timer = tree.cells("/timer:interrupts");
    assert_eq!(timer, [1, 13, 0x108, 1, 14, 0x108, 1, 11, 0x108, 1, 10, 0x108]);

    assert_eq!(tree.cells("/serial@10000000:interrupts"), [0, 0, 1]);
    assert_eq!(tree.cells("/serial@10000000:reg"), [0, 0x1000_0000, 0, 8]);
    assert_eq!(tree.cells("/rtc@10001000:interrupts"), [0, 1, 4]);
    assert_eq!(tree.cells("/rtc@10001000:clocks"), tree.cells("/apb-pclk:phandle"));
    assert_eq!(tree.bytes("/rtc@10001000:a-flag"), [0_u8; 0]);
    assert_eq!(tree.cells("/rtc@10001000:wide"), [1, 0]);
    assert_eq!(tree.cells("/rtc@10001000:cells"), [1, 2, 3]);
    assert_eq!(tree.texts("/rtc@10001000:label"), ["clock"]);

    // These are the Resource Manager's own.
    assert!(!tree.has("/hypervisor") && !tree.has("/reserved-memory"));
    assert!(blob.len() < 4096, "{} bytes", blob.len());
}

#[test]
fn devices_behind_a_dma_pool_refer_to_it() {
    let device = |addr| Device::new("virtio_mmio", GuestAddress(addr), 0x200, &["virtio,mmio"]);
    let other = Device::new("rng", GuestAddress(0x1001_1000), 0x200, &["maker,rng"]);
    let guest = GuestTree {
        dma_pool: Some((GuestAddress(0x8040_0000), 0x20_0000)),
        devices: vec![device(0x1001_0000).behind_dma_pool(), other],
        ..GuestTree::default()
    };
    let tree = Tree::read(&blob(Flavour::V11, &VmConfig::new(1), &guest, plain_ram));
    let pool = "/reserved-memory/dma-pool@80400000";
    assert_eq!(tree.texts(&format!("{pool}:compatible")), ["restricted-dma-pool"]);
    assert_eq!(tree.cells(&format!("{pool}:reg")), [0, 0x8040_0000, 0, 0x20_0000]);
    assert!(tree.has("/reserved-memory:ranges") && !tree.has(&format!("{pool}:no-map")));
    // Whatever a Resource Manager makes of reg.
    assert_eq!(tree.cells("/memory:linux,usable-memory"), tree.cells("/memory:reg"));
    let phandle = tree.cells(&format!("{pool}:phandle"));
    assert_eq!(tree.cells("/virtio_mmio@10010000:memory-region"), phandle);
    assert!(!tree.has("/rng@10011000:memory-region"));
}

#[test]
fn the_resource_manager_finds_what_was_declared() {
    let config = VmConfig::new(2)
        .with_irq_line(IrqLine::edge(0))
        .with_irq_line(IrqLine::level(17))
        .with_msi(MsiPool { base: 64, count: 3, frame: GuestAddress(0x1100_0000) });
    let blob = blob(Flavour::V11, &config, &GuestTree::default(), plain_ram);
    let vm = described(&blob);
    assert_eq!(vm.warnings, [""; 0]);
    assert_eq!((vm.vcpus, vm.boot_vcpu, vm.psci), (2, 0, true));
    assert_eq!(vm.affinity, rm::Affinity::Proxy);
    assert_eq!(vm.base_address, Some(RAM.0));
    assert_eq!((vm.size_min, vm.size_max), (Some(0x40_0000), Some(0x40_0000)));
    assert!(vm.shm.is_empty() && vm.firmware.is_none() && !vm.no_timer_wakeups);

    let bells: Vec<_> = vm
        .doorbells
        .iter()
        .map(|bell| {
            let interrupt = bell.interrupt.unwrap();
            assert!(bell.source_can_clear && bell.generate.is_some());
            (bell.label, interrupt.spi().unwrap(), interrupt.trigger)
        })
        .collect();
    let want: Vec<_> = config
        .lines()
        .map(|line| {
            let trigger = match line.trigger {
                vmm_adapter::Trigger::Edge => RmTrigger::Edge,
                vmm_adapter::Trigger::Level => RmTrigger::Level,
            };
            (line.spi, line.spi, trigger)
        })
        .collect();
    assert_eq!(bells, want);

    let tree = Tree::read(&blob);
    let frame = "/interrupt-controller@3fff0000/v2m@11000000";
    assert_eq!(tree.cells(&format!("{frame}:arm,msi-base-spi")), [64 + 32]);
    assert_eq!(tree.cells(&format!("{frame}:arm,msi-num-spis")), [3]);
}

#[test]
fn shared_memory_beside_lent_memory_is_declared() {
    let config = VmConfig::new(1).with_kind(VmKind::Protected);
    let pool = (GuestAddress(0x8080_0000), 0x10_0000);
    let guest = GuestTree { dma_pool: Some(pool), ..GuestTree::default() };
    let blob = blob(Flavour::Android14, &config, &guest, |vm| {
        vm.allocate(RAM, 0x40_0000, Sharing::Private).unwrap();
        vm.allocate(pool.0, pool.1, Sharing::Shared).unwrap();
    });
    let vm = described(&blob);
    assert_eq!(vm.warnings, [""; 0]);
    assert_eq!(vm.shm.len(), 1);
    assert_eq!((vm.shm[0].label, vm.shm[0].base, vm.shm[0].optional), (1, Some(0x8080_0000), true));
    assert_eq!((vm.size_min, vm.size_max), (Some(0x40_0000), Some(0x90_0000)));
}

#[test]
fn firmware_is_declared() {
    let (addr, size) = (GuestAddress(0x7fc0_0000), 0x40_0000);
    let config = VmConfig::new(1).with_kind(VmKind::ProtectedFirmware { addr, size });
    let blob = blob(Flavour::Android14, &config, &GuestTree::default(), |vm| {
        vm.allocate(RAM, 0x40_0000, Sharing::Private).unwrap();
        vm.allocate(addr, size, Sharing::Private).unwrap();
    });
    let vm = described(&blob);
    assert_eq!(vm.warnings, [""; 0]);
    assert_eq!(vm.firmware, Some(rm::Range { address: addr.0, size }));
}

#[test]
fn timer_wakeups_follow_the_host() {
    for (flavour, want) in [(Flavour::Android14, false), (Flavour::Android16, true)] {
        let blob = blob(flavour, &VmConfig::new(1), &GuestTree::default(), plain_ram);
        assert_eq!(described(&blob).no_timer_wakeups, want, "{flavour}");
    }
    // Not in trusted VMs, whatever the host has.
    for (kind, want) in [(VmKind::Protected, true), (VmKind::Trusted { vm_id: 45, peripheral_id: 28 }, false)]
    {
        let config = VmConfig::new(1).with_kind(kind);
        let blob = blob(Flavour::Android16, &config, &GuestTree::default(), |vm| {
            vm.allocate(RAM, 0x40_0000, Sharing::Private).unwrap();
        });
        assert_eq!(described(&blob).no_timer_wakeups, want, "{kind:?}");
    }
}

#[test]
fn the_largest_vm_has_a_tree() {
    let mut config = VmConfig::new(64);
    config.irq_lines = (0..64).map(IrqLine::edge).collect();
    let vm = described(&blob(Flavour::V11, &config, &GuestTree::default(), plain_ram));
    assert_eq!((vm.vcpus, vm.doorbells.len()), (64, 64));
}

#[test]
fn what_cannot_stand_in_a_tree_is_an_error() {
    let fake = Fake::builder().build().unwrap();
    fake.run(|_| {
        let vm = Gunyah::open().unwrap().create_vm(&VmConfig::new(1)).unwrap();
        let error = fdt::write(&*vm, &GuestTree::default()).unwrap_err();
        assert!(error.to_string().contains("no memory"), "{error}");
        plain_ram(&*vm);
        let nul = GuestTree { cmdline: "a\0b".into(), ..GuestTree::default() };
        assert!(matches!(fdt::write(&*vm, &nul), Err(vmm_adapter::Error::Fdt(_))));
        let name = Device::new("no good", GuestAddress(0), 1, &["x"]);
        let bad = GuestTree { devices: vec![name], ..GuestTree::default() };
        assert!(matches!(fdt::write(&*vm, &bad), Err(vmm_adapter::Error::Fdt(_))));
    })
    .unwrap();
}

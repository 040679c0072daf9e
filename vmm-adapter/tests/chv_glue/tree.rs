//! The devicetree that the small VMM writes.

use conformance::asm::Program;
use fake_gunyah::Flavour;
use vmm_adapter::fdt::lint::{Expect, ExpectedRegion, lint};
use vmm_adapter::{IrqLine, Sharing};

use super::vm::Rig;
use super::{description, on};
use crate::hypervisor::additions::{MsiLines, Protection};
use crate::vmm::layout::{DMA_POOL, DMA_POOL_SIZE, FDT, MSI_COUNT, RAM, RAM_SIZE};

const FLAVOURS: [(Flavour, Sharing); 3] = [
    (Flavour::V11, Sharing::Shared),
    (Flavour::Android14, Sharing::Private),
    (Flavour::Android16, Sharing::Private),
];

fn tree(messages: u32) -> (Vec<u8>, u64) {
    let mut description = description(Protection::Auto);
    description.msi = Some(MsiLines { first_intid: 128, count: messages });
    let rig = Rig::described(description, &Program::new(), None);
    let slack = rig.vm.fdt_slack(rig.tree.len() as u64);
    (rig.tree, slack)
}

#[test]
fn nothing_is_wrong_with_it() {
    for (flavour, sharing) in FLAVOURS {
        on(flavour, |_| {
            let (mut tree, slack) = tree(MSI_COUNT);
            tree.resize((tree.len() as u64 + slack).next_multiple_of(4096) as usize, 0);
            let mut expect = Expect::default();
            expect.flavour = Some(flavour.name().to_owned());
            expect.regions = vec![
                ExpectedRegion { label: 0, addr: RAM, size: RAM_SIZE as u64, sharing },
                ExpectedRegion {
                    label: 1,
                    addr: DMA_POOL,
                    size: DMA_POOL_SIZE as u64,
                    sharing: Sharing::Shared,
                },
            ];
            expect.lines = [IrqLine::edge(3), IrqLine::level(4)]
                .into_iter()
                .chain((96..96 + MSI_COUNT).map(IrqLine::edge))
                .collect();
            (expect.vcpus, expect.fdt, expect.entry) = (Some(1), Some(FDT), Some(RAM));
            let findings: Vec<_> =
                lint(&tree, &expect).iter().map(|finding| format!("\n{finding}")).collect();
            assert!(findings.is_empty(), "{flavour}: {}", findings.concat());
        });
    }
}

/// What the guide says of the pool's size: 16 KiB are the limit for tree and additions, and those are about as large as the tree.
#[test]
fn lines_make_it_large() {
    for (flavour, _) in FLAVOURS {
        on(flavour, |_| {
            let size = |messages| tree(messages).0.len();
            let (one, half, all) = (size(1), size(32), size(64));
            let each = (all - one) as f64 / 63.0;
            assert!((130.0..=140.0).contains(&each), "{flavour}: {each} bytes for each line");
            assert!((6 << 10..7 << 10).contains(&half), "{flavour}: {half}");
            assert!((10 << 10..11 << 10).contains(&all), "{flavour}: {all}");
        });
    }
}

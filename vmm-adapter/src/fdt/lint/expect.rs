//! What a VMM does beside the tree.

use crate::config::IrqLine;
use crate::memory::Sharing;
use crate::vm::Vm;

/// A region of guest memory that the VMM gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedRegion {
    /// The region's label.
    pub label: u32,
    /// Its guest physical address.
    pub addr: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Whether the host keeps access to it.
    pub sharing: Sharing,
}

impl ExpectedRegion {
    pub(super) fn end(&self) -> u64 {
        self.addr.saturating_add(self.size)
    }

    pub(super) fn holds(&self, addr: u64, size: u64) -> bool {
        self.addr <= addr && addr.saturating_add(size) <= self.end()
    }
}

/// What the VMM does beside the tree, as far as it is known. What is `None` or empty is not checked.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// The flavour of the host, by its name (`android15`), or a host with the open Resource Manager of December 2023: `open-2023`,
    /// its production build, or `open-2023-debug`. Findings that do not hold there are left out, and what it refuses is an error.
    /// `None`: every flavour.
    pub flavour: Option<String>,
    /// The regions of guest memory.
    pub regions: Vec<ExpectedRegion>,
    /// The lines that the VMM signals by irqfd, with their triggers.
    pub lines: Vec<IrqLine>,
    /// How many vCPUs the VMM adds: their ids are 0 and up.
    pub vcpus: Option<u32>,
    /// The guest physical address of the devicetree.
    pub fdt: Option<u64>,
    /// The guest physical address of the guest's first instruction.
    pub entry: Option<u64>,
    /// Whether the VM has firmware that runs first.
    pub firmware: bool,
}

impl Expect {
    /// What `vm` does: its regions, lines and vCPUs. Regions have the labels that the backend gives, which are their places
    /// in [`Vm::memory`].
    #[must_use]
    pub fn of(vm: &dyn Vm) -> Self {
        let config = vm.config();
        let regions = (0..).zip(vm.memory()).map(|(label, region)| ExpectedRegion {
            label,
            addr: region.addr().0,
            size: region.size(),
            sharing: region.sharing(),
        });
        Self {
            regions: regions.collect(),
            lines: config.lines().collect(),
            vcpus: Some(config.vcpus),
            firmware: matches!(config.kind, crate::config::VmKind::ProtectedFirmware { .. }),
            ..Self::default()
        }
    }

    /// The regions that the host keeps, but for the main one.
    pub(super) fn shared(&self) -> impl Iterator<Item = &ExpectedRegion> {
        let image = self.image().map(|image| image.addr);
        let shared = self.regions.iter().filter(|region| region.sharing == Sharing::Shared);
        shared.filter(move |region| Some(region.addr) != image)
    }

    /// The region that becomes the Resource Manager's image: the one with the devicetree, else that with label 0.
    pub(super) fn image(&self) -> Option<&ExpectedRegion> {
        match self.fdt {
            Some(fdt) => self.regions.iter().find(|region| region.holds(fdt, 1)),
            None => self.regions.iter().find(|region| region.label == 0),
        }
    }
}

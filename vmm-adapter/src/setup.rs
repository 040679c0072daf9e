//! What every backend checks alike, so that a VMM that was written on one does not break on another.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_memory::GuestAddress;

use crate::boot::BootContext;
use crate::caps::{Capabilities, Feature, GuestArch};
use crate::config::{IrqLine, VmConfig};
use crate::error::{Error, Result};
use crate::memory::{MemoryRegion, PIECE, Sharing, check_geometry};
use crate::phase::Phase;

/// What Gunyah counts a tree's size in, whatever the host's page size is.
const TREE_PAGE: u64 = 4096;

/// What was declared before the start: every region of a VM, in the order in which it was given, and its vCPUs.
///
/// The first region is the main one. A backend keeps this until the VM and its vCPUs are closed: the guest uses the memory
/// until then.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    regions: Vec<MemoryRegion>,
    vcpus: Vec<u32>,
}

impl Declared {
    pub(crate) fn regions(&self) -> &[MemoryRegion] {
        &self.regions
    }

    pub(crate) fn main(&self, op: &'static str) -> Result<&MemoryRegion> {
        self.regions.first().ok_or_else(|| Error::invalid(op, "the VM has no memory"))
    }

    /// The region that holds these pages, with its place.
    pub(crate) fn region_with(
        &self,
        op: &'static str,
        addr: GuestAddress,
        size: u64,
    ) -> Result<(usize, &MemoryRegion)> {
        check_geometry(op, addr, size)?;
        let found = self.regions.iter().enumerate().find(|(_, region)| region.contains(addr, size));
        found.ok_or_else(|| {
            Error::invalid(op, format!("{:#x} + {size:#x} is not inside one region of memory", addr.0))
        })
    }

    /// Notes a region that the hypervisor has taken.
    pub(crate) fn add_region(&mut self, region: &MemoryRegion) {
        self.regions.push(region.clone());
    }

    /// Forgets a region that the hypervisor has given back.
    #[cfg(feature = "kvm")]
    pub(crate) fn remove_region(&mut self, index: usize) {
        self.regions.remove(index);
    }

    /// Checks a region against those that are there, and against the VM.
    pub(crate) fn check_region(
        &self,
        op: &'static str,
        region: &MemoryRegion,
        config: &VmConfig,
        capabilities: &Capabilities,
        largest: u64,
    ) -> Result<()> {
        if region.sharing() == Sharing::Private {
            capabilities.require(Feature::PrivateMemory)?;
            if !config.kind.is_protected() {
                return Err(Error::invalid(op, "a plain VM has no private memory"));
            }
        }
        if !region.is_writable() {
            capabilities.require(Feature::ReadOnlyMemory)?;
        }
        let (addr, size) = (region.addr().0, region.size());
        if addr.checked_add(size).is_none_or(|end| end > config.guest_phys_end()) {
            let why =
                format!("{addr:#x} + {size:#x} is beyond {} bits of guest address", config.guest_phys_bits);
            return Err(Error::invalid(op, why));
        }
        if size > largest {
            let why = format!(
                "{size:#x} bytes at {addr:#x} are more than the {largest:#x} that this host takes in one region"
            );
            return Err(Error::invalid(op, why));
        }
        if let Some(other) = self.regions.iter().find(|other| other.overlaps(region)) {
            let why = format!(
                "{addr:#x} + {size:#x} overlaps the memory at {:#x} + {:#x}",
                other.addr().0,
                other.size()
            );
            return Err(Error::invalid(op, why));
        }
        if self.regions.is_empty() { check_main(op, region, config) } else { Ok(()) }
    }

    /// Checks the number of a vCPU that is to be made.
    pub(crate) fn check_vcpu(&self, op: &'static str, id: u32, config: &VmConfig) -> Result<()> {
        if id >= config.vcpus {
            return Err(Error::invalid(op, format!("there is no vCPU {id}, the VM has {}", config.vcpus)));
        }
        if self.vcpus.contains(&id) {
            return Err(Error::invalid(op, format!("vCPU {id} was created already")));
        }
        Ok(())
    }

    pub(crate) fn add_vcpu(&mut self, id: u32) {
        self.vcpus.push(id);
    }

    /// Takes a vCPU that is gone off the list, so that its number can be used again.
    pub(crate) fn remove_vcpu(&mut self, id: u32) {
        self.vcpus.retain(|other| *other != id);
    }

    /// Checks that all is there for a start, and where the guest starts. Gives the main region.
    pub(crate) fn check_start(
        &self,
        op: &'static str,
        boot: &BootContext,
        config: &VmConfig,
        capabilities: &Capabilities,
    ) -> Result<&MemoryRegion> {
        let main = self.main(op)?;
        if capabilities.guest_arch() == GuestArch::Arm64 {
            check_tree(op, main, boot)?;
        }
        if boot.entry != main.addr() {
            if !main.contains(boot.entry, 4) {
                let why = format!("the entry {:#x} is not in the main region", boot.entry.0);
                return Err(Error::invalid(op, why));
            }
            capabilities.require(Feature::BootContext)?;
        }
        match (0..config.vcpus).find(|id| !self.vcpus.contains(id)) {
            Some(id) => Err(Error::invalid(op, format!("vCPU {id} was not created"))),
            None => Ok(main),
        }
    }
}

fn check_main(op: &'static str, region: &MemoryRegion, config: &VmConfig) -> Result<()> {
    if region.addr().0 % PIECE != 0 {
        // Elsewhere the Resource Manager would move it and the guest would not find itself where it was put.
        let why = format!("the main region's address {:#x} is not aligned to 2 MiB", region.addr().0);
        return Err(Error::invalid(op, why));
    }
    if !region.is_writable() {
        let why = "the main region cannot be read-only: the hypervisor writes the tree in it";
        return Err(Error::invalid(op, why));
    }
    match (config.kind.is_protected(), region.sharing()) {
        (true, Sharing::Shared) => {
            Err(Error::invalid(op, "the main region of a protected VM must be private"))
        }
        (false, Sharing::Private) => Err(Error::invalid(op, "the main region of a plain VM must be shared")),
        _ => Ok(()),
    }
}

/// Whether there is a tree, and room behind it.
fn check_tree(op: &'static str, main: &MemoryRegion, boot: &BootContext) -> Result<()> {
    const MAGIC: u32 = 0xd00d_feed;
    let (fdt, size) = (boot.fdt.0, boot.fdt_size);
    if fdt % 8 != 0 || size % TREE_PAGE != 0 {
        let why = format!(
            "the devicetree at {fdt:#x} + {size:#x} is not aligned to 8 bytes and sized in pages of 4096"
        );
        return Err(Error::invalid(op, why));
    }
    if !main.contains(boot.fdt, size) {
        let why = format!("the devicetree at {fdt:#x} + {size:#x} is not in the main region");
        return Err(Error::invalid(op, why));
    }
    let mut header = [0; 8];
    if size >= TREE_PAGE {
        main.read(boot.fdt, &mut header)?;
    }
    let [a, b, c, d, rest @ ..] = header;
    let (magic, blob) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(rest));
    if magic != MAGIC {
        return Err(Error::invalid(op, format!("there is no devicetree at {fdt:#x}")));
    }
    if u64::from(blob).saturating_add(TREE_PAGE) > size {
        let why = format!(
            "the devicetree has {blob} bytes of {size}: a page of {TREE_PAGE} must be left for the Resource Manager"
        );
        return Err(Error::invalid(op, why));
    }
    Ok(())
}

/// Checks that a line is one that was declared, as it was declared.
pub(crate) fn check_line(op: &'static str, config: &VmConfig, line: IrqLine) -> Result<()> {
    match config.line(line.spi) {
        None => Err(Error::invalid(op, format!("interrupt line {} was not declared", line.spi))),
        Some(declared) if declared != line => {
            let why = format!("interrupt line {} was declared as {:?}", line.spi, declared.trigger);
            Err(Error::invalid(op, why))
        }
        Some(_) => Ok(()),
    }
}

/// A VM's [`Phase`], as its vCPUs see and change it, too.
#[derive(Debug)]
pub(crate) struct PhaseCell(AtomicU8);

impl PhaseCell {
    pub(crate) const fn new() -> Self {
        Self(AtomicU8::new(Phase::Configuring as u8))
    }

    pub(crate) fn get(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            phase if phase == Phase::Configuring as u8 => Phase::Configuring,
            phase if phase == Phase::Running as u8 => Phase::Running,
            _ => Phase::Stopped,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    /// Nothing if the phase is one of these, the error that says so if not.
    pub(crate) fn require(&self, op: &'static str, allowed: &[Phase]) -> Result<()> {
        let phase = self.get();
        if allowed.contains(&phase) { Ok(()) } else { Err(Error::WrongState { op, phase }) }
    }
}

/// Locks what stays consistent between calls: nothing panics while it holds such a lock.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

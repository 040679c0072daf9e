//! What is known when a failure is looked at.

use super::host::Host;
use super::operation::Operation;
use crate::features::{Features, Flavour};

/// A piece of guest memory, as it was given or asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// The label.
    pub label: u32,
    /// Where the guest sees it.
    pub guest_phys_addr: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Where it is in this process, if it is user memory and known.
    pub userspace_addr: Option<u64>,
    /// Whether it is lent, not shared.
    pub lent: bool,
}

impl Region {
    pub(super) fn range(&self) -> Range {
        Range { guest_phys_addr: self.guest_phys_addr, size: self.size }
    }
}

/// A range of guest addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub guest_phys_addr: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl Range {
    pub(super) fn end(self) -> Option<u64> {
        self.guest_phys_addr.checked_add(self.size)
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        match (self.end(), other.end()) {
            (Some(end), Some(other_end)) => self.guest_phys_addr < other_end && other.guest_phys_addr < end,
            _ => false,
        }
    }

    pub(super) fn contains(self, other: Self) -> bool {
        match (self.end(), other.end()) {
            (Some(end), Some(other_end)) => self.guest_phys_addr <= other.guest_phys_addr && other_end <= end,
            _ => false,
        }
    }
}

/// What is known when a failure is looked at: what the VMM asked for, and what the host shows.
///
/// Everything is optional. What is missing only leaves more causes possible.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// What the host has.
    pub features: Option<Features>,
    /// The host's flavour, if it is known by other means. An error that carries one overrides it.
    pub flavour: Option<Flavour>,
    /// Which of the three kinds of function was being added: `AddVcpu`, `AddIrqfd` or `AddIoeventfd`.
    pub adding: Option<Operation>,
    /// The memory that the failed call asked for.
    pub asked: Option<Region>,
    /// The memory that the VM has already.
    pub regions: Vec<Region>,
    /// Where the devicetree was said to be.
    pub dtb: Option<Range>,
    /// Where the firmware was said to be.
    pub firmware: Option<Range>,
    /// Whether a boot register was set.
    pub boot_context: Option<bool>,
    /// Whether the VM has started.
    pub started: Option<bool>,
    /// What the host shows to this process.
    pub host: Host,
}

impl Context {
    /// What the host shows to this process: reads a few small files of /proc and /sys, no more.
    ///
    /// What cannot be read stays unknown. The other fields are for the caller to fill.
    pub fn observe() -> Self {
        Self { host: Host::observe(), ..Self::default() }
    }

    /// The bytes that the VM has, with those that were asked for.
    pub(super) fn total_memory(&self) -> Option<u64> {
        if self.asked.is_none() && self.regions.is_empty() {
            return None;
        }
        let sizes = self.regions.iter().chain(&self.asked).map(|region| region.size);
        Some(sizes.fold(0, u64::saturating_add))
    }
}

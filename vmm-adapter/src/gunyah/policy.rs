//! How each kind of host wants its memory: data, for a newcomer to extend.

use gunyah_ioctls::{Feature, Features};

/// How a host's kernel takes the pages of a region.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryModel {
    /// Each region is a memory parcel, whose pages are pinned when it is given: v11, android14-early, android14.
    Parcels,
    /// User memory by demand paging, a page when the guest touches it: android15, android16, and hosts that mix.
    DemandPaging,
    /// Guest memory files (guest_memfd) by demand paging: v17.
    GuestMemfd,
}

impl MemoryModel {
    /// That of a host with these features.
    pub(super) fn of(host: &Features) -> Self {
        if !host.has(Feature::UserMemory) {
            Self::GuestMemfd
        } else if host.page_faults() {
            Self::DemandPaging
        } else {
            Self::Parcels
        }
    }
}

/// How a kind of host wants its memory.
///
/// The method `allocate_chunks` of [`dyn Vm`](crate::Vm) goes by it; the backend itself splits nothing. The order is the same on all of them: first the main
/// region, with payload and devicetree, which so has the label 0, the only one that no Resource Manager reserves; then the rest, shared
/// memory last.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// The hosts that this is about.
    pub model: MemoryModel,
    /// The largest piece to give in one region, in bytes. [`VmConfig::largest_region`](crate::VmConfig::largest_region) overrides it.
    pub largest_region: u64,
    /// Whether to ask for pages of 2 MiB where a region's address and size allow.
    pub huge_pages: bool,
    /// Where this comes from.
    pub why: &'static str,
}

/// The policies, one for each [`MemoryModel`].
pub const MEMORY_POLICIES: [MemoryPolicy; 3] = [
    MemoryPolicy {
        model: MemoryModel::Parcels,
        largest_region: 2 << 30,
        huge_pages: false,
        why: "the kernel keeps one pointer for each page of 4 KiB in one piece of memory, of which it has 4 MiB at most: \
              regions beyond 2 GiB are ENOMEM. Smaller ones would cost parcels, of which the Resource Manager has few, and \
              memory: it reserves every region but the first, and so takes it away from Linux guests",
    },
    MemoryPolicy {
        model: MemoryModel::DemandPaging,
        largest_region: u64::MAX,
        huge_pages: false,
        why: "a region is a note; pages are taken as large as the host's mapping has them: prepare it (MemoryRegion::prepare)",
    },
    MemoryPolicy {
        model: MemoryModel::GuestMemfd,
        largest_region: u64::MAX,
        huge_pages: true,
        why: "the hypervisor's pool of page tables is small: with pages of 4 KiB a large guest exhausts it and dies under load",
    },
];

/// The policy for a host.
pub(super) fn of(host: &Features) -> MemoryPolicy {
    let model = MemoryModel::of(host);
    let [first, ..] = MEMORY_POLICIES;
    MEMORY_POLICIES.into_iter().find(|policy| policy.model == model).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_host_has_one_policy() {
        for model in [MemoryModel::Parcels, MemoryModel::DemandPaging, MemoryModel::GuestMemfd] {
            assert_eq!(MEMORY_POLICIES.iter().filter(|policy| policy.model == model).count(), 1);
        }
        for policy in MEMORY_POLICIES {
            assert!(policy.largest_region == u64::MAX || policy.largest_region % (2 << 20) == 0);
        }
    }
}

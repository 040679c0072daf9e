//! How each kind of host wants its memory: data, for a newcomer to extend.

use gunyah_ioctls::{Feature, Features};

/// When a host takes the pages of a region.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Taking {
    /// All at once, as one memory parcel: v11, android14-early, android14.
    AtOnce,
    /// One by one, when the guest touches them: android15, android16, and hosts that mix.
    OnTouch,
    /// From files of the kernel's making, on touch: v17.
    FromFiles,
}

impl Taking {
    /// That of a host with these features.
    pub(super) fn of(host: &Features) -> Self {
        if !host.has(Feature::UserMemory) {
            Self::FromFiles
        } else if host.page_faults() {
            Self::OnTouch
        } else {
            Self::AtOnce
        }
    }
}

/// How a kind of host wants its memory.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// The hosts that this is about.
    pub taking: Taking,
    /// The largest piece to give in one region, in bytes. [`VmConfig::largest_region`](crate::VmConfig::largest_region) overrides it.
    pub largest_region: u64,
    /// Whether to ask for pages of 2 MiB where a region's address and size allow.
    pub huge_pages: bool,
    /// Where this comes from.
    pub why: &'static str,
}

/// The policies, one for each [`Taking`].
pub const MEMORY_POLICIES: [MemoryPolicy; 3] = [
    MemoryPolicy {
        taking: Taking::AtOnce,
        largest_region: 2 << 30,
        huge_pages: false,
        why: "the kernel keeps one pointer for each page of 4 KiB in one piece of memory, of which it has 4 MiB at most: \
              regions beyond 2 GiB are ENOMEM. Smaller ones would cost parcels, of which the Resource Manager has few, and \
              memory: it reserves every region but the first, and so takes it away from Linux guests",
    },
    MemoryPolicy {
        taking: Taking::OnTouch,
        largest_region: u64::MAX,
        huge_pages: false,
        why: "a region is a note; pages are taken as large as the host's mapping has them: prepare it (MemoryRegion::prepare)",
    },
    MemoryPolicy {
        taking: Taking::FromFiles,
        largest_region: u64::MAX,
        huge_pages: true,
        why: "the hypervisor's pool of page tables is small: with pages of 4 KiB a large guest exhausts it and dies under load",
    },
];

/// The policy for a host.
pub(super) fn of(host: &Features) -> MemoryPolicy {
    let taking = Taking::of(host);
    let [first, ..] = MEMORY_POLICIES;
    MEMORY_POLICIES.into_iter().find(|policy| policy.taking == taking).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_host_has_one_policy() {
        for taking in [Taking::AtOnce, Taking::OnTouch, Taking::FromFiles] {
            assert_eq!(MEMORY_POLICIES.iter().filter(|policy| policy.taking == taking).count(), 1);
        }
        for policy in MEMORY_POLICIES {
            assert!(policy.largest_region == u64::MAX || policy.largest_region % (2 << 20) == 0);
        }
    }
}

//! Guest memory from the caller's own mappings.

use std::ops::BitOr;

use gunyah_bindings::{android, v11, v17};

use crate::error::{Error, Result};
use crate::sys;

/// What the guest may do with a piece of memory. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access(u32);

impl Access {
    /// The guest may load from it.
    pub const READ: Self = Self(v11::GH_MEM_ALLOW_READ);
    /// The guest may store to it.
    pub const WRITE: Self = Self(v11::GH_MEM_ALLOW_WRITE);
    /// The guest may execute from it.
    pub const EXEC: Self = Self(v11::GH_MEM_ALLOW_EXEC);
    /// All three: the usual choice for a guest's main memory.
    pub const RWX: Self = Self(Self::READ.0 | Self::WRITE.0 | Self::EXEC.0);

    /// Whether every right of `other` is included.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn region_flags(self) -> u32 {
        self.0
    }

    /// The same rights in the bits of the guest-memory form.
    pub(crate) fn guest_memory_flags(self) -> v17::gunyah_map_flags {
        use v17::gunyah_map_flags as flags;
        let mut all = flags::GUNYAH_MEM_DEFAULT_ACCESS;
        for (right, flag) in [
            (Self::READ, flags::GUNYAH_MEM_ALLOW_READ),
            (Self::WRITE, flags::GUNYAH_MEM_ALLOW_WRITE),
            (Self::EXEC, flags::GUNYAH_MEM_ALLOW_EXEC),
        ] {
            if self.contains(right) {
                all |= flag;
            }
        }
        all
    }

    /// The same rights in Android's bits.
    pub(crate) fn android_flags(self) -> android::gunyah_map_flags {
        use android::gunyah_map_flags as flags;
        let mut all = flags::GUNYAH_MEM_DEFAULT_ACCESS;
        for (right, flag) in [
            (Self::READ, flags::GUNYAH_MEM_ALLOW_READ),
            (Self::WRITE, flags::GUNYAH_MEM_ALLOW_WRITE),
            (Self::EXEC, flags::GUNYAH_MEM_ALLOW_EXEC),
        ] {
            if self.contains(right) {
                all |= flag;
            }
        }
        all
    }
}

impl BitOr for Access {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Whether the host keeps its own access to memory that it gives to a guest.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// The kernel's choice: lend, in every kernel read.
    #[default]
    Default,
    /// The host loses access: touching the memory is a SIGBUS, or worse.
    Lend,
    /// The host keeps access. The guest cannot execute from it, except in an unprotected VM of android16.
    Share,
}

/// A region of guest memory backed by memory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserMemoryRegion {
    /// Names the region within its VM. Use 0 for the main region, which holds the payload and the devicetree.
    pub label: u32,
    /// The guest physical address of the first byte; a multiple of the host's page size.
    pub guest_phys_addr: u64,
    /// Length in bytes; a multiple of the host's page size, not 0.
    pub memory_size: u64,
    /// The address of the first byte in this process; a multiple of the host's page size.
    pub userspace_addr: u64,
    /// What the guest may do.
    pub access: Access,
}

impl UserMemoryRegion {
    /// Checks what some kernels forget to check.
    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        check_range(op, self.guest_phys_addr, self.memory_size)?;
        if !is_page_aligned(self.userspace_addr) {
            return Err(Error::InvalidArgument {
                op,
                why: "userspace_addr is not a multiple of the page size",
            });
        }
        if self.userspace_addr.checked_add(self.memory_size).is_none() {
            return Err(Error::InvalidArgument { op, why: "userspace_addr + memory_size wraps around" });
        }
        Ok(())
    }

    pub(crate) fn argument(&self) -> v11::gh_userspace_memory_region {
        v11::gh_userspace_memory_region {
            label: self.label,
            flags: self.access.region_flags(),
            guest_phys_addr: self.guest_phys_addr,
            memory_size: self.memory_size,
            userspace_addr: self.userspace_addr,
        }
    }
}

pub(crate) fn is_page_aligned(value: u64) -> bool {
    value.checked_rem(sys::page_size() as u64) == Some(0)
}

/// A range of whole pages of guest memory: aligned, not empty, not wrapping around.
pub(crate) fn check_range(op: &'static str, addr: u64, size: u64) -> Result<()> {
    let why = if size == 0 {
        "the size is 0"
    } else if !is_page_aligned(addr) {
        "the guest address is not a multiple of the page size"
    } else if !is_page_aligned(size) {
        "the size is not a multiple of the page size"
    } else if addr.checked_add(size).is_none() {
        "guest address + size wraps around"
    } else {
        return Ok(());
    };
    Err(Error::InvalidArgument { op, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_forms_of_map_flags_differ() {
        let access = Access::READ | Access::EXEC;
        assert_eq!(access.guest_memory_flags().0, 0x50);
        assert_eq!(access.android_flags().0, 0x5);
        assert!(Access::RWX.contains(access) && !access.contains(Access::WRITE));
    }

    #[test]
    fn geometry_is_checked() {
        let page = sys::page_size() as u64;
        for (addr, size, good) in [
            (0, page, true),
            (0, 0, false),
            (1, page, false),
            (0, page + 1, false),
            (u64::MAX - page + 1, page, false),
            (u64::MAX - 2 * page + 1, page, true),
        ] {
            assert_eq!(check_range("op", addr, size).is_ok(), good, "{addr:#x} {size:#x}");
        }
    }
}

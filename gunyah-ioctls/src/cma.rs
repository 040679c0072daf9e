//! Guest memory from a reserved, contiguous region of the host (android16).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gunyah_bindings::android;

use crate::error::{Error, Result};
use crate::features::Flavour;
use crate::guest_memory::HostMapping;
use crate::mapping::Mapping;
use crate::memory::{Access, Sharing, is_page_aligned};
use crate::{ops, sys};

/// The device node of a reserved region, `/dev/<region>`. The region's name comes from the host's devicetree.
#[derive(Debug)]
pub struct CmaRegion {
    fd: OwnedFd,
}

impl CmaRegion {
    /// Opens the region's node.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fd = sys::open(path, true).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        Ok(Self { fd })
    }

    /// Makes a file descriptor for the region's memory. Nothing is allocated before [`CmaMemory::map`].
    ///
    /// # Errors
    ///
    /// [`Error::NotGunyah`] when the node is something else; [`Error::Ioctl`]: EMFILE, ENFILE, ENOMEM.
    pub fn create_memory(&self) -> Result<CmaMemory> {
        let op = ops::CREATE_CMA_MEM_FD;
        let fd = op.call_fd(self.fd.as_fd(), 0).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTTY) => Error::NotGunyah { path: None },
            _ => op.error(error, Some(Flavour::Android16)),
        })?;
        Ok(CmaMemory { fd })
    }
}

/// Memory of a [`CmaRegion`].
#[derive(Debug)]
pub struct CmaMemory {
    fd: OwnedFd,
}

impl CmaMemory {
    /// Allocates `size` bytes of the region and maps them into this process. Once per memory.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when `size` is 0 or no multiple of the page size; [`Error::Os`]: EBUSY
    /// allocated already, EINVAL mapped already or larger than the region, ENOMEM.
    pub fn map(&self, size: usize) -> Result<HostMapping> {
        if size == 0 || !is_page_aligned(size as u64) {
            return Err(Error::InvalidArgument {
                op: "mmap of reserved memory",
                why: "the size is 0 or not a multiple of the page size",
            });
        }
        Mapping::new(self.fd.as_fd(), 0, size).map(HostMapping).map_err(|source| Error::Os {
            call: "mmap",
            doing: "allocating reserved memory",
            source,
        })
    }
}

impl AsFd for CmaMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A piece of [`CmaMemory`] at a guest address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmaMapping {
    /// Names the region within its VM.
    pub label: u32,
    /// The guest physical address of the first byte.
    pub guest_addr: u64,
    /// Where the piece starts in the memory, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
    /// What the guest may do.
    pub access: Access,
    /// Whether the host keeps its access.
    pub sharing: Sharing,
}

impl CmaMapping {
    pub(crate) fn check(&self) -> Result<()> {
        let op = ops::MAP_CMA_MEM;
        crate::memory::check_range(op.name, self.guest_addr, self.size)?;
        if !is_page_aligned(self.offset) {
            return Err(op.invalid("the offset is not a multiple of the page size"));
        }
        if self.offset.checked_add(self.size).is_none() {
            return Err(op.invalid("offset + size wraps around"));
        }
        Ok(())
    }

    pub(crate) fn flags(&self) -> android::gunyah_map_flags {
        use android::gunyah_map_flags as flags;
        self.access.android_flags()
            | match self.sharing {
                Sharing::Default => flags::GUNYAH_MEM_DEFAULT_ACCESS,
                Sharing::Lend => flags::GUNYAH_MEM_FORCE_LEND,
                Sharing::Share => flags::GUNYAH_MEM_FORCE_SHARE,
            }
    }
}

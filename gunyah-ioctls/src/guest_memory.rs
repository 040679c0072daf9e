//! Guest memory with a file descriptor of its own: the v17 form.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use gunyah_bindings::v17;

use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::memory::{Access, Sharing, is_page_aligned};
use crate::{ops, sys};

const HUGE_PAGE: u64 = 2 << 20;

/// Memory made for guests, from [`Gunyah::create_guest_memory`](crate::Gunyah::create_guest_memory).
#[derive(Debug)]
pub struct GuestMemory {
    fd: OwnedFd,
    size: u64,
    huge_pages: bool,
    /// Tells memories apart for as long as the process runs; a file descriptor's number would be used again.
    id: u64,
}

impl GuestMemory {
    pub(crate) fn create(device: BorrowedFd<'_>, size: u64, huge_pages: bool) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let op = ops::CREATE_GUEST_MEM;
        if size == 0 || !is_page_aligned(size) {
            return Err(op.invalid("the size is 0 or not a multiple of the page size"));
        }
        if huge_pages && size % HUGE_PAGE != 0 {
            return Err(op.invalid("with huge pages the size must be a multiple of 2 MiB"));
        }
        let huge = if huge_pages { v17::GUNYAH_GHMF_ALLOW_HUGEPAGE } else { 0 };
        let args =
            v17::gunyah_create_mem_args { flags: v17::GUNYAH_GHMF_CLOEXEC | huge, size, reserved: [0; 6] };
        let fd = op.call_fd(device, &args).map_err(|error| op.error(error, Some(crate::Flavour::V17)))?;
        Ok(Self { fd, size, huge_pages, id: NEXT.fetch_add(1, Ordering::Relaxed) })
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Maps a piece of the memory into this process.
    ///
    /// The kernel takes lent pages back from the guest to let the host touch them, and the host gets a SIGBUS where
    /// it cannot.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a range that is empty, unaligned or not inside the memory; [`Error::Os`]: ENOMEM, or
    /// what taking pages back from a guest gave.
    pub fn map(&self, offset: u64, size: u64) -> Result<HostMapping> {
        self.check_piece("mmap of guest memory", offset, size)?;
        let too_big =
            |_| Error::InvalidArgument { op: "mmap of guest memory", why: "too big for this process" };
        let len = usize::try_from(size).map_err(too_big)?;
        let offset = libc::off_t::try_from(offset).map_err(too_big)?;
        Mapping::new(self.fd.as_fd(), offset, len).map(HostMapping).map_err(|source| Error::Os {
            call: "mmap",
            doing: "mapping guest memory",
            source,
        })
    }

    /// Takes a piece of the memory back from the guest and frees it. It reads as zeroes afterwards.
    ///
    /// The way to give memory back: unmapping it from the VM was seen to keep it allocated until the host reboots.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a range that is empty, unaligned or not inside the memory; [`Error::Os`]: EBUSY the
    /// guest's pages could not be taken back, ENOMEM, EINTR.
    pub fn punch_hole(&self, offset: u64, size: u64) -> Result<()> {
        const OP: &str = "fallocate of guest memory";
        self.check_piece(OP, offset, size)?;
        let too_big = |_| Error::InvalidArgument { op: OP, why: "too big for a file" };
        let (offset, size) = (offset.try_into().map_err(too_big)?, size.try_into().map_err(too_big)?);
        sys::punch_hole(self.fd.as_fd(), offset, size).map_err(|source| Error::Os {
            call: "fallocate",
            doing: "freeing guest memory",
            source,
        })
    }

    pub(crate) fn check_piece(&self, op: &'static str, offset: u64, size: u64) -> Result<()> {
        let why = if size == 0 {
            "the size is 0"
        } else if !is_page_aligned(offset) || !is_page_aligned(size) {
            "offset or size is not a multiple of the page size"
        } else if offset.checked_add(size).is_none_or(|end| end > self.size) {
            "the range is not inside the guest memory"
        } else {
            return Ok(());
        };
        Err(Error::InvalidArgument { op, why })
    }

    pub(crate) fn check_mapping(&self, mapping: &GuestMemoryMapping) -> Result<()> {
        let op = ops::VM_MAP_MEM;
        self.check_piece(op.name, mapping.offset, mapping.size)?;
        crate::memory::check_range(op.name, mapping.guest_addr, mapping.size)?;
        let together = mapping.guest_addr | mapping.offset | mapping.size;
        if self.huge_pages && together % HUGE_PAGE != 0 {
            return Err(op.invalid("with huge pages address, offset and size must be multiples of 2 MiB"));
        }
        Ok(())
    }
}

impl AsFd for GuestMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A piece of [`GuestMemory`] at a guest address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestMemoryMapping {
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

impl GuestMemoryMapping {
    pub(crate) fn flags(&self) -> v17::gunyah_map_flags {
        use v17::gunyah_map_flags as flags;
        self.access.guest_memory_flags()
            | match self.sharing {
                Sharing::Default => flags::GUNYAH_MEM_DEFAULT_ACCESS,
                Sharing::Lend => flags::GUNYAH_MEM_FORCE_LEND,
                Sharing::Share => flags::GUNYAH_MEM_FORCE_SHARE,
            }
    }
}

/// Memory of a guest, mapped into this process. Unmapped when dropped.
#[derive(Debug)]
pub struct HostMapping(pub(crate) Mapping);

impl HostMapping {
    /// The address of the first byte. The guest may change what is there at any time.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.0.start()
    }

    /// The length in bytes.
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

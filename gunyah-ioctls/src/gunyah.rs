//! The device: where VMs come from.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::features::{DeviceFeatures, Features, Flavour};
use crate::guest_memory::GuestMemory;
use crate::vm::VmFd;
use crate::{ops, sys};

/// The Gunyah device, open.
///
/// ```
/// use gunyah_ioctls::Gunyah;
/// # let fake = fake_gunyah::Fake::builder().build()?;
/// # fake.run(|_| {
/// let vm = Gunyah::new()?.create_vm()?;
/// println!("{}", vm.features());
/// # Ok::<(), gunyah_ioctls::Error>(())
/// # })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Gunyah {
    fd: OwnedFd,
    path: Option<PathBuf>,
    features: OnceLock<DeviceFeatures>,
}

impl Gunyah {
    /// Where the kernel puts the device.
    pub const DEFAULT_PATH: &str = "/dev/gunyah";

    /// Opens [`Gunyah::DEFAULT_PATH`].
    ///
    /// # Errors
    ///
    /// As [`Gunyah::new_with_path`].
    pub fn new() -> Result<Self> {
        Self::new_with_path(Self::DEFAULT_PATH)
    }

    /// Opens the device at `path`, close-on-exec.
    ///
    /// The kernel is not asked what the device is; [`Gunyah::create_vm`] does that.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] with the errno of `open`: ENOENT there is no such node, EACCES it may not be opened.
    pub fn new_with_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fd = Self::open_with_cloexec_at(path, true)?;
        Ok(Self { fd, path: Some(path.to_owned()), features: OnceLock::new() })
    }

    /// Opens [`Gunyah::DEFAULT_PATH`] and returns the plain file descriptor, with or without close-on-exec.
    ///
    /// # Errors
    ///
    /// As [`Gunyah::new_with_path`].
    pub fn open_with_cloexec(close_on_exec: bool) -> Result<OwnedFd> {
        Self::open_with_cloexec_at(Self::DEFAULT_PATH, close_on_exec)
    }

    /// Opens the device at `path` and returns the plain file descriptor, with or without close-on-exec.
    ///
    /// # Errors
    ///
    /// As [`Gunyah::new_with_path`].
    pub fn open_with_cloexec_at(path: impl AsRef<Path>, close_on_exec: bool) -> Result<OwnedFd> {
        let path = path.as_ref();
        sys::open(path, close_on_exec).map_err(|source| Error::Open { path: path.to_owned(), source })
    }

    /// Creates a VM and finds out what the host has, on the file descriptors that are going to be used.
    ///
    /// The VM's file descriptor is close-on-exec. No more than 13 ioctls, none of which changes anything but the creation
    /// itself.
    ///
    /// # Errors
    ///
    /// [`Error::VendorAbi`] on vendor kernels, whose Gunyah cannot run arbitrary guests; [`Error::NotGunyah`] when the
    /// file is something else; [`Error::Ioctl`]: ENOMEM, EMFILE or ENFILE; on v11 and android14-early, where the VM's id
    /// is allocated here, also what the Resource Manager says: ENODEV none left, ENOMEM, EPERM, EBUSY, EINVAL, EOPNOTSUPP,
    /// EBADMSG an unknown answer, EIO and E2BIG trouble with the messages.
    pub fn create_vm(&self) -> Result<VmFd> {
        let device = self.device_features()?;
        let op = ops::CREATE_VM;
        let vm = op.call_fd(self.fd.as_fd(), 0).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTTY) => Error::NotGunyah { path: self.path.clone() },
            _ => op.error(error, None),
        })?;
        let features = Features::detect(device, vm.as_fd());
        Ok(VmFd::new(vm, features))
    }

    /// Creates guest memory of `size` bytes (v17), for [`VmFd::map_guest_memory`].
    ///
    /// With `huge_pages` the kernel may back it with pages of 2 MiB; then sizes, offsets and guest addresses must be
    /// multiples of that. The memory reads as zeroes and its size never changes.
    ///
    /// # Errors
    ///
    /// [`Error::NotInAbi`] on other hosts; [`Error::InvalidArgument`] when `size` is 0 or no multiple of the
    /// page; [`Error::VendorAbi`]; [`Error::Ioctl`]: EMFILE, ENFILE, ENOMEM.
    pub fn create_guest_memory(&self, size: u64, huge_pages: bool) -> Result<GuestMemory> {
        let device = self.device_features()?;
        if !device.guest_memory {
            return Err(Error::NotInAbi { op: ops::CREATE_GUEST_MEM.name, flavour: device.flavour() });
        }
        GuestMemory::create(self.fd.as_fd(), size, huge_pages)
    }

    fn device_features(&self) -> Result<DeviceFeatures> {
        let features = *self.features.get_or_init(|| DeviceFeatures::detect(self.fd.as_fd()));
        if features.vendor { Err(Error::VendorAbi { path: self.path.clone() }) } else { Ok(features) }
    }
}

impl DeviceFeatures {
    /// The closest name while there is no VM to ask.
    fn flavour(self) -> Flavour {
        if self.guest_memory { Flavour::V17 } else { Flavour::V11 }
    }
}

impl fmt::Debug for Gunyah {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gunyah").field("fd", &self.fd).field("path", &self.path).finish_non_exhaustive()
    }
}

impl AsFd for Gunyah {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Gunyah {
    /// Takes a device that was opened elsewhere, by a privileged process for example.
    fn from(fd: OwnedFd) -> Self {
        Self { fd, path: None, features: OnceLock::new() }
    }
}

impl From<Gunyah> for OwnedFd {
    fn from(gunyah: Gunyah) -> Self {
        gunyah.fd
    }
}

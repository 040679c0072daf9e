//! What the VM starts from: devicetree, firmware, registers, and who vouches for the image.

use std::os::fd::AsFd;

use gunyah_bindings::{android, v11, v17};

use super::VmFd;
use crate::boot::{AuthType, BootRegister};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::features::Feature;
use crate::ops;

/// The hypervisor counts devicetree sizes in pages of 4 KiB, whatever the host's page size is.
const GUNYAH_PAGE: u64 = 4096;

impl VmFd {
    /// Says where the devicetree is, before the start. Every flavour. The last call counts.
    ///
    /// `size` is in bytes, a multiple of 4096: some kernels count in whole pages and would cut the rest off. Leave room
    /// after the tree, since the Resource Manager adds nodes to it in place. The range must be inside one region, and the
    /// payload in the same one; the kernel checks that at the start only.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: the size is below 4096 or no multiple of it, or the range wraps around.
    /// [`Error::WrongPhase`] after the start, when the kernel would ignore it. [`Error::VmUnusable`]. [`Error::Ioctl`].
    pub fn set_dtb_config(&self, guest_phys_addr: u64, size: u64) -> Result<()> {
        let op = ops::SET_DTB_CONFIG;
        if size < GUNYAH_PAGE {
            return Err(op.invalid(
                "the devicetree's size is below a page of 4096 bytes, and some kernels take that as 0",
            ));
        }
        if size % GUNYAH_PAGE != 0 {
            return Err(op.invalid(
                "the devicetree's size is not a multiple of 4096, and some kernels cut off the rest",
            ));
        }
        if guest_phys_addr.checked_add(size).is_none() {
            return Err(op.invalid("guest address + size of the devicetree wraps around"));
        }
        let book = self.inner.book();
        book.usable(op.name)?;
        book.configuring(op.name, "the VM has started: the kernel would ignore it")?;
        let config = v11::gh_vm_dtb_config { guest_phys_addr, size };
        op.call(self.as_fd(), &config).map(drop).map_err(|error| self.inner.error(op, error))
    }

    /// Says where the firmware of a protected VM is, before the start (android14-early, android14, android15, android16).
    ///
    /// The VM becomes a protected one of Android. The range must be inside a region; the kernel checks that at the start.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`]: empty or wrapping around. [`Error::WrongPhase`] after the start. [`Error::VmUnusable`].
    /// [`Error::NotInAbi`]. [`Error::Ioctl`].
    pub fn set_firmware_config(&self, guest_phys_addr: u64, size: u64) -> Result<()> {
        let op = ops::SET_FW_CONFIG;
        self.inner.require(Feature::Firmware, op)?;
        if size == 0 || guest_phys_addr.checked_add(size).is_none() {
            return Err(op.invalid("the firmware's range is empty or wraps around"));
        }
        let book = self.inner.book();
        book.usable(op.name)?;
        book.configuring(op.name, "the VM has started: the kernel would ignore it")?;
        let config = android::gunyah_vm_firmware_config { guest_phys_addr, size };
        op.call(self.as_fd(), &config).map(drop).map_err(|error| self.inner.error(op, error))
    }

    /// Sets a register with which the boot vCPU starts (v17, android15, android16).
    ///
    /// Without it the guest starts at the beginning of the region that holds the devicetree, with X0 = the devicetree's
    /// address. Prefer that where it fits: a Resource Manager of 2023 takes this call and then fails the start with
    /// EOPNOTSUPP. VMs with firmware ignore it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a register that does not exist. [`Error::WrongPhase`] after the start.
    /// [`Error::VmUnusable`]. [`Error::NotInAbi`]. [`Error::Ioctl`]: EINVAL first kernels cannot store some values (those with their top bits or
    /// low bits set in certain ways; addresses are fine), EINTR, ENOMEM.
    pub fn set_boot_context(&self, register: BootRegister, value: u64) -> Result<()> {
        let op = ops::SET_BOOT_CONTEXT;
        self.inner.require(Feature::BootContext, op)?;
        let reg = register.number()?;
        let book = self.inner.book();
        book.usable(op.name)?;
        book.configuring(op.name, "the VM has started")?;
        let context = v17::gunyah_vm_boot_context { reg, reserved: 0, value };
        op.call(self.as_fd(), &context).map(drop).map_err(|error| self.inner.error(op, error))
    }

    /// Chooses who vouches for the VM's image, before the start (android16).
    ///
    /// # Errors
    ///
    /// [`Error::WrongPhase`] after the start. [`Error::VmUnusable`]. [`Error::NotInAbi`]. [`Error::Ioctl`]: EOPNOTSUPP or ENOENT the kernel was
    /// built without it, EINVAL; for a trusted VM, every kernel read ends with EINVAL even when it has taken the choice.
    pub fn set_auth_type(&self, auth: &AuthType) -> Result<()> {
        let op = ops::SET_AUTH_TYPE;
        self.inner.require(Feature::AuthType, op)?;
        let book = self.inner.book();
        book.usable(op.name)?;
        book.configuring(op.name, "the VM has started")?;
        let trusted;
        let desc = match *auth {
            AuthType::AndroidProtectedVm => {
                android::gunyah_auth_desc { type_: android::GUNYAH_AUTH_ANDROID_PVM, arg_size: 0, arg: 0 }
            }
            AuthType::QualcommTrustedVm { vm_id, peripheral_id, guest_phys_addr, size } => {
                trusted = android::gunyah_qtvm_auth_arg { vm_id, peripheral_id, guest_phys_addr, size };
                android::gunyah_auth_desc {
                    type_: android::GUNYAH_AUTH_QCOM_TRUSTED_VM,
                    arg_size: size_of::<android::gunyah_qtvm_auth_arg>() as u32,
                    arg: std::ptr::from_ref(&trusted).expose_provenance() as u64,
                }
            }
        };
        op.call(self.as_fd(), &desc).map(drop).map_err(|error| self.inner.error(op, error))
    }
}

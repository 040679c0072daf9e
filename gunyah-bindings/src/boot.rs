//! Names of registers for the boot context ioctl of Android 15, Android 16 and v15 to v17.

use crate::v17;

/// The `reg` field of a boot context for register `index` of `set`: `set` above bit 8, `index` below.
///
/// `set` is one of the `GUNYAH_REG_SET_` constants, which are equal in all modules. The kernels take X0 to X31, PC 0 and
/// SP 0 to 2, and answer `EINVAL` for the rest; this function does not check.
///
/// ```
/// use gunyah_bindings::{android, boot};
/// assert_eq!(boot::reg(android::GUNYAH_REG_SET_X, 3), 0x003);
/// assert_eq!(boot::reg(android::GUNYAH_REG_SET_PC, 0), 0x100);
/// ```
#[must_use]
pub const fn reg(set: u8, index: u8) -> u32 {
    ((set as u32) << v17::GUNYAH_VM_BOOT_CONTEXT_REG_SHIFT) | index as u32
}

//! How a guest begins: initial registers and who vouches for its image.

use crate::error::Result;
use crate::ops;

/// A register of the boot vCPU that can be set before the start (v17, android15, android16).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootRegister {
    /// A general register, 0 to 31.
    X(u8),
    /// The program counter.
    Pc,
    /// The stack pointer of an exception level, 0 to 2. A Resource Manager was seen to refuse 2.
    Sp(u8),
}

impl BootRegister {
    pub(crate) fn number(self) -> Result<u32> {
        let (set, index, last) = match self {
            Self::X(index) => (0, index, 31),
            Self::Pc => (1, 0, 0),
            Self::Sp(index) => (2, index, 2),
        };
        if index > last {
            return Err(ops::SET_BOOT_CONTEXT.invalid("there is no such register"));
        }
        Ok(set << 8 | u32::from(index))
    }
}

/// Who vouches for a VM's image (android16).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthType {
    /// A protected VM of Android: its firmware checks what it starts.
    AndroidProtectedVm,
    /// A trusted VM of Qualcomm, whose image the trusted firmware checks.
    QualcommTrustedVm {
        /// The VM's id, fixed by the platform.
        vm_id: u16,
        /// The peripheral (PAS) id of the image.
        peripheral_id: u32,
        /// Guest physical address of the image.
        guest_phys_addr: u64,
        /// Length of the image in bytes.
        size: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_the_kernels_numbers() {
        assert_eq!(BootRegister::X(0).number().unwrap(), 0);
        assert_eq!(BootRegister::X(31).number().unwrap(), 31);
        assert_eq!(BootRegister::Pc.number().unwrap(), 0x100);
        assert_eq!(BootRegister::Sp(2).number().unwrap(), 0x202);
        assert!(BootRegister::X(32).number().is_err());
        assert!(BootRegister::Sp(3).number().is_err());
    }
}

//! How a VM boots, as far as user space has a say: registers, firmware, authentication.

use gunyah_bindings::{android, v11};

use super::Answer;
use super::uapi::Arg;
use super::vm_mgr::{Vm, status};
use crate::errno::Errno;
use crate::flavour::Differences;
use crate::hyp::machine::BootRegisters;
use crate::transport::call::Call;

/// Who vouches for the guest's image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Auth {
    /// Nobody.
    #[default]
    None,
    /// The firmware that was loaded with it.
    AndroidPvm,
    /// Qualcomm's trusted loader.
    Qtvm,
}

/// What was asked for before the start.
#[derive(Debug, Default)]
pub(crate) struct Boot {
    pub(crate) auth: Auth,
    pub(crate) firmware: Option<v11::gh_vm_dtb_config>,
    /// Register set, index, value; the last one for a register counts.
    registers: Vec<(u8, u8, u64)>,
}

impl Boot {
    /// What was set, unless something else decides where such a VM starts.
    fn context(&self) -> &[(u8, u8, u64)] {
        if self.auth == Auth::None { &self.registers } else { &[] }
    }

    /// The Resource Manager takes the boot context, or not.
    pub(crate) fn check(&self, differences: &Differences) -> Result<(), Errno> {
        if !self.context().is_empty() && !differences.rm_takes_boot_context {
            return Err(Errno::EOPNOTSUPP);
        }
        // The kernel lets SP_EL2 through, and a Resource Manager was seen to refuse it. With what code is not known:
        // chosen.
        let el2 = |(set, index, _): &(u8, u8, u64)| *set == android::GUNYAH_REG_SET_SP && *index > 1;
        if self.context().iter().any(el2) { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Sets the registers of the vCPU that starts.
    pub(crate) fn apply(&self, to: &mut BootRegisters) {
        for &(set, index, value) in self.context() {
            match (set, index) {
                (android::GUNYAH_REG_SET_PC, _) => to.pc = value,
                (android::GUNYAH_REG_SET_SP, 0) => to.sp_el0 = value,
                (android::GUNYAH_REG_SET_SP, _) => to.sp_el1 = value,
                (_, index) => {
                    // X31 is the zero register.
                    if let Some(register) = to.x.get_mut(usize::from(index)) {
                        *register = value;
                    }
                }
            }
        }
    }
}

/// How many registers each set has.
fn registers_of(set: u8) -> Option<u8> {
    match set {
        android::GUNYAH_REG_SET_X => Some(32),
        android::GUNYAH_REG_SET_PC => Some(1),
        android::GUNYAH_REG_SET_SP => Some(3),
        _ => None,
    }
}

/// Whether a value stored as an entry of the kernel's sparse array would be taken for one of its own.
fn looks_internal(value: u64) -> bool {
    const RETRY: u64 = 256 << 2 | 2;
    const ERRORS: u64 = (-4095i64 << 2) as u64 | 2;
    value & 3 == 2 && !(RETRY + 1..ERRORS).contains(&value)
}

impl Vm {
    /// `SET_BOOT_CONTEXT`.
    pub(crate) fn set_boot_context(&self, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        let differences = &self.kernel().differences;
        let arg = android::gunyah_vm_boot_context::copy_from_user(&call.caller, arg)?;
        if differences.boot_context_strict && arg.reg >> 16 != 0 {
            return Err(Errno::EINVAL);
        }
        let [index, set, ..] = arg.reg.to_le_bytes();
        if registers_of(set).is_none_or(|count| index >= count) {
            return Err(Errno::EINVAL);
        }
        if self.status() != status::NO_STATE {
            return Err(Errno::EINVAL);
        }
        if differences.boot_context_in_entry && looks_internal(arg.value) {
            return Err(Errno::EINVAL);
        }
        let mut boot = self.boot();
        boot.registers.retain(|(s, i, _)| (*s, *i) != (set, index));
        // Stored as an entry, 0 is no entry at all.
        if arg.value != 0 || !differences.boot_context_in_entry {
            boot.registers.push((set, index, arg.value));
        }
        Ok(Answer::value(0))
    }

    /// `SET_FW_CONFIG`. Nothing about the range is looked at before the start.
    pub(crate) fn set_fw_config(&self, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        let config = v11::gh_vm_dtb_config::copy_from_user(&call.caller, arg)?;
        let mut boot = self.boot();
        if !self.kernel().differences.firmware_needs_no_auth || boot.auth == Auth::None {
            boot.firmware = Some(config);
            boot.auth = Auth::AndroidPvm;
        }
        Ok(Answer::value(0))
    }

    /// `SET_AUTH_TYPE`.
    pub(crate) fn set_auth_type(&self, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        let desc = android::gunyah_auth_desc::copy_from_user(&call.caller, arg)?;
        if desc.arg_size > v11::GH_FN_MAX_ARG_SIZE {
            return Err(Errno::EINVAL);
        }
        let bytes = call.caller.read_bytes(desc.arg, desc.arg_size as usize)?;
        match desc.type_ {
            android::GUNYAH_AUTH_ANDROID_PVM => {
                self.boot().auth = Auth::AndroidPvm;
                Ok(Answer::value(0))
            }
            android::GUNYAH_AUTH_QCOM_TRUSTED_VM => {
                if bytes.len() == size_of::<android::gunyah_qtvm_auth_arg>() {
                    self.boot().auth = Auth::Qtvm;
                }
                // Every source that was seen ends with this, even when the state has been stored.
                Err(Errno::EINVAL)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// `CHECK_EXTENSION`.
    pub(crate) fn check_extension(capability: u64) -> Answer {
        Answer::value(i64::from(capability == u64::from(android::GUNYAH_CAP_VCPU_TIMER_WAKEUP)))
    }

    /// At start: the firmware must lie in memory that was given.
    pub(crate) fn find_firmware(&self) -> Result<(), Errno> {
        let Some(firmware) = self.boot().firmware else { return Ok(()) };
        match self.region_of(firmware.guest_phys_addr, firmware.size) {
            Some(_) => Ok(()),
            None => Err(self.kernel().differences.dtb_nowhere),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::looks_internal;

    #[test]
    fn addresses_are_no_internal_entries() {
        for value in [0, 1, 0x8000_0000, 0x8000_0002, u64::MAX, 1 << 63] {
            assert!(!looks_internal(value), "{value:#x}");
        }
        for value in [2, 6, 1026, (-4i64 << 2) as u64 | 2] {
            assert!(looks_internal(value), "{value:#x}");
        }
    }
}

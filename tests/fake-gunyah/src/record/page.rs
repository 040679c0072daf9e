//! The run page in a recording.

use std::mem::offset_of;

use gunyah_bindings::{android, v11};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::format::{Answer, is_zero};
use super::text::{Hex, HexBytes, put, take, to_hex};

/// Bytes of the run page that this format knows: all of every flavour's structure.
pub const PAGE_BYTES: usize = size_of::<android::gunyah_vcpu_run>();
/// Where the part that depends on the exit reason begins.
const EXIT: usize = PAGE_BYTES - EXIT_BYTES;
const EXIT_BYTES: usize = size_of::<android::gunyah_vcpu_run_exit>();

/// The run page after a call: the exit reason, and what belongs to it.
///
/// Held as the kernel's bytes, so that a replay shows a program what the host showed. Bytes between the fields are not
/// kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitPage {
    /// `exit_reason`.
    pub exit_reason: u32,
    /// The page's union: the exit's fields, each where the structure has it.
    pub exit: [u8; EXIT_BYTES],
    /// The call failed, and the page says what it said before: most likely nothing was written, though an equal exit
    /// looks the same.
    pub stale: bool,
}

/// Offsets in [`ExitPage::exit`].
mod at {
    use super::{android, offset_of, v11};
    pub(super) const PHYS_ADDR: usize = offset_of!(v11::gh_vcpu_run_mmio, phys_addr);
    pub(super) const DATA: usize = offset_of!(v11::gh_vcpu_run_mmio, data);
    pub(super) const LEN: usize = offset_of!(v11::gh_vcpu_run_mmio, len);
    pub(super) const IS_WRITE: usize = offset_of!(v11::gh_vcpu_run_mmio, is_write);
    pub(super) const MMIO_ACTION: usize = offset_of!(android::gunyah_vcpu_run_mmio, resume_action);
    pub(super) const STATUS: usize = offset_of!(v11::gh_vcpu_run_status, status);
    const INFO: usize = offset_of!(v11::gh_vcpu_run_status, exit_info);
    pub(super) const TYPE: usize = INFO + offset_of!(v11::gh_vm_exit_info, type_);
    pub(super) const REASON_SIZE: usize = INFO + offset_of!(v11::gh_vm_exit_info, reason_size);
    pub(super) const REASON: usize = INFO + offset_of!(v11::gh_vm_exit_info, reason);
    pub(super) const FAULT_ADDR: usize = offset_of!(android::gunyah_vcpu_run_page_fault, phys_addr);
    pub(super) const ATTEMPT: usize = offset_of!(android::gunyah_vcpu_run_page_fault, attempt);
    pub(super) const FAULT_ACTION: usize = offset_of!(android::gunyah_vcpu_run_page_fault, resume_action);
}

impl ExitPage {
    /// Where [`ExitPage::exit_reason`] lies in the page.
    pub const REASON_AT: usize = offset_of!(v11::gh_vcpu_run, exit_reason);
    /// Where [`ExitPage::exit`] lies in the page.
    pub const EXIT_AT: usize = EXIT;
    /// Where `immediate_exit` lies in the page.
    pub const IMMEDIATE_EXIT_AT: usize = offset_of!(v11::gh_vcpu_run, immediate_exit);

    /// Takes the exit from a page's first bytes.
    #[must_use]
    pub fn from_page(page: &[u8; PAGE_BYTES]) -> Self {
        Self {
            exit_reason: u32::from_le_bytes(take(page, Self::REASON_AT)),
            exit: take(page, Self::EXIT_AT),
            stale: false,
        }
    }

    /// Whether this is a read that user space is to answer.
    #[must_use]
    pub fn is_mmio_read(&self) -> bool {
        self.exit_reason == v11::GH_VCPU_EXIT_MMIO && take::<1>(&self.exit, at::IS_WRITE) == [0]
    }

    /// How many bytes of data an answer to this exit has: 0 unless it is a read.
    #[must_use]
    pub fn answer_len(&self) -> usize {
        let len = u32::from_le_bytes(take(&self.exit, at::LEN));
        if self.is_mmio_read() { len.min(8) as usize } else { 0 }
    }

    /// What `page` answers to this exit.
    #[must_use]
    pub fn answer(&self, page: &[u8; PAGE_BYTES]) -> Answer {
        let [immediate_exit] = take(page, Self::IMMEDIATE_EXIT_AT);
        let data: [u8; 8] = take(page, Self::EXIT_AT + at::DATA);
        let data = self.is_mmio_read().then(|| to_hex(data.get(..self.answer_len()).unwrap_or_default()));
        let action = match self.exit_reason {
            v11::GH_VCPU_EXIT_MMIO => Some(at::MMIO_ACTION),
            android::GUNYAH_VCPU_EXIT_PAGE_FAULT => Some(at::FAULT_ACTION),
            _ => None,
        };
        let [resume_action] = action.map_or([0], |at| take(page, Self::EXIT_AT + at));
        Answer { immediate_exit, data, resume_action }
    }
}

/// [`ExitPage`] as it is written.
#[derive(Serialize, Deserialize)]
struct PageLine {
    exit_reason: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mmio: Option<MmioLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<StatusLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page_fault: Option<FaultLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw: Option<HexBytes<EXIT_BYTES>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
}

#[derive(Serialize, Deserialize)]
struct MmioLine {
    phys_addr: Hex,
    len: u32,
    is_write: u8,
    data: HexBytes<8>,
    #[serde(default, skip_serializing_if = "is_zero")]
    resume_action: u8,
}

#[derive(Serialize, Deserialize)]
struct StatusLine {
    status: u32,
    exit_type: u16,
    reason_size: u32,
    reason: HexBytes<8>,
}

#[derive(Serialize, Deserialize)]
struct FaultLine {
    phys_addr: Hex,
    attempt: i32,
    resume_action: u8,
}

impl Serialize for ExitPage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let exit = &self.exit;
        let number = |at| u32::from_le_bytes(take(exit, at));
        let byte = |at| {
            let [byte] = take(exit, at);
            byte
        };
        let address = |at| Hex(u64::from_le_bytes(take(exit, at)));
        let mut line = PageLine {
            exit_reason: self.exit_reason,
            mmio: None,
            status: None,
            page_fault: None,
            raw: None,
            stale: self.stale,
        };
        match self.exit_reason {
            v11::GH_VCPU_EXIT_UNKNOWN => {}
            v11::GH_VCPU_EXIT_MMIO => {
                line.mmio = Some(MmioLine {
                    phys_addr: address(at::PHYS_ADDR),
                    len: number(at::LEN),
                    is_write: byte(at::IS_WRITE),
                    data: HexBytes(take(exit, at::DATA)),
                    resume_action: byte(at::MMIO_ACTION),
                });
            }
            v11::GH_VCPU_EXIT_STATUS => {
                line.status = Some(StatusLine {
                    status: number(at::STATUS),
                    exit_type: u16::from_le_bytes(take(exit, at::TYPE)),
                    reason_size: number(at::REASON_SIZE),
                    reason: HexBytes(take(exit, at::REASON)),
                });
            }
            android::GUNYAH_VCPU_EXIT_PAGE_FAULT => {
                line.page_fault = Some(FaultLine {
                    phys_addr: address(at::FAULT_ADDR),
                    attempt: i32::from_le_bytes(take(exit, at::ATTEMPT)),
                    resume_action: byte(at::FAULT_ACTION),
                });
            }
            _ => line.raw = Some(HexBytes(*exit)),
        }
        line.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ExitPage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let line = PageLine::deserialize(deserializer)?;
        let mut exit = [0; EXIT_BYTES];
        match (line.exit_reason, line.mmio, line.status, line.page_fault, line.raw) {
            (v11::GH_VCPU_EXIT_UNKNOWN, None, None, None, None) => {}
            (v11::GH_VCPU_EXIT_MMIO, Some(mmio), None, None, None) => {
                put(&mut exit, at::PHYS_ADDR, &mmio.phys_addr.0.to_le_bytes());
                put(&mut exit, at::LEN, &mmio.len.to_le_bytes());
                put(&mut exit, at::IS_WRITE, &[mmio.is_write]);
                put(&mut exit, at::DATA, &mmio.data.0);
                put(&mut exit, at::MMIO_ACTION, &[mmio.resume_action]);
            }
            (v11::GH_VCPU_EXIT_STATUS, None, Some(status), None, None) => {
                put(&mut exit, at::STATUS, &status.status.to_le_bytes());
                put(&mut exit, at::TYPE, &status.exit_type.to_le_bytes());
                put(&mut exit, at::REASON_SIZE, &status.reason_size.to_le_bytes());
                put(&mut exit, at::REASON, &status.reason.0);
            }
            (android::GUNYAH_VCPU_EXIT_PAGE_FAULT, None, None, Some(fault), None) => {
                put(&mut exit, at::FAULT_ADDR, &fault.phys_addr.0.to_le_bytes());
                put(&mut exit, at::ATTEMPT, &fault.attempt.to_le_bytes());
                put(&mut exit, at::FAULT_ACTION, &[fault.resume_action]);
            }
            (4.., None, None, None, Some(raw)) => exit = raw.0,
            (reason, ..) => {
                return Err(D::Error::custom(format!(
                    "the page's fields don't belong to exit_reason {reason}"
                )));
            }
        }
        Ok(Self { exit_reason: line.exit_reason, exit, stale: line.stale })
    }
}

//! What a vCPU's exits put into the run page, and what user space's answers take out of it.

use gunyah_bindings::{android, v11};

use super::observer::Exit;
use super::uapi::run;
use super::vcpu::{Inner, Progress, State, Vcpu};
use super::vm_mgr::ExitInfo;
use crate::errno::Errno;
use crate::flavour::ResumeActions;
use crate::hyp::{VcpuRunResp, resume as resume_action, state as hyp};

impl Vcpu {
    /// An access that the hypervisor could not serve. True: served here, the vCPU runs on.
    pub(super) fn handle_mmio(&self, inner: &mut Inner, progress: &mut Progress, resp: &VcpuRunResp) -> bool {
        let [addr, len, data] = resp.data;
        let differences = &self.vm.kernel().differences;
        if differences.demand_paging {
            // The access that this asks for is what the page's byte says, which user space may have written.
            let write = self.page.byte(run::MMIO_IS_WRITE) != 0;
            if matches!(self.vm.demand_page(addr, write), Ok(()) | Err(Errno::EAGAIN)) {
                return true;
            }
        }
        let len = if differences.answer_clamped { len.min(8) } else { len };
        let is_write = resp.state == hyp::MMIO_WRITE;
        if is_write {
            if self.vm.mmio_write(addr, len, data) {
                return true;
            }
            let shown = usize::try_from(len).unwrap_or(8).min(8);
            self.page.write(run::MMIO_DATA, data.to_le_bytes().get(..shown).unwrap_or_default());
        } else {
            inner.state = State::MmioRead;
            inner.mmio_read_len = len;
        }
        self.page.write(run::MMIO_IS_WRITE, &[u8::from(is_write)]);
        if differences.resume_actions != ResumeActions::None {
            inner.mmio_addr = addr;
            if is_write {
                inner.state = State::MmioWrite;
            }
            self.page.write(run::MMIO_RESUME_ACTION, &[android::GUNYAH_VCPU_RESUME_HANDLED]);
        }
        self.page.write(run::MMIO_PHYS_ADDR, &addr.to_le_bytes());
        self.page.write(run::MMIO_LEN, &(len as u32).to_le_bytes());
        self.exit(v11::GH_VCPU_EXIT_MMIO);
        progress.exit = Some(Exit::Mmio { addr, len: len as u32, write: is_write.then_some(data) });
        false
    }

    /// The guest touched memory that isn't there. True: it is now, the vCPU runs on.
    pub(super) fn handle_page_fault(&self, progress: &mut Progress, resp: &VcpuRunResp) -> bool {
        let [addr, write, _] = resp.data;
        let attempt = match self.vm.demand_page(addr, write != 0) {
            Ok(()) | Err(Errno::EAGAIN) => return true,
            Err(errno) => -errno.0,
        };
        self.page.write(run::FAULT_PHYS_ADDR, &addr.to_le_bytes());
        self.page.write(run::FAULT_ATTEMPT, &attempt.to_le_bytes());
        // A preset only: the state stays "ready", so nothing ever reads it.
        self.page.write(run::FAULT_RESUME_ACTION, &[android::GUNYAH_VCPU_RESUME_FAULT]);
        self.exit(android::GUNYAH_VCPU_EXIT_PAGE_FAULT);
        progress.exit = Some(Exit::PageFault { addr, attempt });
        false
    }

    /// Takes user space's answer to the last MMIO exit out of the page.
    pub(super) fn consume_answer(&self, inner: &mut Inner, resume: &mut [u64; 3]) -> Result<(), Errno> {
        let actions = self.vm.kernel().differences.resume_actions;
        if actions != ResumeActions::None {
            match self.page.byte(run::MMIO_RESUME_ACTION) {
                android::GUNYAH_VCPU_RESUME_HANDLED => resume[1] = resume_action::EMULATE,
                android::GUNYAH_VCPU_RESUME_FAULT => resume[1] = resume_action::FAULT,
                android::GUNYAH_VCPU_RESUME_RETRY if actions == ResumeActions::FaultAndRetry => {
                    // One more try to find memory there, whatever comes of it.
                    let _ = self.vm.demand_page(inner.mmio_addr, inner.state == State::MmioWrite);
                    resume[1] = resume_action::RETRY;
                }
                // The state is kept: user space may put another byte there and run again.
                _ => return Err(Errno::EINVAL),
            }
        }
        if inner.state == State::MmioRead {
            // Longer than 8 would reach beyond the first word, as it would on the driver's stack.
            let mut words = [0u8; 24];
            let len = usize::try_from(inner.mmio_read_len).unwrap_or(24).min(24);
            if let Some(bytes) = words.get_mut(..len) {
                self.page.read(run::MMIO_DATA, bytes);
            }
            let (first, _) = words.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
            resume[0] = u64::from_le_bytes(*first);
        }
        inner.state = State::Ready;
        Ok(())
    }
}

impl ExitInfo {
    pub(super) fn to_bytes(self) -> [u8; run::EXIT_INFO_SIZE] {
        let mut out = [0; run::EXIT_INFO_SIZE];
        let fields: [(usize, &[u8]); 3] = [
            (run::EXIT_INFO_TYPE, &self.exit_type.to_le_bytes()),
            (run::EXIT_INFO_REASON_SIZE, &self.reason_size.to_le_bytes()),
            (run::EXIT_INFO_REASON, &self.reason),
        ];
        for (offset, bytes) in fields {
            if let Some(place) = out.get_mut(offset..offset + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
        out
    }
}

//! The engine of one vCPU that runs arm64 code.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use super::machine::{Machine, Power, Sleep};
use super::machine_bus::MachineBus;
use super::psci::{self, Outcome};
use super::{HypError, VcpuEngine, VcpuRunResp, resume, state};
use crate::a64::{Cpu, Fault, FaultKind, Stop};

/// How many instructions are executed between two looks at the host's wishes.
const SLICE: u32 = 512;

const HVC: u32 = 0xd400_0002;
const SMC: u32 = 0xd400_0003;

pub(super) struct Engine {
    machine: Arc<Machine>,
    id: u32,
    cpu: Cpu,
    bus: MachineBus,
    /// The address of the MMIO access that waits for its answer.
    mmio_addr: u64,
    /// It executed WFI, and nothing came since.
    waiting: bool,
}

fn answer(state: u64, data: [u64; 3]) -> VcpuRunResp {
    VcpuRunResp { state, data }
}

/// The affinity that vCPU `id` shows in MPIDR_EL1, and by which PSCI calls it: aff0 and aff1.
pub(super) fn affinity_of(id: u32) -> u64 {
    u64::from(id & 0xffff)
}

impl Engine {
    pub(super) fn new(machine: Arc<Machine>, id: u32) -> Self {
        let bus = MachineBus::new(Arc::clone(&machine), id);
        Self { machine, id, cpu: Cpu::new(affinity_of(id)), bus, mmio_addr: 0, waiting: false }
    }

    /// Acts on a stop; `None` goes on.
    fn stopped(&mut self, stop: Stop) -> Option<VcpuRunResp> {
        match stop {
            Stop::MmioRead { addr, len } => {
                // The hypervisor is asked first: the interrupt controller is its own.
                if let Some(value) = self.bus.gic_frame_read(addr, len) {
                    self.cpu.complete_mmio(value);
                    return None;
                }
                self.mmio_addr = addr;
                Some(answer(state::MMIO_READ, [addr, u64::from(len), 0]))
            }
            Stop::MmioWrite { addr, len, value } => {
                if self.bus.gic_frame_write(addr, len, value) {
                    self.cpu.complete_mmio(0);
                    return None;
                }
                self.mmio_addr = addr;
                Some(answer(state::MMIO_WRITE, [addr, u64::from(len), value]))
            }
            Stop::PageFault { addr, write } => Some(answer(state::PAGE_FAULT, [addr, u64::from(write), 0])),
            Stop::Yield => {
                thread::yield_now();
                None
            }
            Stop::Wfi => self.wait(),
            Stop::Hvc(0) => match psci::call(&self.machine, self.id, &self.cpu) {
                Outcome::Return(value) => {
                    self.cpu.set_x(0, value);
                    None
                }
                Outcome::Suspend => {
                    self.cpu.set_x(0, psci::SUCCESS);
                    self.wait()
                }
                Outcome::Off => Some(answer(state::POWERED_OFF, [0; 3])),
            },
            Stop::Hvc(imm) => self.call_fault(HVC, imm, "HVC with an immediate that is not 0"),
            Stop::Smc(imm) => self.call_fault(SMC, imm, "SMC: calls are by HVC here"),
            Stop::Fault(fault) => Some(self.fault(&fault)),
        }
    }

    fn wait(&mut self) -> Option<VcpuRunResp> {
        let sleep = self.machine.wait(self.id);
        self.waiting = sleep != Sleep::Over;
        match sleep {
            Sleep::Over => None,
            Sleep::Asleep => Some(answer(state::EXPECTS_WAKEUP, [0; 3])),
            Sleep::Restless => Some(answer(state::READY, [0; 3])),
        }
    }

    /// The fault of a call instruction, which the program counter has already passed.
    fn call_fault(&mut self, opcode: u32, imm: u16, what: &'static str) -> Option<VcpuRunResp> {
        let pc = self.cpu.pc().wrapping_sub(4);
        let word = opcode | (u32::from(imm) << 5);
        Some(self.fault(&Fault { pc, word, kind: FaultKind::Unsupported(what) }))
    }

    fn fault(&mut self, fault: &Fault) -> VcpuRunResp {
        self.machine.fault(self.id, fault);
        answer(state::FAULT, [fault.pc, u64::from(fault.word), 0])
    }
}

impl VcpuEngine for Engine {
    fn vcpu_run(&mut self, resume: [u64; 3], preempt: &dyn Fn() -> bool) -> Result<VcpuRunResp, HypError> {
        if self.machine.ended() {
            return Ok(answer(state::POWERED_OFF, [0; 3]));
        }
        let (power, boot) = self.machine.take_start(self.id);
        match power {
            Power::Off => return Ok(answer(state::POWERED_OFF, [0; 3])),
            Power::OnPending { entry, context } => {
                self.cpu = Cpu::new(affinity_of(self.id));
                if let Some(boot) = boot {
                    (0..).zip(boot.x).for_each(|(n, value)| self.cpu.set_x(n, value));
                    self.cpu.set_stack_pointers(boot.sp_el0, boot.sp_el1);
                }
                self.cpu.set_pc(entry);
                self.cpu.set_x(0, context);
                self.bus.reset_interrupts();
                self.waiting = false;
            }
            Power::On => {}
        }
        if self.cpu.mmio_pending() {
            let [data, action, _] = resume;
            match action {
                resume::EMULATE => self.cpu.complete_mmio(data),
                resume::RETRY => self.cpu.retry_mmio(),
                resume::FAULT => {
                    if let Some(Stop::Fault(fault)) = self.cpu.abort_mmio(self.mmio_addr) {
                        return Ok(self.fault(&fault));
                    }
                }
                _ => return Err(HypError::Invalid),
            }
        }
        if self.waiting {
            if let Some(response) = self.wait() {
                return Ok(response);
            }
        }
        // The host may have changed memory while the vCPU was out.
        self.bus.forget();
        loop {
            if let Some(stop) = self.cpu.run(&mut self.bus, SLICE) {
                if let Some(response) = self.stopped(stop) {
                    return Ok(response);
                }
            }
            if self.machine.ended() {
                return Ok(answer(state::POWERED_OFF, [0; 3]));
            }
            if preempt() {
                return Ok(answer(state::READY, [0; 3]));
            }
        }
    }
}

impl Machine {
    /// Makes every vCPU fetch from memory again.
    pub(super) fn forget_instructions(&self) {
        self.code_generation.fetch_add(1, Ordering::SeqCst);
    }
}

//! A vCPU: the VMM's `VmOps` inside of `run`, and registers where there are any.

use std::sync::{Arc, Mutex};

use anyhow::{anyhow, bail};
use vm_memory::GuestAddress;
use vmm_adapter::{Backend, Feature, IoHandler, IoOutcome, Kicker, Registers, Vcpu as Inner, VcpuExit};

use super::irq::Irqs;
use super::vm::BootRegisters;
use super::{hypervisor_type, lock, nowhere, unsupported};
use crate::hypervisor::HypervisorType;
use crate::hypervisor::additions::VcpuKicker;
use crate::hypervisor::cpu::{
    Breakpoint, CoreRegisters, CpuState, ExtendedReg, HypervisorCpuError as Error, MpState, RegList, Result,
    StandardRegisters, Vcpu, VcpuInit, VmExit,
};
use crate::hypervisor::vm::{Vm, VmOps};

// KVM's numbers of arm64's registers, which the adapter's facet takes.
const CORE: u64 = 0x6030_0000_0010_0000;
const SYSTEM: u64 = 0x6030_0000_0013_0000;
/// The virtual counter: CNTVCT_EL0's place, as KVM has it.
const COUNTER: u64 = SYSTEM | 3 << 14 | 3 << 11 | 14 << 7 | 3 << 3 | 2;
/// X0 to X30, SP, PC and PSTATE.
const CORE_REGISTERS: u64 = 34;

pub(super) struct AdapterVcpu {
    /// Locked by nobody while it runs: [`Vcpu::run`] has it alone.
    vcpu: Mutex<Box<dyn Inner>>,
    id: u32,
    io: Io,
    boot: Arc<BootRegisters>,
    backend: Backend,
}

/// The VMM's devices behind the adapter's trait, and the GICv2m frame before them.
struct Io {
    ops: Option<Arc<dyn VmOps>>,
    irqs: Arc<Irqs>,
    kicker: Arc<dyn Kicker>,
    /// Why the VMM could not go on.
    failure: Mutex<Option<anyhow::Error>>,
}

impl Io {
    /// Asks the VMM. What it cannot do ends the run: the kick makes it come back, also when the guest computes on.
    fn ask(&self, call: impl FnOnce(&dyn VmOps) -> crate::hypervisor::vm::Result<()>) -> IoOutcome {
        match self.ops.as_deref().map(call) {
            Some(Ok(())) => IoOutcome::Handled,
            None => IoOutcome::Unclaimed,
            Some(Err(error)) => {
                lock(&self.failure).get_or_insert(error.into());
                self.kicker.kick();
                IoOutcome::Unclaimed
            }
        }
    }
}

impl IoHandler for Io {
    fn mmio_read(&self, addr: GuestAddress, data: &mut [u8]) -> IoOutcome {
        if self.irqs.frame_read(addr.0, data) {
            return IoOutcome::Handled;
        }
        self.ask(|ops| ops.mmio_read(addr.0, data))
    }

    fn mmio_write(&self, addr: GuestAddress, data: &[u8]) -> IoOutcome {
        if self.irqs.frame_write(addr.0, data) {
            return IoOutcome::Handled;
        }
        self.ask(|ops| ops.mmio_write(addr.0, data))
    }
}

impl AdapterVcpu {
    pub(super) fn new(
        vcpu: Box<dyn Inner>,
        ops: Option<Arc<dyn VmOps>>,
        irqs: Arc<Irqs>,
        boot: Arc<BootRegisters>,
        backend: Backend,
    ) -> Self {
        let io = Io { ops, irqs, kicker: vcpu.kicker(), failure: Mutex::default() };
        Self { id: vcpu.id(), vcpu: Mutex::new(vcpu), io, boot, backend }
    }

    /// Uses the registers, if this hypervisor lets anybody reach them.
    fn registers<T>(
        &self,
        access: impl FnOnce(&mut dyn Registers) -> vmm_adapter::Result<T>,
    ) -> anyhow::Result<T> {
        let mut vcpu = lock(&self.vcpu);
        let registers = vcpu.registers().ok_or_else(|| unsupported(self.backend, Feature::Registers))?;
        Ok(access(registers)?)
    }

    /// The error of the calls that [`Vcpu::is_initialised`] tells to leave out.
    fn is_done(&self) -> anyhow::Error {
        anyhow!("{} has initialised vCPU {} itself; see Vcpu::is_initialised", self.backend, self.id)
    }
}

impl Vcpu for AdapterVcpu {
    fn create_standard_regs(&self) -> StandardRegisters {
        StandardRegisters::Adapter(CoreRegisters::default())
    }

    fn get_regs(&self) -> Result<StandardRegisters> {
        let get = |registers: &mut dyn Registers| {
            let mut all = [0; CORE_REGISTERS as usize];
            for (number, value) in (0..).zip(&mut all) {
                *value = registers.get(CORE + 2 * number)?;
            }
            let [regs @ .., sp, pc, pstate] = all;
            Ok(StandardRegisters::Adapter(CoreRegisters { regs, sp, pc, pstate }))
        };
        self.registers(get).map_err(Error::GetStandardRegs)
    }

    fn set_regs(&self, regs: &StandardRegisters) -> Result<()> {
        let StandardRegisters::Adapter(CoreRegisters { regs, sp, pc, pstate }) = regs;
        let set = |registers: &mut dyn Registers| {
            let all = regs.iter().chain([sp, pc, pstate]);
            (0..).zip(all).try_for_each(|(number, value)| registers.set(CORE + 2 * number, *value))
        };
        self.registers(set).map_err(Error::SetStandardRegs)
    }

    fn get_mp_state(&self) -> Result<MpState> {
        Err(Error::GetMpState(nowhere("whether a vCPU is on")))
    }

    fn set_mp_state(&self, _mp_state: MpState) -> Result<()> {
        Err(Error::SetMpState(self.is_done()))
    }

    fn set_guest_debug(&self, _addrs: &[Breakpoint], _singlestep: bool) -> Result<()> {
        Err(Error::SetDebugRegs(nowhere("debugging a guest")))
    }

    fn vcpu_init(&self, _kvi: &VcpuInit) -> Result<()> {
        Err(Error::VcpuInit(self.is_done()))
    }

    fn vcpu_finalize(&self, _feature: i32) -> Result<()> {
        Err(Error::VcpuFinalize(self.is_done()))
    }

    fn set_pre_finalize_regs(&self, _regs: &[ExtendedReg]) -> Result<()> {
        Err(Error::VcpuFinalize(self.is_done()))
    }

    fn vcpu_get_finalized_features(&self) -> i32 {
        0
    }

    fn vcpu_set_processor_features(&self, _vm: &dyn Vm, _kvi: &mut VcpuInit, _id: u32) -> Result<()> {
        Err(Error::VcpuSetProcessorFeatures(self.is_done()))
    }

    fn create_vcpu_init(&self) -> VcpuInit {
        VcpuInit
    }

    fn get_reg_list(&self, _reg_list: &mut RegList) -> Result<()> {
        Err(Error::GetRegList(nowhere("the list of a vCPU's registers")))
    }

    fn get_sys_reg(&self, sys_reg: u32) -> Result<u64> {
        let id = SYSTEM | u64::from(sys_reg >> 5 & 0xffff);
        self.registers(|registers| registers.get(id)).map_err(Error::GetSysRegister)
    }

    fn get_cntvct(&self) -> Result<u64> {
        self.registers(|registers| registers.get(COUNTER)).map_err(Error::GetCntvct)
    }

    fn set_cntvct(&self, cntvct: u64) -> Result<()> {
        self.registers(|registers| registers.set(COUNTER, cntvct)).map_err(Error::SetCntvct)
    }

    /// Kept for [`Vm::start`], which checks it against its argument. For all vCPUs but the first there is nothing to set: they are off,
    /// and the guest gives them their entry when it turns them on.
    fn setup_regs(&self, cpu_id: u32, boot_ip: u64, fdt_start: u64) -> Result<()> {
        if cpu_id != self.id {
            return Err(Error::SetupRegs(anyhow!("this is vCPU {}, not {cpu_id}", self.id)));
        }
        if cpu_id == 0 {
            self.boot.set(boot_ip, fdt_start);
        }
        Ok(())
    }

    fn has_pmu_support(&self) -> bool {
        false
    }

    fn init_pmu(&self, _irq: u32) -> Result<()> {
        Err(Error::InitializePmu(nowhere("a guest's PMU")))
    }

    fn state(&self) -> Result<CpuState> {
        Err(Error::GetState(nowhere("a vCPU's whole state")))
    }

    fn set_state(&self, _state: &CpuState) -> Result<()> {
        Err(Error::SetState(nowhere("a vCPU's whole state")))
    }

    fn run(&mut self) -> Result<VmExit> {
        let vcpu = self.vcpu.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let exit = vcpu.run(&self.io);
        if let Some(failure) = lock(&self.io.failure).take() {
            return Err(Error::RunVcpu(failure));
        }
        let end = || match exit? {
            VcpuExit::Interrupted => Ok(VmExit::Ignore),
            VcpuExit::PowerOff(_) => Ok(VmExit::Shutdown),
            VcpuExit::Reset(_) => Ok(VmExit::Reset),
            // `VmExit` has no word for it; an error ends the VM, and says what the hypervisor said.
            VcpuExit::Crashed(details) => bail!("the guest crashed: {details}"),
            other => bail!("an exit that is not understood: {other:?}"),
        };
        end().map_err(Error::RunVcpu)
    }

    /// Does nothing, and must not: Cloud Hypervisor means "run once, to complete what is pending" by it. On Gunyah that very run drops
    /// the answer to the guest's load, and the guest reads 0. There is nothing to complete: an access is over when `VmOps` has
    /// answered. To end a run there is [`Vcpu::kicker`].
    fn set_immediate_exit(&mut self, _exit: bool) {}

    /// Does nothing, rightly: the description has the address, and the hypervisor knows it from there.
    fn set_gic_redistributor_addr(&self, _gicr_base_addr: u64) -> Result<()> {
        Ok(())
    }

    fn hypervisor_type(&self) -> HypervisorType {
        hypervisor_type(self.backend)
    }

    fn is_initialised(&self) -> bool {
        true
    }

    fn kicker(&self) -> Option<Arc<dyn VcpuKicker>> {
        Some(Arc::new(AdapterKicker(Arc::clone(&self.io.kicker))))
    }
}

struct AdapterKicker(Arc<dyn Kicker>);

impl VcpuKicker for AdapterKicker {
    fn kick(&self) {
        self.0.kick();
    }
}

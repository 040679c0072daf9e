//! Stands for `hypervisor/src/cpu.rs`.

use std::sync::Arc;

use super::HypervisorType;
use super::additions::VcpuKicker;
use super::vm::Vm;

/// What goes wrong with a vCPU: a variant for each call.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says itself")]
pub enum HypervisorCpuError {
    #[error("cannot get the registers")]
    GetStandardRegs(#[source] anyhow::Error),
    #[error("cannot set the registers")]
    SetStandardRegs(#[source] anyhow::Error),
    #[error("cannot get the power state")]
    GetMpState(#[source] anyhow::Error),
    #[error("cannot set the power state")]
    SetMpState(#[source] anyhow::Error),
    #[error("cannot debug the guest")]
    SetDebugRegs(#[source] anyhow::Error),
    #[error("cannot initialise the vCPU")]
    VcpuInit(#[source] anyhow::Error),
    #[error("cannot finalize the vCPU")]
    VcpuFinalize(#[source] anyhow::Error),
    #[error("cannot set the vCPU's features")]
    VcpuSetProcessorFeatures(#[source] anyhow::Error),
    #[error("cannot list the registers")]
    GetRegList(#[source] anyhow::Error),
    #[error("cannot get a system register")]
    GetSysRegister(#[source] anyhow::Error),
    #[error("cannot get the virtual counter")]
    GetCntvct(#[source] anyhow::Error),
    #[error("cannot set the virtual counter")]
    SetCntvct(#[source] anyhow::Error),
    #[error("cannot set the registers of the start")]
    SetupRegs(#[source] anyhow::Error),
    #[error("cannot initialise the PMU")]
    InitializePmu(#[source] anyhow::Error),
    #[error("cannot get the vCPU's state")]
    GetState(#[source] anyhow::Error),
    #[error("cannot set the vCPU's state")]
    SetState(#[source] anyhow::Error),
    #[error("cannot run the vCPU")]
    RunVcpu(#[source] anyhow::Error),
}

/// A result of a vCPU's call.
pub type Result<T> = std::result::Result<T, HypervisorCpuError>;

/// Why [`Vcpu::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmExit {
    /// For nothing: look whether something is to be done, and run again.
    Ignore,
    /// The guest wants to start again.
    Reset,
    /// The guest turned itself off.
    Shutdown,
}

/// The general registers of arm64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreRegisters {
    /// X0 to X30.
    pub regs: [u64; 31],
    /// The stack pointer of EL0.
    pub sp: u64,
    /// The program counter.
    pub pc: u64,
    /// The processor state.
    pub pstate: u64,
}

/// The general registers in the form of their backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandardRegisters {
    /// The glue's: an addition.
    Adapter(CoreRegisters),
}

/// What a vCPU is to be initialised as.
#[derive(Clone, Debug, Default)]
pub struct VcpuInit;

/// The numbers of a vCPU's registers.
#[derive(Clone, Debug, Default)]
pub struct RegList;

/// A register that is set before the vCPU is finalized.
#[derive(Clone, Debug, Default)]
pub struct ExtendedReg;

/// Whether a vCPU is on.
#[derive(Clone, Debug, Default)]
pub struct MpState;

/// A vCPU's state, for snapshots.
#[derive(Clone, Debug, Default)]
pub struct CpuState;

/// A guest address, where a debugger wants to stop.
pub type Breakpoint = vm_memory::GuestAddress;

/// A virtual CPU.
pub trait Vcpu: Send + Sync {
    /// Registers in this backend's form, all zero.
    fn create_standard_regs(&self) -> StandardRegisters;
    /// The general registers.
    fn get_regs(&self) -> Result<StandardRegisters>;
    /// Sets them.
    fn set_regs(&self, regs: &StandardRegisters) -> Result<()>;
    /// Whether it is on.
    fn get_mp_state(&self) -> Result<MpState>;
    /// Turns it on or off.
    fn set_mp_state(&self, mp_state: MpState) -> Result<()>;
    /// Sets breakpoints.
    fn set_guest_debug(&self, addrs: &[Breakpoint], singlestep: bool) -> Result<()>;
    /// Initialises it.
    fn vcpu_init(&self, kvi: &VcpuInit) -> Result<()>;
    /// Finalizes a feature.
    fn vcpu_finalize(&self, feature: i32) -> Result<()>;
    /// Sets registers that a feature needs before it is finalized.
    fn set_pre_finalize_regs(&self, regs: &[ExtendedReg]) -> Result<()>;
    /// The feature that waits for being finalized. 0: none.
    fn vcpu_get_finalized_features(&self) -> i32;
    /// Sets in `kvi` what the vCPU is to have.
    fn vcpu_set_processor_features(&self, vm: &dyn Vm, kvi: &mut VcpuInit, id: u32) -> Result<()>;
    /// An initialisation in this backend's form.
    fn create_vcpu_init(&self) -> VcpuInit;
    /// The registers that it has.
    fn get_reg_list(&self, reg_list: &mut RegList) -> Result<()>;
    /// A system register, by the bits of its MRS instruction: op0 from bit 19, op1 16, CRn 12, CRm 8, op2 5.
    fn get_sys_reg(&self, sys_reg: u32) -> Result<u64>;
    /// The virtual counter.
    fn get_cntvct(&self) -> Result<u64>;
    /// Sets it.
    fn set_cntvct(&self, cntvct: u64) -> Result<()>;
    /// Sets the registers with which it starts.
    fn setup_regs(&self, cpu_id: u32, boot_ip: u64, fdt_start: u64) -> Result<()>;
    /// Whether the guest can have a PMU.
    fn has_pmu_support(&self) -> bool;
    /// Gives it one.
    fn init_pmu(&self, irq: u32) -> Result<()>;
    /// Its state, for a snapshot.
    fn state(&self) -> Result<CpuState>;
    /// Restores its state.
    fn set_state(&self, state: &CpuState) -> Result<()>;
    /// Runs the guest until something is to be decided.
    fn run(&mut self) -> Result<VmExit>;
    /// Makes the next run come back at once, on KVM.
    fn set_immediate_exit(&mut self, _exit: bool) {}
    /// Tells where its redistributor is.
    fn set_gic_redistributor_addr(&self, _gicr_base_addr: u64) -> Result<()> {
        Ok(())
    }
    /// Whose it is.
    fn hypervisor_type(&self) -> HypervisorType;

    /// An addition: the backend has initialised the vCPU, and nobody else can. `get_preferred_target`, `vcpu_init`,
    /// `vcpu_finalize`, `init_pmu`, `set_mp_state` and checks of what they did are to be left out.
    fn is_initialised(&self) -> bool {
        false
    }

    /// An addition: what to end a run with. `None`: a signal, and `set_immediate_exit`.
    fn kicker(&self) -> Option<Arc<dyn VcpuKicker>> {
        None
    }
}

//! A VM whose guest is arm64 code: its vCPUs, their power states, and what ends it.
//!
//! This is the hypervisor's side. [`Machine::engine`] gives the engine of one vCPU, which the driver calls as it would make
//! the hypercall. PSCI 1.1 is there, by HVC #0.
//!
//! A machine [with a GIC](Machine::with_gic) has interrupts: those that the host [raises](Machine::raise), those of the
//! timers, and SGIs. WFI sleeps until the GIC signals one to the vCPU, masked by PSTATE or not; so a guest that never set
//! the GIC up sleeps for ever, as on hardware. A machine without one knows no interrupts, and WFI never ends.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::alarm::Alarm;
use super::gic::{Gic, GicLayout, Wait, Woken};
use super::machine_engine::{Engine, affinity_of};
use super::{VcpuEngine, VmEvents};
use crate::a64::Fault;

pub use crate::a64::RamAccess;

/// Exit types that the Resource Manager reports.
pub mod exit_type {
    /// PSCI SYSTEM_OFF. The reason is four zero bytes.
    pub const SYSTEM_OFF: u16 = 1;
    /// PSCI SYSTEM_RESET. The reason is four zero bytes.
    pub const SYSTEM_RESET: u16 = 2;
    /// PSCI SYSTEM_RESET2. The reason is 16 bytes, little-endian words: the reset type, the cookie's low and high word,
    /// and a zero. The driver shows user space the first 8.
    pub const SYSTEM_RESET2: u16 = 3;
    /// A vCPU fault. The reason is 16 bytes, little-endian words: [`crate::a64::FaultKind::code`] in the low and the
    /// vCPU's number in the high half, the instruction, and the low and high word of its address. This layout is the
    /// fake's own; a real Resource Manager's is its secret.
    pub const SOFTWARE_ERROR: u16 = 5;
}

/// The guest's RAM, as the hypervisor reaches it by guest physical address.
pub trait GuestRam: Send + Sync {
    /// Loads `buf.len()` bytes: 1, 2, 4, 8 or 16, naturally aligned, as one access. Unless all bytes are RAM the answer is
    /// [`RamAccess::NotRam`].
    fn load(&self, ipa: u64, buf: &mut [u8]) -> RamAccess;
    /// Loads instructions, up to a line of 64 bytes at a time. Memory that is not executable is [`RamAccess::Denied`].
    fn fetch(&self, ipa: u64, buf: &mut [u8]) -> RamAccess {
        self.load(ipa, buf)
    }
    /// Stores `data.len()` bytes: 1, 2, 4, 8 or 16, naturally aligned, as one access.
    fn store(&self, ipa: u64, data: &[u8]) -> RamAccess;
    /// If the `len` (1, 2, 4, 8 or 16) bytes at `ipa` hold `current`, stores `new`, as one access with regard to all vCPUs;
    /// gives what was there before.
    ///
    /// # Errors
    ///
    /// Why the memory cannot be accessed; never [`RamAccess::Done`].
    fn compare_exchange(&self, ipa: u64, len: u8, current: u128, new: u128) -> Result<u128, RamAccess>;
}

/// The registers with which a VM's first vCPU starts. All others are as after a reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootRegisters {
    /// The program counter.
    pub pc: u64,
    /// X0 to X30.
    pub x: [u64; 31],
    /// The stack pointer of EL0.
    pub sp_el0: u64,
    /// The stack pointer of EL1, which is in use at the start.
    pub sp_el1: u64,
}

/// One VM of arm64 code.
pub struct Machine {
    pub(super) ram: Arc<dyn GuestRam>,
    events: Arc<dyn VmEvents>,
    vcpus: Mutex<Vec<Vcpu>>,
    faults: Mutex<Vec<String>>,
    ended: AtomicBool,
    /// Counts the guest's instruction cache invalidations.
    pub(super) code_generation: AtomicU64,
    created: Instant,
    pub(super) gic: Option<Gic>,
    alarm: Alarm,
}

#[derive(Debug, Default)]
struct Vcpu {
    power: Power,
    /// What it starts with, if it is the VM's first.
    boot: Option<Box<BootRegisters>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Power {
    #[default]
    Off,
    /// It starts when it next runs.
    OnPending {
        entry: u64,
        context: u64,
    },
    On,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("vcpus", &self.vcpus())
            .field("ended", &self.ended())
            .field("faults", &self.faults())
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// A machine with `vcpus` vCPUs, all off, and without interrupts.
    pub fn new(ram: Arc<dyn GuestRam>, events: Arc<dyn VmEvents>, vcpus: u32) -> Arc<Self> {
        Self::with_gic(ram, events, vcpus, None)
    }

    /// A machine with `vcpus` vCPUs, all off, and an interrupt controller if there is a place for one.
    pub fn with_gic(
        ram: Arc<dyn GuestRam>,
        events: Arc<dyn VmEvents>,
        vcpus: u32,
        gic: Option<GicLayout>,
    ) -> Arc<Self> {
        let affinities: Vec<u64> = (0..vcpus).map(affinity_of).collect();
        Arc::new(Self {
            ram,
            events,
            vcpus: Mutex::new((0..vcpus).map(|_| Vcpu::default()).collect()),
            faults: Mutex::new(Vec::new()),
            ended: AtomicBool::new(false),
            code_generation: AtomicU64::new(0),
            created: Instant::now(),
            gic: gic.map(|layout| Gic::new(layout, &affinities)),
            alarm: Alarm::default(),
        })
    }

    /// Turns vCPU 0 on: it starts at `entry`, with `x0`. The others wait for PSCI CPU_ON.
    pub fn start(&self, entry: u64, x0: u64) {
        let mut registers = BootRegisters { pc: entry, ..BootRegisters::default() };
        registers.x[0] = x0;
        self.start_vcpu(0, registers);
    }

    /// Turns vCPU `id` on, with these registers. The others wait for PSCI CPU_ON.
    pub fn start_vcpu(&self, id: u32, registers: BootRegisters) {
        if let Some(vcpu) = self.vcpus().get_mut(id as usize) {
            vcpu.power = Power::OnPending { entry: registers.pc, context: registers.x[0] };
            vcpu.boot = Some(Box::new(registers));
        }
        self.events.wake(id);
    }

    /// The engine of vCPU `id`. There should be one for each; that of an id that the machine has not is always off.
    pub fn engine(self: &Arc<Self>, id: u32) -> Box<dyn VcpuEngine> {
        Box::new(Engine::new(Arc::clone(self), id))
    }

    /// The host signals a shared interrupt (32 to 1019; others are ignored). It is pending until a vCPU takes it.
    pub fn raise(&self, intid: u32) {
        if let Some(gic) = &self.gic {
            self.wake(gic.raise(intid, self.counter()));
        }
    }

    /// The host stops the VM: every vCPU answers POWERED_OFF from now on. Says nothing to the driver, whose own doing it is.
    pub fn stop(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// What went wrong in the guest, for people: "vCPU 0: unknown instruction 0x1e604000 at 0x80000010".
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn vcpus(&self) -> MutexGuard<'_, Vec<Vcpu>> {
        self.vcpus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Ends the VM and tells the Resource Manager. Of several ends the first one counts.
    pub(super) fn end(&self, exit_type: u16, reason: &[u8]) {
        if !self.ended.swap(true, Ordering::SeqCst) {
            self.events.vm_exited(exit_type, reason);
        }
    }

    /// Ends the VM because of a fault.
    pub(super) fn fault(&self, vcpu: u32, fault: &Fault) {
        let line = format!("vCPU {vcpu}: {fault}");
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        let mut reason = Vec::with_capacity(16);
        reason.extend_from_slice(&(fault.kind.code() | (vcpu << 16)).to_le_bytes());
        reason.extend_from_slice(&fault.word.to_le_bytes());
        reason.extend_from_slice(&fault.pc.to_le_bytes());
        self.end(exit_type::SOFTWARE_ERROR, &reason);
    }

    pub(super) fn wake(&self, Woken(woken): Woken) {
        for id in woken {
            self.events.wake(id);
        }
    }

    /// Timers may have gone off.
    pub(super) fn look_at_clock(&self) {
        if let Some(gic) = &self.gic {
            self.wake(gic.look_at_clock(self.counter()));
        }
    }

    /// Nanoseconds since the machine was made: the system counter.
    pub(super) fn counter(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The power state of vCPU `id`; `None` if there is none.
    pub(super) fn power(&self, id: u32) -> Option<Power> {
        self.vcpus().get(id as usize).map(|vcpu| vcpu.power)
    }

    /// The power state as a vCPU finds it that is about to run: a start that waits for it is taken, with its registers.
    pub(super) fn take_start(&self, id: u32) -> (Power, Option<Box<BootRegisters>>) {
        let mut vcpus = self.vcpus();
        let Some(vcpu) = vcpus.get_mut(id as usize) else { return (Power::Off, None) };
        let found = vcpu.power;
        if let Power::OnPending { .. } = found {
            vcpu.power = Power::On;
        }
        (found, vcpu.boot.take())
    }

    /// Asks for vCPU `id` to be turned on; gives its state before, and does nothing unless that was off.
    pub(super) fn turn_on(&self, id: u32, entry: u64, context: u64) -> Option<Power> {
        let before = {
            let mut vcpus = self.vcpus();
            let vcpu = vcpus.get_mut(id as usize)?;
            let before = vcpu.power;
            if before == Power::Off {
                vcpu.power = Power::OnPending { entry, context };
            }
            before
        };
        if before == Power::Off {
            self.events.wake(id);
        }
        Some(before)
    }

    pub(super) fn turn_off(&self, id: u32) {
        if let Some(vcpu) = self.vcpus().get_mut(id as usize) {
            *vcpu = Vcpu::default();
        }
    }

    /// WFI of vCPU `id`.
    pub(super) fn wait(self: &Arc<Self>, id: u32) -> Sleep {
        let Some(gic) = &self.gic else { return Sleep::Asleep };
        match gic.wait(id, self.counter()) {
            Wait::Over => Sleep::Over,
            Wait::Asleep(until) => {
                let due = until.and_then(|until| self.created.checked_add(Duration::from_nanos(until)));
                if self.alarm.set(self, id, due) { Sleep::Asleep } else { Sleep::Restless }
            }
        }
    }
}

/// What WFI comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sleep {
    /// There is an interrupt.
    Over,
    /// A wake-up will come with one.
    Asleep,
    /// A timer will go off and nobody is there to tell: it has to look again soon.
    Restless,
}

//! The system registers.

use super::alu::bits;
use super::stop::{Exec, FaultKind, Trap, UNKNOWN};
use super::{Bus, COUNTER_HZ, Cpu, IccRegister, Timer};

/// A register's name: op0, op1, CRn, CRm, op2, as bits 20..5 of the instruction have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u16);

impl Key {
    pub(super) fn of(word: u32) -> Self {
        Self(bits(word, 20, 5) as u16)
    }

    pub(super) const fn new(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> Self {
        Self((op0 << 14) | (op1 << 11) | (crn << 7) | (crm << 3) | op2)
    }
}

/// What the registers hold. Values that the architecture leaves unknown at reset are zero.
#[derive(Clone, Debug)]
pub(super) struct System {
    mpidr: u64,
    sctlr: u64,
    /// `None` until the guest writes it: an exception before that has nowhere to go.
    pub(super) vbar: Option<u64>,
    pub(super) spsr: u64,
    pub(super) elr: u64,
    pub(super) esr: u64,
    pub(super) far: u64,
    tpidr_el0: u64,
    tpidrro_el0: u64,
    tpidr_el1: u64,
    cpacr: u64,
    actlr: u64,
    ttbr0: u64,
    ttbr1: u64,
    tcr: u64,
    mair: u64,
    amair: u64,
    contextidr: u64,
    par: u64,
    afsr0: u64,
    afsr1: u64,
    csselr: u64,
    cntkctl: u64,
    virtual_timer: TimerState,
    physical_timer: TimerState,
}

/// A timer's registers. Its interrupt is the bus's business.
#[derive(Clone, Copy, Debug, Default)]
struct TimerState {
    control: u64,
    compare: u64,
}

const TIMER_ENABLE: u64 = 1;
const TIMER_MASK: u64 = 2;
const TIMER_STATUS: u64 = 4;

// SCTLR_EL1
const SCTLR_M: u64 = 1 << 0;
const SCTLR_SA: u64 = 1 << 3;
const SCTLR_SA0: u64 = 1 << 4;
const SCTLR_EE: u64 = 1 << 25;
/// Bits that read as one.
const SCTLR_RES1: u64 = 0x30d0_0800;

impl System {
    pub(super) fn new(affinity: u64) -> Self {
        Self {
            // Bit 31 is one; the affinity fields lie around bits 31..24.
            mpidr: (affinity & 0xff_00ff_ffff) | (1 << 31),
            sctlr: SCTLR_RES1 | SCTLR_SA | SCTLR_SA0,
            vbar: None,
            spsr: 0,
            elr: 0,
            esr: 0,
            far: 0,
            tpidr_el0: 0,
            tpidrro_el0: 0,
            tpidr_el1: 0,
            cpacr: 0,
            actlr: 0,
            ttbr0: 0,
            ttbr1: 0,
            tcr: 0,
            mair: 0,
            amair: 0,
            contextidr: 0,
            par: 0,
            afsr0: 0,
            afsr1: 0,
            csselr: 0,
            cntkctl: 0,
            virtual_timer: TimerState::default(),
            physical_timer: TimerState::default(),
        }
    }

    /// Whether a stack pointer used as a base must be a multiple of 16.
    pub(super) fn checks_sp(&self) -> bool {
        self.sctlr & SCTLR_SA != 0
    }

    /// The registers that are plain storage.
    fn storage(&mut self, key: Key) -> Option<&mut u64> {
        Some(match key {
            ACTLR_EL1 => &mut self.actlr,
            CPACR_EL1 => &mut self.cpacr,
            TTBR0_EL1 => &mut self.ttbr0,
            TTBR1_EL1 => &mut self.ttbr1,
            TCR_EL1 => &mut self.tcr,
            MAIR_EL1 => &mut self.mair,
            AMAIR_EL1 => &mut self.amair,
            CONTEXTIDR_EL1 => &mut self.contextidr,
            PAR_EL1 => &mut self.par,
            SPSR_EL1 => &mut self.spsr,
            ELR_EL1 => &mut self.elr,
            AFSR0_EL1 => &mut self.afsr0,
            AFSR1_EL1 => &mut self.afsr1,
            ESR_EL1 => &mut self.esr,
            FAR_EL1 => &mut self.far,
            TPIDR_EL1 => &mut self.tpidr_el1,
            TPIDR_EL0 => &mut self.tpidr_el0,
            TPIDRRO_EL0 => &mut self.tpidrro_el0,
            CSSELR_EL1 => &mut self.csselr,
            CNTKCTL_EL1 => &mut self.cntkctl,
            _ => return None,
        })
    }

    fn timer(&mut self, timer: Timer) -> &mut TimerState {
        match timer {
            Timer::Virtual => &mut self.virtual_timer,
            Timer::Physical => &mut self.physical_timer,
        }
    }
}

impl TimerState {
    fn control(&self, now: u64) -> u64 {
        let met = self.control & TIMER_ENABLE != 0 && now >= self.compare;
        self.control | if met { TIMER_STATUS } else { 0 }
    }

    /// From when on it interrupts, as it is set now.
    fn interrupts_from(&self) -> Option<u64> {
        (self.control == TIMER_ENABLE).then_some(self.compare)
    }

    /// TVAL: what is left until `compare`, as a signed 32-bit number.
    fn left(&self, now: u64) -> u64 {
        self.compare.wrapping_sub(now) & 0xffff_ffff
    }

    fn set_left(&mut self, now: u64, value: u64) {
        self.compare = now.wrapping_add(super::alu::sign_extend(value, 32));
    }
}

/// Sets a timer, if the bus can do what it asks for.
fn set_timer<B: Bus + ?Sized>(
    cpu: &mut Cpu,
    bus: &mut B,
    timer: Timer,
    change: impl FnOnce(&mut TimerState),
) -> Exec {
    let mut changed = *cpu.system.timer(timer);
    change(&mut changed);
    if !bus.set_timer(timer, changed.interrupts_from()) {
        return Err(unsupported(
            "a timer interrupt without an interrupt controller: the timer can only be polled (set IMASK)",
        ));
    }
    *cpu.system.timer(timer) = changed;
    Err(Trap::Look)
}

fn unsupported(what: &'static str) -> Trap {
    Trap::Fault(FaultKind::Unsupported(what))
}

const MDSCR_EL1: Key = Key::new(2, 0, 0, 2, 2);
const OSLAR_EL1: Key = Key::new(2, 0, 1, 0, 4);
const OSDLR_EL1: Key = Key::new(2, 0, 1, 3, 4);
const MIDR_EL1: Key = Key::new(3, 0, 0, 0, 0);
const MPIDR_EL1: Key = Key::new(3, 0, 0, 0, 5);
const REVIDR_EL1: Key = Key::new(3, 0, 0, 0, 6);
const ID_AA64PFR0_EL1: Key = Key::new(3, 0, 0, 4, 0);
const ID_AA64DFR0_EL1: Key = Key::new(3, 0, 0, 5, 0);
const ID_AA64ISAR0_EL1: Key = Key::new(3, 0, 0, 6, 0);
const ID_AA64ISAR1_EL1: Key = Key::new(3, 0, 0, 6, 1);
const ID_AA64MMFR0_EL1: Key = Key::new(3, 0, 0, 7, 0);
const SCTLR_EL1: Key = Key::new(3, 0, 1, 0, 0);
const ACTLR_EL1: Key = Key::new(3, 0, 1, 0, 1);
const CPACR_EL1: Key = Key::new(3, 0, 1, 0, 2);
const TTBR0_EL1: Key = Key::new(3, 0, 2, 0, 0);
const TTBR1_EL1: Key = Key::new(3, 0, 2, 0, 1);
const TCR_EL1: Key = Key::new(3, 0, 2, 0, 2);
const SPSR_EL1: Key = Key::new(3, 0, 4, 0, 0);
const ELR_EL1: Key = Key::new(3, 0, 4, 0, 1);
const SP_EL0: Key = Key::new(3, 0, 4, 1, 0);
const SP_SEL: Key = Key::new(3, 0, 4, 2, 0);
const CURRENT_EL: Key = Key::new(3, 0, 4, 2, 2);
const AFSR0_EL1: Key = Key::new(3, 0, 5, 1, 0);
const AFSR1_EL1: Key = Key::new(3, 0, 5, 1, 1);
const ESR_EL1: Key = Key::new(3, 0, 5, 2, 0);
const FAR_EL1: Key = Key::new(3, 0, 6, 0, 0);
const PAR_EL1: Key = Key::new(3, 0, 7, 4, 0);
const MAIR_EL1: Key = Key::new(3, 0, 10, 2, 0);
const AMAIR_EL1: Key = Key::new(3, 0, 10, 3, 0);
const VBAR_EL1: Key = Key::new(3, 0, 12, 0, 0);
const ISR_EL1: Key = Key::new(3, 0, 12, 1, 0);
const CONTEXTIDR_EL1: Key = Key::new(3, 0, 13, 0, 1);
const TPIDR_EL1: Key = Key::new(3, 0, 13, 0, 4);
const CNTKCTL_EL1: Key = Key::new(3, 0, 14, 1, 0);
const CCSIDR_EL1: Key = Key::new(3, 1, 0, 0, 0);
const CLIDR_EL1: Key = Key::new(3, 1, 0, 0, 1);
const AIDR_EL1: Key = Key::new(3, 1, 0, 0, 7);
const CSSELR_EL1: Key = Key::new(3, 2, 0, 0, 0);
const CTR_EL0: Key = Key::new(3, 3, 0, 0, 1);
const DCZID_EL0: Key = Key::new(3, 3, 0, 0, 7);
const NZCV: Key = Key::new(3, 3, 4, 2, 0);
const DAIF: Key = Key::new(3, 3, 4, 2, 1);
const TPIDR_EL0: Key = Key::new(3, 3, 13, 0, 2);
const TPIDRRO_EL0: Key = Key::new(3, 3, 13, 0, 3);
const CNTFRQ_EL0: Key = Key::new(3, 3, 14, 0, 0);
const CNTPCT_EL0: Key = Key::new(3, 3, 14, 0, 1);
const CNTVCT_EL0: Key = Key::new(3, 3, 14, 0, 2);
const CNTP_TVAL_EL0: Key = Key::new(3, 3, 14, 2, 0);
const CNTP_CTL_EL0: Key = Key::new(3, 3, 14, 2, 1);
const CNTP_CVAL_EL0: Key = Key::new(3, 3, 14, 2, 2);
const CNTV_TVAL_EL0: Key = Key::new(3, 3, 14, 3, 0);
const CNTV_CTL_EL0: Key = Key::new(3, 3, 14, 3, 1);
const CNTV_CVAL_EL0: Key = Key::new(3, 3, 14, 3, 2);

/// Implementer 0 is the architecture's number for software; the architecture field 0xf says that the ID registers tell.
const MIDR: u64 = 0x000f_0000;
/// EL0 and EL1 in AArch64 only; no floating point, no SIMD.
const PFR0: u64 = 0x00ff_0011;
/// In the same register: the GIC's system registers are there.
const PFR0_GIC: u64 = 1 << 24;
/// ISR_EL1
const ISR_IRQ: u64 = 1 << 7;
const ISR_FIQ: u64 = 1 << 6;
/// The debug architecture of Armv8.0.
const DFR0: u64 = 0x6;
/// CRC32, LSE atomics, flag manipulation.
const ISAR0: u64 = (1 << 16) | (2 << 20) | (1 << 52);
/// DC CVAP, LDAPR and LDAPUR, SB.
const ISAR1: u64 = 1 | (2 << 20) | (1 << 36);
/// 40 bits of physical address.
const MMFR0: u64 = 0x2;
/// Lines of 64 bytes, PIPT. Data is coherent; instructions are not until the guest says IC.
const CTR: u64 = 0x9444_c004;
/// DC ZVA is prohibited.
const DCZID: u64 = 0x14;

/// MRS.
pub(super) fn read<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, key: Key) -> Result<u64, Trap> {
    Ok(match key {
        MIDR_EL1 => MIDR,
        MPIDR_EL1 => cpu.system.mpidr,
        ID_AA64PFR0_EL1 => {
            if bus.icc_read(IccRegister::Sre).is_some() {
                PFR0 | PFR0_GIC
            } else {
                PFR0
            }
        }
        ISR_EL1 => {
            let signalled = bus.interrupts();
            let bit = |signalled, bit| if signalled { bit } else { 0 };
            bit(signalled.irq, ISR_IRQ) | bit(signalled.fiq, ISR_FIQ)
        }
        ID_AA64DFR0_EL1 => DFR0,
        ID_AA64ISAR0_EL1 => ISAR0,
        ID_AA64ISAR1_EL1 => ISAR1,
        ID_AA64MMFR0_EL1 => MMFR0,
        REVIDR_EL1 | AIDR_EL1 | CCSIDR_EL1 | CLIDR_EL1 | MDSCR_EL1 => 0,
        // The rest of the identification space reads as zero: nothing of it is there.
        Key(raw) if raw & !0x3f == Key::new(3, 0, 0, 0, 0).0 && raw & 0x38 != 0 => 0,
        SCTLR_EL1 => cpu.system.sctlr,
        VBAR_EL1 => cpu.system.vbar.unwrap_or(0),
        SP_EL0 if cpu.spsel => cpu.sp_el0,
        SP_SEL => u64::from(cpu.spsel),
        CURRENT_EL => 1 << 2,
        CTR_EL0 => CTR,
        DCZID_EL0 => DCZID,
        NZCV => u64::from(cpu.nzcv) << 28,
        DAIF => u64::from(cpu.daif) << 6,
        CNTFRQ_EL0 => COUNTER_HZ,
        CNTPCT_EL0 | CNTVCT_EL0 => bus.counter(),
        CNTV_CTL_EL0 => cpu.system.virtual_timer.control(bus.counter()),
        CNTP_CTL_EL0 => cpu.system.physical_timer.control(bus.counter()),
        CNTV_TVAL_EL0 => cpu.system.virtual_timer.left(bus.counter()),
        CNTP_TVAL_EL0 => cpu.system.physical_timer.left(bus.counter()),
        CNTV_CVAL_EL0 => cpu.system.virtual_timer.compare,
        CNTP_CVAL_EL0 => cpu.system.physical_timer.compare,
        other => match cpu.system.storage(other) {
            Some(value) => *value,
            None => IccRegister::of(other).and_then(|register| bus.icc_read(register)).ok_or(UNKNOWN)?,
        },
    })
}

/// MSR (register).
pub(super) fn write<B: Bus + ?Sized>(cpu: &mut Cpu, bus: &mut B, key: Key, value: u64) -> Exec {
    match key {
        SCTLR_EL1 if value & SCTLR_M != 0 => return Err(unsupported("turning the MMU on")),
        SCTLR_EL1 if value & SCTLR_EE != 0 => return Err(unsupported("big-endian data")),
        SCTLR_EL1 => cpu.system.sctlr = value | SCTLR_RES1,
        VBAR_EL1 => cpu.system.vbar = Some(value & !0x7ff),
        SP_EL0 if cpu.spsel => cpu.sp_el0 = value,
        SP_SEL => cpu.spsel = value & 1 == 1,
        NZCV => cpu.nzcv = (value >> 28) as u8 & 0xf,
        DAIF => {
            cpu.daif = (value >> 6) as u8 & 0xf;
            return Err(Trap::Look);
        }
        CNTV_CTL_EL0 | CNTP_CTL_EL0 => {
            let control = value & (TIMER_ENABLE | TIMER_MASK);
            return set_timer(cpu, bus, timer_of(key), |timer| timer.control = control);
        }
        CNTV_CVAL_EL0 | CNTP_CVAL_EL0 => {
            return set_timer(cpu, bus, timer_of(key), |timer| timer.compare = value);
        }
        CNTV_TVAL_EL0 | CNTP_TVAL_EL0 => {
            let now = bus.counter();
            return set_timer(cpu, bus, timer_of(key), |timer| timer.set_left(now, value));
        }
        MDSCR_EL1 if value == 0 => {}
        MDSCR_EL1 => return Err(unsupported("self-hosted debug")),
        // The OS locks: with no debugger there is nothing to lock.
        OSLAR_EL1 | OSDLR_EL1 => {}
        other => match cpu.system.storage(other) {
            Some(register) => *register = value,
            None => {
                let register = IccRegister::of(other).ok_or(UNKNOWN)?;
                bus.icc_write(register, value).ok_or(UNKNOWN)?;
                return Err(Trap::Look);
            }
        },
    }
    Ok(())
}

/// The timer that a register belongs to.
fn timer_of(key: Key) -> Timer {
    match key {
        CNTV_CTL_EL0 | CNTV_CVAL_EL0 | CNTV_TVAL_EL0 => Timer::Virtual,
        _ => Timer::Physical,
    }
}

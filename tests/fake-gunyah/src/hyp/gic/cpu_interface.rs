//! A CPU's interface: the system registers that take interrupts and end them.

use super::Group;
use super::bank::{Candidate, PRIORITY_MASK};
use crate::a64::IccRegister;

/// What a read of IAR gives when there is nothing to take.
pub(super) const SPURIOUS: u32 = 1023;
/// INTIDs from here on are no interrupts.
pub(super) const SPECIAL: u32 = 1020;
/// The running priority of a CPU that runs no interrupt.
const IDLE: u8 = 0xff;
/// Five bits of priority are there, so a group's priority has at most these five.
const LOWEST_BPR: [u8; 2] = [2, 3];

// ICC_CTLR_EL1
const CTLR_CBPR: u64 = 1 << 0;
const CTLR_EOIMODE: u64 = 1 << 1;
/// Five bits of priority, affinity 3, and the range selector in SGI registers.
const CTLR_FIXED: u64 = 4 << 8 | 1 << 15 | 1 << 18;
/// The system registers are all there is: no memory-mapped interface, no bypass.
const SRE: u64 = 7;

/// What a write asks the rest of the controller to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Nothing,
    /// The interrupt is done.
    Deactivate(u32),
    /// Interrupts other CPUs.
    Generate(u64, Group),
}

/// The registers of one CPU's interface.
#[derive(Clone, Debug)]
pub(super) struct CpuInterface {
    pmr: u8,
    enabled: [bool; 2],
    bpr: [u8; 2],
    /// The priorities of the interrupts that it runs, a bit for each.
    active: [u32; 2],
    ctlr: u64,
    /// The most urgent interrupt for this CPU, of those whose group is enabled.
    pub(super) highest: Option<Candidate>,
}

impl Default for CpuInterface {
    /// As after a reset: everything masked.
    fn default() -> Self {
        Self { pmr: 0, enabled: [false; 2], bpr: LOWEST_BPR, active: [0; 2], ctlr: 0, highest: None }
    }
}

fn of<T: Copy>(both: &[T; 2], group: Group) -> T {
    let [zero, one] = both;
    match group {
        Group::Zero => *zero,
        Group::One => *one,
    }
}

fn of_mut<T>(both: &mut [T; 2], group: Group) -> &mut T {
    let [zero, one] = both;
    match group {
        Group::Zero => zero,
        Group::One => one,
    }
}

impl CpuInterface {
    pub(super) fn enables(&self, group: Group) -> bool {
        of(&self.enabled, group)
    }

    /// The priority of what it runs; of several, the last one taken.
    fn running(&self) -> u8 {
        let [zero, one] = self.active;
        match (zero | one).trailing_zeros() {
            32 => IDLE,
            level => (level as u8) << 3,
        }
    }

    /// The part of a priority that decides whether an interrupt of this group may interrupt another.
    fn preemption_mask(&self, group: Group) -> u8 {
        let one = group == Group::One && self.ctlr & CTLR_CBPR == 0;
        // BPR1 counts from one bit further up.
        let below = if one { of(&self.bpr, Group::One) } else { of(&self.bpr, Group::Zero) + 1 };
        u8::MAX.checked_shl(u32::from(below)).unwrap_or(0)
    }

    /// Whether the interrupt is more urgent than what runs, if anything does.
    fn preempts(&self, candidate: Candidate) -> bool {
        let mask = self.preemption_mask(candidate.group);
        self.active == [0; 2] || candidate.priority & mask < self.running() & mask
    }

    /// The interrupt that it signals to its CPU.
    pub(super) fn signalled(&self) -> Option<Candidate> {
        self.highest.filter(|candidate| {
            self.enables(candidate.group) && candidate.priority < self.pmr && self.preempts(*candidate)
        })
    }

    /// Takes the signalled interrupt, if it is of this group: its number. The caller makes it active.
    pub(super) fn acknowledge(&mut self, group: Group) -> Option<u32> {
        let candidate = self.signalled().filter(|candidate| candidate.group == group)?;
        let level = (candidate.priority & self.preemption_mask(group)) >> 3;
        *of_mut(&mut self.active, group) |= 1 << level;
        Some(candidate.intid)
    }

    /// The end of the interrupt that was taken last, if it was of this group.
    fn drop_priority(&mut self, group: Group) -> bool {
        let [zero, one] = self.active;
        let level = (zero | one).trailing_zeros();
        let active = of_mut(&mut self.active, group);
        let running = 1_u32.checked_shl(level).unwrap_or(0) & *active;
        *active &= !running;
        running != 0
    }

    fn highest_of(&self, group: Group) -> u32 {
        self.highest.filter(|candidate| candidate.group == group).map_or(SPURIOUS, |found| found.intid)
    }

    /// Every register but the two that acknowledge. `None`: it cannot be read.
    pub(super) fn read(&self, register: IccRegister) -> Option<u64> {
        let [bpr0, bpr1] = self.bpr;
        let [active0, active1] = self.active;
        Some(match register {
            IccRegister::Pmr => self.pmr.into(),
            IccRegister::Rpr => self.running().into(),
            IccRegister::Hppir0 => self.highest_of(Group::Zero).into(),
            IccRegister::Hppir1 => self.highest_of(Group::One).into(),
            IccRegister::Bpr0 => bpr0.into(),
            IccRegister::Bpr1 if self.ctlr & CTLR_CBPR != 0 => u64::from(bpr0 + 1).min(7),
            IccRegister::Bpr1 => bpr1.into(),
            IccRegister::Ap0r0 => active0.into(),
            IccRegister::Ap1r0 => active1.into(),
            IccRegister::Ctlr => self.ctlr | CTLR_FIXED,
            IccRegister::Sre => SRE,
            IccRegister::Igrpen0 => self.enables(Group::Zero).into(),
            IccRegister::Igrpen1 => self.enables(Group::One).into(),
            _ => return None,
        })
    }

    /// Every register. `None`: it cannot be written.
    pub(super) fn write(&mut self, register: IccRegister, value: u64) -> Option<Request> {
        let bpr = |lowest: u8| (value as u8 & 7).max(lowest);
        let [lowest0, lowest1] = LOWEST_BPR;
        match register {
            IccRegister::Pmr => self.pmr = value as u8 & PRIORITY_MASK,
            IccRegister::Bpr0 => *of_mut(&mut self.bpr, Group::Zero) = bpr(lowest0),
            IccRegister::Bpr1 if self.ctlr & CTLR_CBPR != 0 => {}
            IccRegister::Bpr1 => *of_mut(&mut self.bpr, Group::One) = bpr(lowest1),
            IccRegister::Ap0r0 => *of_mut(&mut self.active, Group::Zero) = value as u32,
            IccRegister::Ap1r0 => *of_mut(&mut self.active, Group::One) = value as u32,
            IccRegister::Ctlr => self.ctlr = value & (CTLR_CBPR | CTLR_EOIMODE),
            IccRegister::Sre => {}
            IccRegister::Igrpen0 => *of_mut(&mut self.enabled, Group::Zero) = value & 1 != 0,
            IccRegister::Igrpen1 => *of_mut(&mut self.enabled, Group::One) = value & 1 != 0,
            IccRegister::Eoir0 => return Some(self.end(Group::Zero, value)),
            IccRegister::Eoir1 => return Some(self.end(Group::One, value)),
            IccRegister::Dir if self.ctlr & CTLR_EOIMODE != 0 => return Some(deactivate(value)),
            // While EOIR deactivates too, this one does nothing.
            IccRegister::Dir => {}
            IccRegister::Sgi1r => return Some(Request::Generate(value, Group::One)),
            // With a single security state both of these are for group 0.
            IccRegister::Sgi0r | IccRegister::Asgi1r => return Some(Request::Generate(value, Group::Zero)),
            _ => return None,
        }
        Some(Request::Nothing)
    }

    /// EOIR.
    fn end(&mut self, group: Group, value: u64) -> Request {
        let special = matches!(deactivate(value), Request::Nothing);
        if special || !self.drop_priority(group) || self.ctlr & CTLR_EOIMODE != 0 {
            return Request::Nothing;
        }
        deactivate(value)
    }
}

/// What a write of an INTID to EOIR or DIR asks for.
fn deactivate(value: u64) -> Request {
    match value as u32 & 0xff_ffff {
        intid if intid < SPECIAL => Request::Deactivate(intid),
        _ => Request::Nothing,
    }
}

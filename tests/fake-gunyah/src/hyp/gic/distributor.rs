//! The distributor: the shared interrupts, and which CPU each goes to.

use super::Group;
use super::bank::{Bank, Candidate};

/// Bytes of its frame.
pub(super) const SIZE: u64 = 0x1_0000;

const CTLR: u32 = 0x0000;
const TYPER: u32 = 0x0004;
const IIDR: u32 = 0x0008;
const IROUTER: u32 = 0x6000;
/// In every frame of the GIC.
pub(super) const PIDR2: u32 = 0xffe8;
/// GICv3.
pub(super) const ARCHITECTURE: u32 = 0x3b;

const CTLR_GROUPS: u32 = 0b11;
/// Affinity routing, and a single security state: neither can be changed.
const CTLR_FIXED: u32 = 1 << 4 | 1 << 6;
/// 1020 interrupts, numbers of 10 bits, affinity 3; each shared interrupt goes to one CPU; SGIs to any value of affinity 0.
const TYPER_VALUE: u32 = 31 | 9 << 19 | 1 << 24 | 1 << 25 | 1 << 26;
/// The affinity fields in IROUTER, as in MPIDR_EL1.
pub(super) const AFFINITY: u64 = 0xff_00ff_ffff;

#[derive(Clone, Debug)]
pub(super) struct Distributor {
    groups: u32,
    pub(super) bank: Bank,
    /// The affinity that each interrupt goes to, by INTID.
    routes: Vec<u64>,
}

impl Distributor {
    pub(super) fn new() -> Self {
        Self { groups: 0, bank: Bank::shared(), routes: vec![0; 1020] }
    }

    pub(super) fn enables(&self, group: Group) -> bool {
        self.groups >> group as u32 & 1 == 1
    }

    /// Every shared interrupt that waits to be taken, with the affinity it goes to.
    pub(super) fn candidates(&self) -> Vec<(Candidate, u64)> {
        let candidates = self.bank.candidates(|group| self.enables(group));
        candidates.into_iter().map(|candidate| (candidate, self.route(candidate.intid))).collect()
    }

    fn route(&self, intid: u32) -> u64 {
        self.routes.get(intid as usize).copied().unwrap_or(0)
    }

    /// The INTID of a routing register's word, and how far its bits are shifted. The registers start with INTID 32.
    fn routed(offset: u32) -> Option<(usize, u32)> {
        let word = offset.checked_sub(IROUTER)? / 4;
        let intid = word / 2;
        (32..1020).contains(&intid).then_some((intid as usize, word % 2 * 32))
    }

    /// Whether the register takes 64 bits at once.
    pub(super) fn is_wide(offset: u32) -> bool {
        Self::routed(offset).is_some()
    }

    pub(super) fn read(&self, offset: u32) -> u32 {
        match offset {
            CTLR => self.groups | CTLR_FIXED,
            TYPER => TYPER_VALUE,
            // No implementer has the number 0.
            IIDR => 0,
            PIDR2 => ARCHITECTURE,
            _ => match Self::routed(offset) {
                Some((intid, shift)) => (self.route(intid as u32) >> shift) as u32,
                None => self.bank.read(offset).unwrap_or(0),
            },
        }
    }

    pub(super) fn write(&mut self, offset: u32, value: u32) {
        match (offset, Self::routed(offset)) {
            (CTLR, _) => self.groups = value & CTLR_GROUPS,
            (_, Some((intid, shift))) => {
                if let Some(route) = self.routes.get_mut(intid) {
                    let kept = *route & !(0xffff_ffff << shift);
                    *route = (kept | u64::from(value) << shift) & AFFINITY;
                }
            }
            _ => self.bank.write(offset, value),
        }
    }
}

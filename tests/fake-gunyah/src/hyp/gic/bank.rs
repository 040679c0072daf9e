//! A bank of interrupts: what the distributor has of the shared ones, and each redistributor of its CPU's own.
//!
//! Both have the same registers at the same offsets, a bit or a field for each interrupt.

use super::Group;

/// How many of a priority's bits are there: the others read as zero.
pub(super) const PRIORITY_MASK: u8 = 0xf8;

/// An interrupt that waits to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// The lower, the more urgent. First, because candidates are compared by it.
    pub(super) priority: u8,
    pub(super) intid: u32,
    pub(super) group: Group,
}

/// The interrupts from 0 on, 32 for each word.
#[derive(Clone, Debug)]
pub(super) struct Bank {
    /// Which interrupts exist. Nothing is ever set for another.
    implemented: Vec<u32>,
    group: Vec<u32>,
    enabled: Vec<u32>,
    /// Signalled and not taken yet.
    latched: Vec<u32>,
    /// What a device holds up: pending for as long as it does.
    level: Vec<u32>,
    active: Vec<u32>,
    priority: Vec<u8>,
    /// Two bits each; the upper one says edge.
    config: Vec<u32>,
    config_fixed: bool,
}

fn bit_of(intid: u32) -> (usize, u32) {
    (intid as usize / 32, 1 << (intid % 32))
}

fn word(words: &[u32], index: usize) -> u32 {
    words.get(index).copied().unwrap_or(0)
}

/// The word of a register block that starts at `block`.
fn index(offset: u32, block: u32) -> usize {
    (offset.wrapping_sub(block) / 4) as usize
}

impl Bank {
    /// The shared interrupts, 32 to 1019. Each can be edge or level.
    pub(super) fn shared() -> Self {
        let mut implemented = vec![u32::MAX; 32];
        if let Some(private) = implemented.first_mut() {
            *private = 0;
        }
        if let Some(last) = implemented.last_mut() {
            // 1020 to 1023 are no interrupts.
            *last = 0x0fff_ffff;
        }
        Self::of(implemented, vec![0; 64], false)
    }

    /// A CPU's own: SGIs, which are edges, and PPIs, which are levels here.
    pub(super) fn private() -> Self {
        Self::of(vec![u32::MAX], vec![0xaaaa_aaaa, 0], true)
    }

    fn of(implemented: Vec<u32>, config: Vec<u32>, config_fixed: bool) -> Self {
        let words = implemented.len();
        let none = vec![0; words];
        Self {
            implemented,
            group: none.clone(),
            enabled: none.clone(),
            latched: none.clone(),
            level: none.clone(),
            active: none,
            priority: vec![0; words * 32],
            config,
            config_fixed,
        }
    }

    /// A signal: the interrupt is pending until it is taken. More signals until then add nothing.
    pub(super) fn latch(&mut self, intid: u32) {
        let (index, bit) = bit_of(intid);
        let bit = bit & word(&self.implemented, index);
        if let Some(latched) = self.latched.get_mut(index) {
            *latched |= bit;
        }
    }

    /// A device holds its line up, or lets it go.
    pub(super) fn set_level(&mut self, intid: u32, up: bool) {
        let (index, bit) = bit_of(intid);
        let bit = bit & word(&self.implemented, index);
        if let Some(level) = self.level.get_mut(index) {
            *level = if up { *level | bit } else { *level & !bit };
        }
    }

    /// A CPU takes the interrupt: it is active, and pending only if its line is still up.
    pub(super) fn acknowledge(&mut self, intid: u32) {
        let (index, bit) = bit_of(intid);
        if let (Some(latched), Some(active)) = (self.latched.get_mut(index), self.active.get_mut(index)) {
            *latched &= !bit;
            *active |= bit;
        }
    }

    /// A CPU is done with the interrupt.
    pub(super) fn deactivate(&mut self, intid: u32) {
        let (index, bit) = bit_of(intid);
        if let Some(active) = self.active.get_mut(index) {
            *active &= !bit;
        }
    }

    /// The group of an interrupt.
    pub(super) fn group(&self, intid: u32) -> Group {
        let (index, bit) = bit_of(intid);
        if word(&self.group, index) & bit != 0 { Group::One } else { Group::Zero }
    }

    /// Every interrupt that is pending, enabled and not active, in an enabled group.
    pub(super) fn candidates(&self, enabled: impl Fn(Group) -> bool) -> Vec<Candidate> {
        let mut found = Vec::new();
        for index in 0..self.implemented.len() {
            let group = word(&self.group, index);
            let groups = (if enabled(Group::One) { group } else { 0 })
                | (if enabled(Group::Zero) { !group } else { 0 });
            let pending = word(&self.latched, index) | word(&self.level, index);
            let mut bits = pending & word(&self.enabled, index) & !word(&self.active, index) & groups;
            while bits != 0 {
                let number = bits.trailing_zeros();
                bits &= bits - 1;
                let intid = index as u32 * 32 + number;
                let priority = self.priority.get(intid as usize).copied().unwrap_or(u8::MAX);
                found.push(Candidate { priority, intid, group: self.group(intid) });
            }
        }
        found
    }

    /// A register, by its offset from the distributor's base or from that of the redistributor's second frame. `None`: none
    /// of the bank's.
    pub(super) fn read(&self, offset: u32) -> Option<u32> {
        Some(match offset {
            0x080..0x100 => word(&self.group, index(offset, 0x080)),
            0x100..0x180 => word(&self.enabled, index(offset, 0x100)),
            0x180..0x200 => word(&self.enabled, index(offset, 0x180)),
            0x200..0x300 => {
                let index = index(offset & !0x80, 0x200);
                word(&self.latched, index) | word(&self.level, index)
            }
            0x300..0x400 => word(&self.active, index(offset & !0x80, 0x300)),
            0x400..0x800 => {
                let byte = |n: u32| self.priority.get((offset & !3) as usize - 0x400 + n as usize);
                (0..4).fold(0, |all, n| all | u32::from(byte(n).copied().unwrap_or(0)) << (8 * n))
            }
            0xc00..0xd00 => word(&self.config, index(offset, 0xc00)),
            _ => return None,
        })
    }

    /// Writes a register of a word. What is not the bank's or cannot be written is ignored.
    pub(super) fn write(&mut self, offset: u32, value: u32) {
        let (words, index, set) = match offset {
            0x080..0x100 => {
                let index = index(offset, 0x080);
                let value = value & word(&self.implemented, index);
                if let Some(group) = self.group.get_mut(index) {
                    *group = value;
                }
                return;
            }
            0x100..0x180 => (&mut self.enabled, index(offset, 0x100), true),
            0x180..0x200 => (&mut self.enabled, index(offset, 0x180), false),
            0x200..0x280 => (&mut self.latched, index(offset, 0x200), true),
            0x280..0x300 => (&mut self.latched, index(offset, 0x280), false),
            0x300..0x380 => (&mut self.active, index(offset, 0x300), true),
            0x380..0x400 => (&mut self.active, index(offset, 0x380), false),
            0x400..0x800 => {
                for (n, byte) in (offset..).zip(value.to_le_bytes()) {
                    self.write_priority(n, byte);
                }
                return;
            }
            0xc00..0xd00 if !self.config_fixed => {
                let index = index(offset, 0xc00);
                // Of each two bits only the upper one is there.
                let bits = 0xaaaa_aaaa & spread(word(&self.implemented, index / 2), index % 2);
                if let Some(config) = self.config.get_mut(index) {
                    *config = value & bits;
                }
                return;
            }
            _ => return,
        };
        let value = value & word(&self.implemented, index);
        if let Some(bits) = words.get_mut(index) {
            *bits = if set { *bits | value } else { *bits & !value };
        }
    }

    /// Writes one priority, by the offset of its byte.
    pub(super) fn write_priority(&mut self, offset: u32, value: u8) {
        let Some(intid) = offset.checked_sub(0x400) else { return };
        let (index, bit) = bit_of(intid);
        if word(&self.implemented, index) & bit != 0 {
            if let Some(priority) = self.priority.get_mut(intid as usize) {
                *priority = value & PRIORITY_MASK;
            }
        }
    }
}

/// Makes two bits of each of the lower (or upper) 16.
fn spread(bits: u32, upper: usize) -> u32 {
    (0..16).filter(|n| bits >> (n + 16 * upper as u32) & 1 == 1).fold(0, |all, n| all | 3 << (2 * n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interrupts_that_exist_are_ever_set() {
        let mut shared = Bank::shared();
        for offset in (0..0x1000).step_by(4) {
            shared.write(offset, u32::MAX);
        }
        shared.latch(0);
        shared.latch(31);
        shared.latch(1020);
        shared.latch(u32::MAX);
        assert_eq!(shared.read(0x80), Some(0), "those of a CPU are the redistributors'");
        assert_eq!(shared.read(0x84), Some(u32::MAX));
        assert_eq!(shared.read(0xfc), Some(0x0fff_ffff));
        // The clearing registers came after the setting ones.
        assert!((0x100..0x400).step_by(4).all(|offset| shared.read(offset) == Some(0)));
        assert_eq!((shared.read(0x41c), shared.read(0x420)), (Some(0), Some(0xf8f8_f8f8)));
        assert_eq!((shared.read(0x7f8), shared.read(0x7fc)), (Some(0xf8f8_f8f8), Some(0)));
        assert_eq!((shared.read(0xc04), shared.read(0xc08)), (Some(0), Some(0xaaaa_aaaa)));
        assert_eq!(shared.read(0xcfc), Some(0x00aa_aaaa));
        assert_eq!((shared.read(0x7c), shared.read(0x800), shared.read(0xd00)), (None, None, None));
    }
}

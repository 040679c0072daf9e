//! A redistributor: a CPU's own interrupts, and whether any reach it at all.

use super::bank::Bank;
use super::distributor::{ARCHITECTURE, PIDR2};
use crate::a64::Timer;

/// Bytes of its two frames.
pub(super) const SIZE: u64 = 0x2_0000;

// Of the first frame.
const TYPER: u32 = 0x0008;
const TYPER_HIGH: u32 = 0x000c;
const WAKER: u32 = 0x0014;
/// The second frame: the CPU's own interrupts.
pub(super) const SGI_FRAME: u32 = 0x1_0000;

const WAKER_SLEEPS: u32 = 1 << 1;
const WAKER_QUIET: u32 = 1 << 2;
const TYPER_LAST: u64 = 1 << 4;

#[derive(Clone, Debug)]
pub(super) struct Redistributor {
    pub(super) affinity: u64,
    typer: u64,
    asleep: bool,
    pub(super) bank: Bank,
    /// From when on the virtual and the physical timer interrupt.
    timers: [Option<u64>; 2],
}

/// The interrupt of a timer: PPI 11 and 14, as the tree's `timer` node must say.
pub(super) fn intid_of(timer: Timer) -> u32 {
    match timer {
        Timer::Virtual => 27,
        Timer::Physical => 30,
    }
}

impl Redistributor {
    /// The `number`th; the last one in its region says so.
    pub(super) fn new(number: u32, affinity: u64, last: bool) -> Self {
        let fields = (affinity >> 32 & 0xff) << 24 | affinity & 0xff_ffff;
        let typer = fields << 32 | u64::from(number & 0xffff) << 8 | if last { TYPER_LAST } else { 0 };
        Self { affinity, typer, asleep: true, bank: Bank::private(), timers: [None; 2] }
    }

    /// Whether the guest has not said that its CPU is awake: then nothing reaches it.
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep
    }

    pub(super) fn set_timer(&mut self, timer: Timer, from: Option<u64>) {
        let [virtual_timer, physical_timer] = &mut self.timers;
        match timer {
            Timer::Virtual => *virtual_timer = from,
            Timer::Physical => *physical_timer = from,
        }
    }

    /// Sets the timers' lines as they are now.
    pub(super) fn look_at_clock(&mut self, now: u64) {
        for (timer, from) in [Timer::Virtual, Timer::Physical].into_iter().zip(self.timers) {
            self.bank.set_level(intid_of(timer), from.is_some_and(|from| now >= from));
        }
    }

    /// When the next timer will interrupt that does not yet.
    pub(super) fn next_timer(&self, now: u64) -> Option<u64> {
        self.timers.into_iter().flatten().filter(|from| *from > now).min()
    }

    /// Whether the register takes 64 bits at once.
    pub(super) fn is_wide(offset: u32) -> bool {
        offset == TYPER
    }

    pub(super) fn read(&self, offset: u32) -> u32 {
        match offset {
            TYPER => self.typer as u32,
            TYPER_HIGH => (self.typer >> 32) as u32,
            WAKER if self.asleep => WAKER_SLEEPS | WAKER_QUIET,
            PIDR2 => ARCHITECTURE,
            SGI_FRAME.. if offset - SGI_FRAME == PIDR2 => ARCHITECTURE,
            SGI_FRAME.. => self.bank.read(offset - SGI_FRAME).unwrap_or(0),
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, offset: u32, value: u32) {
        match offset {
            WAKER => self.asleep = value & WAKER_SLEEPS != 0,
            SGI_FRAME.. => self.bank.write(offset - SGI_FRAME, value),
            _ => {}
        }
    }

    /// Writes a byte, which only priorities take.
    pub(super) fn write_byte(&mut self, offset: u32, value: u8) {
        if let Some(offset) = offset.checked_sub(SGI_FRAME) {
            self.bank.write_priority(offset, value);
        }
    }
}

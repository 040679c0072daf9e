//! The guest's interrupt controller: a GICv3, emulated by the hypervisor as Gunyah's is.
//!
//! The guest finds its distributor and redistributors where its devicetree says; accesses to them never reach the host. It
//! has SGIs, the PPIs of the two timers, and 988 SPIs; two groups in a single security state (group 0 interrupts by FIQ,
//! group 1 by IRQ); 32 levels of priority; affinity routing always. There is no ITS and there are no LPIs, no extended
//! ranges, and no message-based SPIs: registers of these read as zero and ignore what is written, as does everything else
//! that is not there. As after a real reset, every interrupt is in group 0, disabled, and of the highest priority, and the
//! redistributors sleep.
//!
//! A host's signal on a line, edge or level, is latched until the guest takes the interrupt: one signal is one
//! interrupt, and signals until then add nothing. For level lines this is what Gunyah's doorbells make of them: the host's
//! driver has them cleared by delivery, and nothing holds the line up afterwards.

mod bank;
mod cpu_interface;
mod distributor;
mod redistributor;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::bank::Candidate;
use self::cpu_interface::{CpuInterface, Request, SPURIOUS};
use self::distributor::Distributor;
use self::redistributor::Redistributor;
use crate::a64::{IccRegister, Interrupts, Timer};

/// Where the guest finds its interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicLayout {
    /// The address of the distributor, 64 KiB.
    pub distributor: u64,
    /// The address of the first redistributor.
    pub redistributors: u64,
    /// The bytes of all redistributors: 128 KiB each, one behind the other. vCPUs for which there is none get no interrupts.
    pub redistributors_size: u64,
}

/// Whether an interrupt is signalled as FIQ (group 0) or IRQ (group 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Zero = 0,
    One = 1,
}

/// The vCPUs whose sleep an operation ends.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Woken(pub Vec<u32>);

/// What becomes of a vCPU that waits for an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// One is there.
    Over,
    /// It sleeps. When the counter has reached this number, [`Gic::look_at_clock`] will find a timer's interrupt.
    Asleep(Option<u64>),
}

/// A GICv3. `now` is the system counter in all calls; calls that overtake each other are of no matter.
#[derive(Debug)]
pub struct Gic {
    layout: GicLayout,
    state: Mutex<State>,
    /// What each CPU's interface signals, to be read without the lock.
    lines: Box<[AtomicU8]>,
}

const IRQ_LINE: u8 = 1;
const FIQ_LINE: u8 = 2;

#[derive(Debug)]
struct State {
    distributor: Distributor,
    cpus: Vec<OneCpu>,
    /// The latest count that was heard of. Without it, a call that was overtaken by another would take timers back.
    now: u64,
}

/// What belongs to one CPU.
#[derive(Debug)]
struct OneCpu {
    redistributor: Redistributor,
    interface: CpuInterface,
    waiting: bool,
}

/// A register of one of the frames.
#[derive(Clone, Copy)]
enum Place {
    Distributor(u32),
    Redistributor(usize, u32),
}

impl Gic {
    /// The controller of a VM whose vCPUs have these affinities (as `MPIDR_EL1` shows them), as after a reset.
    pub fn new(layout: GicLayout, affinities: &[u64]) -> Self {
        let frames = usize::try_from(layout.redistributors_size / redistributor::SIZE).unwrap_or(usize::MAX);
        let count = affinities.len().min(frames);
        let cpus = (1..).zip(affinities).map(|(number, affinity)| OneCpu {
            redistributor: Redistributor::new(number - 1, *affinity, number as usize == count),
            interface: CpuInterface::default(),
            waiting: false,
        });
        Self {
            layout,
            state: Mutex::new(State { distributor: Distributor::new(), cpus: cpus.collect(), now: 0 }),
            lines: affinities.iter().map(|_| AtomicU8::new(0)).collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What vCPU `cpu` is signalled. Takes no lock.
    pub fn lines(&self, cpu: u32) -> Interrupts {
        let lines = self.lines.get(cpu as usize).map_or(0, |lines| lines.load(Ordering::Acquire));
        Interrupts { irq: lines & IRQ_LINE != 0, fiq: lines & FIQ_LINE != 0 }
    }

    /// The host signals a shared interrupt. Other numbers are ignored.
    pub fn raise(&self, intid: u32, now: u64) -> Woken {
        self.change(now, |state| state.distributor.bank.latch(intid))
    }

    /// Sets a timer of a vCPU: its interrupt is there from this count on, or never.
    pub fn set_timer(&self, cpu: u32, timer: Timer, from: Option<u64>, now: u64) -> Woken {
        self.change(now, |state| {
            if let Some(one) = state.cpu(cpu) {
                one.redistributor.set_timer(timer, from);
            }
        })
    }

    /// Time has passed: timers may interrupt now.
    pub fn look_at_clock(&self, now: u64) -> Woken {
        self.change(now, |_| ())
    }

    /// A vCPU waits for an interrupt. One that it masks by PSTATE counts as well.
    pub fn wait(&self, cpu: u32, now: u64) -> Wait {
        let mut state = self.state();
        // Whoever is woken by this was to be woken anyway, by the alarm for its timer.
        drop(self.update(&mut state, now));
        let lines = self.lines(cpu);
        let now = state.now;
        let Some(one) = state.cpu(cpu) else { return Wait::Asleep(None) };
        one.waiting = !(lines.irq || lines.fiq);
        if one.waiting { Wait::Asleep(one.redistributor.next_timer(now)) } else { Wait::Over }
    }

    /// A vCPU comes out of reset, and its interface with it. Its redistributor keeps what it has, but for the timers.
    pub fn reset_cpu(&self, cpu: u32, now: u64) {
        let mut state = self.state();
        if let Some(one) = state.cpu(cpu) {
            one.interface = CpuInterface::default();
            one.redistributor.set_timer(Timer::Virtual, None);
            one.redistributor.set_timer(Timer::Physical, None);
            one.waiting = false;
        }
        drop(self.update(&mut state, now));
    }

    /// Reads from the frames. `None`: the address is in none of them.
    pub fn read(&self, addr: u64, len: u8, now: u64) -> Option<u64> {
        let place = self.place(addr)?;
        let mut state = self.state();
        drop(self.update(&mut state, now));
        Some(state.read(place, len))
    }

    /// Writes to the frames. `None`: the address is in none of them.
    pub fn write(&self, addr: u64, len: u8, value: u64, now: u64) -> Option<Woken> {
        let place = self.place(addr)?;
        Some(self.change(now, |state| state.write(place, len, value)))
    }

    /// Reads a register of a vCPU's interface, which may take an interrupt. `None`: it cannot be read.
    pub fn icc_read(&self, cpu: u32, register: IccRegister, now: u64) -> Option<u64> {
        let mut state = self.state();
        drop(self.update(&mut state, now));
        let group = match register {
            IccRegister::Iar0 => Group::Zero,
            IccRegister::Iar1 => Group::One,
            other => return state.cpu(cpu)?.interface.read(other),
        };
        let taken = state.acknowledge(cpu, group);
        drop(self.update(&mut state, now));
        Some(taken.unwrap_or(SPURIOUS).into())
    }

    /// Writes a register of a vCPU's interface. `None`: it cannot be written.
    pub fn icc_write(&self, cpu: u32, register: IccRegister, value: u64, now: u64) -> Option<Woken> {
        let mut state = self.state();
        match state.cpu(cpu)?.interface.write(register, value)? {
            Request::Nothing => {}
            Request::Deactivate(intid) => state.deactivate(cpu, intid),
            Request::Generate(value, group) => state.generate(cpu, value, group),
        }
        Some(self.update(&mut state, now))
    }

    fn place(&self, addr: u64) -> Option<Place> {
        let layout = &self.layout;
        let within = |base: u64, size: u64| addr.checked_sub(base).filter(|offset| *offset < size);
        if let Some(offset) = within(layout.distributor, distributor::SIZE) {
            return Some(Place::Distributor(offset as u32));
        }
        let offset = within(layout.redistributors, layout.redistributors_size)?;
        let number = usize::try_from(offset / redistributor::SIZE).ok()?;
        Some(Place::Redistributor(number, (offset % redistributor::SIZE) as u32))
    }

    /// Changes something, and sees what follows from it.
    fn change(&self, now: u64, change: impl FnOnce(&mut State)) -> Woken {
        let mut state = self.state();
        change(&mut state);
        self.update(&mut state, now)
    }

    /// Finds each CPU's most urgent interrupt anew, and signals it or not.
    fn update(&self, state: &mut State, now: u64) -> Woken {
        let State { distributor, cpus, now: latest } = state;
        let now = now.max(*latest);
        *latest = now;
        let shared = distributor.candidates();
        let mut woken = Vec::new();
        for ((id, cpu), lines) in (0..).zip(cpus).zip(&self.lines) {
            let OneCpu { redistributor, interface, waiting } = cpu;
            redistributor.look_at_clock(now);
            interface.highest = if redistributor.is_asleep() {
                None
            } else {
                let own = redistributor.bank.candidates(|group| distributor.enables(group)).into_iter();
                let routed = shared.iter().filter(|(_, route)| *route == redistributor.affinity);
                let all = own.chain(routed.map(|(candidate, _)| *candidate));
                all.filter(|candidate| interface.enables(candidate.group)).min()
            };
            let line = match interface.signalled() {
                None => 0,
                Some(Candidate { group: Group::Zero, .. }) => FIQ_LINE,
                Some(Candidate { group: Group::One, .. }) => IRQ_LINE,
            };
            lines.store(line, Ordering::Release);
            // It stays marked until it runs, so that a later signal wakes it when this one's was lost.
            if *waiting && line != 0 {
                woken.push(id);
            }
        }
        Woken(woken)
    }
}

impl State {
    fn cpu(&mut self, cpu: u32) -> Option<&mut OneCpu> {
        self.cpus.get_mut(cpu as usize)
    }

    fn acknowledge(&mut self, cpu: u32, group: Group) -> Option<u32> {
        let one = self.cpus.get_mut(cpu as usize)?;
        let intid = one.interface.acknowledge(group)?;
        let bank = if intid < 32 { &mut one.redistributor.bank } else { &mut self.distributor.bank };
        bank.acknowledge(intid);
        Some(intid)
    }

    fn deactivate(&mut self, cpu: u32, intid: u32) {
        if intid >= 32 {
            self.distributor.bank.deactivate(intid);
        } else if let Some(one) = self.cpu(cpu) {
            one.redistributor.bank.deactivate(intid);
        }
    }

    /// A write to one of the SGI registers: interrupts the CPUs that it names, where the SGI is in that group.
    fn generate(&mut self, from: u32, value: u64, group: Group) {
        let intid = (value >> 24) as u32 & 0xf;
        let all_but_me = value >> 40 & 1 == 1;
        // The fields of affinity 3 to 1, put where MPIDR has them.
        let cluster = (value >> 48 & 0xff) << 32 | (value >> 32 & 0xff) << 16 | (value >> 16 & 0xff) << 8;
        let first = (value >> 44 & 0xf) * 16;
        for (id, cpu) in (0..).zip(&mut self.cpus) {
            let affinity = cpu.redistributor.affinity;
            let named = affinity & !0xff == cluster
                && (affinity & 0xff).checked_sub(first).is_some_and(|n| n < 16 && value >> n & 1 == 1);
            let meant = if all_but_me { id != from } else { named };
            if meant && cpu.redistributor.bank.group(intid) == group {
                cpu.redistributor.bank.latch(intid);
            }
        }
    }

    /// Registers have 32 bits, some 64, and priorities can be read and written by the byte. Everything else reads as zero and
    /// writes nothing.
    fn read(&self, place: Place, len: u8) -> u64 {
        let (offset, wide) = place.register();
        let word = |offset: u32| u64::from(self.read_word(place, offset));
        match len {
            4 if offset % 4 == 0 => word(offset),
            8 if wide && offset % 8 == 0 => word(offset) | word(offset + 4) << 32,
            1 if place.has_bytes() => word(offset & !3) >> (offset % 4 * 8) & 0xff,
            _ => 0,
        }
    }

    fn read_word(&self, place: Place, offset: u32) -> u32 {
        match place {
            Place::Distributor(_) => self.distributor.read(offset),
            Place::Redistributor(number, _) => {
                self.cpus.get(number).map_or(0, |cpu| cpu.redistributor.read(offset))
            }
        }
    }

    fn write(&mut self, place: Place, len: u8, value: u64) {
        let (offset, wide) = place.register();
        match len {
            4 if offset % 4 == 0 => self.write_word(place, offset, value as u32),
            8 if wide && offset % 8 == 0 => {
                self.write_word(place, offset, value as u32);
                self.write_word(place, offset + 4, (value >> 32) as u32);
            }
            1 if place.has_bytes() => match place {
                Place::Distributor(_) => self.distributor.bank.write_priority(offset, value as u8),
                Place::Redistributor(number, _) => {
                    if let Some(cpu) = self.cpus.get_mut(number) {
                        cpu.redistributor.write_byte(offset, value as u8);
                    }
                }
            },
            _ => {}
        }
    }

    fn write_word(&mut self, place: Place, offset: u32, value: u32) {
        match place {
            Place::Distributor(_) => self.distributor.write(offset, value),
            Place::Redistributor(number, _) => {
                if let Some(cpu) = self.cpus.get_mut(number) {
                    cpu.redistributor.write(offset, value);
                }
            }
        }
    }
}

impl Place {
    /// The offset, and whether the register there has 64 bits.
    fn register(self) -> (u32, bool) {
        match self {
            Self::Distributor(offset) => (offset, Distributor::is_wide(offset)),
            Self::Redistributor(_, offset) => (offset, Redistributor::is_wide(offset)),
        }
    }

    /// Whether it is a priority.
    fn has_bytes(self) -> bool {
        let offset = match self {
            Self::Distributor(offset) => offset,
            Self::Redistributor(_, offset) => offset.wrapping_sub(redistributor::SGI_FRAME),
        };
        (0x400..0x800).contains(&offset)
    }
}

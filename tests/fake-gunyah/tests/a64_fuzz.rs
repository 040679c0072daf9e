//! Any word at any state: no panic, the same result twice, and a fault changes nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use fake_gunyah::a64::{Bus, Cpu, RamAccess, Stop};

/// Every address exists in one of four ways, by its lowest bits; RAM holds a hash of the address.
#[derive(Clone, Default)]
struct Odd {
    stores: Vec<(u64, Vec<u8>)>,
    word: u32,
}

impl Odd {
    fn answer(addr: u64) -> RamAccess {
        match (addr >> 4) & 7 {
            0 => RamAccess::NotRam,
            1 => RamAccess::Denied,
            2 => RamAccess::NotMapped,
            _ => RamAccess::Done,
        }
    }
}

impl Bus for Odd {
    fn fetch(&mut self, _addr: u64) -> Result<u32, RamAccess> {
        Ok(self.word)
    }

    fn load(&mut self, addr: u64, buf: &mut [u8]) -> RamAccess {
        for (i, byte) in buf.iter_mut().enumerate() {
            *byte = (addr.wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        }
        Self::answer(addr)
    }

    fn store(&mut self, addr: u64, data: &[u8]) -> RamAccess {
        self.stores.push((addr, data.to_vec()));
        Self::answer(addr)
    }

    fn compare_exchange(&mut self, addr: u64, len: u8, current: u128, _new: u128) -> Result<u128, RamAccess> {
        assert!([1, 2, 4, 8, 16].contains(&len) && addr % u64::from(len) == 0);
        match Self::answer(addr) {
            RamAccess::Done => Ok(current),
            other => Err(other),
        }
    }

    fn counter(&mut self) -> u64 {
        5
    }
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn registers(cpu: &Cpu) -> ([u64; 31], u64, u64, u8) {
    (std::array::from_fn(|n| cpu.x(n as u32)), cpu.sp(), cpu.pc(), cpu.nzcv())
}

/// A word: half of them anything, half of them in the shape of an instruction that is known.
fn word(random: &mut u64) -> u32 {
    const SHAPES: [(u32, u32); 16] = [
        (0x1100_0000, 0xff80_0000 ^ 0xe000_0000), // add and subtract immediate
        (0x1200_0000, 0x1f80_0000),               // logical immediate
        (0x1a00_0000, 0x1fe0_0000),               // with carry
        (0x1ac0_0000, 0x1fe0_0000),               // one and two sources
        (0x1b00_0000, 0x1f00_0000),               // three sources
        (0x0800_0000, 0x3f00_0000),               // exclusives and ordered
        (0x1800_0000, 0x3b00_0000),               // literal
        (0x2800_0000, 0x3a00_0000),               // pairs
        (0x3800_0000, 0x3b20_0000),               // signed offsets
        (0x3820_0000, 0x3b20_0c00),               // atomics
        (0x3820_0800, 0x3b20_0c00),               // register offsets
        (0x3900_0000, 0x3b00_0000),               // unsigned offsets
        (0xd500_0000, 0xffc0_0000),               // system
        (0xd400_0000, 0xff00_0000),               // exception-generating
        (0xd600_0000, 0xfe00_0000),               // branches to registers
        (0x1900_0000, 0x3f20_0c00),               // unscaled ordered
    ];
    let any = next(random) as u32;
    match next(random) as usize % (2 * SHAPES.len()) {
        i if i < SHAPES.len() => {
            let (value, mask) = SHAPES[i];
            (any & !mask) | value
        }
        _ => any,
    }
}

fn fuzz(mut random: u64, rounds: u32) {
    let (mut executed, mut faults) = (0, 0);
    for _ in 0..rounds {
        let mut cpu = Cpu::new(next(&mut random) & 0xff);
        for n in 0..31 {
            let value = next(&mut random);
            cpu.set_x(n, if value & 1 == 0 { value } else { value & 0xff8 });
        }
        cpu.set_sp(next(&mut random) & !7);
        cpu.set_pc(next(&mut random) & !3);
        cpu.set_nzcv(next(&mut random) as u8);
        let mut bus = Odd::default();
        if next(&mut random) % 4 == 0 {
            bus.word = 0xd518_c000; // msr vbar_el1, x0
            assert_eq!(cpu.run(&mut bus, 1), None);
        }
        bus.word = word(&mut random);
        let (mut again, mut bus_again) = (cpu.clone(), bus.clone());
        let before = registers(&cpu);

        let stop = cpu.run(&mut bus, 1);
        assert_eq!(stop, again.run(&mut bus_again, 1));
        assert_eq!(registers(&cpu), registers(&again), "{:08x}", bus.word);
        assert_eq!(bus.stores, bus_again.stores);
        match stop {
            None => executed += 1,
            Some(Stop::Fault(fault)) => {
                faults += 1;
                assert_eq!(registers(&cpu), before, "{:08x}", bus.word);
                assert_eq!((fault.word, fault.pc), (bus.word, before.2));
                assert!(!fault.to_string().is_empty());
            }
            Some(Stop::MmioRead { .. } | Stop::MmioWrite { .. }) => {
                assert_eq!(registers(&cpu), before, "{:08x}", bus.word);
                assert!(cpu.mmio_pending());
                let (mut retried, mut aborted) = (cpu.clone(), cpu.clone());
                cpu.complete_mmio(next(&mut random));
                assert_eq!(cpu.pc(), before.2.wrapping_add(4));
                retried.retry_mmio();
                assert_eq!(registers(&retried), before);
                aborted.abort_mmio(4);
                assert!(!aborted.mmio_pending());
            }
            Some(Stop::PageFault { .. }) => assert_eq!(registers(&cpu), before, "{:08x}", bus.word),
            Some(Stop::Hvc(_) | Stop::Smc(_) | Stop::Wfi | Stop::Yield) => {
                assert_eq!(cpu.pc(), before.2.wrapping_add(4));
            }
            Some(other) => panic!("{other:?}"),
        }
    }
    // Both kinds must really have been met.
    assert!(
        executed > rounds / 10 && faults > rounds / 10,
        "{executed} executed, {faults} faults of {rounds}"
    );
}

#[test]
fn any_word() {
    let rounds = if cfg!(debug_assertions) { 200_000 } else { 3_000_000 };
    fuzz(0x0123_4567_89ab_cdef, rounds);
}

/// Another seed and any number of rounds: `A64_FUZZ=seed,rounds`. Without it, a short run with a seed of its own.
#[test]
fn any_word_of_your_choice() {
    let choice = std::env::var("A64_FUZZ").unwrap_or_else(|_| "99,20000".to_owned());
    let (seed, rounds) = choice.split_once(',').unwrap();
    fuzz(seed.parse::<u64>().unwrap() | 1, rounds.parse().unwrap());
}

//! Work for a CPU: what it prints must be the same everywhere. The test that runs the guest does the work itself too.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU16, AtomicU64, Ordering};

/// Xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    Dot,
    Line(i16),
    Box { width: u8, height: u32 },
    Named(&'static str, Option<i64>),
}

impl Shape {
    fn of(n: u64) -> Self {
        const NAMES: [&str; 5] = ["ring", "star", "", "längs", "π\t\"quoted\""];
        match n % 4 {
            0 => Self::Dot,
            1 => Self::Line((n >> 3) as i16),
            2 => Self::Box { width: (n >> 5) as u8, height: (n >> 20) as u32 },
            _ => Self::Named(
                NAMES[(n >> 7) as usize % NAMES.len()],
                (n & 64 != 0).then_some((n >> 1) as i64 - (1 << 61)),
            ),
        }
    }
}

trait Area {
    fn area(&self) -> u64;
}

impl Area for Shape {
    fn area(&self) -> u64 {
        match self {
            Self::Dot => 1,
            Self::Line(length) => u64::from(length.unsigned_abs()),
            Self::Box { width, height } => u64::from(*width) * u64::from(*height),
            Self::Named(name, number) => name.len() as u64 + number.unwrap_or(-1).unsigned_abs() % 1000,
        }
    }
}

impl Area for [u32] {
    fn area(&self) -> u64 {
        self.iter().rev().step_by(3).fold(17, |sum, v| sum.rotate_left(5) ^ u64::from(*v))
    }
}

fn sorting(out: &mut dyn Write, random: &mut Random) -> fmt::Result {
    let mut numbers = [0i64; 700];
    numbers.fill_with(|| random.next() as i64 >> 9);
    numbers.sort_unstable();
    let at = numbers.binary_search(&numbers[123]);
    writeln!(out, "sort: {:?} {:?} {:?} {at:?}", numbers.first(), numbers.get(350), numbers.last())?;
    numbers.sort_unstable_by_key(|v| v.wrapping_mul(0x9e37_79b9) & 0xffff);
    let sum = numbers
        .iter()
        .enumerate()
        .fold(0u64, |sum, (i, v)| sum.wrapping_mul(31).wrapping_add(*v as u64 ^ i as u64));
    writeln!(out, "sort by key: {sum:#018x}")?;

    let mut shapes = [Shape::Dot; 40];
    shapes.fill_with(|| Shape::of(random.next()));
    shapes.sort_unstable();
    for shape in shapes.iter().step_by(7) {
        writeln!(out, "{shape:?}")?;
    }
    writeln!(out, "{:#?}", shapes[shapes.len() - 1])?;
    let words: [u32; 33] = core::array::from_fn(|_| random.next() as u32);
    let things: [&dyn AreaOf; 3] = [&shapes[5], &shapes[20], &words];
    writeln!(out, "areas: {:?} {:x}", things.map(AreaOf::area_of), words.as_slice().area())
}

trait AreaOf {
    fn area_of(&self) -> u64;
}

impl AreaOf for Shape {
    fn area_of(&self) -> u64 {
        self.area()
    }
}

impl AreaOf for [u32; 33] {
    fn area_of(&self) -> u64 {
        self.as_slice().area()
    }
}

fn arithmetic(out: &mut dyn Write, random: &mut Random) -> fmt::Result {
    let mut wide = 1u128;
    let mut signed = -1i128;
    for i in 1..60 {
        let v = u128::from(random.next()) << (i % 64);
        wide = wide.wrapping_mul(v | 1).wrapping_add(v >> 3);
        signed = signed.wrapping_mul(v as i128 | 1).rotate_left(i) / i128::from(i);
    }
    writeln!(out, "wide: {wide} {wide:#x} {signed} {:?}", wide.checked_mul(3))?;
    writeln!(
        out,
        "wide division: {} {} {}",
        wide / 1_000_000_007,
        wide % ((1 << 90) + 7),
        signed % 99_999_999_999
    )?;
    let (mut checked, mut saturated, mut bits) = (0u32, 0i32, 0u32);
    for _ in 0..500 {
        let (a, b) = (random.next() as i32, random.next() as i32 >> 12);
        checked += u32::from(a.checked_add(b).is_none()) + u32::from(a.checked_mul(b).is_none());
        saturated = saturated.wrapping_mul(7).wrapping_add(a.saturating_sub(b.wrapping_shl(13)));
        saturated ^=
            a.checked_div(b).unwrap_or(5) ^ a.rem_euclid(b | 1) ^ i32::from((a as i8).wrapping_abs());
        bits += (a as u32).leading_zeros() + a.trailing_zeros() + b.count_ones();
        bits = bits.rotate_left(3) ^ (a as u32).reverse_bits() ^ (b as u32).swap_bytes();
    }
    writeln!(out, "checked {checked} saturated {saturated:+} bits {bits:#034b}")
}

fn text(out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "[{:>8}] [{:<8}] [{:^8}] [{:*^+9}] [{:08.3}]", "right", "left", "mid", 42, "cut short")?;
    writeln!(out, "{:5}|{:<5}|{:#x}|{:#010b}|{:e}|{:?}", -7, 7, 255, 5, 1_234_567u32, 'ß')?;
    let line = "  alpha=1, beta=-22,gamma = 333 , delta=x,epsilon=99999999999999999999 ";
    for part in line.trim().split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        writeln!(out, "{:?} -> {:?}", name.trim(), value.trim().parse::<i64>())?;
    }
    let turned = "Gunyah: a house of bark — ein Dach".chars().rev().filter(|c| !c.is_whitespace());
    for c in turned {
        out.write_char(c.to_ascii_uppercase())?;
    }
    writeln!(out)
}

fn atomics(out: &mut dyn Write, random: &mut Random) -> fmt::Result {
    let (byte, half, word, long) =
        (AtomicU8::new(1), AtomicU16::new(2), AtomicI32::new(3), AtomicU64::new(4));
    let mut seen = 0u64;
    for _ in 0..200 {
        let v = random.next();
        let mut note = |value: u64| seen = seen.wrapping_mul(5).wrapping_add(value);
        note(u64::from(byte.fetch_add(v as u8, Ordering::SeqCst)));
        note(u64::from(half.fetch_max(v as u16, Ordering::AcqRel)));
        note(word.fetch_min(v as i32, Ordering::Relaxed) as u64);
        note(word.fetch_nand(!(v as i32), Ordering::Acquire) as u64);
        note(long.swap(v, Ordering::Release));
        note(match long.compare_exchange(v | 2, v >> 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(old) => old,
            Err(old) => !old,
        });
        half.store(v as u16 >> 1, Ordering::Release);
        note(u64::from(half.load(Ordering::Acquire)));
    }
    writeln!(out, "atomics: {seen:x} {byte:?} {half:?} {word:?} {long:?}")
}

/// Does it all.
pub(crate) fn work(out: &mut dyn Write) -> fmt::Result {
    let mut random = Random(0x1234_5678_9abc_def1);
    sorting(out, &mut random)?;
    arithmetic(out, &mut random)?;
    text(out)?;
    atomics(out, &mut random)?;
    writeln!(out, "done")
}

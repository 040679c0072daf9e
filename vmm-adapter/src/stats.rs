//! What a vCPU's exits are, and how long they take.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vm_memory::GuestAddress;

use crate::error::Result;
use crate::io::{IoHandler, IoOutcome};
use crate::vcpu::{Vcpu, VcpuExit};

/// A kind of exit.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitKind {
    /// [`IoHandler::mmio_read`].
    MmioRead,
    /// [`IoHandler::mmio_write`].
    MmioWrite,
    /// [`IoHandler::pio_read`].
    PortRead,
    /// [`IoHandler::pio_write`].
    PortWrite,
    /// A pass of [`Vcpu::run`] that came back: a kick, the VM's end, or an error.
    Return,
}

impl ExitKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 5] =
        [Self::MmioRead, Self::MmioWrite, Self::PortRead, Self::PortWrite, Self::Return];
}

impl fmt::Display for ExitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MmioRead => "mmio read",
            Self::MmioWrite => "mmio write",
            Self::PortRead => "port read",
            Self::PortWrite => "port write",
            Self::Return => "return",
        })
    }
}

/// One for each power of two of nanoseconds, up to half a minute; the last takes the rest.
const BUCKETS: usize = 36;

/// Counts the exits of a vCPU and measures them. Any thread may look while the vCPU runs.
///
/// A vCPU that is run without one pays nothing: this wraps the calls of [`Vcpu::run`], it is not inside.
///
/// ```
/// # #[cfg(feature = "gunyah")]
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # use fake_gunyah::{Fake, Guest, Script};
/// # use vm_memory::GuestAddress;
/// # use vmm_adapter::{BootContext, Hypervisor, Sharing, VcpuExit, VmConfig};
/// # let script = Script::new().mmio_write(0x1000, 4, 1).exit(1, &[0; 4]);
/// # let fake = Fake::builder().guest(Guest::scripts([script])).build()?;
/// # fake.run(|_| -> Result<(), vmm_adapter::Error> {
/// # let vm = vmm_adapter::gunyah::Gunyah::open()?.create_vm(&VmConfig::new(1))?;
/// # let ram = vm.allocate(GuestAddress(0x8000_0000), 2 << 20, Sharing::Shared)?;
/// # let tree = vmm_adapter::fdt::write(&*vm, &Default::default())?;
/// # ram.write(GuestAddress(0x8010_0000), &tree)?;
/// # let mut vcpu = vm.create_vcpu(0)?;
/// # vm.start(&BootContext { entry: ram.addr(), fdt: GuestAddress(0x8010_0000), fdt_size: 0x4000 })?;
/// # let devices = vmm_adapter::Bus::new();
/// use vmm_adapter::{ExitKind, ExitStats};
///
/// let stats = ExitStats::new();
/// let exit = stats.run(&mut *vcpu, &devices)?;
/// let report = stats.report();
/// assert_eq!(report.of(ExitKind::MmioWrite).count, 1);
/// println!("{report}");
/// # assert!(matches!(exit, VcpuExit::PowerOff(_)));
/// # Ok(())
/// # })??;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "gunyah"))]
/// # fn main() {}
/// ```
#[derive(Debug)]
pub struct ExitStats {
    kinds: [Counters; ExitKind::ALL.len()],
    unclaimed: AtomicU64,
    /// From the end of one exit's handling to the next exit: the guest, the hypervisor and the kernel.
    away: Histogram,
}

#[derive(Debug)]
struct Counters {
    count: AtomicU64,
    /// How long the handler took.
    handling: Histogram,
}

#[derive(Debug)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    total: AtomicU64,
}

// Each vCPU has its own thread and its own numbers, so nothing is ordered by these.
impl Histogram {
    fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], total: AtomicU64::new(0) }
    }

    fn add(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = usize::try_from(u64::BITS - nanos.leading_zeros()).unwrap_or(BUCKETS).min(BUCKETS - 1);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.total.fetch_add(nanos, Ordering::Relaxed);
    }

    fn look(&self) -> Latency {
        Latency {
            buckets: self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed)),
            total: Duration::from_nanos(self.total.load(Ordering::Relaxed)),
        }
    }
}

impl Default for ExitStats {
    fn default() -> Self {
        Self::new()
    }
}

impl ExitStats {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let counters = || Counters { count: AtomicU64::new(0), handling: Histogram::new() };
        Self {
            kinds: std::array::from_fn(|_| counters()),
            unclaimed: AtomicU64::new(0),
            away: Histogram::new(),
        }
    }

    /// [`Vcpu::run`], counted and measured.
    ///
    /// # Errors
    /// As [`Vcpu::run`].
    pub fn run(&self, vcpu: &mut dyn Vcpu, io: &dyn IoHandler) -> Result<VcpuExit> {
        let measured = Measured { stats: self, io, last: AtomicU64::new(0), began: Instant::now() };
        let exit = vcpu.run(&measured);
        measured.came_back();
        if let Some(counters) = self.kinds.get(ExitKind::Return as usize) {
            counters.count.fetch_add(1, Ordering::Relaxed);
        }
        exit
    }

    /// What was counted so far.
    pub fn report(&self) -> ExitReport {
        let look = |counters: &Counters| ExitNumbers {
            count: counters.count.load(Ordering::Relaxed),
            handling: counters.handling.look(),
        };
        ExitReport {
            kinds: self.kinds.each_ref().map(look),
            unclaimed: self.unclaimed.load(Ordering::Relaxed),
            away: self.away.look(),
        }
    }
}

/// The VMM's devices during one pass of `run`.
struct Measured<'a> {
    stats: &'a ExitStats,
    io: &'a dyn IoHandler,
    began: Instant,
    /// When the vCPU was last let go, in nanoseconds since the beginning. Only the vCPU's thread uses it.
    last: AtomicU64,
}

impl Measured<'_> {
    fn came_back(&self) -> Duration {
        let now = self.began.elapsed();
        let last = Duration::from_nanos(self.last.load(Ordering::Relaxed));
        self.stats.away.add(now.saturating_sub(last));
        now
    }

    fn exit(&self, kind: ExitKind, handle: impl FnOnce() -> IoOutcome) -> IoOutcome {
        let came = self.came_back();
        let outcome = handle();
        let goes = self.began.elapsed();
        self.last.store(u64::try_from(goes.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(counters) = self.stats.kinds.get(kind as usize) {
            counters.count.fetch_add(1, Ordering::Relaxed);
            counters.handling.add(goes.saturating_sub(came));
        }
        if outcome == IoOutcome::Unclaimed {
            self.stats.unclaimed.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}

impl IoHandler for Measured<'_> {
    fn mmio_read(&self, addr: GuestAddress, data: &mut [u8]) -> IoOutcome {
        self.exit(ExitKind::MmioRead, || self.io.mmio_read(addr, data))
    }

    fn mmio_write(&self, addr: GuestAddress, data: &[u8]) -> IoOutcome {
        self.exit(ExitKind::MmioWrite, || self.io.mmio_write(addr, data))
    }

    fn pio_read(&self, port: u16, data: &mut [u8]) -> IoOutcome {
        self.exit(ExitKind::PortRead, || self.io.pio_read(port, data))
    }

    fn pio_write(&self, port: u16, data: &[u8]) -> IoOutcome {
        self.exit(ExitKind::PortWrite, || self.io.pio_write(port, data))
    }
}

/// How long something took, many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    buckets: [u64; BUCKETS],
    /// All together.
    pub total: Duration,
}

impl Latency {
    /// How often it was measured.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The arithmetic mean; zero if it was never measured.
    pub fn mean(&self) -> Duration {
        let nanos = u64::try_from(self.total.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(nanos.checked_div(self.count()).unwrap_or(0))
    }

    /// A time that this part of the measurements, from 0 to 1, did not exceed: the power of two above it, in nanoseconds. Zero if
    /// it was never measured.
    pub fn quantile(&self, part: f64) -> Duration {
        let count = self.count();
        let wanted = (part.clamp(0.0, 1.0) * count as f64).ceil() as u64;
        let mut seen = 0;
        for (limit, nanos) in self.limits() {
            seen += nanos;
            if seen >= wanted.max(1) {
                return limit;
            }
        }
        Duration::ZERO
    }

    /// Each bucket: the time that is longer than all in it, and how many are in it. The last one has no limit in truth.
    pub fn limits(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        (0_u32..).zip(self.buckets).map(|(power, count)| (Duration::from_nanos(1 << power), count))
    }
}

/// The numbers of one kind of exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitNumbers {
    /// How many there were.
    pub count: u64,
    /// How long the VMM's devices took for them. Empty for [`ExitKind::Return`].
    pub handling: Latency,
}

/// What [`ExitStats`] has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitReport {
    kinds: [ExitNumbers; ExitKind::ALL.len()],
    /// Accesses that no device claimed.
    pub unclaimed: u64,
    /// From the end of one exit's handling to the next exit: the guest, the hypervisor and the kernel.
    pub away: Latency,
}

impl ExitReport {
    /// The numbers of one kind.
    pub fn of(&self, kind: ExitKind) -> &ExitNumbers {
        let [mmio_read, mmio_write, port_read, port_write, back] = &self.kinds;
        match kind {
            ExitKind::MmioRead => mmio_read,
            ExitKind::MmioWrite => mmio_write,
            ExitKind::PortRead => port_read,
            ExitKind::PortWrite => port_write,
            ExitKind::Return => back,
        }
    }
}

impl fmt::Display for ExitReport {
    /// A line for each kind that there was.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10} {:>10} {:>10} {:>10} {:>10}", "exit", "count", "mean", "50 % <", "99 % <")?;
        let mut line = |name: &str, count: u64, times: &Latency| {
            let shown = |time: Duration| format!("{time:.1?}");
            write!(
                f,
                "\n{name:<10} {count:>10} {:>10} {:>10} {:>10}",
                shown(times.mean()),
                shown(times.quantile(0.5)),
                shown(times.quantile(0.99))
            )
        };
        for kind in ExitKind::ALL {
            let numbers = self.of(kind);
            if numbers.count > 0 {
                line(&kind.to_string(), numbers.count, &numbers.handling)?;
            }
        }
        line("away", self.away.count(), &self.away)?;
        write!(f, "\nunclaimed  {:>10}", self.unclaimed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(nanos: &[u64]) -> Latency {
        let histogram = Histogram::new();
        nanos.iter().for_each(|nanos| histogram.add(Duration::from_nanos(*nanos)));
        histogram.look()
    }

    #[test]
    fn quantiles_are_the_next_power_of_two() {
        let latency = times(&[0, 1, 100, 100, 100, 100, 1000, 1000, 1000, 100_000]);
        assert_eq!(latency.count(), 10);
        assert_eq!(latency.quantile(0.0), Duration::from_nanos(1));
        assert_eq!(latency.quantile(0.5), Duration::from_nanos(128));
        assert_eq!(latency.quantile(0.9), Duration::from_nanos(1024));
        assert_eq!(latency.quantile(1.0), Duration::from_nanos(131_072));
        assert_eq!(latency.mean(), Duration::from_nanos(10_340));
        let longest = times(&[u64::MAX]);
        assert_eq!(longest.quantile(0.5), Duration::from_nanos(1 << (BUCKETS - 1)));
        assert_eq!((times(&[]).mean(), times(&[]).quantile(0.5)), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn every_kind_has_its_numbers() {
        struct Nobody;
        impl IoHandler for Nobody {
            fn mmio_read(&self, _: GuestAddress, _: &mut [u8]) -> IoOutcome {
                IoOutcome::Unclaimed
            }
            fn mmio_write(&self, _: GuestAddress, _: &[u8]) -> IoOutcome {
                std::thread::sleep(Duration::from_millis(2));
                IoOutcome::Handled
            }
        }
        let stats = ExitStats::new();
        let measured =
            Measured { stats: &stats, io: &Nobody, began: Instant::now(), last: AtomicU64::new(0) };
        for _ in 0..3 {
            measured.mmio_read(GuestAddress(0), &mut [0]);
        }
        measured.mmio_write(GuestAddress(0), &[0]);
        measured.pio_read(0, &mut [0]);
        measured.pio_write(0, &[0]);
        let report = stats.report();
        for (kind, count) in ExitKind::ALL.into_iter().zip([3, 1, 1, 1, 0]) {
            assert_eq!(report.of(kind).count, count, "{kind}");
            assert_eq!(report.of(kind).handling.count(), count, "{kind}");
        }
        assert_eq!((report.unclaimed, report.away.count()), (5, 6));
        assert!(report.of(ExitKind::MmioWrite).handling.total >= Duration::from_millis(2));
        assert!(report.away.total < report.of(ExitKind::MmioWrite).handling.total, "they are told apart");
        let text = report.to_string();
        assert!(text.contains("mmio read           3") && !text.contains("return"), "{text}");
    }
}

//! Eight vCPUs, loads and stores of every width, kicks and signals from other threads, on every flavour and on the host that mixes them.
//!
//! The guest checks the value of each load, the host that of each store, and both count. `GUNYAH_STRESS_EXITS` is the
//! number of MMIO exits on each kernel.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../echo/page.rs"]
mod page;
#[path = "../echo/storm.rs"]
mod storm;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fake_gunyah::{Answer, Guest, Script};
use gunyah_ioctls::{VcpuExit, VcpuFd, block_other_signals};

use common::{KERNELS, Kernel, Watchdog};
use page::SecondMapping;
use storm::{Random, Victim};

const VCPUS: u64 = 8;
const KICKERS: u64 = 3;

/// One test at a time: they need the machine to themselves.
static ALONE: Mutex<()> = Mutex::new(());

/// MMIO exits on each kernel, in each storm. There are 21 of these: a million in all, and ten times that in a release build.
fn exits() -> u64 {
    let default = if cfg!(debug_assertions) { 50_000 } else { 500_000 };
    std::env::var("GUNYAH_STRESS_EXITS").map_or(default, |text| text.parse().unwrap())
}

/// The width and the value of a vCPU's load: never 0, which is what a lost answer reads as.
fn load(vcpu: u64, round: u64) -> (u64, u64) {
    let random = Random::new(vcpu << 40 | (round + 1)).next();
    let len = 1 << (random >> 60 & 3);
    (len, (random | 1) & mask(len))
}

fn mask(len: u64) -> u64 {
    if len < 8 { (1 << (8 * len)) - 1 } else { u64::MAX }
}

fn addr(vcpu: u64, store: bool) -> u64 {
    0x1000_0000 + vcpu * 0x100 + u64::from(store) * 8
}

/// What the guests got.
#[derive(Default)]
struct Seen {
    right: AtomicU64,
    zero: AtomicU64,
    wrong: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A vCPU that loads, stores what it has loaded, and so on. The one that is done last ends the VM.
fn script(vcpu: u64, rounds: u64, breathing: bool, seen: Arc<Seen>, running: Arc<AtomicUsize>) -> Script {
    let mut step = 0;
    let mut breath = false;
    let mut got = 0;
    let mut done = false;
    Script::from_fn(move |resume| {
        let round = step / 2;
        if step % 2 == 1 && !breath {
            let (len, value) = load(vcpu, round);
            got = resume[0] & mask(len);
            add(match got {
                _ if got == value => &seen.right,
                0 => &seen.zero,
                _ => &seen.wrong,
            });
        }
        // Now and then the time slice ends before the guest gets on.
        if breathing && !breath && load(vcpu, step).1 % 16 == 3 {
            breath = true;
            return Answer::state(fake_gunyah::hyp::state::READY, [0; 3]);
        }
        breath = false;
        if round == rounds {
            if !done {
                done = true;
                if running.fetch_sub(1, Ordering::AcqRel) == 1 {
                    return Answer::exit(1, &[0; 4]);
                }
            }
            return Answer::state(fake_gunyah::hyp::state::POWERED_OFF, [0; 3]);
        }
        step += 1;
        let len = load(vcpu, round).0;
        if step % 2 == 1 {
            Answer::mmio_read(addr(vcpu, false), len)
        } else {
            Answer::mmio_write(addr(vcpu, true), len, got)
        }
    })
}

/// What the hosts saw, or one of them.
#[derive(Clone, Copy, Default, Debug)]
struct Served {
    reads: u64,
    writes: u64,
    interrupted: u64,
    possibly_lost: u64,
}

impl std::iter::Sum for Served {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            reads: sum.reads + part.reads,
            writes: sum.writes + part.writes,
            interrupted: sum.interrupted + part.interrupted,
            possibly_lost: sum.possibly_lost + part.possibly_lost,
        })
    }
}

fn serve(vcpu: &mut VcpuFd) -> Served {
    let id = u64::from(vcpu.id());
    let mut out = Served::default();
    loop {
        match vcpu.run().unwrap() {
            VcpuExit::MmioRead { addr: at, len } => {
                assert_eq!(out.reads, out.writes, "vCPU {id}: a store was lost");
                let (expected, value) = load(id, out.reads);
                assert_eq!((at, len as u64), (addr(id, false), expected));
                vcpu.complete_mmio_read(&value.to_le_bytes()[..len]).unwrap();
                out.reads += 1;
            }
            VcpuExit::MmioWrite { addr: at, len, data } => {
                assert_eq!(out.reads, out.writes + 1, "vCPU {id}: a load was lost");
                let (expected, value) = load(id, out.writes);
                assert_eq!((at, len as u64), (addr(id, true), expected));
                let got = u64::from_le_bytes(data);
                assert!(got == value || got == 0, "vCPU {id} stores {got:#x} instead of {value:#x}");
                out.writes += 1;
            }
            VcpuExit::Interrupted => out.interrupted += 1,
            VcpuExit::Status(_) => break,
            other => panic!("vCPU {id}: {other:?}"),
        }
    }
    out.possibly_lost = vcpu.answers_possibly_lost();
    out
}

/// Sets `immediate_exit` in one of `pages` at random moments until `over`. Answers how often.
fn immediate_exits(pages: &[SecondMapping], seed: u64, over: &AtomicBool) -> u64 {
    let mut random = Random::new(seed);
    let mut times = 0;
    while !over.load(Ordering::Acquire) {
        pages[random.below(pages.len() as u64) as usize].immediate_exit().store(1, Ordering::Release);
        times += 1;
        std::thread::sleep(Duration::from_micros(random.below(200)));
    }
    times
}

/// What rains on the vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storm {
    /// Kicks from several threads.
    Kicks,
    /// Kicks, and signals that nothing holds back. The guest goes on for a while after some answers: a signal that comes then
    /// loses none, and is counted all the same.
    KicksAndSignals,
    /// Somebody sets `immediate_exit`. No signal is in play, so each interruption is the driver's own: it is known that an
    /// answer that was in hand then is lost.
    ImmediateExits,
}

/// The guests' and the hosts' work on one kernel.
fn stress(kernel: Kernel, storm: Storm) -> Served {
    let _watchdog = Watchdog::new();
    let signals = storm == Storm::KicksAndSignals;
    let rounds = (exits() / 2 / VCPUS).max(1);
    let seen = Arc::new(Seen::default());
    let running = Arc::new(AtomicUsize::new(VCPUS as usize));
    let scripts =
        (0..VCPUS).map(|vcpu| script(vcpu, rounds, signals, Arc::clone(&seen), Arc::clone(&running)));
    let fake = kernel.builder().record_calls(false).guest(Guest::scripts(scripts));
    let fake = fake.build().unwrap();
    let mut kept = None;
    let started = Instant::now();
    let (served, kicks) = fake
        .run(|handle| {
            kept = Some(handle.clone());
            let (vm, _ram) = common::started_vm(VCPUS as u32);
            let handles: Vec<_> = vm.vcpus.iter().map(VcpuFd::kick_handle).collect();
            let victims: Vec<_> = (0..VCPUS).map(|_| Victim::default()).collect();
            let pages: Vec<_> = vm.vcpus.iter().map(SecondMapping::new).collect();
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let pages = &pages;
                let (handles, victims, over) = (&handles, &victims, &over);
                let kickers: Vec<_> = (0..KICKERS)
                    .map(|seed| {
                        scope.spawn(move || match storm {
                            Storm::ImmediateExits => immediate_exits(pages, seed + 7, over),
                            _ => storm::kicks(handles, seed + 7, over),
                        })
                    })
                    .collect();
                if signals {
                    scope.spawn(move || storm::signals(victims, storm::INTERRUPTING, over));
                }
                let vcpus: Vec<_> = vm
                    .vcpus
                    .into_iter()
                    .zip(victims)
                    .map(|(mut vcpu, victim)| {
                        scope.spawn(move || {
                            if signals {
                                victim.enter();
                            } else {
                                block_other_signals().unwrap();
                            }
                            let served = serve(&mut vcpu);
                            victim.leave();
                            served
                        })
                    })
                    .collect();
                let served: Served = vcpus.into_iter().map(|vcpu| vcpu.join().unwrap()).sum();
                over.store(true, Ordering::Release);
                (served, kickers.into_iter().map(|kicker| kicker.join().unwrap()).sum::<u64>())
            })
        })
        .unwrap();
    let handle = kept.unwrap();
    let (right, zero, wrong) = (get(&seen.right), get(&seen.zero), get(&seen.wrong));
    println!(
        "{kernel:15} {}: {} loads, {} stores, {kicks} kicks, {} interruptions, {} exits overtaken by a signal and \
         found; answers lost {zero}, counted {} ({:.1} s)",
        match storm {
            Storm::Kicks => "kicks            ",
            Storm::KicksAndSignals => "kicks and signals",
            Storm::ImmediateExits => "immediate exits  ",
        },
        served.reads,
        served.writes,
        served.interrupted,
        handle.exits_lost(),
        served.possibly_lost,
        started.elapsed().as_secs_f64()
    );
    assert_eq!(handle.leftovers(), [], "{kernel}");
    assert_eq!((served.reads, served.writes), (rounds * VCPUS, rounds * VCPUS), "{kernel}: an exit was lost");
    assert_eq!((right + zero, wrong), (rounds * VCPUS, 0), "{kernel}");
    assert_eq!(
        zero,
        handle.answers_lost(),
        "{kernel}: a guest reads 0 when its answer was lost, and only then"
    );
    if storm == Storm::ImmediateExits {
        assert_eq!(served.possibly_lost, zero, "{kernel}: the count is exact here");
        assert!(zero > 0, "{kernel}: nothing was proved");
    } else {
        assert!(zero <= served.possibly_lost, "{kernel}: {zero} lost, {} counted", served.possibly_lost);
    }
    assert!(served.interrupted > 0, "{kernel}: nothing was interrupted");
    served
}

fn on_every_kernel(storm: Storm) {
    let _alone = ALONE.lock();
    storm::install_handlers();
    let total: Served = KERNELS.into_iter().map(|kernel| stress(kernel, storm)).sum();
    println!("in all: {total:?}");
}

#[test]
fn nothing_is_lost_uncounted_under_kicks() {
    on_every_kernel(Storm::Kicks);
}

#[test]
fn nothing_is_lost_uncounted_under_kicks_and_signals() {
    on_every_kernel(Storm::KicksAndSignals);
}

#[test]
fn the_count_is_what_the_kernel_saw_lost() {
    on_every_kernel(Storm::ImmediateExits);
}

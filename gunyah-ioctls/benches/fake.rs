//! What calls cost that reach a kernel: kicks, detection and runs, on the fake one. `cargo bench --bench fake`.
//!
//! Every line has a baseline of the same run beside it and the ratio of both, with 1, 8 and 64 vCPUs. The fake answers
//! from a second thread, so its times say how they grow and how they compare, not what a real host takes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fake_gunyah::{Answer, Fake, Flavour, Guest, Handle, Script};
use gunyah_ioctls::{Gunyah, VcpuExit, VcpuFd, VmFd};

const VCPUS: [u32; 3] = [1, 8, 64];
/// How long one measurement goes on, and how many there are. The fastest counts: the others met other work.
const SPAN: Duration = Duration::from_millis(120);
const REPEATS: usize = 3;
/// An ioctl that no Gunyah has: the shortest way to the fake and back.
const NOTHING: u32 = 0x47fe;
const SIGNAL: libc::c_int = libc::SIGUSR1;

fn main() {
    println!(
        "{:<44}{:>6}{:>12}  {:<28}{:>10}{:>8}",
        "what", "vCPUs", "ns each", "baseline", "ns each", "ratio"
    );
    for vcpus in VCPUS {
        line(
            "kick outside run, and the run that reports it",
            vcpus,
            kick_outside(vcpus),
            "getppid",
            getppid(),
        );
    }
    for vcpus in VCPUS {
        line(
            "kick of a blocked run, until it returned",
            vcpus,
            kick_blocked(vcpus),
            "signal to a sleeper",
            sleepers(vcpus),
        );
    }
    for vcpus in VCPUS {
        let (run, nothing) = runs(vcpus);
        line("run, one MMIO store", vcpus, run, "unknown ioctl", nothing);
    }
    for vcpus in VCPUS {
        let (detected, bare, calls) = detection(vcpus);
        line(
            &format!("create_vm with detection, {calls} ioctls"),
            vcpus,
            detected,
            "GH_CREATE_VM alone",
            bare,
        );
    }
}

fn line(what: &str, vcpus: u32, ours: f64, baseline: &str, bare: f64) {
    println!("{what:<44}{vcpus:>6}{ours:>12.0}  {baseline:<28}{bare:>10.0}{:>8.2}", ours / bare);
}

/// Nanoseconds per unit of work, of the fastest repeat. `work` answers how many units it did.
fn time(mut work: impl FnMut() -> u64) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..REPEATS {
        let (started, mut units) = (Instant::now(), 0);
        while started.elapsed() < SPAN {
            units += work();
        }
        best = best.min(started.elapsed().as_nanos() as f64 / units as f64);
    }
    best
}

/// Runs `body` on a fake v11 host with a started VM. Each vCPU's guest follows `script`.
fn on<T: Send>(
    vcpus: u32,
    script: fn() -> Script,
    body: impl FnOnce(&Handle, &VmFd, Vec<VcpuFd>) -> T + Send,
) -> T {
    let scripts = (0..vcpus).map(|_| script());
    let fake = Fake::builder().flavour(Flavour::V11).guest(Guest::scripts(scripts)).build().unwrap();
    fake.run(|handle| {
        let vm = Gunyah::new().unwrap().create_vm().unwrap();
        let all = (0..vcpus).map(|id| vm.add_vcpu(id).unwrap()).collect();
        vm.start().unwrap();
        body(handle, &vm, all)
    })
    .unwrap()
}

fn stores() -> Script {
    Script::from_fn(|_| Answer::mmio_write(0x1000, 4, 0x5a))
}

fn sleeps() -> Script {
    Script::new().repeat(1_000_000, Script::wfi)
}

/// Asks the fake something that it refuses at once.
fn ask_nothing(fd: impl AsFd) {
    // SAFETY: no kernel follows the argument of an ioctl that it does not have.
    let answer = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), NOTHING as libc::Ioctl, 0) };
    assert_eq!(answer, -1);
}

fn getppid() -> f64 {
    time(|| {
        for _ in 0..1000 {
            // SAFETY: no preconditions.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
        1000
    })
}

fn kick_outside(vcpus: u32) -> f64 {
    on(vcpus, stores, |_, _, mut all| {
        let kicks: Vec<_> = all.iter().map(VcpuFd::kick_handle).collect();
        for vcpu in &mut all {
            vcpu.run().unwrap();
        }
        time(|| {
            kicks.iter().for_each(gunyah_ioctls::KickHandle::kick);
            for vcpu in &mut all {
                assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
            }
            u64::from(vcpus)
        })
    })
}

/// Kicks all vCPUs while all are blocked, and waits until all have come back.
fn kick_blocked(vcpus: u32) -> f64 {
    on(vcpus, sleeps, |handle, _, all| {
        let kicks: Vec<_> = all.iter().map(VcpuFd::kick_handle).collect();
        let over = AtomicBool::new(false);
        let (back, returned) = mpsc::channel();
        let best = thread::scope(|scope| {
            for mut vcpu in all {
                let (over, back) = (&over, back.clone());
                scope.spawn(move || {
                    while !over.load(Ordering::Acquire) {
                        assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
                        back.send(()).unwrap();
                    }
                });
            }
            let mut runs = 0;
            let best = rounds(|| {
                runs += u64::from(vcpus);
                while handle.runs() < runs {
                    thread::sleep(Duration::from_micros(100));
                }
                let started = Instant::now();
                kicks.iter().for_each(gunyah_ioctls::KickHandle::kick);
                (0..vcpus).for_each(|_| returned.recv().unwrap());
                started.elapsed()
            });
            over.store(true, Ordering::Release);
            kicks.iter().for_each(gunyah_ioctls::KickHandle::kick);
            best
        });
        best / f64::from(vcpus)
    })
}

/// The median of what `round` says, in nanoseconds: a round has waits that do not count.
fn rounds(mut round: impl FnMut() -> Duration) -> f64 {
    let started = Instant::now();
    let mut all = Vec::new();
    while all.len() < 5 || started.elapsed() < 4 * SPAN {
        all.push(round());
    }
    all.sort_unstable();
    all[all.len() / 2].as_nanos() as f64
}

extern "C" fn do_nothing(_: libc::c_int) {}

/// The same without Gunyah: threads asleep in a system call, and a signal for each.
fn sleepers(count: u32) -> f64 {
    // SAFETY: sigaction is plain data; the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = do_nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        assert_eq!(libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()), 0);
    }
    let tids: Vec<_> = (0..count).map(|_| AtomicI32::new(0)).collect();
    let (over, asleep, ready) = (AtomicBool::new(false), AtomicU64::new(0), Barrier::new(count as usize + 1));
    let (back, returned) = mpsc::channel();
    let best = thread::scope(|scope| {
        for tid in &tids {
            let (over, asleep, ready, back) = (&over, &asleep, &ready, back.clone());
            scope.spawn(move || {
                // SAFETY: no preconditions.
                tid.store(
                    i32::try_from(unsafe { libc::syscall(libc::SYS_gettid) }).unwrap(),
                    Ordering::Release,
                );
                ready.wait();
                while !over.load(Ordering::Acquire) {
                    asleep.fetch_add(1, Ordering::AcqRel);
                    let long = libc::timespec { tv_sec: 1, tv_nsec: 0 };
                    // SAFETY: reads `long`. A signal that came too early costs one second, once.
                    unsafe { libc::nanosleep(&raw const long, std::ptr::null_mut()) };
                    back.send(()).unwrap();
                }
            });
        }
        ready.wait();
        let signal_all = || {
            for tid in &tids {
                // SAFETY: numbers only; the threads live until the scope ends.
                unsafe {
                    libc::syscall(libc::SYS_tgkill, libc::getpid(), tid.load(Ordering::Acquire), SIGNAL)
                };
            }
        };
        let mut naps = 0;
        let best = rounds(|| {
            naps += u64::from(count);
            while asleep.load(Ordering::Acquire) < naps {
                thread::sleep(Duration::from_micros(100));
            }
            thread::sleep(Duration::from_millis(1));
            let started = Instant::now();
            signal_all();
            (0..count).for_each(|_| returned.recv().unwrap());
            started.elapsed()
        });
        over.store(true, Ordering::Release);
        signal_all();
        best
    });
    best / f64::from(count)
}

/// Each vCPU runs on a thread of its own; then each thread asks for nothing instead. Nanoseconds of the host per call.
fn runs(vcpus: u32) -> (f64, f64) {
    on(vcpus, stores, |_, _, mut all| {
        let mut best = (f64::MAX, f64::MAX);
        for _ in 0..REPEATS {
            let ran = together(&mut all, |vcpu| {
                assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioWrite { .. }));
            });
            best = (best.0.min(ran), best.1.min(together(&mut all, |vcpu| ask_nothing(vcpu))));
        }
        best
    })
}

fn together(all: &mut [VcpuFd], call: fn(&mut VcpuFd)) -> f64 {
    let ready = Barrier::new(all.len());
    let calls = AtomicU64::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        for vcpu in all {
            let (calls, ready) = (&calls, &ready);
            scope.spawn(move || {
                ready.wait();
                let mut own = 0;
                let started = Instant::now();
                while started.elapsed() < SPAN {
                    call(vcpu);
                    own += 1;
                }
                calls.fetch_add(own, Ordering::Relaxed);
            });
        }
    });
    started.elapsed().as_nanos() as f64 / calls.load(Ordering::Relaxed) as f64
}

/// A new VM beside one that has the vCPUs: ours, the bare ioctl, and how many ioctls ours took.
fn detection(vcpus: u32) -> (f64, f64, usize) {
    on(vcpus, stores, |handle, vm, _all| {
        let gunyah = Gunyah::new().unwrap();
        let seen = || {
            // The fake writes its log after it answers: one more call pushes the last one in.
            ask_nothing(vm.as_fd());
            handle.calls().iter().filter(|call| call.request != NOTHING).count()
        };
        let before = seen();
        let one = gunyah.create_vm().unwrap();
        let calls = seen() - before;
        drop(one);
        assert!(calls < 15, "{calls} ioctls");
        let detected = time(|| {
            gunyah.create_vm().unwrap();
            1
        });
        let bare = time(|| {
            let create = gunyah_bindings::v11::GH_CREATE_VM as libc::Ioctl;
            // SAFETY: the call takes no pointer; its answer is a new descriptor, closed at once.
            unsafe { assert_eq!(libc::close(libc::ioctl(gunyah.as_fd().as_raw_fd(), create, 0)), 0) };
            1
        });
        (detected, bare, calls)
    })
}

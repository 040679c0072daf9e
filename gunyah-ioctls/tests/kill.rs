//! SIGKILL at any moment of a VMM's life: the kernel gets everything back.
//!
//! A child makes VMs with several vCPU threads, irqfds, ioeventfds and memory until it is killed. Children have copies of
//! this program's descriptors, so it has one test. `GUNYAH_KILLS` is the number of kills on each flavour.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;
#[path = "echo/storm.rs"]
mod storm;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{Event, KERNELS, Kernel};
use fake_gunyah::hyp::state;
use fake_gunyah::{Answer, Flavour, Guest, Script};
use gunyah_ioctls::{IoEventMatch, KickHandle, Trigger, VcpuExit, VcpuFd};
use storm::Random;

const VCPUS: u32 = 3;
const CREATE_VM: u32 = 0x4700;

/// A guest that loads and stores for ever, and sleeps now and then if it is the last one.
fn script(vcpu: u32) -> Script {
    let mut step = 0_u64;
    Script::from_fn(move |_| {
        step += 1;
        match step % 4 {
            0 if vcpu == VCPUS - 1 => Answer::state(state::EXPECTS_WAKEUP, [0; 3]),
            0 => Answer::state(state::READY, [0; 3]),
            1 => Answer::mmio_read(0x1000, 4),
            2 => Answer::mmio_write(0x1000, 8, step),
            _ => Answer::mmio_write(0x2000, 4, 1),
        }
    })
}

fn serve(mut vcpu: VcpuFd, exits: u32) {
    for _ in 0..exits {
        match vcpu.run().unwrap() {
            VcpuExit::MmioRead { len, .. } => vcpu.complete_mmio_read(&[1; 8][..len]).unwrap(),
            VcpuExit::Status(_) => break,
            _ => {}
        }
    }
}

/// Makes VMs until it is killed. The scripts are the first VM's; the vCPUs of the others have nothing to run.
fn vmm() {
    for life in 0_u32.. {
        let (mut vm, ram) = common::configured_vm(VCPUS);
        let (bell, queue) = (Event::new(), Event::new());
        let irqfd = vm.fd.add_irqfd(&bell, 3, Trigger::Edge).unwrap();
        let ioeventfd = vm.fd.add_ioeventfd(&queue, 0x2000, IoEventMatch::Any).unwrap();
        vm.fd.start().unwrap();
        let kicks: Vec<_> = vm.vcpus.iter().map(VcpuFd::kick_handle).collect();
        if life == 0 {
            let running = AtomicU32::new(VCPUS);
            std::thread::scope(|scope| {
                for vcpu in vm.vcpus.drain(..) {
                    let running = &running;
                    scope.spawn(move || {
                        serve(vcpu, 300);
                        running.fetch_sub(1, Ordering::Release);
                    });
                }
                // One of them sleeps now and then.
                while running.load(Ordering::Acquire) > 0 {
                    bell.signal();
                    kicks.iter().for_each(KickHandle::kick);
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
        }
        irqfd.remove().unwrap();
        drop(ioeventfd);
        drop((vm, ram));
    }
}

/// Where the kills have hit.
#[derive(Debug, Default)]
struct Hits {
    before_the_first_run: u32,
    in_the_first_vm: u32,
    later: u32,
    /// VMs that were not started and that this flavour then never gives back.
    leaked: u64,
}

/// Kills one child.
fn kill(kernel: Kernel, after: Duration, hits: &mut Hits) {
    let fake = kernel.builder().guest(Guest::scripts((0..VCPUS).map(script))).build().unwrap();
    let handle = fake
        .run(|handle| {
            // SAFETY: the child uses what every thread may use after a fork: the C library's locks are its own there.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let _ = std::panic::catch_unwind(vmm);
                // SAFETY: ends the child.
                unsafe { libc::_exit(9) };
            }
            std::thread::sleep(after);
            let mut status = 0;
            // SAFETY: our child, and a number that lives.
            unsafe {
                assert_eq!(libc::kill(child, libc::SIGKILL), 0);
                assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            }
            assert!(
                libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL,
                "{kernel}: the VMM ended by itself within {after:?}: {status:#x}"
            );
            common::eventually(|| handle.objects().is_empty());
            handle.clone()
        })
        .unwrap();
    assert_eq!(handle.leftovers(), [], "{kernel}, after {after:?}");
    let vms = handle.calls().iter().filter(|call| call.request == CREATE_VM).count();
    match (handle.runs(), vms) {
        (0, _) => hits.before_the_first_run += 1,
        (_, 1) => hits.in_the_first_vm += 1,
        _ => hits.later += 1,
    }
    hits.leaked += handle.leaked_vms();
}

#[test]
fn a_killed_vmm_leaves_nothing() {
    let kills = std::env::var("GUNYAH_KILLS").map_or(30_u32, |text| text.parse().unwrap());
    for (seed, kernel) in (1..).zip(KERNELS) {
        let mut random = Random::new(seed);
        let mut hits = Hits::default();
        for number in 0..kills {
            let after = random.below([1_000, 4_000, 80_000][number as usize % 3]);
            kill(kernel, Duration::from_micros(after), &mut hits);
        }
        println!("{kernel}: {hits:?}");
        // This one never gives back what was not started.
        assert!(hits.leaked == 0 || kernel == Kernel::Of(Flavour::Android14Early));
    }
}

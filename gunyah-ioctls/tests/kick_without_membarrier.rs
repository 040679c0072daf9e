//! Kicks where a sandbox refuses `membarrier`: before the first vCPU, and after it. Nothing is lost there either.
//!
//! A test of its own, since a process finds out once.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod common;
#[path = "echo/storm.rs"]
mod storm;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use fake_gunyah::{Answer, Flavour, Script};
use gunyah_ioctls::VcpuExit;

const ROUNDS: u64 = 5000;

/// Refuses `membarrier` to the calling thread and to those that it starts.
fn forbid_membarrier() {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, libc::SYS_membarrier as u32),
        step(RETURN, 0, 0, ERRNO | libc::EPERM as u32),
        step(RETURN, 0, 0, ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter lives for the calls; it takes nothing from the process but one system call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::syscall(libc::SYS_seccomp, 1, 0, &raw const filter), 0);
        assert_eq!(libc::syscall(libc::SYS_membarrier, 0, 0, 0), -1);
    }
}

/// A guest that stores and loads while kicks rain: each exit comes once, each kick ends something.
fn storm_of_kicks() {
    let right = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&right);
    let mut step = 0;
    let script = Script::from_fn(move |resume| {
        step += 1;
        counted.fetch_add(u64::from(step % 2 == 0 && resume[0] as u32 == 0x55), Ordering::Relaxed);
        match step {
            _ if step > 2 * ROUNDS => Answer::exit(1, &[]),
            _ if step % 2 == 1 => Answer::mmio_read(0x1000, 4),
            _ => Answer::mmio_write(0x1008, 4, 1),
        }
    });
    common::on(Flavour::V11, [script], |_| {
        let (mut vm, _ram) = common::started_vm(1);
        let mut vcpu = vm.vcpus.remove(0);
        let handles = [vcpu.kick_handle()];
        let over = AtomicBool::new(false);
        let (mut reads, mut writes, mut interrupted) = (0, 0, 0);
        thread::scope(|scope| {
            let kicker = scope.spawn(|| storm::kicks(&handles, 3, &over));
            loop {
                match vcpu.run().unwrap() {
                    VcpuExit::MmioRead { .. } => {
                        reads += 1;
                        vcpu.complete_mmio_read(&[0x55, 0, 0, 0]).unwrap();
                    }
                    VcpuExit::MmioWrite { .. } => writes += 1,
                    VcpuExit::Interrupted => interrupted += 1,
                    _ => break,
                }
            }
            over.store(true, Ordering::Release);
            assert!(interrupted > 0 && interrupted <= kicker.join().unwrap());
        });
        assert_eq!((reads, writes), (ROUNDS, ROUNDS));
        assert!(right.load(Ordering::Relaxed) + vcpu.answers_possibly_lost() >= ROUNDS);
        // A kick that nobody is there to take ends the next run, at once.
        handles[0].kick();
    });
}

#[test]
fn kicks_work_where_membarrier_is_refused() {
    let late = std::env::var_os("GUNYAH_TEST_LATE").is_some();
    if late {
        // The crate has found that it works; then it does not any more.
        storm_of_kicks();
    }
    thread::spawn(|| {
        forbid_membarrier();
        storm_of_kicks();
    })
    .join()
    .unwrap();
    if !late {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        assert!(again.env("GUNYAH_TEST_LATE", "1").status().unwrap().success());
    }
}

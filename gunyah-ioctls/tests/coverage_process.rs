//! What belongs to the whole process: the kick signal, its handler, and the limits of signals, timers and locked memory.
//!
//! So each test runs in a process of its own: this program again, with one test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use fake_gunyah::hyp::state;
use fake_gunyah::{Answer, Flavour, Script};
use gunyah_ioctls::{Error, Gunyah, VcpuExit, VcpuFd, block_other_signals, set_kick_signal};

const INSIDE: &str = "GUNYAH_TEST_OWN_PROCESS";

/// Runs `body` in a new process, which is this program with the test `name` alone.
fn in_own_process(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// How often the guest has gone to sleep.
static SLEPT: AtomicU32 = AtomicU32::new(0);

/// A guest that sleeps, again and again.
fn with_sleeping_vcpu(body: impl FnOnce(&mut VcpuFd, &fake_gunyah::Handle) + Send) {
    let script = Script::from_fn(|_| {
        SLEPT.fetch_add(1, Ordering::Release);
        Answer::state(state::EXPECTS_WAKEUP, [0; 3])
    });
    common::on(Flavour::V11, [script], |handle| {
        let (mut vm, _ram) = common::started_vm(1);
        body(&mut vm.vcpus.remove(0), handle);
    });
}

/// `run`, kicked when the guest is asleep: from then on only a signal ends it.
fn kicked_run(vcpu: &mut VcpuFd) -> VcpuExit {
    let (kick, slept) = (vcpu.kick_handle(), SLEPT.load(Ordering::Acquire));
    let kicker = thread::spawn(move || {
        common::eventually(|| SLEPT.load(Ordering::Acquire) > slept);
        kick.kick();
    });
    let exit = vcpu.run().unwrap();
    kicker.join().unwrap();
    exit
}

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

fn handle_signal(signal: i32, flags: i32) {
    // SAFETY: a handler that only counts.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as extern "C" fn(i32) as usize;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// Sets a limit of this process, and returns what it was.
fn limit(resource: libc::__rlimit_resource_t, value: u64) -> u64 {
    // SAFETY: plain data, in and out.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(resource, &raw mut limit), 0);
        let old = std::mem::replace(&mut limit.rlim_cur, value);
        assert_eq!(libc::setrlimit(resource, &raw const limit), 0);
        old
    }
}

fn limit_signals(number: u64) {
    limit(libc::RLIMIT_SIGPENDING, number);
}

/// On the calling thread RLIMIT_MEMLOCK counts from now on, for root too.
fn drop_ipc_lock() {
    const CAP_IPC_LOCK: u32 = 14;
    // The header (version 3, this thread), and the effective, permitted and inheritable sets, twice 32 bits of them.
    let header: [u32; 2] = [0x2008_0522, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: both are as large as the kernel's structures.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()), 0);
        sets[0] &= !(1 << CAP_IPC_LOCK);
        assert_eq!(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()), 0);
    }
}

#[test]
fn the_signal_is_chosen_once() {
    in_own_process("the_signal_is_chosen_once", || {
        let chosen = libc::SIGRTMIN() + 3;
        for wrong in [0, -1, libc::SIGUSR1, libc::SIGRTMIN() - 1, libc::SIGRTMAX() + 1] {
            let error = set_kick_signal(wrong).unwrap_err();
            assert!(
                matches!(error, Error::InvalidArgument { op: "set_kick_signal", .. }),
                "{wrong}: {error:?}"
            );
        }
        set_kick_signal(chosen).unwrap();
        set_kick_signal(chosen).unwrap();
        let error = set_kick_signal(chosen + 1).unwrap_err();
        assert!(matches!(error, Error::WrongPhase { op: "set_kick_signal", .. }), "{error:?}");
        handle_signal(chosen, 0);
        with_sleeping_vcpu(|vcpu, _| {
            assert_eq!(kicked_run(vcpu), VcpuExit::Interrupted);
        });
        assert_eq!(HANDLED.load(Ordering::Relaxed), 1, "the kick came by another signal");
    });
}

#[test]
fn a_handler_that_restarts_calls_is_refused() {
    in_own_process("a_handler_that_restarts_calls_is_refused", || {
        handle_signal(libc::SIGRTMIN(), libc::SA_RESTART);
        with_sleeping_vcpu(|vcpu, handle| {
            for _ in 0..2 {
                let error = vcpu.run().unwrap_err();
                assert!(matches!(error, Error::Os { call: "sigaction", .. }), "{error:?}");
                assert_eq!(error.errno(), Some(libc::EBUSY));
            }
            assert_eq!(handle.runs(), 0, "the guest must not run where kicks cannot be trusted");
        });
        assert_eq!(HANDLED.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_thread_that_blocked_the_signal_is_kicked_all_the_same() {
    in_own_process("a_thread_that_blocked_the_signal_is_kicked_all_the_same", || {
        with_sleeping_vcpu(|vcpu, _| {
            // SAFETY: blocks everything on this thread.
            unsafe {
                let mut all: libc::sigset_t = std::mem::zeroed();
                libc::sigfillset(&raw mut all);
                assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut()), 0);
            }
            assert_eq!(kicked_run(vcpu), VcpuExit::Interrupted);
        });
    });
}

#[test]
fn other_signals_wait_and_kicks_do_not() {
    in_own_process("other_signals_wait_and_kicks_do_not", || {
        handle_signal(libc::SIGUSR1, 0);
        with_sleeping_vcpu(|vcpu, _| {
            block_other_signals().unwrap();
            // SAFETY: raises a signal that has a handler on this thread.
            assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
            assert_eq!(kicked_run(vcpu), VcpuExit::Interrupted);
            assert_eq!(HANDLED.load(Ordering::Relaxed), 0, "the other signal got through");
            assert_eq!(vcpu.answers_possibly_lost(), 0);
        });
    });
}

#[test]
fn without_room_for_a_timer_the_vcpu_does_not_run() {
    in_own_process("without_room_for_a_timer_the_vcpu_does_not_run", || {
        with_sleeping_vcpu(|vcpu, handle| {
            limit_signals(0);
            let error = vcpu.run().unwrap_err();
            assert!(matches!(error, Error::Os { call: "timer_create", .. }), "{error:?}");
            assert_eq!(error.errno(), Some(libc::EAGAIN));
            assert!(error.to_string().contains("preparing deferred kicks"), "{error}");
            assert_eq!(handle.runs(), 0);
            // What failed for want of room works when there is room.
            limit_signals(100);
            assert_eq!(kicked_run(vcpu), VcpuExit::Interrupted);
        });
    });
}

#[test]
fn a_kick_that_cannot_be_queued_comes_by_the_timer() {
    in_own_process("a_kick_that_cannot_be_queued_comes_by_the_timer", || {
        handle_signal(libc::SIGRTMIN(), 0);
        with_sleeping_vcpu(|vcpu, _| {
            assert_eq!(kicked_run(vcpu), VcpuExit::Interrupted);
            limit_signals(0);
            for _ in 0..3 {
                assert_eq!(kicked_run(vcpu), VcpuExit::Interrupted);
            }
            limit_signals(100);
            assert_eq!(kicked_run(vcpu), VcpuExit::Interrupted);
            // The timer is off again: no signal comes by itself.
            let handled = HANDLED.load(Ordering::Relaxed);
            assert!(handled >= 5, "{handled} signals for five kicks");
            thread::sleep(Duration::from_millis(60));
            assert_eq!(HANDLED.load(Ordering::Relaxed), handled);
        });
    });
}

#[test]
fn a_run_page_that_may_not_be_locked_is_an_error_and_leaves_nothing() {
    in_own_process("a_run_page_that_may_not_be_locked_is_an_error_and_leaves_nothing", || {
        common::on(Flavour::V11, [], |handle| {
            let vm = Gunyah::new().unwrap().create_vm().unwrap();
            // New mappings are locked from now on, and none may be.
            // SAFETY: by its number, since sanitizers replace the function by one that does nothing.
            let locking = unsafe { libc::syscall(libc::SYS_mlockall, libc::MCL_FUTURE | libc::MCL_ONFAULT) };
            assert_eq!(locking, 0);
            let memlock = limit(libc::RLIMIT_MEMLOCK, 0);
            drop_ipc_lock();
            let refused = vm.add_vcpu(0);
            // SAFETY: as above.
            assert_eq!(unsafe { libc::syscall(libc::SYS_munlockall) }, 0);
            limit(libc::RLIMIT_MEMLOCK, memlock);
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Os { call: "mmap", .. }), "{error:?}");
            assert_eq!(error.errno(), Some(libc::EAGAIN));
            let causes = error.causes(&Default::default());
            assert_eq!(causes[0].id(), "run-page-locked-memory");
            // The device is closed; the VM is left, and the vCPU's id is free, here and in the kernel.
            common::eventually(|| handle.objects().len() == 1);
            drop(vm.add_vcpu(0).unwrap());
        });
    });
}

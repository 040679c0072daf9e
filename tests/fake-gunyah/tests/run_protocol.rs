//! `RUN`, step by step, with raw system calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

mod common;

use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::*;
use fake_gunyah::{Errno, Flavour, Guest, Script};

extern "C" fn nothing(_: libc::c_int) {}

/// Installs a handler that does nothing, with or without `SA_RESTART`.
fn handle_signal(signal: libc::c_int, restart: bool) {
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// Sends a signal to a thread every millisecond until `stop` says so.
fn send_until(tid: i32, signal: libc::c_int, stop: &mpsc::Receiver<()>) -> u32 {
    let mut sent = 0;
    while stop.recv_timeout(Duration::from_millis(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal) };
        sent += 1;
    }
    sent
}

/// Calls `body` while another thread sends a signal every millisecond, the first one after a while.
fn with_signals<T>(signal: libc::c_int, body: impl FnOnce() -> T) -> T {
    let tid = unsafe { libc::gettid() };
    let (done, stop) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            send_until(tid, signal, &stop)
        });
        let value = body();
        done.send(()).unwrap();
        value
    })
}

#[test]
fn mmio_and_status() {
    let script =
        Script::new().mmio_read(0x1000, 4).expect(0x1234_5678).mmio_write(0x1008, 2, 0xabcd).exit(1, &[0; 4]);
    with_vcpu(script, |handle, _vm, vcpu| {
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_MMIO);
        let (addr, len, is_write, _) = vcpu.mmio();
        assert_eq!((addr, len, is_write), (0x1000, 4, 0));
        vcpu.answer(0x1234_5678);
        assert_eq!(vcpu.run(), Ok(0));
        let (addr, len, is_write, data) = vcpu.mmio();
        assert_eq!((addr, len, is_write, data & 0xffff), (0x1008, 2, 1, 0xabcd));
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_STATUS);
        assert_eq!(vcpu.status(), (2, 1, 4, [0; 8]));
        // From now on every RUN succeeds and leaves the page alone.
        vcpu.clear_reason();
        for _ in 0..3 {
            assert_eq!(vcpu.run(), Ok(0));
            assert_eq!(vcpu.reason(), 0);
        }
        assert_eq!(handle.exits_lost(), 0);
    });
}

#[test]
fn a_script_notices_a_wrong_answer() {
    let fake = fake_gunyah::Fake::builder()
        .guest(fake_gunyah::Guest::scripts([Script::new().mmio_read(0x1000, 4).expect(7).exit(1, &[])]))
        .build()
        .unwrap();
    let error = fake.run(|_| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        vcpu.run().unwrap();
        vcpu.answer(8);
        vcpu.run().unwrap();
    });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("got 0x8 instead of 0x7"), "{error}");
}

#[test]
fn no_device() {
    assert_eq!(open().unwrap_err(), Errno::ENOENT);
}

#[test]
fn a_signal_ends_a_sleep() {
    handle_signal(libc::SIGUSR1, false);
    with_vcpu(Script::new().wfi().exit(1, &[]), |handle, _, vcpu| {
        with_signals(libc::SIGUSR1, || {
            vcpu.clear_reason();
            assert_eq!(vcpu.run(), Err(Errno::EINTR));
            assert_eq!(vcpu.reason(), 0);
        });
        assert_eq!(handle.exits_lost(), 0);
        // The sleep is over: the next call asks the hypervisor again.
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_STATUS);
    });
}

#[test]
fn with_sa_restart_a_sleep_goes_on() {
    handle_signal(libc::SIGWINCH, true);
    with_vcpu(Script::new().repeat(1000, |s| s.wfi()).exit(1, &[]), |handle, _, vcpu| {
        let handle = handle.clone();
        with_signals(libc::SIGWINCH, || {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(100));
                    assert!(handle.vm_exit(7, &[]));
                });
                vcpu.clear_reason();
                assert_eq!(vcpu.run(), Ok(0), "no signal is ever seen");
            });
        });
        assert_eq!(vcpu.reason(), EXIT_STATUS);
        assert!(handle.runs() > 1, "the call started over: {}", handle.runs());
    });
}

/// A finished exit behind `EINTR`: it is in the page, and the next call takes the answer to it.
#[test]
fn a_signal_overrides_a_finished_exit() {
    handle_signal(libc::SIGUSR1, false);
    let rounds = 3000;
    let script = Script::new().repeat(rounds, |s| s.mmio_read(0x1000, 4)).exit(1, &[]);
    with_vcpu(script, |handle, _, vcpu| {
        let mut hidden = 0;
        with_signals(libc::SIGUSR1, || {
            loop {
                vcpu.clear_reason();
                let ret = vcpu.run();
                if vcpu.reason() == EXIT_STATUS {
                    break;
                }
                match ret {
                    Ok(0) => assert_eq!(vcpu.reason(), EXIT_MMIO),
                    Err(Errno::EINTR) => hidden += u64::from(vcpu.reason() == EXIT_MMIO),
                    other => panic!("{other:?}"),
                }
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        assert!(hidden > 0);
        assert!(handle.exits_lost() >= hidden);
    });
}

#[test]
fn immediate_exit_loses_the_answer() {
    let script = Script::new().repeat(200, |s| s.mmio_read(0x1000, 4).expect(0)).exit(1, &[]);
    with_vcpu(script, |handle, _, vcpu| {
        for _ in 0..200 {
            assert_eq!(vcpu.run(), Ok(0));
            vcpu.answer(0xdead_beef);
            vcpu.set_immediate_exit(true);
            vcpu.clear_reason();
            assert_eq!(vcpu.run(), Err(Errno::EINTR));
            assert_eq!(vcpu.reason(), 0);
            assert_eq!(vcpu.immediate_exit(), 1, "the driver does not clear it");
            vcpu.set_immediate_exit(false);
        }
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_STATUS);
        assert_eq!(handle.answers_lost(), 200);
    });
}

#[test]
fn immediate_exit_does_not_end_a_sleep() {
    with_vcpu(Script::new().wfi().wfi(), |handle, _, vcpu| {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| vcpu.run());
            std::thread::sleep(Duration::from_millis(20));
            vcpu.set_immediate_exit(true);
            std::thread::sleep(Duration::from_millis(20));
            assert!(!run.is_finished());
            assert!(handle.wake(0));
            assert_eq!(run.join().unwrap(), Err(Errno::EINTR));
        });
    });
}

#[test]
fn a_second_run_waits_and_takes_over() {
    let script = Script::new().wfi().mmio_write(0x1000, 4, 1).mmio_write(0x1000, 4, 2).exit(1, &[]);
    with_vcpu(script, |handle, _, vcpu| {
        std::thread::scope(|scope| {
            let first = scope.spawn(|| vcpu.run());
            std::thread::sleep(Duration::from_millis(20));
            let second = scope.spawn(|| vcpu.run());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!first.is_finished() && !second.is_finished(), "no EBUSY");
            assert!(handle.wake(0));
            assert_eq!(first.join().unwrap(), Ok(0));
            assert_eq!(second.join().unwrap(), Ok(0));
        });
        assert_eq!(vcpu.mmio().3 & 0xff, 2, "both exits happened, one after the other");
    });
}

#[test]
fn a_signal_ends_the_wait_for_another_run() {
    handle_signal(libc::SIGUSR1, false);
    with_vcpu(Script::new().wfi().exit(1, &[]), |handle, _, vcpu| {
        std::thread::scope(|scope| {
            let first = scope.spawn(|| vcpu.run());
            std::thread::sleep(Duration::from_millis(20));
            let second = scope.spawn(|| with_signals(libc::SIGUSR1, || vcpu.run()));
            assert_eq!(second.join().unwrap(), Err(Errno::EINTR));
            assert!(!first.is_finished());
            assert!(handle.wake(0));
            assert_eq!(first.join().unwrap(), Ok(0));
        });
    });
}

#[test]
fn removing_a_function_ends_its_run() {
    with_vcpu(Script::new().wfi().wfi(), |_, vm, vcpu| {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| vcpu.run());
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(vm.remove(FN_VCPU, &0u32), Ok(0));
            assert_eq!(run.join().unwrap(), Err(Errno::EINTR), "first");
        });
        assert_eq!(vcpu.immediate_exit(), 1);
        assert_eq!(vcpu.run(), Err(Errno::ENODEV), "then");
        // The resource is free for a new one, which goes on where the old one was.
        let again = vm.vcpu(0).unwrap();
        let handle_exit = std::thread::scope(|scope| {
            let run = scope.spawn(|| again.run());
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(vm.remove(FN_VCPU, &0u32), Ok(0));
            run.join().unwrap()
        });
        assert_eq!(handle_exit, Err(Errno::EINTR));
    });
}

#[test]
fn the_vms_end_reaches_every_vcpu() {
    with_scripts([Script::new().wfi(), Script::new().powered_off(), Script::new().exit(3, &[7; 16])], |_| {
        let vm = Vm::new();
        let vcpus = [0, 1, 2].map(|id| vm.vcpu(id).unwrap());
        vm.start().unwrap();
        std::thread::scope(|scope| {
            for vcpu in &vcpus {
                scope.spawn(|| {
                    assert_eq!(vcpu.run(), Ok(0));
                    assert_eq!(vcpu.reason(), EXIT_STATUS);
                    // The size is not cut, the reason is.
                    assert_eq!(vcpu.status(), (2, 3, 16, [7; 8]));
                });
            }
        });
        // A vCPU that is added now is told, too: the VM is not running.
        let late = vm.vcpu(7).unwrap();
        assert_eq!(late.run(), Err(Errno::ENODEV), "but not if it never had a resource");
    });
}

#[test]
fn a_forced_exit_wakes_sleepers() {
    with_vcpu(Script::new().wfi(), |handle, _, vcpu| {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| vcpu.run());
            std::thread::sleep(Duration::from_millis(10));
            assert!(handle.vm_exit(4, &1u32.to_le_bytes()));
            assert_eq!(run.join().unwrap(), Ok(0));
        });
        assert_eq!(vcpu.status(), (2, 4, 4, [1, 0, 0, 0, 0, 0, 0, 0]));
    });
}

#[test]
fn ready_blocked_and_unknown_states_stay_inside_run() {
    let script = Script::new().ready().blocked().state(6, [0; 3]).state(0x100, [0; 3]).exit(1, &[]);
    with_vcpu(script, |handle, _, vcpu| {
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_STATUS);
        assert_eq!(handle.notes().len(), 2, "{:?}", handle.notes());
    });
}

#[test]
fn an_unknown_state_that_stays_burns_time_until_a_signal_comes() {
    handle_signal(libc::SIGUSR1, false);
    with_vcpu(Script::new().repeat(u64::MAX, |s| s.state(99, [0; 3])), |_, _, vcpu| {
        with_signals(libc::SIGUSR1, || assert_eq!(vcpu.run(), Err(Errno::EINTR)));
    });
    let fake = fake_gunyah::Fake::builder()
        .flavour(Flavour::Android16)
        .guest(Guest::scripts([Script::new().state(99, [0; 3])]))
        .build()
        .unwrap();
    fake.run(|_| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        assert_eq!(vcpu.run(), Err(Errno::EINVAL));
    })
    .unwrap();
}

/// Other calls are served while one sleeps, as many as there are.
#[test]
fn many_sleepers() {
    let scripts = (0..64).map(|_| Script::new().wfi().mmio_write(0x1000, 1, 1).exit(1, &[]));
    with_scripts(scripts, |handle| {
        let vm = Vm::new();
        let vcpus: Vec<_> = (0..64).map(|id| vm.vcpu(id).unwrap()).collect();
        vm.start().unwrap();
        std::thread::scope(|scope| {
            let runs: Vec<_> = vcpus.iter().map(|vcpu| scope.spawn(|| vcpu.run())).collect();
            std::thread::sleep(Duration::from_millis(50));
            let start = Instant::now();
            for _ in 0..100 {
                assert_eq!(ioctl(vcpus[0].fd.as_raw_fd(), VCPU_MMAP_SIZE, 0), Ok(page_size() as i64));
            }
            println!("a call beside 64 sleepers: {:?}", start.elapsed() / 100);
            for id in 0..64 {
                assert!(handle.wake(id));
            }
            for run in runs {
                assert_eq!(run.join().unwrap(), Ok(0));
            }
        });
        assert!(vcpus.iter().all(|vcpu| vcpu.reason() == EXIT_MMIO));
    });
}

#[test]
fn v11_does_not_cut_a_length_that_is_too_long() {
    // A hypervisor that reports 16 bytes: the page says so, and what lies behind the data goes with the answer.
    with_vcpu(Script::new().mmio_read(0x1000, 16).exit(1, &[]), |_, _, vcpu| {
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.mmio().1, 16);
        assert_eq!(vcpu.run(), Ok(0));
    });
    let fake = fake_gunyah::Fake::builder()
        .flavour(Flavour::Android14)
        .guest(Guest::scripts([Script::new().mmio_read(0x1000, 16).exit(1, &[])]))
        .build()
        .unwrap();
    fake.run(|_| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.mmio().1, 8);
        assert_eq!(vcpu.run(), Ok(0));
    })
    .unwrap();
}

/// v11 hands the same resume words to every hypercall of one RUN, later kernels clear them.
#[test]
fn resume_words_between_hypercalls() {
    for (flavour, expected) in [(Flavour::V11, 7), (Flavour::Android14, 0), (Flavour::Android16, 0)] {
        let mut calls = 0;
        let (tell, told) = mpsc::channel();
        let script = Script::from_fn(move |resume| {
            calls += 1;
            tell.send(resume[0]).unwrap();
            match calls {
                1 => fake_gunyah::Answer::mmio_read(0x1000, 4),
                2 => fake_gunyah::Answer::state(0, [0; 3]),
                _ => fake_gunyah::Answer::exit(1, &[]),
            }
        });
        let fake =
            fake_gunyah::Fake::builder().flavour(flavour).guest(Guest::scripts([script])).build().unwrap();
        fake.run(|_| {
            let vm = Vm::new();
            let vcpu = vm.vcpu(0).unwrap();
            vm.start().unwrap();
            assert_eq!(vcpu.run(), Ok(0));
            vcpu.answer(7);
            assert_eq!(vcpu.run(), Ok(0));
        })
        .unwrap();
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 7, expected], "{flavour}");
    }
}

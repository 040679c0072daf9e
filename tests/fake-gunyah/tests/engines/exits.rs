//! What a vCPU comes back with, and what takes it out of the guest.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use conformance::asm::{Program, SystemRegister, Width};
use fake_gunyah::{Engine, Errno, Flavour};

use crate::common::*;
use crate::rig::*;

/// Stores ESR_EL1 and FAR_EL1 to the device on any exception, and powers off.
fn with_vectors(body: impl FnOnce(&mut Program)) -> Vec<u8> {
    const FAR_EL1: SystemRegister = SystemRegister::new(3, 0, 6, 0, 0);
    let mut program = Program::new();
    let (start, caught) = (program.label(), program.label());
    program.branch(start).place(caught);
    program.read_register(0, SystemRegister::ESR_EL1).read_register(2, FAR_EL1).mov(1, DEVICE + 0x100);
    program.store(Width::Double, 0, 1).add(1, 1, 8).store(Width::Double, 2, 1).power_off();
    program.align(0x800);
    let vectors = program.here();
    for _ in 0..16 {
        program.align(0x80).branch(caught);
    }
    program.place(start).address(0, vectors).set_vectors(0);
    body(&mut program);
    program.power_off();
    program.bytes()
}

pub fn an_access_can_be_made_to_fault(engine: Engine) {
    // Data abort at the same level, external; bit 6 for a store.
    const ABORT: u64 = 0x9600_0010;
    for flavour in [Flavour::Android15, Flavour::Android16, Flavour::V17] {
        for store in [false, true] {
            let image = with_vectors(|program| {
                program.mov(1, DEVICE).mov(2, 7);
                if store {
                    program.store(Width::Word, 2, 1)
                } else {
                    program.load(Width::Word, 2, 1)
                };
                program.store_at(Width::Word, DEVICE + 8, 1);
            });
            run(engine, flavour, || {
                let rig = Rig::new(flavour, &image).started();
                let expected = match store {
                    true => Exit::Store { addr: DEVICE, len: 4, value: 7 },
                    false => Exit::Load { addr: DEVICE, len: 4 },
                };
                assert_eq!(rig.exit(), expected);
                resume_action(&rig.vcpus[0], 1);
                let Exit::Store { addr, value, .. } = rig.exit() else { panic!("{flavour}") };
                // An external abort that is made up need not say that it was a store. Linux 6.1 leaves ones in the upper half.
                let value = value & 0xffff_ffff;
                assert_eq!((addr, value & !0x40), (DEVICE + 0x100, ABORT), "{flavour} {store}");
                assert_eq!(
                    rig.exit(),
                    Exit::Store { addr: DEVICE + 0x108, len: 8, value: DEVICE },
                    "{flavour}"
                );
                assert_eq!(rig.exit(), OFF);
            });
        }
    }
}

pub fn an_access_can_be_tried_again(engine: Engine) {
    let image = image(|program| {
        program.mov(1, DEVICE).load(Width::Word, 2, 1).add(1, 1, 8).store(Width::Word, 2, 1);
    });
    run(engine, Flavour::V17, || {
        let rig = Rig::new(Flavour::V17, &image).started();
        for _ in 0..3 {
            assert_eq!(rig.exit(), Exit::Load { addr: DEVICE, len: 4 });
            rig.vcpus[0].answer(0xbad);
            resume_action(&rig.vcpus[0], 2);
        }
        assert_eq!(rig.exit(), Exit::Load { addr: DEVICE, len: 4 });
        rig.vcpus[0].answer(0x600d);
        assert_eq!(rig.exit(), Exit::Store { addr: DEVICE + 8, len: 4, value: 0x600d });
        resume_action(&rig.vcpus[0], 2);
        assert_eq!(rig.exit(), Exit::Store { addr: DEVICE + 8, len: 4, value: 0x600d }, "again");
        assert_eq!(rig.exit(), OFF);
    });
}

/// An image that tells the host and then spins, or sleeps.
fn busy(sleeps: bool) -> Vec<u8> {
    image(|program| {
        program.store_at(Width::Word, DEVICE, 1);
        let again = program.here();
        if sleeps {
            program.wfi();
        }
        program.branch(again);
    })
}

/// Signals without a handler that would start calls over.
fn handle_signals() {
    extern "C" fn nothing(_: libc::c_int) {}
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
    }
}

pub fn a_signal_ends_a_spin_and_a_sleep(engine: Engine) {
    handle_signals();
    for flavour in [Flavour::V11, Flavour::Android16, Flavour::V17] {
        for sleeps in [false, true] {
            run(engine, flavour, || {
                let rig = Rig::new(flavour, &busy(sleeps)).started();
                assert_eq!(rig.exit(), Exit::Store { addr: DEVICE, len: 4, value: 1 });
                let thread = unsafe { libc::pthread_self() } as usize;
                for _ in 0..5 {
                    std::thread::scope(|scope| {
                        scope.spawn(move || {
                            std::thread::sleep(Duration::from_millis(20));
                            unsafe { libc::pthread_kill(thread as libc::pthread_t, libc::SIGUSR1) };
                        });
                        rig.vcpus[0].clear_reason();
                        assert_eq!(rig.vcpus[0].run(), Err(Errno::EINTR), "{flavour}, sleeps: {sleeps}");
                    });
                    assert_eq!(rig.vcpus[0].reason(), 0);
                }
            });
        }
    }
}

pub fn immediate_exit_ends_a_spin(engine: Engine) {
    run(engine, Flavour::V11, || {
        let rig = Rig::new(Flavour::V11, &busy(false)).started();
        assert_eq!(rig.exit(), Exit::Store { addr: DEVICE, len: 4, value: 1 });
        std::thread::scope(|scope| {
            let vcpu = &rig.vcpus[0];
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                vcpu.set_immediate_exit(true);
            });
            assert_eq!(vcpu.run(), Err(Errno::EINTR));
        });
        assert_eq!(rig.vcpus[0].run(), Err(Errno::EINTR));
    });
}

pub fn removing_a_vcpu_ends_its_run(engine: Engine) {
    for sleeps in [false, true] {
        run(engine, Flavour::Android16, || {
            let rig = Rig::new(Flavour::Android16, &busy(sleeps)).started();
            assert_eq!(rig.exit(), Exit::Store { addr: DEVICE, len: 4, value: 1 });
            let running = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let run = scope.spawn(|| {
                    running.store(true, Ordering::Release);
                    rig.vcpus[0].run()
                });
                eventually("it runs", || running.load(Ordering::Acquire));
                std::thread::sleep(Duration::from_millis(30));
                rig.vm.remove(FN_VCPU, &0_u32).unwrap();
                assert_eq!(run.join().unwrap(), Err(Errno::EINTR));
            });
            assert_eq!(rig.vcpus[0].run(), Err(Errno::ENODEV));
            // It can be added again, and goes on where it was.
            let again = rig.vm.vcpu(0).unwrap();
            again.set_immediate_exit(true);
            assert_eq!(again.run(), Err(Errno::EINTR));
        });
    }
}

pub fn reset2_brings_its_cookie(engine: Engine) {
    let image = image(|program| {
        program.mov(1, 0x8000_0001).mov(2, 0x1122_3344_5566_7788).psci(0xc400_0012);
    });
    run(engine, Flavour::V11, || {
        let rig = Rig::new(Flavour::V11, &image).started();
        let reason = [1, 0, 0, 0x80, 0x88, 0x77, 0x66, 0x55];
        assert_eq!(rig.exit(), Exit::Status { status: 2, kind: 3, size: 16, reason });
        // The other one, which was never on, has the same end.
        assert_eq!(exit(&rig.vcpus[1]), Exit::Status { status: 2, kind: 3, size: 16, reason });
    });
}

pub fn power_off_without_psci_node_ends_nothing(engine: Engine) {
    run(engine, Flavour::V11, || {
        let mut tree = tree();
        tree.remove("psci");
        let rig = Rig::with_ram(SHARE, Ram::new(SIZE), &tree, &image(|_| ())).started();
        let stuck = rig.vcpus[0].fd.as_raw_fd();
        handle_signals();
        let thread = unsafe { libc::pthread_self() } as usize;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                unsafe { libc::pthread_kill(thread as libc::pthread_t, libc::SIGUSR1) };
            });
            assert_eq!(ioctl(stuck, VCPU_RUN, 0), Err(Errno::EINTR));
        });
        assert_eq!(rig.vcpus[0].reason(), 0);
    });
}

pub fn an_access_without_syndrome_is_a_crash(engine: Engine) {
    // ldp w2, w3, [x1]
    let image = image(|program| {
        program.store_at(Width::Word, DEVICE + 4, 1).mov(1, DEVICE).word(0x2940_0c22);
    });
    for flavour in [Flavour::V11, Flavour::Android16] {
        fake(engine, flavour)
            .build()
            .unwrap()
            .run(|handle| {
                let rig = Rig::new(flavour, &image).started();
                assert_eq!(rig.exit(), Exit::Store { addr: DEVICE + 4, len: 4, value: 1 });
                let mut reason = [0; 8];
                reason[4..].copy_from_slice(&(DEVICE as u32).to_le_bytes());
                // Kernels that do not know the vCPU's state say EINVAL until the VM's end has been told.
                let end = std::iter::repeat_with(|| rig.vcpus[0].run()).find(Result::is_ok).unwrap();
                assert_eq!(end, Ok(0));
                assert_eq!(what(&rig.vcpus[0]), Exit::Status { status: 2, kind: 5, size: 16, reason });
                drop(rig);
                gone(handle);
                let notes = handle.notes();
                assert!(
                    notes.iter().any(|note| note.contains("vCPU 0: an access at 0x10004000")),
                    "{notes:?}"
                );
            })
            .unwrap();
    }
}

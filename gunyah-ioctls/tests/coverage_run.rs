//! The rarer ways in which a run ends, and what the crate's values say about themselves.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

mod common;

use std::thread;

use fake_gunyah::hyp::{HypError, state};
use fake_gunyah::{Answer, Builder, Errno, Fake, Fault, Flavour, Guest, Handle, Script};
use gunyah_ioctls::{Error, ExitType, Gunyah, IoEventMatch, Trigger, VcpuExit, VcpuFd, VmStatus};

const RUN: u32 = 0x4705;
const MMAP_SIZE: u32 = 0x4706;
const REMOVE_FUNCTION: u32 = 0x4010_4707;
const REASON: usize = 8;

/// A fake that something goes wrong on.
fn on<T: Send>(
    flavour: Flavour,
    scripts: impl IntoIterator<Item = Script>,
    setting: impl FnOnce(Builder) -> Builder,
    body: impl FnOnce(&Handle) -> T + Send,
) -> T {
    let builder = Fake::builder().flavour(flavour).guest(Guest::scripts(scripts));
    let fake = setting(builder).build().unwrap();
    let mut kept = None;
    let answer = fake
        .run(|handle| {
            kept = Some(handle.clone());
            body(handle)
        })
        .unwrap();
    assert_eq!(kept.unwrap().leftovers(), [], "{flavour}: left open");
    answer
}

fn word(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

#[test]
fn every_width_of_a_read_is_answered_in_full_and_with_nothing_else() {
    let value = 0xf7f6_f5f4_f3f2_f1f0_u64;
    for flavour in common::KERNELS {
        let script = [1, 2, 4, 8].into_iter().fold(Script::new(), |script, len: u32| {
            let mask = u64::MAX >> (64 - 8 * len);
            script.mmio_read(0x1000, len.into()).expect(value & mask)
        });
        common::on(flavour, [script.exit(1, &[])], |_| {
            let (mut vm, _ram) = common::started_vm(1);
            let mut vcpu = vm.vcpus.remove(0);
            for len in [1, 2, 4, 8] {
                assert_eq!(vcpu.run().unwrap(), VcpuExit::MmioRead { addr: 0x1000, len });
                vcpu.complete_mmio_read(&value.to_le_bytes()[..len]).unwrap();
            }
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)), "{flavour}");
        });
    }
}

#[test]
fn a_run_that_gives_no_reason_is_unknown_and_not_the_end() {
    let script = Script::new().mmio_write(0x1000, 1, 1).mmio_write(0x1008, 1, 2).exit(1, &[]);
    let nothing = Fault::on(RUN).nth(1).writes_page(REASON, &word(0));
    on(
        Flavour::V11,
        [script],
        |fake| fake.fault(nothing),
        |_| {
            let (mut vm, _ram) = common::started_vm(1);
            let mut vcpu = vm.vcpus.remove(0);
            assert_eq!(vcpu.run().unwrap(), VcpuExit::Unknown(0));
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioWrite { addr: 0x1008, .. }));
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
        },
    );
}

#[test]
fn a_failed_start_ends_the_vcpus_as_each_kernel_says_it() {
    // The early kernels call it a failed load, the later ones a crash of which nothing is known.
    for (flavour, load_failed) in [
        (Flavour::V11, true),
        (Flavour::Android14Early, true),
        (Flavour::Android14, false),
        (Flavour::V17, false),
    ] {
        let fails = |fake: Builder| fake.start_fails(Errno(libc::EBUSY));
        on(flavour, [Script::new()], fails, |handle| {
            let (mut vm, _ram) = common::configured_vm(1);
            assert_eq!(vm.fd.start().unwrap_err().errno(), Some(libc::EBUSY));
            let mut vcpu = vm.vcpus.remove(0);
            let end = vcpu.run().unwrap();
            match end {
                VcpuExit::Status(VmStatus::LoadFailed) => assert!(load_failed, "{flavour}"),
                VcpuExit::Status(VmStatus::Crashed(info)) => {
                    assert!(!load_failed, "{flavour}");
                    assert_eq!((info.raw, info.reason_size, info.reason()), (0, 0, &[][..]));
                }
                other => panic!("{flavour}: {other:?}"),
            }
            let runs = handle.runs();
            assert_eq!(vcpu.run().unwrap(), end, "{flavour}: it is not kept");
            assert_eq!(handle.runs(), runs);
            assert!(matches!(vm.fd.exit_status(), Some(status) if VcpuExit::Status(status) == end));
        });
    }
}

#[test]
fn a_refused_run_counts_the_answer_that_the_kernel_has_eaten() {
    let script = Script::new().mmio_read(0x1000, 4).mmio_write(0x1008, 1, 1).exit(1, &[]);
    let denied = |fake: Builder| fake.fault(Fault::on(RUN).nth(2).fails(Errno(libc::EPERM)));
    on(Flavour::Android16, [script], denied, |_| {
        let (mut vm, _ram) = common::started_vm(1);
        let mut vcpu = vm.vcpus.remove(0);
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioRead { .. }));
        vcpu.complete_mmio_read(&word(7)).unwrap();
        assert_eq!(vcpu.answers_possibly_lost(), 0);
        assert_eq!(vcpu.run().unwrap_err().errno(), Some(libc::EPERM));
        assert_eq!(vcpu.answers_possibly_lost(), 1);
        // No read waits any more, and the guest goes on.
        assert!(vcpu.complete_mmio_read(&word(7)).is_err());
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioWrite { .. }));
        assert_eq!(vcpu.answers_possibly_lost(), 1);
    });
}

/// Whatever the hypervisor refuses, it does so when the kernel has taken the answer already.
#[test]
fn a_failed_run_counts_the_answer_and_a_missing_vcpu_keeps_it() {
    for (error, errno) in [
        (HypError::NoMem, libc::ENOMEM),
        (HypError::Denied, libc::EACCES),
        (HypError::Io, libc::EIO),
        (HypError::Unimplemented, libc::EOPNOTSUPP),
        (HypError::Invalid, libc::EINVAL),
    ] {
        let script = Script::new().mmio_read(0x1000, 4).error(error).mmio_write(0x1008, 1, 1);
        on(
            Flavour::V11,
            [script],
            |fake| fake,
            |_| {
                let (mut vm, _ram) = common::started_vm(1);
                let mut vcpu = vm.vcpus.remove(0);
                assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioRead { .. }));
                vcpu.complete_mmio_read(&word(7)).unwrap();
                assert_eq!(vcpu.run().unwrap_err().errno(), Some(errno));
                assert_eq!(vcpu.answers_possibly_lost(), 1);
                assert!(vcpu.complete_mmio_read(&word(7)).is_err());
                assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioWrite { .. }));
                assert_eq!(vcpu.answers_possibly_lost(), 1);
            },
        );
    }
    let script = Script::new().mmio_read(0x1000, 4).expect(7).mmio_write(0x1008, 1, 1);
    let gone = |fake: Builder| fake.fault(Fault::on(RUN).nth(2).fails(Errno(libc::ENODEV)));
    on(Flavour::V11, [script], gone, |_| {
        let (mut vm, _ram) = common::started_vm(1);
        let mut vcpu = vm.vcpus.remove(0);
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioRead { .. }));
        vcpu.complete_mmio_read(&word(7)).unwrap();
        assert_eq!(vcpu.run().unwrap_err().errno(), Some(libc::ENODEV));
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioWrite { .. }));
        assert_eq!(vcpu.answers_possibly_lost(), 0);
    });
}

/// Busy with the end of the VM, while an answer was on its way.
#[test]
fn a_busy_run_counts_the_answer_once() {
    let script =
        Script::new().mmio_read(0x1000, 4).error(HypError::Busy).error(HypError::Busy).wfi().exit(1, &[]);
    on(
        Flavour::V11,
        [script],
        |fake| fake,
        |handle| {
            let (mut vm, _ram) = common::started_vm(1);
            let mut vcpu = vm.vcpus.remove(0);
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioRead { .. }));
            vcpu.complete_mmio_read(&word(7)).unwrap();
            let kick = vcpu.kick_handle();
            let waker = handle.clone();
            let other = std::thread::spawn(move || {
                // The read, the two that were busy, and the sleep.
                while waker.runs() < 4 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
                kick.kick();
                waker
            });
            assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
            assert_eq!(vcpu.answers_possibly_lost(), 1, "the sleep carried none");
            assert!(other.join().unwrap().wake(0));
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
            assert_eq!(vcpu.answers_possibly_lost(), 1);
        },
    );
}

/// Faults in a row on one address are a loop; faults on several, or with another exit between, are none.
#[test]
fn only_faults_in_a_row_on_one_address_are_a_loop() {
    let limit = u64::from(VcpuFd::PAGE_FAULT_LIMIT);
    let fault = |script: Script, page: u64| script.page_fault(0x1000_0000 + (page << 12), false);
    let script = Script::new()
        .repeat(limit, |script| fault(fault(script, 1), 2))
        .repeat(limit - 1, |script| fault(script, 3))
        .mmio_write(0x1008, 1, 1)
        .repeat(limit - 1, |script| fault(script, 3))
        .state(state::MMIO_WRITE, [0x1008, 1, 1])
        .repeat(limit + 1, |script| fault(script, 3))
        .exit(1, &[]);
    on(
        Flavour::Android15,
        [script],
        |fake| fake.record_calls(false),
        |_| {
            let (mut vm, _ram) = common::started_vm(1);
            let mut vcpu = vm.vcpus.remove(0);
            let (mut faults, mut writes) = (0, 0);
            let (addr, times) = loop {
                match vcpu.run() {
                    Ok(VcpuExit::PageFault { .. }) => faults += 1,
                    Ok(VcpuExit::MmioWrite { .. }) => writes += 1,
                    Err(Error::PageFaultLoop { addr, times, .. }) => break (addr, times),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!((faults, writes), (2 * limit + 2 * (limit - 1) + limit, 2));
            assert_eq!((addr, u64::from(times)), (0x1000_3000, limit));
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
        },
    );
}

/// An exit that is no access to MMIO leaves nothing to answer behind, and no answer on its way.
#[test]
fn after_another_exit_nothing_waits_for_an_answer() {
    let script =
        Script::new().mmio_read(0x1000, 4).expect(7).page_fault(0x1234_5000, false).wfi().exit(1, &[]);
    on(
        Flavour::Android15,
        [script],
        |fake| fake,
        |handle| {
            let (mut vm, _ram) = common::started_vm(1);
            let mut vcpu = vm.vcpus.remove(0);
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::MmioRead { .. }));
            vcpu.complete_mmio_read(&word(7)).unwrap();
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::PageFault { .. }));
            assert!(matches!(vcpu.fail_mmio(), Err(Error::InvalidArgument { .. })));
            assert!(vcpu.complete_mmio_read(&word(7)).is_err());
            let kick = vcpu.kick_handle();
            let waker = handle.clone();
            let other = std::thread::spawn(move || {
                while waker.runs() < 3 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
                kick.kick();
                waker
            });
            assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
            assert_eq!(vcpu.answers_possibly_lost(), 0);
            assert!(other.join().unwrap().wake(0));
            assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
        },
    );
}

/// Runs until the host has another answer than that it stays busy.
fn run_while_busy(vcpu: &mut VcpuFd) -> VcpuExit {
    loop {
        match vcpu.run() {
            Err(error) if error.errno() == Some(libc::EBUSY) => {}
            other => return other.unwrap(),
        }
    }
}

fn always_busy() -> Script {
    Script::from_fn(|_| Answer::Error(HypError::Busy))
}

#[test]
fn a_busy_vcpu_learns_of_the_end_from_another() {
    let end = Script::new().exit(2, &[]);
    common::on(Flavour::V11, [always_busy(), end], |handle| {
        let (mut vm, _ram) = common::started_vm(2);
        let (mut second, mut first) = (vm.vcpus.remove(1), vm.vcpus.remove(0));
        let busy = thread::spawn(move || (run_while_busy(&mut first), first));
        common::eventually(|| handle.runs() > 2);
        let end = second.run().unwrap();
        assert!(
            matches!(end, VcpuExit::Status(VmStatus::Exited(info)) if info.kind == ExitType::SystemReset)
        );
        let (seen, first) = busy.join().unwrap();
        assert_eq!(seen, end);
        drop(first);
    });
}

#[test]
fn a_busy_vcpu_can_be_kicked() {
    common::on(Flavour::V11, [always_busy()], |handle| {
        let (mut vm, _ram) = common::started_vm(1);
        let mut vcpu = vm.vcpus.remove(0);
        let kick = vcpu.kick_handle();
        let busy = thread::spawn(move || (run_while_busy(&mut vcpu), vcpu));
        common::eventually(|| handle.runs() > 2);
        kick.kick();
        let (exit, vcpu) = busy.join().unwrap();
        assert_eq!(exit, VcpuExit::Interrupted);
        drop(vcpu);
    });
}

#[test]
fn after_a_busy_moment_every_kind_of_exit_is_seen() {
    let busy = || Fault::on(RUN).nth(1).fails(Errno(libc::EBUSY));
    let cases: [(Script, Option<Fault>, VcpuExit); 4] = [
        (Script::new().mmio_read(0x1000, 2), None, VcpuExit::MmioRead { addr: 0x1000, len: 2 }),
        (
            Script::from_fn(|_| Answer::state(state::PAGE_FAULT, [0x4000_0000, 0, 0])),
            None,
            VcpuExit::PageFault { addr: 0x4000_0000, attempt: libc::ENOENT },
        ),
        // A signal that overtakes the exit, and one that does not.
        (
            Script::new(),
            Some(Fault::on(RUN).nth(2).fails(Errno(libc::EINTR)).writes_page(REASON, &word(77))),
            VcpuExit::Unknown(77),
        ),
        (Script::new(), Some(Fault::on(RUN).nth(2).fails(Errno(libc::EINTR))), VcpuExit::Interrupted),
    ];
    for (script, fault, expected) in cases {
        let faults = |fake: Builder| fault.into_iter().fold(fake.fault(busy()), Builder::fault);
        on(Flavour::Android15, [script], faults, |_| {
            let (mut vm, _ram) = common::started_vm(1);
            let mut vcpu = vm.vcpus.remove(0);
            assert_eq!(vcpu.run().unwrap(), expected);
            assert_eq!(vcpu.answers_possibly_lost(), 0);
        });
    }
}

#[test]
fn a_vcpu_without_a_run_page_is_taken_back() {
    let refused = |fake: Builder| fake.fault(Fault::on(MMAP_SIZE).nth(1).fails(Errno(libc::EINVAL)));
    on(Flavour::V11, [Script::new().exit(1, &[])], refused, |handle| {
        let (vm, _ram) = common::configured_vm(0);
        let error = vm.fd.add_vcpu(0).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert!(error.to_string().starts_with("GH_VCPU_MMAP_SIZE failed"), "{error}");
        // Neither the kernel nor the crate keeps the id.
        common::eventually(|| handle.objects().len() == 1);
        let mut vcpu = vm.fd.add_vcpu(0).unwrap();
        vm.fd.start().unwrap();
        assert!(matches!(vcpu.run().unwrap(), VcpuExit::Status(_)));
    });
}

#[test]
fn a_removal_is_tried_again_after_a_signal_and_its_failure_is_told() {
    let interrupted = |fake: Builder| {
        fake.fault(Fault::on(REMOVE_FUNCTION).nth(1).fails(Errno(libc::EINTR)))
            .fault(Fault::on(REMOVE_FUNCTION).nth(2).fails(Errno(libc::EINTR)))
    };
    on(Flavour::Android15, [], interrupted, |_| {
        let vm = Gunyah::new().unwrap().create_vm().unwrap();
        let event = common::Event::new();
        vm.add_irqfd(&event, 1, Trigger::Edge).unwrap().remove().unwrap();
        // It is gone: the label is free, here and in the kernel.
        vm.add_irqfd(&event, 1, Trigger::Edge).unwrap().remove().unwrap();
    });
    let failing = |fake: Builder| fake.fault(Fault::on(REMOVE_FUNCTION).nth(1).fails(Errno(libc::ENOMEM)));
    on(Flavour::Android15, [], failing, |_| {
        let vm = Gunyah::new().unwrap().create_vm().unwrap();
        let event = common::Event::new();
        let store = vm.add_ioeventfd(&event, 0x1000, IoEventMatch::Any).unwrap();
        let error = store.remove().unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOMEM));
        assert!(error.to_string().starts_with("GH_VM_REMOVE_FUNCTION failed"), "{error}");
        // The kernel still has it, and so has the crate.
        assert!(vm.add_ioeventfd(&event, 0x1000, IoEventMatch::Any).is_err());
    });
    // ENOENT says that it is gone, so what it had is free. Any other error says that the kernel has it still: android16 would
    // take it a second time, and that one would never work.
    for (errno, free) in [(libc::ENOENT, true), (libc::ENOMEM, false), (libc::EFAULT, false)] {
        let fails = |fake: Builder| fake.fault(Fault::on(REMOVE_FUNCTION).fails(Errno(errno)));
        on(Flavour::Android16, [], fails, |_| {
            let vm = Gunyah::new().unwrap().create_vm().unwrap();
            let event = common::Event::new();
            assert_eq!(vm.add_vcpu(0).unwrap().remove().unwrap_err().errno(), Some(errno));
            drop(vm.add_irqfd(&event, 1, Trigger::Edge).unwrap());
            let store = vm.add_ioeventfd(&event, 0x1000, IoEventMatch::Any).unwrap();
            assert_eq!(store.remove().unwrap_err().errno(), Some(errno));
            let taken = [
                vm.add_vcpu(0).err(),
                vm.add_irqfd(&event, 1, Trigger::Edge).err(),
                vm.add_ioeventfd(&event, 0x1000, IoEventMatch::Any).err(),
            ];
            let refused = taken.iter().filter(|error| matches!(error, Some(Error::InvalidArgument { .. })));
            assert_eq!(refused.count(), if free { 0 } else { 3 }, "errno {errno}: {taken:?}");
        });
    }
    // One that a signal always interrupts is given up in the end.
    let always = |fake: Builder| fake.fault(Fault::on(REMOVE_FUNCTION).fails(Errno(libc::EINTR)));
    on(Flavour::Android15, [], always, |_| {
        let vm = Gunyah::new().unwrap().create_vm().unwrap();
        let event = common::Event::new();
        let error = vm.add_irqfd(&event, 1, Trigger::Edge).unwrap().remove().unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINTR));
    });
}

#[test]
fn values_say_what_they_are_in_a_log() {
    common::on(Flavour::Android15, [Script::new().exit(4, &[])], |_| {
        let gunyah = Gunyah::new().unwrap();
        let text = format!("{gunyah:?}");
        assert!(text.starts_with("Gunyah {") && text.contains("/dev/gunyah"), "{text}");
        let (mut vm, _ram) = common::started_vm(1);
        let mut vcpu = vm.vcpus.remove(0);
        let text = format!("{:?}", vcpu.kick_handle());
        assert!(text.starts_with("KickHandle"), "{text}");
        let text = format!("{vcpu:?}");
        for part in ["VcpuFd {", "id: 0", "pending: Nothing", "answers_possibly_lost: 0"] {
            assert!(text.contains(part), "{text}");
        }
        let text = format!("{:?}", vm.fd);
        assert!(text.starts_with("VmFd {") && text.contains("exit_status: None"), "{text}");
        assert!(text.contains(&vm.fd.features().to_string()), "{text}");
        vcpu.run().unwrap();
        let text = format!("{:?}", vm.fd);
        assert!(text.contains("WatchdogBite"), "{text}");
    });
}

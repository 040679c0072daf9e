//! What the flavours after v11 do differently, with raw system calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

mod common;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use Flavour::{Android14, Android14Early, Android15, Android16, V11, V17, Vendor};
use common::*;
use fake_gunyah::{Answer, Errno, Fake, Flavour, Guest, Script};

const BAD: u64 = 8;
const GUNYAH: [Flavour; 6] = [V11, Android14Early, Android14, Android15, Android16, V17];

fn on<T: Send>(flavour: Flavour, script: Script, body: impl FnOnce(&Vm, &Vcpu) -> T + Send) -> T {
    let fake = Fake::builder().flavour(flavour).guest(Guest::scripts([script])).build().unwrap();
    fake.run(|_| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        body(&vm, &vcpu)
    })
    .unwrap()
}

/// Which ioctl exists where: a call with a bad pointer finds what is there.
#[test]
fn which_ioctl_exists_where() {
    let table: [(u32, &[Flavour]); 9] = [
        (SET_USER_MEM_REGION, &[V11, Android14Early, Android14, Android15, Android16]),
        (LEND_USER_MEM, &[Android14Early, Android14, Android15, Android16]),
        (SET_FW_CONFIG, &[Android14Early, Android14, Android15, Android16]),
        (RECLAIM_REGION, &[Android15, Android16]),
        (SET_BOOT_CONTEXT, &[Android15, Android16, V17]),
        (MAP_MEM, &[V17]),
        (MAP_CMA_MEM, &[Android16]),
        (SET_AUTH_TYPE, &[Android16]),
        (SET_DTB_CONFIG, &GUNYAH),
    ];
    for flavour in GUNYAH {
        on(flavour, Script::new(), |vm, vcpu| {
            for (request, flavours) in table {
                let expected = if flavours.contains(&flavour) { Errno::EFAULT } else { Errno::ENOTTY };
                assert_eq!(vm.ioctl(request, BAD), Err(expected), "{flavour}: {request:#x}");
            }
            let extension = if flavour == Android16 { Ok(1) } else { Err(Errno::ENOTTY) };
            assert_eq!(vm.ioctl(CHECK_EXTENSION, 0), extension, "{flavour}");
            let device = open().unwrap();
            let device = |request, arg| ioctl(device.as_raw_fd(), request, arg);
            let gmem = if flavour == V17 { Errno::EFAULT } else { Errno::ENOTTY };
            assert_eq!(device(CREATE_GUEST_MEM, BAD), Err(gmem), "{flavour}");
            let tentative = if flavour == Android14Early { Ok(0) } else { Err(Errno::ENOTTY) };
            assert_eq!(device(TENTATIVE, 0), tentative, "{flavour}");
            assert_eq!(device(0x47ff, 0), Err(Errno::ENOTTY));
            let unknown = match flavour {
                Android15 | Android16 | V17 => Errno::ENOTTY,
                _ => Errno::EINVAL,
            };
            assert_eq!(ioctl(vcpu.fd.as_raw_fd(), 0x47ff, 0), Err(unknown), "{flavour}");
        });
    }
}

#[test]
fn the_vendors_interface_answers_einval_to_everything() {
    let fake = Fake::builder().flavour(Vendor).device("/dev/qgunyah").build().unwrap();
    fake.run(|_| {
        assert_eq!(open().map(|_| ()), Err(Errno::ENOENT));
        let device = open_path(c"/dev/qgunyah").unwrap();
        for request in [CREATE_VM, 0x47ff, TENTATIVE, CREATE_GUEST_MEM] {
            assert_eq!(ioctl(device.as_raw_fd(), request, 0), Err(Errno::EINVAL), "{request:#x}");
        }
        let vm = ioctl(device.as_raw_fd(), 0xb201, 0).unwrap() as i32;
        let vm = unsafe { OwnedFd::from_raw_fd(vm) };
        assert_eq!(ioctl(vm.as_raw_fd(), 0x4010_b241, BAD), Err(Errno::EFAULT));
        let name = *b"trustedvm\0\0\0\0\0\0\0";
        assert_eq!(ioctl(vm.as_raw_fd(), 0x4010_b241, name.as_ptr() as u64), Err(Errno::EINVAL));
        assert_eq!(ioctl(vm.as_raw_fd(), VM_START, 0), Err(Errno::EINVAL));
    })
    .unwrap();
}

#[test]
fn features_can_be_mixed() {
    let fake =
        Fake::builder().flavour(V17).differences(|d| (d.user_memory, d.lend) = (true, true)).build().unwrap();
    fake.run(|_| {
        let vm = Vm::new();
        for request in [SET_USER_MEM_REGION, LEND_USER_MEM, MAP_MEM, SET_BOOT_CONTEXT] {
            assert_eq!(vm.ioctl(request, BAD), Err(Errno::EFAULT), "{request:#x}");
        }
        assert_eq!(vm.ioctl(SET_FW_CONFIG, BAD), Err(Errno::ENOTTY));
    })
    .unwrap();
}

#[test]
fn labels_wrap_around_and_overlap() {
    for flavour in [V11, Android14Early, Android14, Android15, Android16] {
        let fake = Fake::builder().flavour(flavour).memlock(u64::MAX).build().unwrap();
        fake.run(|_| {
            let vm = Vm::new();
            let page = page_size() as u64;
            let ram = Ram::new(4 * page_size());
            let good = Region {
                label: 0,
                flags: 7,
                guest_phys_addr: 0x8000_0000,
                memory_size: 2 * page,
                userspace_addr: ram.addr as u64,
            };
            assert_eq!(vm.region(&good), Ok(0));
            let same_label = Region { guest_phys_addr: 0x9000_0000, ..good };
            let unique = matches!(flavour, V11 | Android14Early | Android14);
            let expected = if unique { Err(Errno::EEXIST) } else { Ok(0) };
            assert_eq!(vm.region(&same_label), expected, "{flavour}");
            let overlap = Region { label: 9, guest_phys_addr: 0x8000_0000 + page, ..good };
            assert_eq!(vm.region(&overlap), Err(Errno::EEXIST), "{flavour}");
            let wraps = Region { label: 8, guest_phys_addr: 0u64.wrapping_sub(page), ..good };
            let early = matches!(flavour, V11 | Android14Early);
            let expected = if early { Err(Errno::EOVERFLOW) } else { Ok(0) };
            assert_eq!(vm.region(&wraps), expected, "{flavour}");
            // Not mapped: seen at once, or when the guest comes there.
            let nowhere = Region { label: 7, guest_phys_addr: 0xa000_0000, userspace_addr: page, ..good };
            let expected = if unique { Err(Errno::EFAULT) } else { Ok(0) };
            assert_eq!(vm.region(&nowhere), expected, "{flavour}");
        })
        .unwrap();
    }
}

#[test]
fn locked_memory() {
    let page = page_size() as u64;
    for (flavour, expected) in [
        (V11, Ok(0)),
        (Android14Early, Ok(0)),
        (Android14, Err(Errno::ENOMEM)),
        (Android15, Ok(0)),
        (Android16, Ok(0)),
    ] {
        let fake = Fake::builder().flavour(flavour).memlock(3 * page).build().unwrap();
        fake.run(|_| {
            let vm = Vm::new();
            let ram = Ram::new(4 * page_size());
            let region = Region {
                label: 0,
                flags: 7,
                guest_phys_addr: 0x8000_0000,
                memory_size: 2 * page,
                userspace_addr: ram.addr as u64,
            };
            assert_eq!(vm.region(&region), Ok(0));
            let second = Region { label: 1, guest_phys_addr: 0x9000_0000, ..region };
            assert_eq!(vm.region(&second), expected, "{flavour}");
        })
        .unwrap();
    }
}

#[test]
fn duplicates_that_succeed_bind_to_nothing() {
    for flavour in GUNYAH {
        on(flavour, Script::new().exit(1, &[]), |vm, first| {
            let second = vm.vcpu(0);
            if flavour == Android16 {
                let second = second.unwrap();
                vm.start().unwrap();
                assert_eq!(second.run(), Err(Errno::ENODEV));
                assert_eq!(first.run(), Ok(0));
            } else {
                assert_eq!(second.map(|_| ()), Err(Errno::EEXIST), "{flavour}");
            }
        });
    }
}

#[test]
fn what_remove_function_matches() {
    for flavour in GUNYAH {
        on(flavour, Script::new(), |vm, _| {
            let bytes = matches!(flavour, V11 | Android14Early);
            let addr_only = flavour == Android14;
            let missing = if bytes { Ok(0) } else { Err(Errno::ENOENT) };
            assert_eq!(vm.remove(FN_VCPU, &5u32), missing, "{flavour}");
            let event = eventfd(0);
            // Only the label of an irqfd.
            let irqfd = IrqfdArg { fd: event.as_raw_fd() as u32, label: 5, ..IrqfdArg::default() };
            vm.add(FN_IRQFD, &irqfd).unwrap();
            assert_eq!(vm.remove(FN_IRQFD, &IrqfdArg { label: 5, ..IrqfdArg::default() }), Ok(0));
            // By bytes, the call above found nothing and said so to nobody.
            let still_there = vm.remove(FN_IRQFD, &irqfd);
            assert_eq!(still_there, missing, "{flavour}");
            // Only the address of an ioeventfd.
            let io = IoeventfdArg {
                addr: 0x1000,
                len: 4,
                flags: 1,
                datamatch: 7,
                fd: event.as_raw_fd(),
                padding: 0,
            };
            let other = IoeventfdArg { datamatch: 8, ..io };
            vm.add(FN_IOEVENTFD, &io).unwrap();
            vm.add(FN_IOEVENTFD, &other).unwrap();
            let by_addr = vm.remove(FN_IOEVENTFD, &IoeventfdArg { addr: 0x1000, ..IoeventfdArg::default() });
            let expected = if addr_only || bytes { Ok(0) } else { Err(Errno::ENOENT) };
            assert_eq!(by_addr, expected, "{flavour}");
            // Which has removed both, or none.
            let whole = vm.remove(FN_IOEVENTFD, &io);
            let expected = if addr_only { Err(Errno::ENOENT) } else { Ok(0) };
            assert_eq!(whole, expected, "{flavour}");
            let there = vm.add(FN_IOEVENTFD, &other).is_err();
            assert_eq!(there, !addr_only, "{flavour}: the other one was not meant");
        });
    }
}

#[test]
fn an_early_kernel_hangs_after_a_failed_add() {
    on(Android14Early, Script::new(), |vm, _| {
        assert_eq!(vm.vcpu(0).map(|_| ()), Err(Errno::EEXIST));
        let add = || vm.vcpu(1).map(|_| 0);
        assert_eq!(signalled(add), Err(Errno::EINTR), "only a signal ends it");
        assert_eq!(vm.start(), Ok(0), "the rest works");
    });
}

/// Makes a call that nothing but a signal ends.
fn signalled(call: impl FnOnce() -> common::Result<i64>) -> common::Result<i64> {
    extern "C" fn nothing(_: libc::c_int) {}
    let tid = unsafe { libc::gettid() };
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut());
    }
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // One may come before the call.
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_millis(20));
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR2) };
            }
        });
        let answer = call();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        answer
    })
}

#[test]
fn an_early_kernel_hangs_after_a_failed_start() {
    let page = page_size() as u64;
    // Refused in the first step, with the memory's lock held, or in the last.
    for memory_refused in [false, true] {
        for flavour in [V11, Android14Early, Android14] {
            let builder = Fake::builder().flavour(flavour).guest(Guest::scripts([Script::new()]));
            let fake = if memory_refused {
                builder.memory_refused(Errno::EPERM)
            } else {
                builder.start_fails(Errno::EPERM)
            };
            let fake = fake.build().unwrap();
            let early = flavour == Android14Early;
            let mut kept = None;
            fake.run(|handle| {
                kept = Some(handle.clone());
                let vm = Vm::new();
                let ram = Ram::new(2 * page as usize);
                let region = |label, guest_phys_addr, offset| Region {
                    label,
                    flags: 7,
                    guest_phys_addr,
                    memory_size: page,
                    userspace_addr: ram.addr as u64 + offset,
                };
                assert_eq!(vm.region(&region(0, 0x8000_0000, 0)), Ok(0));
                vm.dtb(0x8000_0000, page).unwrap();
                let vcpu = vm.vcpu(0).unwrap();
                assert_eq!(vm.start(), Err(Errno::EPERM));
                let start = || vm.start();
                if early {
                    assert_eq!(signalled(start), Err(Errno::EINTR), "only a signal ends it");
                } else {
                    assert_eq!(start(), Err(Errno::ENODEV), "{flavour}");
                }
                let add = || vm.region(&region(1, 0x9000_0000, page));
                if early && memory_refused {
                    assert_eq!(signalled(add), Err(Errno::EINTR), "only a signal ends it");
                } else {
                    assert_eq!(add(), Ok(0), "{flavour}, {memory_refused}");
                }
                // Reading the status works: the vCPU learns of it where it was handed out.
                let expected = if memory_refused { Err(Errno::ENODEV) } else { Ok(0) };
                assert_eq!(vcpu.run(), expected, "{flavour}");
            })
            .unwrap();
            assert_eq!(kept.unwrap().leftovers(), [], "{flavour}: it can be closed");
        }
    }
}

#[test]
fn dtb_that_wraps_around() {
    for flavour in GUNYAH {
        on(flavour, Script::new(), |vm, _| {
            let expected = if flavour == Android14Early { Err(Errno::EOVERFLOW) } else { Ok(0) };
            assert_eq!(vm.dtb(u64::MAX - 4095, 8192), expected, "{flavour}");
        });
    }
}

#[test]
fn firmware_must_lie_in_memory() {
    for (flavour, errno) in [
        (Android14Early, Errno::EINVAL),
        (Android14, Errno::EINVAL),
        (Android15, Errno::ENOENT),
        (Android16, Errno::ENOENT),
    ] {
        on(flavour, Script::new(), |vm, _| {
            assert_eq!(vm.ioctl_with(SET_FW_CONFIG, &[0x7fc0_0000u64, 0x1000]), Ok(0));
            assert_eq!(vm.start(), Err(errno), "{flavour}");
        });
    }
}

#[test]
fn boot_context() {
    let set = |vm: &Vm, reg: u32, value: u64| vm.ioctl_with(SET_BOOT_CONTEXT, &[u64::from(reg), value]);
    for flavour in [Android15, Android16, V17] {
        on(flavour, Script::new(), |vm, _| {
            for reg in [0, 31, 0x100, 0x200, 0x201] {
                assert_eq!(set(vm, reg, 0x8000_0000), Ok(0), "{flavour} {reg:#x}");
            }
            for reg in [32, 0x101, 0x203, 0x300, 0xff00] {
                assert_eq!(set(vm, reg, 0), Err(Errno::EINVAL), "{flavour} {reg:#x}");
            }
            let high = if flavour == V17 { Ok(0) } else { Err(Errno::EINVAL) };
            assert_eq!(set(vm, 0x1_0000, 4), high, "{flavour}");
            let internal = if flavour == V17 { Err(Errno::EINVAL) } else { Ok(0) };
            assert_eq!(set(vm, 0, 2), internal, "{flavour}");
            vm.start().unwrap();
            assert_eq!(set(vm, 0, 0), Err(Errno::EINVAL), "{flavour}: started");
        });
        on(flavour, Script::new(), |vm, _| {
            assert_eq!(set(vm, 0x202, 4), Ok(0), "the kernel lets SP_EL2 through");
            assert_eq!(vm.start(), Err(Errno::EINVAL), "{flavour}: the Resource Manager does not");
        });
        // One that does not know the call.
        let fake = Fake::builder().flavour(flavour).differences(|d| d.rm_takes_boot_context = false);
        let fake = fake.guest(Guest::scripts([Script::new()])).build().unwrap();
        fake.run(|_| {
            assert_eq!(Vm::new().start(), Ok(0));
            let vm = Vm::new();
            assert_eq!(set(&vm, 0, 4), Ok(0));
            assert_eq!(vm.start(), Err(Errno::EOPNOTSUPP), "{flavour}");
        })
        .unwrap();
    }
}

#[test]
fn authentication_and_extensions() {
    on(Android16, Script::new(), |vm, _| {
        let auth = |kind: u32, size: u32, arg: u64| {
            vm.ioctl_with(SET_AUTH_TYPE, &FnDesc { kind, arg_size: size, arg })
        };
        assert_eq!(auth(0, 0, 0), Ok(0));
        assert_eq!(auth(2, 0, 0), Err(Errno::EINVAL));
        assert_eq!(auth(1, 24, BAD), Err(Errno::EFAULT));
        let qtvm = [0u64; 3];
        assert_eq!(auth(1, 24, qtvm.as_ptr() as u64), Err(Errno::EINVAL), "as in every source that was seen");
        assert_eq!(vm.ioctl(CHECK_EXTENSION, 1), Ok(0));
        assert_eq!(vm.ioctl(CHECK_EXTENSION, u64::MAX), Ok(0));
    });
}

#[test]
fn resume_actions() {
    const ACTION: usize = 37;
    // The second resume word of the next hypercall, as the script sees it.
    for flavour in GUNYAH {
        let (tell, told) = std::sync::mpsc::channel();
        let mut calls = 0;
        let script = Script::from_fn(move |resume| {
            calls += 1;
            let _ = tell.send([resume[0], resume[1]]);
            match calls {
                1 => Answer::mmio_read(0x1000, 4),
                2 => Answer::mmio_write(0x1000, 4, 1),
                3 => Answer::mmio_read(0x1000, 4),
                4 => Answer::mmio_read(0x1000, 4),
                _ => Answer::exit(1, &[]),
            }
        });
        on(flavour, script, move |vm, vcpu| {
            vm.start().unwrap();
            vcpu.set(ACTION, &[0x55]);
            assert_eq!(vcpu.run(), Ok(0));
            if matches!(flavour, V11 | Android14Early | Android14) {
                assert_eq!(vcpu.get::<1>(ACTION), [0x55], "{flavour}: the byte does not exist");
                return;
            }
            assert_eq!(vcpu.get::<1>(ACTION), [0], "{flavour}: preset");
            vcpu.answer(7);
            assert_eq!(vcpu.run(), Ok(0));
            // A write is answered, too.
            vcpu.set(ACTION, &[1]);
            assert_eq!(vcpu.run(), Ok(0));
            vcpu.set(ACTION, &[3]);
            assert_eq!(vcpu.run(), Err(Errno::EINVAL));
            vcpu.set(ACTION, &[2]);
            let retry = vcpu.run();
            if flavour == V17 {
                assert_eq!(retry, Ok(0));
                assert_eq!(told.try_iter().last().unwrap()[1], 1, "retry");
            } else {
                assert_eq!(retry, Err(Errno::EINVAL), "{flavour}");
                // The state is kept: another byte, and on it goes.
                vcpu.set(ACTION, &[1]);
                assert_eq!(vcpu.run(), Ok(0));
                let told: Vec<_> = told.try_iter().collect();
                assert_eq!(told[..3], [[0, 0], [7, 0], [0, 2]], "{flavour}");
                // What was in the data goes along, and means nothing.
                assert_eq!(told[3][1], 2, "{flavour}");
            }
        });
    }
}

#[test]
fn page_faults() {
    let page = page_size() as u64;
    for flavour in [Android15, Android16] {
        let script = Script::new()
            .page_fault(0x9000_0000, false)
            .page_fault(0x8000_0000, false)
            .page_fault(0x8000_0000, true)
            .page_fault(0x8000_0000 + page, false)
            .exit(1, &[]);
        let fake =
            Fake::builder().flavour(flavour).memlock(page).guest(Guest::scripts([script])).build().unwrap();
        fake.run(|_| {
            let vm = Vm::new();
            let ram = Ram::new(4 * page_size());
            vm.region(&Region {
                label: 0,
                flags: 5,
                guest_phys_addr: 0x8000_0000,
                memory_size: 4 * page,
                userspace_addr: ram.addr as u64,
            })
            .unwrap();
            let vcpu = vm.vcpu(0).unwrap();
            vm.start().unwrap();
            let fault = || {
                assert_eq!(vcpu.run(), Ok(0));
                assert_eq!(vcpu.reason(), EXIT_PAGE_FAULT, "{flavour}");
                assert_eq!(vcpu.get::<1>(28), [1], "preset");
                (vcpu.u64(16), -(vcpu.u32(24) as i32))
            };
            assert_eq!(fault(), (0x9000_0000, libc::ENOENT));
            // The load from the region is served without an exit; the store to it may not be.
            assert_eq!(fault(), (0x8000_0000, libc::EPERM));
            // The second page is more than may be locked.
            assert_eq!(fault(), (0x8000_0000 + page, libc::ENOMEM));
            assert_eq!(vcpu.run(), Ok(0));
            assert_eq!(vcpu.reason(), EXIT_STATUS);
        })
        .unwrap();
    }
    // v11 does not know the state.
    on(V11, Script::new().page_fault(0, false).exit(1, &[]), |vm, vcpu| {
        vm.start().unwrap();
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_STATUS);
    });
}

#[test]
fn reclaim() {
    let page = page_size() as u64;
    let script = Script::new()
        .page_fault(0x8000_0000, false)
        .page_fault(0x8000_1000, false)
        .repeat(2, |s| s.mmio_write(0x1000, 1, 1).page_fault(0x8000_0000 + page_size() as u64, false));
    let fake =
        Fake::builder().flavour(Android15).memlock(page).guest(Guest::scripts([script])).build().unwrap();
    fake.run(|_| {
        let vm = Vm::new();
        let ram = Ram::new(4 * page_size());
        vm.region(&Region {
            label: 0,
            flags: 7,
            guest_phys_addr: 0x8000_0000,
            memory_size: 4 * page,
            userspace_addr: ram.addr as u64,
        })
        .unwrap();
        let vcpu = vm.vcpu(0).unwrap();
        let reclaim = |addr: u64, size: u64| vm.ioctl_with(RECLAIM_REGION, &[addr, size]);
        assert_eq!(reclaim(0x8000_0001, page), Err(Errno::EINVAL));
        assert_eq!(reclaim(0x8000_0000, 1), Err(Errno::EINVAL));
        assert_eq!(reclaim(0x8000_0000, page), Err(Errno::ENODEV), "before the start");
        vm.start().unwrap();
        // One page may be locked; the guest has it.
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_PAGE_FAULT);
        // Taken back, another one can be had.
        assert_eq!(reclaim(0x8000_0000, page), Ok(0));
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_MMIO);
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_MMIO, "the second page came without an exit");
    })
    .unwrap();
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct MapMem {
    guest_addr: u64,
    flags: u32,
    fd: u32,
    offset: u64,
    size: u64,
}

fn create_gmem(flags: u64, size: u64) -> Result<OwnedFd> {
    let device = open().unwrap();
    let args = [flags, size, 0, 0, 0, 0, 0, 0u64];
    let fd = ioctl(device.as_raw_fd(), CREATE_GUEST_MEM, args.as_ptr() as u64)?;
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[test]
fn guest_memory_files() {
    let page = page_size() as u64;
    on(V17, Script::new(), |vm, _| {
        assert_eq!(create_gmem(4, page).map(|_| ()), Err(Errno::EINVAL));
        assert_eq!(create_gmem(0, page + 1).map(|_| ()), Err(Errno::EINVAL));
        let gmem = create_gmem(0, 8 * page).unwrap();
        assert_eq!(unsafe { libc::fcntl(gmem.as_raw_fd(), libc::F_GETFD) }, 0);
        let closed = create_gmem(1, page).unwrap();
        assert_eq!(unsafe { libc::fcntl(closed.as_raw_fd(), libc::F_GETFD) }, libc::FD_CLOEXEC);
        let good = MapMem {
            guest_addr: 0x8000_0000,
            flags: 0x71,
            fd: gmem.as_raw_fd() as u32,
            offset: 0,
            size: 4 * page,
        };
        let map = |change: &dyn Fn(&mut MapMem)| {
            let mut arg = good;
            change(&mut arg);
            vm.ioctl_with(MAP_MEM, &arg)
        };
        for fd in [9999, vm.fd.as_raw_fd() as u32, 0] {
            assert_eq!(map(&|m| m.fd = fd), Err(Errno::EINVAL));
        }
        assert_eq!(map(&|m| m.flags = 0x271), Err(Errno::EINVAL));
        assert_eq!(map(&|m| m.flags = 1), Err(Errno::EINVAL));
        assert_eq!(map(&|m| m.flags = 0x73), Err(Errno::EINVAL));
        assert_eq!(map(&|m| m.guest_addr += 1), Err(Errno::EINVAL));
        assert_eq!(map(&|m| m.offset += 1), Err(Errno::EINVAL));
        assert_eq!(map(&|m| m.size += 1), Err(Errno::EINVAL));
        assert_eq!(map(&|m| m.flags |= 0x100), Err(Errno::ENOENT), "nothing to unmap");
        assert_eq!(map(&|_| ()), Ok(0));
        assert_eq!(map(&|_| ()), Err(Errno::EEXIST));
        assert_eq!(map(&|m| m.guest_addr += 1 << 30), Err(Errno::EEXIST), "the same part of the file");
        assert_eq!(map(&|m| m.offset = 4 * page), Err(Errno::EEXIST), "the same guest addresses");
        // Unmapping must name the binding as it was made.
        assert_eq!(map(&|m| m.flags = 0x131), Err(Errno::ENOENT));
        assert_eq!(map(&|m| (m.flags, m.offset) = (0x171, page)), Err(Errno::ENOENT));
        let middle = |m: &mut MapMem| {
            (m.flags, m.guest_addr, m.offset, m.size) = (0x171, m.guest_addr + page, page, page);
        };
        assert_eq!(map(&middle), Err(Errno::EINVAL), "no hole in the middle");
        assert_eq!(map(&|m| m.flags = 0x171), Ok(0));
        assert_eq!(map(&|m| m.flags = 0x171), Err(Errno::ENOENT));
        assert_eq!(map(&|_| ()), Ok(0));
        let huge = create_gmem(2, 4 << 20).unwrap();
        let misaligned =
            MapMem { fd: huge.as_raw_fd() as u32, guest_addr: 0x9000_1000, size: 2 << 20, ..good };
        assert_eq!(vm.ioctl_with(MAP_MEM, &misaligned), Err(Errno::EINVAL));
        assert_eq!(vm.ioctl_with(MAP_MEM, &MapMem { guest_addr: 0x9000_0000, ..misaligned }), Ok(0));
    });
}

#[test]
fn contiguous_memory() {
    let page = page_size() as u64;
    let fake = Fake::builder().flavour(Android16).cma_region("/dev/vm-cma", 4 * page).build().unwrap();
    fake.run(|_| {
        let node = open_path(c"/dev/vm-cma").unwrap();
        assert_eq!(ioctl(node.as_raw_fd(), CREATE_VM, 0), Err(Errno::ENOTTY));
        let memory = ioctl(node.as_raw_fd(), 0x4114, 0).unwrap() as i32;
        let memory = unsafe { OwnedFd::from_raw_fd(memory) };
        let vm = Vm::new();
        // label, guest address, flags and fd, offset, size
        let map = |flags: u64, fd: i32, offset: u64, size: u64| {
            let args = [0, 0x8000_0000, flags | (fd as u64) << 32, offset, size];
            vm.ioctl_with(MAP_CMA_MEM, &args)
        };
        let fd = memory.as_raw_fd();
        assert_eq!(map(0x17, 9999, 0, page), Err(Errno::EBADF));
        assert_eq!(map(0x17, fd, 0, 0), Err(Errno::EINVAL));
        assert_eq!(map(0x87, fd, 0, page), Err(Errno::EINVAL));
        assert_eq!(map(0x17, fd, 4 * page, page), Err(Errno::EINVAL));
        assert_eq!(map(0x17, fd, 0, 4 * page), Ok(0));
        assert_eq!(map(0x17, fd, 0, page), Err(Errno::EEXIST));
    })
    .unwrap();
    // Elsewhere there is no such node.
    let fake = Fake::builder().flavour(Android15).cma_region("/dev/vm-cma", page).build().unwrap();
    fake.run(|_| assert_eq!(open_path(c"/dev/vm-cma").map(|_| ()), Err(Errno::ENOENT))).unwrap();
}

#[test]
fn a_start_that_fails_late() {
    for (flavour, status) in [(V11, 1), (Android14Early, 1), (Android14, 3), (Android15, 3), (V17, 3)] {
        let fake = Fake::builder()
            .flavour(flavour)
            .guest(Guest::scripts([Script::new()]))
            .start_fails(Errno::EPERM)
            .build()
            .unwrap();
        fake.run(|_| {
            let vm = Vm::new();
            let vcpu = vm.vcpu(0).unwrap();
            assert_eq!(vm.start(), Err(Errno::EPERM));
            if flavour != Android14Early {
                assert_eq!(vm.start(), Err(Errno::ENODEV));
            }
            assert_eq!(vcpu.run(), Ok(0));
            assert_eq!(vcpu.reason(), EXIT_STATUS);
            assert_eq!(vcpu.status(), (status, 0, 0, [0; 8]), "{flavour}");
        })
        .unwrap();
    }
}

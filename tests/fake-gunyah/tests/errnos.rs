//! What each call refuses, and in which order it looks: v11, with raw system calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

mod common;

use std::os::fd::{AsFd, AsRawFd};

use common::*;
use fake_gunyah::{Errno, Fake, Guest, HypError, Script, Target};

const BAD: u64 = 8;

fn region(ram: &Ram) -> Region {
    Region {
        label: 0,
        flags: 7,
        guest_phys_addr: 0x8000_0000,
        memory_size: ram.len as u64,
        userspace_addr: ram.addr as u64,
    }
}

fn on_v11<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    with_scripts([Script::new()], |_| body())
}

#[test]
fn unknown_ioctls() {
    on_v11(|| {
        let device = open().unwrap();
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        for request in [0x47ff, TENTATIVE, CREATE_GUEST_MEM, VM_START, VCPU_RUN, 0xb201] {
            assert_eq!(ioctl(device.as_raw_fd(), request, 0), Err(Errno::ENOTTY), "device {request:#x}");
        }
        for request in [
            0x47ff,
            CREATE_VM,
            MAP_MEM,
            SET_BOOT_CONTEXT,
            LEND_USER_MEM,
            SET_FW_CONFIG,
            RECLAIM_REGION,
            MAP_CMA_MEM,
            SET_AUTH_TYPE,
            CHECK_EXTENSION,
            VCPU_RUN,
        ] {
            assert_eq!(vm.ioctl(request, 0), Err(Errno::ENOTTY), "VM {request:#x}");
        }
        // v11's vCPUs know no ENOTTY.
        for request in [0x47ff, CREATE_VM, VM_START] {
            assert_eq!(ioctl(vcpu.fd.as_raw_fd(), request, 0), Err(Errno::EINVAL), "vCPU {request:#x}");
        }
    });
}

#[test]
fn create_vm() {
    on_v11(|| {
        let device = open().unwrap();
        assert_eq!(ioctl(device.as_raw_fd(), CREATE_VM, 1), Err(Errno::EINVAL));
        let fd = ioctl(device.as_raw_fd(), CREATE_VM, 0).unwrap();
        let flags = unsafe { libc::fcntl(fd as i32, libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
        unsafe { libc::close(fd as i32) };
    });
}

#[test]
fn regions() {
    on_v11(|| {
        let vm = Vm::new();
        let page = page_size() as u64;
        let ram = Ram::new(4 * page_size());
        let good = region(&ram);
        assert_eq!(vm.ioctl(SET_USER_MEM_REGION, BAD), Err(Errno::EFAULT));
        let refused = |errno: Errno, change: &dyn Fn(&mut Region)| {
            let mut region = good;
            change(&mut region);
            assert_eq!(vm.region(&region), Err(errno), "{region:x?}");
        };
        refused(Errno::EINVAL, &|r| r.flags = 8);
        refused(Errno::EINVAL, &|r| r.flags = 0x8000_0001);
        refused(Errno::EINVAL, &|r| r.memory_size = 0);
        refused(Errno::EINVAL, &|r| r.memory_size += 1);
        refused(Errno::EINVAL, &|r| r.guest_phys_addr += 1);
        refused(Errno::EINVAL, &|r| r.userspace_addr += 1);
        refused(Errno::EOVERFLOW, &|r| r.guest_phys_addr = 0u64.wrapping_sub(page));
        // The flags come before the geometry, the geometry before the wrap-around, that before what is there already.
        refused(Errno::EINVAL, &|r| (r.flags, r.guest_phys_addr) = (8, 0u64.wrapping_sub(page)));
        refused(Errno::EFAULT, &|r| r.userspace_addr = page);
        refused(Errno::EFAULT, &|r| r.memory_size = 1 << 40);
        assert_eq!(vm.region(&good), Ok(0));
        refused(Errno::EEXIST, &|_| ());
        refused(Errno::EEXIST, &|r| r.guest_phys_addr += 1 << 30);
        refused(Errno::EEXIST, &|r| r.label = 1);
        refused(Errno::EEXIST, &|r| (r.label, r.guest_phys_addr) = (1, r.guest_phys_addr + page));
        refused(Errno::EINVAL, &|r| r.memory_size = 0);
        // Next to it is free.
        let next = Region { label: 1, guest_phys_addr: good.guest_phys_addr + good.memory_size, ..good };
        assert_eq!(vm.region(&next), Ok(0));
        // No access at all is nobody's business.
        assert_eq!(vm.region(&Region { label: 2, flags: 0, guest_phys_addr: 0, ..good }), Ok(0));
    });
}

#[test]
fn memory_that_cannot_be_written_cannot_be_pinned() {
    on_v11(|| {
        let vm = Vm::new();
        let ram = Ram::new(4 * page_size());
        unsafe { libc::mprotect(ram.addr.add(page_size()).cast(), page_size(), libc::PROT_READ) };
        // v11 pins for writing, whatever the guest may do.
        assert_eq!(vm.region(&Region { flags: 1, ..region(&ram) }), Err(Errno::EFAULT));
    });
}

#[test]
fn a_hypervisor_without_extents_or_vcpus() {
    let fake = Fake::builder().without_memory_extents().without_vcpus().build().unwrap();
    fake.run(|_| {
        let vm = Vm::new();
        // Before anything is copied.
        assert_eq!(vm.ioctl(SET_USER_MEM_REGION, BAD), Err(Errno::EOPNOTSUPP));
        // Before the size of the argument is looked at.
        assert_eq!(vm.add(FN_VCPU, &0u64), Err(Errno::EOPNOTSUPP));
        assert_eq!(vm.vcpu(0).map(|_| ()), Err(Errno::EOPNOTSUPP));
    })
    .unwrap();
}

#[test]
fn dtb_config() {
    on_v11(|| {
        let vm = Vm::new();
        assert_eq!(vm.ioctl(SET_DTB_CONFIG, BAD), Err(Errno::EFAULT));
        // Nothing is looked at until the start.
        assert_eq!(vm.dtb(u64::MAX, u64::MAX), Ok(0));
        assert_eq!(vm.start(), Err(Errno::EINVAL));
    });
    on_v11(|| {
        let vm = Vm::new();
        let ram = Ram::new(4 * page_size());
        vm.region(&region(&ram)).unwrap();
        vm.dtb(0x8000_0000 + ram.len as u64 - 8, 16).unwrap();
        // The last one counts.
        vm.dtb(0x8000_0000 + ram.len as u64 - 16, 16).unwrap();
        assert_eq!(vm.start(), Ok(0));
        // After the start it is accepted and does nothing.
        assert_eq!(vm.dtb(1, 1), Ok(0));
    });
}

#[test]
fn start() {
    on_v11(|| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        assert_eq!(vcpu.run(), Err(Errno::ENODEV), "no blocking before the start");
        assert_eq!(vm.start(), Ok(0));
        assert_eq!(vm.start(), Ok(0), "again");
    });
    with_vcpu(Script::new().exit(1, &[]), |_, vm, vcpu| {
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.status().0, 2);
        assert_eq!(vm.start(), Err(Errno::ENODEV), "it has exited");
    });
}

#[test]
fn a_start_that_fails_late_reads_as_load_failed() {
    let fake =
        Fake::builder().guest(Guest::scripts([Script::new()])).start_fails(Errno::EPERM).build().unwrap();
    fake.run(|_| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        assert_eq!(vm.start(), Err(Errno::EPERM));
        assert_eq!(vm.start(), Err(Errno::ENODEV), "a failed start is final");
        assert_eq!(vcpu.run(), Ok(0));
        assert_eq!(vcpu.reason(), EXIT_STATUS);
        assert_eq!(vcpu.status(), (1, 0, 0, [0; 8]));
    })
    .unwrap();
}

#[test]
fn add_function_in_general() {
    on_v11(|| {
        let vm = Vm::new();
        assert_eq!(vm.ioctl(ADD_FUNCTION, BAD), Err(Errno::EFAULT));
        let add = |kind, arg_size, arg| vm.ioctl_with(ADD_FUNCTION, &FnDesc { kind, arg_size, arg });
        // The size, the argument, the type: in this order.
        assert_eq!(add(9, 257, BAD), Err(Errno::EINVAL));
        assert_eq!(add(9, 256, BAD), Err(Errno::EFAULT));
        for kind in [0, 4, u32::MAX] {
            assert_eq!(add(kind, 0, 0), Err(Errno::ENOENT));
        }
        assert_eq!(add(FN_VCPU, 0, 0), Err(Errno::EINVAL));
        assert_eq!(add(FN_IRQFD, 0, 0), Err(Errno::EINVAL));
        assert_eq!(add(FN_IOEVENTFD, 0, 0), Err(Errno::EINVAL));
    });
}

#[test]
fn vcpus() {
    with_scripts([Script::new()], |handle| {
        let vm = Vm::new();
        assert_eq!(vm.add(FN_VCPU, &0u64), Err(Errno::EINVAL));
        let vcpu = vm.vcpu(0).unwrap();
        assert_eq!(vm.vcpu(0).map(|_| ()), Err(Errno::EEXIST));
        let other = vm.vcpu(u32::MAX).unwrap();
        assert_eq!(ioctl(vcpu.fd.as_raw_fd(), VCPU_MMAP_SIZE, 0), Ok(page_size() as i64));
        assert_eq!(unsafe { libc::fcntl(other.fd.as_raw_fd(), libc::F_GETFD) }, libc::FD_CLOEXEC);
        let [vm_object, vcpu_object, _] = handle.objects()[..] else { panic!("{:?}", handle.objects()) };
        assert!(matches!((vm_object, vcpu_object), (Target::Vm(a), Target::Vcpu(b, 0)) if a == b));
    });
}

#[test]
fn irqfds() {
    on_v11(|| {
        let vm = Vm::new();
        let event = eventfd(0);
        let fd = event.as_raw_fd() as u32;
        let add = |arg: IrqfdArg| vm.add(FN_IRQFD, &arg);
        assert_eq!(vm.add(FN_IRQFD, &[0u32; 3]), Err(Errno::EINVAL));
        assert_eq!(add(IrqfdArg { fd: u32::MAX, flags: 2, ..IrqfdArg::default() }), Err(Errno::EINVAL));
        assert_eq!(add(IrqfdArg { fd: u32::MAX, ..IrqfdArg::default() }), Err(Errno::EBADF));
        assert_eq!(add(IrqfdArg { fd: 12345, ..IrqfdArg::default() }), Err(Errno::EBADF));
        let no_eventfd = vm.fd.as_raw_fd() as u32;
        assert_eq!(add(IrqfdArg { fd: no_eventfd, ..IrqfdArg::default() }), Err(Errno::EINVAL));
        assert_eq!(add(IrqfdArg { fd, label: 5, flags: 1, padding: 0 }), Ok(0));
        assert_eq!(add(IrqfdArg { fd, label: 5, ..IrqfdArg::default() }), Err(Errno::EEXIST));
        // The same eventfd for another label, and a vCPU with the same number: both fine.
        assert_eq!(add(IrqfdArg { fd, label: 6, ..IrqfdArg::default() }), Ok(0));
        assert!(vm.vcpu(5).is_ok());
    });
}

#[test]
fn ioeventfds() {
    on_v11(|| {
        let vm = Vm::new();
        let event = eventfd(0);
        let good = IoeventfdArg { addr: 0x1000, len: 4, fd: event.as_raw_fd(), ..IoeventfdArg::default() };
        let add = |change: &dyn Fn(&mut IoeventfdArg)| {
            let mut arg = good;
            change(&mut arg);
            vm.add(FN_IOEVENTFD, &arg)
        };
        assert_eq!(vm.add(FN_IOEVENTFD, &[0u64; 3]), Err(Errno::EINVAL));
        assert_eq!(add(&|a| a.flags = 2), Err(Errno::EINVAL));
        for len in [3, 5, 16, u32::MAX] {
            assert_eq!(add(&|a| a.len = len), Err(Errno::EINVAL));
        }
        assert_eq!(add(&|a| (a.flags, a.len) = (1, 0)), Err(Errno::EINVAL));
        assert_eq!(add(&|a| a.addr = u64::MAX - 2), Err(Errno::EINVAL));
        assert_eq!(add(&|a| a.fd = -1), Err(Errno::EBADF));
        assert_eq!(add(&|a| a.fd = vm.fd.as_raw_fd()), Err(Errno::EINVAL));
        assert_eq!(add(&|_| ()), Ok(0));
        // Without a value the length does not count.
        assert_eq!(add(&|a| a.len = 8), Err(Errno::EEXIST));
        assert_eq!(add(&|a| (a.flags, a.datamatch) = (1, 7)), Err(Errno::EEXIST));
        // With one it does, and so does the value.
        let at = |addr: u64, len: u32, value: u64| {
            add(&|a| (a.flags, a.addr, a.len, a.datamatch) = (1, addr, len, value))
        };
        assert_eq!(at(0x2000, 4, 1), Ok(0));
        assert_eq!(at(0x2000, 4, 2), Ok(0));
        assert_eq!(at(0x2000, 4, 2), Err(Errno::EEXIST));
        assert_eq!(at(0x2000, 8, 2), Ok(0));
        assert_eq!(add(&|a| a.addr = 0x2000), Err(Errno::EEXIST));
    });
}

#[test]
fn removal_compares_bytes() {
    on_v11(|| {
        let vm = Vm::new();
        let event = eventfd(0);
        assert_eq!(vm.ioctl(REMOVE_FUNCTION, BAD), Err(Errno::EFAULT));
        let remove = |kind, arg_size, arg| vm.ioctl_with(REMOVE_FUNCTION, &FnDesc { kind, arg_size, arg });
        assert_eq!(remove(FN_VCPU, 4, BAD), Err(Errno::EFAULT));
        assert_eq!(remove(FN_VCPU, u32::MAX, BAD), Err(Errno::ENOMEM), "its size is not bounded");
        // Nothing is found: no error.
        assert_eq!(remove(9, 0, 0), Ok(0));
        assert_eq!(vm.remove(FN_VCPU, &3u32), Ok(0));
        let irqfd = IrqfdArg { fd: event.as_raw_fd() as u32, label: 5, ..IrqfdArg::default() };
        vm.add(FN_IRQFD, &irqfd).unwrap();
        // A different byte is a different function, even in the padding.
        assert_eq!(vm.remove(FN_IRQFD, &IrqfdArg { padding: 1, ..irqfd }), Ok(0));
        assert_eq!(vm.add(FN_IRQFD, &irqfd), Err(Errno::EEXIST), "it is still there");
        assert_eq!(vm.remove(FN_IRQFD, &irqfd), Ok(0));
        assert_eq!(vm.add(FN_IRQFD, &irqfd), Ok(0));
        // An empty argument means nothing.
        let vcpu = vm.vcpu(0).unwrap();
        assert_eq!(remove(FN_VCPU, 0, 0), Ok(0));
        assert_eq!(vm.vcpu(0).map(|_| ()), Err(Errno::EEXIST));
        assert_eq!(vm.remove(FN_VCPU, &0u32), Ok(0));
        assert_eq!(vcpu.run(), Err(Errno::ENODEV));
        let again = vm.vcpu(0).unwrap();
        assert_ne!(again.fd.as_raw_fd(), vcpu.fd.as_raw_fd());
    });
}

#[test]
fn hypervisor_errors() {
    for (error, errno) in [
        (HypError::NoMem, Errno::ENOMEM),
        (HypError::Denied, Errno::EACCES),
        (HypError::Busy, Errno::EBUSY),
        (HypError::Io, Errno::EIO),
        (HypError::Unimplemented, Errno::EOPNOTSUPP),
        (HypError::Invalid, Errno::EINVAL),
    ] {
        with_vcpu(Script::new().error(error).exit(1, &[]), |_, _, vcpu| {
            assert_eq!(vcpu.run(), Err(errno));
            // And on it goes.
            assert_eq!(vcpu.run(), Ok(0));
            assert_eq!(vcpu.reason(), EXIT_STATUS);
        });
    }
    with_vcpu(Script::new().error(HypError::Retry).exit(1, &[]), |_, _, vcpu| {
        assert_eq!(vcpu.run(), Ok(0), "the driver tries again by itself");
        assert_eq!(vcpu.reason(), EXIT_STATUS);
    });
}

#[test]
fn descriptors_of_others_are_left_alone() {
    on_v11(|| {
        // 'A' is ALSA's type, too; a file of our own knows none of these.
        let (reader, _writer) = std::io::pipe().unwrap();
        assert_eq!(ioctl(reader.as_fd().as_raw_fd(), LEND_USER_MEM, 0), Err(Errno::ENOTTY));
        assert_eq!(ioctl(-1, VM_START, 0), Err(Errno::EBADF));
        assert_eq!(open_path(c"/dev/no-such-node").map(|_| ()), Err(Errno::ENOENT));
        assert!(open_path(c"/dev/null").is_ok());
        // Any path that leads there does.
        assert!(open_path(c"/dev/gunyah").is_ok());
    });
}

//! Programs of more than one process: who has a copy of what, and what is left when one of them ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

mod common;

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::*;
use fake_gunyah::{Fake, Flavour, Guest, Script};

/// One test at a time: a child has a copy of every descriptor of this process, also of those that another test closes.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_forked_child_shares_the_vm() {
    let _alone = alone();
    with_scripts([Script::new().mmio_write(0x1000, 4, 0x55).exit(1, &[])], |handle| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        let child = unsafe { libc::fork() };
        if child == 0 {
            // v11 has no check of the address space.
            let ret = unsafe { libc::syscall(libc::SYS_ioctl, vcpu.fd.as_raw_fd(), VCPU_RUN, 0) };
            let good = ret == 0 && vcpu.reason() == EXIT_MMIO && vcpu.mmio().3 & 0xff == 0x55;
            unsafe { libc::_exit(i32::from(!good)) };
        }
        let mut status = 0;
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(vcpu.mmio().0, 0x1000);
        drop((vm, vcpu));
        gone(handle);
    });
}

#[test]
fn a_forked_child_is_refused_where_the_owner_counts() {
    let _alone = alone();
    for (flavour, run_refused) in
        [(Flavour::Android14, false), (Flavour::Android15, true), (Flavour::Android16, true)]
    {
        let script = Script::new().mmio_read(0x1000, 4).mmio_write(0x1000, 4, 0x55).exit(1, &[]);
        let fake = Fake::builder().flavour(flavour).guest(Guest::scripts([script])).build().unwrap();
        fake.run(|handle| {
            let vm = Vm::new();
            let vcpu = vm.vcpu(0).unwrap();
            vm.start().unwrap();
            assert_eq!(vcpu.run(), Ok(0));
            vcpu.answer(7);
            let child = unsafe { libc::fork() };
            if child == 0 {
                let errno = |request: u32, fd: i32| unsafe {
                    let ret = libc::syscall(libc::SYS_ioctl, fd, request as libc::c_ulong, 8);
                    if ret < 0 { *libc::__errno_location() } else { 0 }
                };
                let mut good = errno(SET_USER_MEM_REGION, vm.fd.as_raw_fd()) == libc::EPERM
                    && errno(LEND_USER_MEM, vm.fd.as_raw_fd()) == libc::EPERM;
                let ran = errno(VCPU_RUN, vcpu.fd.as_raw_fd());
                good &= ran == if run_refused { libc::EPERM } else { 0 };
                unsafe { libc::_exit(i32::from(!good)) };
            }
            let mut status = 0;
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0, "{flavour}");
            assert_eq!(handle.answers_lost(), u64::from(run_refused), "the child ate the answer");
        })
        .unwrap();
    }
}

#[test]
fn a_childs_end_closes_nothing() {
    let _alone = alone();
    with_scripts([Script::new()], |handle| {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let child = unsafe { libc::fork() };
                    if child == 0 {
                        unsafe { libc::_exit(0) };
                    }
                    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
                }
            });
            let _over = SetWhenDropped(&over);
            for _ in 0..300 {
                let vm = Vm::new();
                let vcpu = vm.vcpu(0).unwrap();
                std::thread::sleep(Duration::from_micros(500));
                assert_eq!(ioctl(vcpu.fd.as_raw_fd(), VCPU_MMAP_SIZE, 0), Ok(page_size() as i64));
                assert_eq!(vm.start(), Ok(0));
            }
        });
        gone(handle);
    });
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_killed_process_leaves_nothing() {
    let _alone = alone();
    let fake = Fake::builder().guest(Guest::scripts([Script::new().wfi()])).build().unwrap();
    let handle = fake
        .run(|handle| {
            let child = unsafe { libc::fork() };
            if child == 0 {
                let device = open().unwrap();
                let vm = ioctl(device.as_raw_fd(), CREATE_VM, 0).unwrap() as i32;
                let id = 0u32;
                let desc = FnDesc { kind: FN_VCPU, arg_size: 4, arg: &raw const id as u64 };
                let vcpu = ioctl(vm, ADD_FUNCTION, &raw const desc as u64).unwrap() as i32;
                ioctl(vm, VM_START, 0).unwrap();
                let _ = ioctl(vcpu, VCPU_RUN, 0);
                unsafe { libc::_exit(9) };
            }
            eventually("no RUN", || handle.runs() == 1);
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(handle.objects().len(), 3);
            unsafe { libc::kill(child, libc::SIGKILL) };
            let mut status = 0;
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            gone(handle);
            handle.clone()
        })
        .unwrap();
    assert_eq!(handle.leftovers(), []);
}

#[test]
fn no_room_for_a_descriptor_leaves_nothing_behind() {
    let _alone = alone();
    with_scripts([Script::new()], |handle| {
        let device = open().unwrap();
        let vm = Vm::new();
        // The device that made the VM is closed a little later.
        let only_these = || handle.objects().len() == 2;
        eventually("there is more than a device and a VM", only_these);
        // Fill the table: the limit is the process's, so this is a child's work.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let limit = libc::rlimit { rlim_cur: 3, rlim_max: 3 };
            let code = unsafe {
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
                let create = libc::syscall(libc::SYS_ioctl, device.as_raw_fd(), CREATE_VM, 0);
                let create_errno = *libc::__errno_location();
                let id = 0u32;
                let desc = FnDesc { kind: FN_VCPU, arg_size: 4, arg: &raw const id as u64 };
                let add = libc::syscall(libc::SYS_ioctl, vm.fd.as_raw_fd(), ADD_FUNCTION, &raw const desc);
                let add_errno = *libc::__errno_location();
                let full =
                    create == -1 && create_errno == libc::EMFILE && add == -1 && add_errno == libc::EMFILE;
                i32::from(!full)
            };
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "EMFILE for both");
        // The id is free again.
        let vcpu = vm.vcpu(0).unwrap();
        drop(vcpu);
        eventually("what could not be handed out is still open", only_these);
        drop(device);
    });
}

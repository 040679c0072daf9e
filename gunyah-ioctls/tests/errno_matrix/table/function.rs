//! vCPUs, irqfds and ioeventfds: adding and removing.

use std::os::fd::{AsFd, BorrowedFd, RawFd};

use gunyah_ioctls::causes::Operation::{AddIoeventfd, AddIrqfd, AddVcpu, RemoveFunction};
use gunyah_ioctls::{IoEventMatch, Trigger};
use libc::{EBADF, EEXIST, EFAULT, EINTR, EINVAL, EMFILE, ENFILE, ENODEV, ENOENT, ENOMEM, EOPNOTSUPP};

use super::Ours::{self, Becomes, Inexpressible, Refused, Same};
use super::{
    A16, DRIVEN, EARLY, GOOD_POINTER, LATE, LOCK_WAIT, NO_MEMORY, NOT_A16, Row, SYSTEM_FILES, never, row,
};
use crate::world::{
    ADD, Answer, IOEVENTFD, IRQFD, REMOVE, Raw, VCPU, World, ioeventfd, irqfd, own, pair, without_files,
};

/// No file has this number.
const NO_FILE: RawFd = 999_999;
const SIZE: Ours = Inexpressible("the crate passes the size of the structure");
const OPEN_FILE: Ours = Inexpressible("a type that implements AsFd is open");
const KIND: Ours = Inexpressible("the crate knows the functions that exist");

/// A borrowed descriptor of the world's.
fn fd(number: RawFd) -> impl AsFd {
    // SAFETY: the world keeps it open.
    unsafe { BorrowedFd::borrow_raw(number) }
}

fn add_irqfd(w: &World, fd: RawFd, flags: u64) -> Raw {
    w.vm().add(IRQFD, 16, &irqfd(fd, 5, flags))
}

fn our_irqfd(w: &World, number: RawFd) -> Answer {
    w.our_vm().add_irqfd(fd(number), 5, Trigger::Edge).map(drop)
}

fn add_ioeventfd(w: &World, addr: u64, len: u64, flags: u64, value: u64) -> Raw {
    w.vm().add(IOEVENTFD, 32, &ioeventfd(w.event(), addr, len, flags, value))
}

fn our_ioeventfd(w: &World, addr: u64, matching: IoEventMatch) -> Answer {
    let (vm, event) = (w.our_vm(), w.event());
    w.mark();
    vm.add_ioeventfd(fd(event), addr, matching).map(drop)
}

/// Two ioeventfds at one address: length, flags, value of each.
fn two(w: &World, first: (u64, u64, u64), second: (u64, u64, u64)) -> Raw {
    let (vm, event) = (w.vm(), w.event());
    let arg = |(len, flags, value)| ioeventfd(event, 0x1000, len, flags, value);
    vm.add(IOEVENTFD, 32, &arg(first)).unwrap();
    vm.add(IOEVENTFD, 32, &arg(second))
}

fn our_two(w: &World, first: IoEventMatch, second: IoEventMatch) -> Answer {
    let (vm, event) = (w.our_vm(), w.event());
    let _kept = vm.add_ioeventfd(fd(event), 0x1000, first).unwrap();
    w.mark();
    vm.add_ioeventfd(fd(event), 0x1000, second).map(drop)
}

fn second_irqfd(w: &World) -> Raw {
    let vm = w.vm();
    vm.add(IRQFD, 16, &irqfd(w.event(), 5, 0)).unwrap();
    vm.add(IRQFD, 16, &irqfd(w.event(), 5, 0))
}

fn our_second_irqfd(w: &World) -> Answer {
    let vm = w.our_vm();
    let _kept = vm.add_irqfd(fd(w.event()), 5, Trigger::Edge).unwrap();
    let event = w.event();
    w.mark();
    vm.add_irqfd(fd(event), 5, Trigger::Level).map(drop)
}

fn second_vcpu(w: &World) -> Raw {
    let vm = w.vm();
    let _kept = vm.vcpu(3);
    vm.add_vcpu(3).map(own).map(|_| 0)
}

fn our_second_vcpu(w: &World) -> Answer {
    let vm = w.our_vm();
    let _kept = vm.add_vcpu(3).unwrap();
    w.mark();
    vm.add_vcpu(3).map(drop)
}

/// What all functions have in common: a description with a bad size, a bad pointer, a bad kind.
macro_rules! common {
    ($operation:ident, $kind:expr, $size:literal, $ours:expr) => {
        &[
            row(
                $operation,
                EINVAL,
                DRIVEN,
                "the argument is longer than 256 bytes",
                |w| w.vm().with(ADD, &[pair($kind, 257), [0u64; 33].as_ptr() as u64]),
                SIZE,
            ),
            row(
                $operation,
                EINVAL,
                DRIVEN,
                "the argument is shorter than the structure",
                |w| w.vm().add($kind, $size - 1, &[0; 4]),
                SIZE,
            ),
            row(
                $operation,
                EFAULT,
                DRIVEN,
                "a null pointer in the place of the argument",
                |w| w.vm().with(ADD, &[pair($kind, $size), 0]),
                GOOD_POINTER,
            ),
            row($operation, EFAULT, DRIVEN, "a null pointer", |w| w.vm().ioctl(ADD, 0), GOOD_POINTER),
            row(
                $operation,
                ENOENT,
                DRIVEN,
                "a function that the kernel was built without",
                |w| w.vm().add(77, $size, &[0; 4]),
                KIND,
            ),
            never($operation, ENOMEM, DRIVEN, "the function's object", NO_MEMORY).injected(ADD, Same($ours)),
        ]
    };
}

static OF_VCPU: &[Row] = common!(AddVcpu, VCPU, 4, |w| w.our_vm().add_vcpu(0).map(drop));
static OF_IRQFD: &[Row] = common!(AddIrqfd, IRQFD, 16, |w| our_irqfd(w, w.event()));
static OF_IOEVENTFD: &[Row] =
    common!(AddIoeventfd, IOEVENTFD, 32, |w| our_ioeventfd(w, 0x1000, IoEventMatch::Any));

const BY_VALUE: IoEventMatch = IoEventMatch::Value { width: 4, value: 7 };

static OTHERS: &[Row] = &[
    row(AddVcpu, EEXIST, NOT_A16, "the id is in use", second_vcpu, Refused(our_second_vcpu)),
    row(
        AddVcpu,
        0,
        A16,
        "the id is in use, and the kernel answers success; the second can never run",
        second_vcpu,
        Refused(our_second_vcpu),
    ),
    row(
        AddVcpu,
        EOPNOTSUPP,
        EARLY,
        "the hypervisor has no vCPUs",
        |w| w.vm().add_vcpu(0),
        Same(|w| w.our_vm().add_vcpu(0).map(drop)),
    )
    .on(|host| host.without_vcpus()),
    row(
        AddVcpu,
        EMFILE,
        DRIVEN,
        "this process has all the files it may have",
        |w| {
            let vm = w.vm();
            without_files(|| vm.add_vcpu(0))
        },
        Same(|w| {
            let vm = w.our_vm();
            without_files(|| vm.add_vcpu(0).map(drop))
        }),
    ),
    never(AddVcpu, ENFILE, DRIVEN, "the host has all the files it may have", SYSTEM_FILES)
        .injected(ADD, Same(|w| w.our_vm().add_vcpu(0).map(drop))),
    never(AddVcpu, ENODEV, DRIVEN, "the VM is going away", "needs its last reference to go in that instant")
        .injected(ADD, Same(|w| w.our_vm().add_vcpu(0).map(drop))),
    row(
        AddIrqfd,
        EINVAL,
        DRIVEN,
        "an unknown flag",
        |w| add_irqfd(w, w.event(), 2),
        Inexpressible("Trigger has no such value"),
    ),
    row(
        AddIrqfd,
        EINVAL,
        DRIVEN,
        "the file is no eventfd",
        |w| add_irqfd(w, w.file(), 0),
        Same(|w| our_irqfd(w, w.file())),
    ),
    row(AddIrqfd, EBADF, DRIVEN, "no file", |w| add_irqfd(w, NO_FILE, 0), OPEN_FILE),
    row(AddIrqfd, EEXIST, NOT_A16, "the label is in use", second_irqfd, Refused(our_second_irqfd)),
    row(
        AddIrqfd,
        0,
        A16,
        "the label is in use, and the kernel answers success; the second rings nothing",
        second_irqfd,
        Refused(our_second_irqfd),
    ),
    row(
        AddIoeventfd,
        EINVAL,
        DRIVEN,
        "an unknown flag",
        |w| add_ioeventfd(w, 0x1000, 4, 2, 0),
        Inexpressible("IoEventMatch has no such value"),
    ),
    row(
        AddIoeventfd,
        EINVAL,
        DRIVEN,
        "a width of 3 bytes",
        |w| add_ioeventfd(w, 0x1000, 3, 0, 0),
        Refused(|w| our_ioeventfd(w, 0x1000, IoEventMatch::Width(3))),
    ),
    row(
        AddIoeventfd,
        EINVAL,
        DRIVEN,
        "a value without a width",
        |w| add_ioeventfd(w, 0x1000, 0, 1, 7),
        Refused(|w| our_ioeventfd(w, 0x1000, IoEventMatch::Value { width: 0, value: 7 })),
    ),
    row(
        AddIoeventfd,
        EINVAL,
        EARLY,
        "the address wraps around",
        |w| add_ioeventfd(w, u64::MAX - 1, 4, 0, 0),
        Refused(|w| our_ioeventfd(w, u64::MAX - 1, IoEventMatch::Width(4))),
    ),
    row(
        AddIoeventfd,
        0,
        LATE,
        "the address wraps around, and the kernel does not look",
        |w| add_ioeventfd(w, u64::MAX - 1, 4, 0, 0),
        Refused(|w| our_ioeventfd(w, u64::MAX - 1, IoEventMatch::Width(4))),
    ),
    row(
        AddIoeventfd,
        0,
        DRIVEN,
        "a value that the width cannot hold: it never matches",
        |w| add_ioeventfd(w, 0x1000, 1, 1, 0x100),
        Refused(|w| our_ioeventfd(w, 0x1000, IoEventMatch::Value { width: 1, value: 0x100 })),
    ),
    row(
        AddIoeventfd,
        EINVAL,
        DRIVEN,
        "the file is no eventfd",
        |w| w.vm().add(IOEVENTFD, 32, &ioeventfd(w.file(), 0x1000, 4, 0, 0)),
        Same(|w| w.our_vm().add_ioeventfd(fd(w.file()), 0x1000, IoEventMatch::Width(4)).map(drop)),
    ),
    row(
        AddIoeventfd,
        EBADF,
        DRIVEN,
        "no file",
        |w| w.vm().add(IOEVENTFD, 32, &ioeventfd(NO_FILE, 0x1000, 4, 0, 0)),
        OPEN_FILE,
    ),
    row(
        AddIoeventfd,
        EEXIST,
        DRIVEN,
        "the same stores at the same address",
        |w| two(w, (4, 1, 7), (4, 1, 7)),
        Refused(|w| our_two(w, BY_VALUE, BY_VALUE)),
    ),
    row(
        AddIoeventfd,
        EEXIST,
        DRIVEN,
        "another width without a value, which counts as any width",
        |w| two(w, (4, 0, 0), (2, 0, 0)),
        Refused(|w| our_two(w, IoEventMatch::Width(4), IoEventMatch::Width(2))),
    ),
    row(
        AddIoeventfd,
        EEXIST,
        DRIVEN,
        "one with a value and one without",
        |w| two(w, (4, 1, 7), (4, 0, 0)),
        Refused(|w| our_two(w, BY_VALUE, IoEventMatch::Any)),
    ),
    row(
        AddIoeventfd,
        0,
        DRIVEN,
        "another value of the same width",
        |w| two(w, (4, 1, 7), (4, 1, 8)),
        Same(|w| our_two(w, BY_VALUE, IoEventMatch::Value { width: 4, value: 8 })),
    ),
    row(RemoveFunction, EFAULT, DRIVEN, "a null pointer", |w| w.vm().ioctl(REMOVE, 0), GOOD_POINTER),
    row(
        RemoveFunction,
        EFAULT,
        DRIVEN,
        "a null pointer in the place of the argument",
        |w| w.vm().with(REMOVE, &[pair(VCPU, 4), 0]),
        GOOD_POINTER,
    ),
    row(
        RemoveFunction,
        ENOMEM,
        DRIVEN,
        "an argument of 4 GiB",
        |w| w.vm().with(REMOVE, &[pair(VCPU, 0xffff_ffff), 0x1000]),
        SIZE,
    ),
    row(
        RemoveFunction,
        ENOENT,
        LATE,
        "nothing of the kind is there",
        |w| w.vm().remove(VCPU, 4, &[0]),
        Same(removed_behind_our_back),
    ),
    row(
        RemoveFunction,
        0,
        EARLY,
        "nothing of the kind is there, and the kernel answers success",
        |w| w.vm().remove(VCPU, 4, &[0]),
        Same(removed_behind_our_back),
    ),
    never(RemoveFunction, EINTR, DRIVEN, "a signal while it waits for the lock", LOCK_WAIT).injected(
        REMOVE,
        Becomes("another try", |w| {
            w.our_vm().add_vcpu(0).unwrap().remove().map_err(|error| error.to_string())
        }),
    ),
];

/// The crate removes what it has added only; somebody else was faster.
fn removed_behind_our_back(w: &World) -> Answer {
    let vm = w.our_vm();
    let number = w.event();
    let irq = vm.add_irqfd(fd(number), 5, Trigger::Edge).unwrap();
    let raw = crate::world::Fd(vm.as_fd().try_clone_to_owned().unwrap());
    raw.remove(IRQFD, 16, &irqfd(number, 5, 0)).unwrap();
    irq.remove()
}

pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    OF_VCPU.iter().chain(OF_IRQFD).chain(OF_IOEVENTFD).chain(OTHERS)
}

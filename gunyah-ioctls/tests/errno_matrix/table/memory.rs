//! User memory: sharing, lending, taking back.

use gunyah_ioctls::causes::Operation::{LendUserMemory, ReclaimRegion, SetUserMemory};
use libc::{
    EACCES, EAGAIN, EBUSY, EEXIST, EFAULT, EINTR, EINVAL, EIO, ENODEV, ENOMEM, ENOTTY, EOPNOTSUPP, EOVERFLOW,
    EPERM,
};

use super::Ours::{Absent, Inexpressible, Refused, Same};
use super::{
    Android14, Android14Early, DEAD_CHECK, EARLY, GOOD_POINTER, LENDING, LOCK_WAIT, M, NO_MEMORY, OWNED,
    PINNED, Row, TOUCH, USER, V11, V17, never, row,
};
use crate::world::{
    Answer, LEND, NOWHERE, RAM, RECLAIM, Raw, SET_USER_MEM, World, in_child, our_child, page, region,
};

/// A region call with a region changed by `change`: label, flags, guest address, size, user address.
fn raw(w: &World, call: u32, change: fn(&mut [u64; 5])) -> Raw {
    let mut fields = [0, 7, RAM, 4 * page(), w.ram(4)];
    change(&mut fields);
    let [label, flags, gpa, size, user] = fields;
    w.vm().with(call, &region(label, flags, gpa, size, user))
}

/// The same region first, then the changed one.
fn second(w: &World, call: u32, change: fn(&mut [u64; 5])) -> Raw {
    let vm = w.vm();
    let mut fields = [0, 7, RAM, 4 * page(), w.ram(4)];
    vm.with(call, &region(0, 7, RAM, 4 * page(), fields[4])).unwrap();
    change(&mut fields);
    let [label, flags, gpa, size, user] = fields;
    vm.with(call, &region(label, flags, gpa, size, user))
}

fn give(vm: &gunyah_ioctls::VmFd, lend: bool, region: &gunyah_ioctls::UserMemoryRegion) -> Answer {
    // SAFETY: nobody touches the memory, and it is kept until the VM is closed.
    unsafe { if lend { vm.lend_user_memory(region) } else { vm.set_user_memory_region(region) } }
}

fn ours(w: &World, lend: bool, change: fn(&mut gunyah_ioctls::UserMemoryRegion)) -> Answer {
    let vm = w.our_vm();
    let mut region = w.our_region(0, RAM);
    change(&mut region);
    w.mark();
    give(&vm, lend, &region)
}

fn our_second(w: &World, lend: bool, change: fn(&mut gunyah_ioctls::UserMemoryRegion)) -> Answer {
    let vm = w.our_vm();
    let mut region = w.our_region(0, RAM);
    give(&vm, lend, &region).unwrap();
    change(&mut region);
    w.mark();
    give(&vm, lend, &region)
}

/// The rows that both calls have, with the flavours of each.
macro_rules! both {
    ($operation:ident, $call:ident, $lend:literal, all $all:expr, early $early:expr, touch $touch:expr) => {
        &[
            row($operation, EFAULT, $all, "a null pointer", |w| w.vm().ioctl($call, 0), GOOD_POINTER),
            row(
                $operation,
                EPERM,
                OWNED,
                "another process made the VM",
                |w| {
                    let (vm, user) = (w.vm(), w.ram(4));
                    in_child(|| vm.with($call, &region(0, 7, RAM, 4 * page(), user)))
                },
                Same(|w| {
                    let (vm, region) = (w.our_vm(), w.our_region(0, RAM));
                    our_child(|| give(&vm, $lend, &region))
                }),
            ),
            row(
                $operation,
                EPERM,
                OWNED,
                "another process made the VM, tested before a null pointer",
                |w| {
                    let vm = w.vm();
                    in_child(|| vm.ioctl($call, 0))
                },
                GOOD_POINTER,
            ),
            row(
                $operation,
                EINVAL,
                $all,
                "an unknown access flag",
                |w| raw(w, $call, |r| r[1] = 8),
                Inexpressible("Access has no such value"),
            ),
            row(
                $operation,
                EINVAL,
                $all,
                "the size is 0",
                |w| raw(w, $call, |r| r[3] = 0),
                Refused(|w| ours(w, $lend, |r| r.memory_size = 0)),
            ),
            row(
                $operation,
                EINVAL,
                $all,
                "the size is no multiple of the page",
                |w| raw(w, $call, |r| r[3] += 1),
                Refused(|w| ours(w, $lend, |r| r.memory_size += 1)),
            ),
            row(
                $operation,
                EINVAL,
                $all,
                "the guest address is not aligned",
                |w| raw(w, $call, |r| r[2] += 16),
                Refused(|w| ours(w, $lend, |r| r.guest_phys_addr += 16)),
            ),
            row(
                $operation,
                EINVAL,
                $all,
                "the user address is not aligned",
                |w| raw(w, $call, |r| r[4] += 8),
                Refused(|w| ours(w, $lend, |r| r.userspace_addr += 8)),
            ),
            row(
                $operation,
                EEXIST,
                $all,
                "the guest addresses overlap another region's",
                |w| {
                    second(w, $call, |r| {
                        r[0] = 1;
                        r[2] += page();
                    })
                },
                Refused(|w| {
                    our_second(w, $lend, |r| {
                        r.label = 1;
                        r.guest_phys_addr += page();
                    })
                }),
            ),
            row(
                $operation,
                EEXIST,
                $early,
                "the label is another region's",
                |w| second(w, $call, |r| r[2] = NOWHERE),
                Refused(|w| our_second(w, $lend, |r| r.guest_phys_addr = NOWHERE)),
            ),
            row(
                $operation,
                0,
                $touch,
                "the label is another region's, and the kernel does not look",
                |w| second(w, $call, |r| r[2] = NOWHERE),
                Refused(|w| our_second(w, $lend, |r| r.guest_phys_addr = NOWHERE)),
            ),
            row(
                $operation,
                0,
                OWNED,
                "the guest addresses wrap around, and the kernel does not look",
                |w| raw(w, $call, |r| r[2] = 0u64.wrapping_sub(page())),
                Refused(|w| ours(w, $lend, |r| r.guest_phys_addr = 0u64.wrapping_sub(page()))),
            ),
            row(
                $operation,
                EFAULT,
                $early,
                "the user range is not mapped",
                |w| raw(w, $call, |r| r[4] = page()),
                Same(|w| ours(w, $lend, |r| r.userspace_addr = page())),
            ),
            row(
                $operation,
                0,
                $touch,
                "the user range is not mapped, which only shows when the guest touches it",
                |w| raw(w, $call, |r| r[4] = page()),
                Same(|w| ours(w, $lend, |r| r.userspace_addr = page())),
            ),
            row(
                $operation,
                ENOMEM,
                &[Android14],
                "the limit of locked memory",
                |w| raw(w, $call, |_| {}),
                Same(|w| ours(w, $lend, |_| {})),
            )
            .on(|host| host.memlock(2 * page())),
            never($operation, ENOMEM, $early, "the list of pages", NO_MEMORY)
                .injected($call, Same(|w| ours(w, $lend, |_| {}))),
            never($operation, ENOMEM, $touch, "the binding's object", NO_MEMORY)
                .injected($call, Same(|w| ours(w, $lend, |_| {}))),
            never($operation, EOVERFLOW, OWNED, "the guest addresses wrap around", DEAD_CHECK),
            never($operation, EINTR, $all, "a signal while it waits for the lock", LOCK_WAIT)
                .injected($call, Same(|w| ours(w, $lend, |_| {}))),
        ]
    };
}

static SHARE: &[Row] = both!(SetUserMemory, SET_USER_MEM, false, all USER, early PINNED, touch TOUCH);
static LENT: &[Row] =
    both!(LendUserMemory, LEND, true, all LENDING, early &[Android14Early, Android14], touch TOUCH);

/// After the start, kernels that show it to the guest take it, and those that don't take it, too.
fn late(w: &World) -> Raw {
    let (vm, _vcpu) = w.started();
    vm.with(SET_USER_MEM, &region(1, 7, NOWHERE, 4 * page(), w.ram(4)))
}

fn our_late(w: &World) -> Answer {
    let (vm, _vcpu) = w.our_started();
    let region = w.our_region(1, NOWHERE);
    w.mark();
    give(&vm, false, &region)
}

fn reclaim(w: &World, gpa: u64, size: u64) -> Raw {
    let (vm, _vcpu) = w.started();
    vm.with(RECLAIM, &[gpa, size])
}

fn our_reclaim(w: &World, gpa: u64, size: u64) -> Answer {
    let (vm, _vcpu) = w.our_started();
    w.mark();
    vm.reclaim_region(gpa, size)
}

const HYPERVISOR: &str = "needs a hypervisor that refuses to unmap or donate";

static OTHERS: &[Row] = &[
    row(
        SetUserMemory,
        EOVERFLOW,
        EARLY,
        "the guest addresses wrap around",
        |w| raw(w, SET_USER_MEM, |r| r[2] = 0u64.wrapping_sub(page())),
        Refused(|w| ours(w, false, |r| r.guest_phys_addr = 0u64.wrapping_sub(page()))),
    ),
    row(
        LendUserMemory,
        EOVERFLOW,
        &[Android14Early],
        "the guest addresses wrap around",
        |w| raw(w, LEND, |r| r[2] = 0u64.wrapping_sub(page())),
        Refused(|w| ours(w, true, |r| r.guest_phys_addr = 0u64.wrapping_sub(page()))),
    ),
    row(
        SetUserMemory,
        EOPNOTSUPP,
        EARLY,
        "the hypervisor has no memory extents",
        |w| raw(w, SET_USER_MEM, |_| {}),
        Same(|w| ours(w, false, |_| {})),
    )
    .on(|host| host.without_memory_extents()),
    row(
        LendUserMemory,
        EOPNOTSUPP,
        &[Android14Early],
        "the hypervisor has no memory extents",
        |w| raw(w, LEND, |_| {}),
        Same(|w| ours(w, true, |_| {})),
    )
    .on(|host| host.without_memory_extents()),
    row(
        SetUserMemory,
        ENOTTY,
        M,
        "only guest memory",
        |w| w.vm().ioctl(SET_USER_MEM, 0),
        Absent(|w| ours(w, false, |_| {})),
    ),
    row(
        LendUserMemory,
        ENOTTY,
        &[V11, V17],
        "no such call",
        |w| w.vm().ioctl(LEND, 0),
        Absent(|w| ours(w, true, |_| {})),
    ),
    row(
        SetUserMemory,
        0,
        PINNED,
        "after the start: pinned, and never shown to the guest",
        late,
        Refused(our_late),
    ),
    row(SetUserMemory, 0, TOUCH, "after the start", late, Same(our_late)),
    row(
        ReclaimRegion,
        EPERM,
        TOUCH,
        "another process made the VM",
        |w| {
            let (vm, _vcpu) = w.started();
            in_child(|| vm.with(RECLAIM, &[RAM, page()]))
        },
        Same(|w| {
            let (vm, _vcpu) = w.our_started();
            our_child(|| vm.reclaim_region(RAM, page()))
        }),
    ),
    row(ReclaimRegion, EFAULT, TOUCH, "a null pointer", |w| w.vm().ioctl(RECLAIM, 0), GOOD_POINTER),
    row(
        ReclaimRegion,
        EINVAL,
        TOUCH,
        "the guest address is not aligned",
        |w| reclaim(w, RAM + 1, page()),
        Refused(|w| our_reclaim(w, RAM + 1, page())),
    ),
    row(
        ReclaimRegion,
        EINVAL,
        TOUCH,
        "the size is no multiple of the page",
        |w| reclaim(w, RAM, page() + 1),
        Refused(|w| our_reclaim(w, RAM, page() + 1)),
    ),
    row(
        ReclaimRegion,
        0,
        TOUCH,
        "the size is 0, and the kernel takes all it can find behind the address",
        |w| reclaim(w, RAM, 0),
        Refused(|w| our_reclaim(w, RAM, 0)),
    ),
    row(
        ReclaimRegion,
        0,
        TOUCH,
        "the range wraps around, and the kernel does not look",
        |w| reclaim(w, 0u64.wrapping_sub(page()), 2 * page()),
        Refused(|w| our_reclaim(w, 0u64.wrapping_sub(page()), 2 * page())),
    ),
    row(
        ReclaimRegion,
        0,
        TOUCH,
        "pages that the guest has",
        |w| reclaim(w, RAM, page()),
        Same(|w| our_reclaim(w, RAM, page())),
    ),
    row(
        ReclaimRegion,
        ENODEV,
        TOUCH,
        "before the start",
        |w| w.vm_with_memory().with(RECLAIM, &[RAM, page()]),
        Refused(|w| {
            let (vm, _vcpu) = w.our_configured();
            w.mark();
            vm.reclaim_region(RAM, page())
        }),
    ),
    row(
        ReclaimRegion,
        ENOTTY,
        &[V11, Android14Early, Android14, V17],
        "no such call",
        |w| w.vm().ioctl(RECLAIM, 0),
        Absent(|w| our_reclaim(w, RAM, page())),
    ),
    never(
        ReclaimRegion,
        EAGAIN,
        TOUCH,
        "the page changed meanwhile",
        "needs a page that moves in that instant",
    )
    .injected(RECLAIM, Same(|w| our_reclaim(w, RAM, page()))),
    never(ReclaimRegion, EBUSY, TOUCH, "the hypervisor is busy", HYPERVISOR)
        .injected(RECLAIM, Same(|w| our_reclaim(w, RAM, page()))),
    never(ReclaimRegion, EACCES, TOUCH, "the hypervisor denies", HYPERVISOR)
        .injected(RECLAIM, Same(|w| our_reclaim(w, RAM, page()))),
    never(ReclaimRegion, EIO, TOUCH, "the hypervisor fails", HYPERVISOR)
        .injected(RECLAIM, Same(|w| our_reclaim(w, RAM, page()))),
    never(ReclaimRegion, EOPNOTSUPP, TOUCH, "the hypervisor has no such call", HYPERVISOR)
        .injected(RECLAIM, Same(|w| our_reclaim(w, RAM, page()))),
    never(ReclaimRegion, ENOMEM, TOUCH, "the hypervisor has no memory left", HYPERVISOR)
        .injected(RECLAIM, Same(|w| our_reclaim(w, RAM, page()))),
];

pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    SHARE.iter().chain(LENT).chain(OTHERS)
}

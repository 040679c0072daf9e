//! Running a vCPU, and its page.

use fake_gunyah::hyp::HypError;
use fake_gunyah::{Guest, Script};
use gunyah_ioctls::causes::Operation::{MapRunPage, PageFault, RunVcpu, VcpuMmapSize};
use gunyah_ioctls::{Error, VcpuExit};
use libc::{
    EACCES, EAGAIN, EBUSY, EFAULT, EINTR, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, ENOTTY, EOPNOTSUPP, EPERM,
};

use super::Ours::{Absent, Becomes, Inexpressible, Same};
use super::{A16, Android15, DRIVEN, M, PAGED, PINNED, Row, TOUCH, never, row};
use crate::world::{
    Answer, NO_IOCTL, NOWHERE, Page, RAM, RUN, Raw, VCPU, World, in_child, our_child, refused,
};

fn run(w: &World) -> Raw {
    w.started().1.ioctl(RUN, 0)
}

fn our_run(w: &World) -> Answer {
    let (_vm, mut vcpu) = w.our_started();
    vcpu.run().map(drop)
}

/// What the hypervisor says, more often than the crate tries.
fn hypervisor(error: HypError) -> Guest {
    Guest::scripts([Script::new().repeat(1000, |script| script.error(error))])
}

/// A guest that loads, and then powers off.
fn one_read() -> Guest {
    Guest::scripts([Script::new().mmio_read(0x1000, 4).exit(1, &[])])
}

/// A guest that touches `addr`, where the kernel fails; the answer is the attempt's errno.
fn fault(w: &World) -> Raw {
    let (_vm, vcpu) = w.started();
    vcpu.ioctl(RUN, 0)?;
    let page = Page::of(&vcpu);
    assert_eq!(page.u32(8), 3, "no page fault");
    Err(-(page.u32(24) as i32))
}

/// The crate reports the attempt with the exit.
fn our_fault(w: &World, errno: i32) -> Result<(), String> {
    let (_vm, mut vcpu) = w.our_started();
    match vcpu.run() {
        Ok(VcpuExit::PageFault { attempt, .. }) if attempt == errno => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn ends_in<T: std::fmt::Debug>(answer: T, good: impl FnOnce(&T) -> bool) -> Result<(), String> {
    if good(&answer) { Ok(()) } else { Err(format!("{answer:?}")) }
}

/// An MMIO exit answered with a resume action.
fn resume(w: &World, action: u8) -> Raw {
    let (_vm, vcpu) = w.started();
    vcpu.ioctl(RUN, 0).unwrap();
    Page::of(&vcpu).set_byte(37, action);
    vcpu.ioctl(RUN, 0)
}

const FULL: &str = "needs a process without free addresses";
const LOCKED: &str = "needs a process that locks all its memory: coverage_process.rs has one";
const PAGE_TABLES: &str = "needs a hypervisor that refuses a page";

/// An attempt of the kernel's that nothing here makes fail so: it is written into the exit.
macro_rules! attempt {
    ($errno:ident, $flavours:expr, $cause:literal, $why:expr) => {
        never(PageFault, $errno, $flavours, $cause, $why).attempted(our_fault)
    };
}

fn no_run_page(w: &World, errno: i32) -> Answer {
    let vm = w.our_vm();
    refused(w, libc::SYS_mmap, errno, || vm.add_vcpu(0).map(drop))
}

pub(crate) static ROWS: &[Row] = &[
    row(
        RunVcpu,
        ENODEV,
        DRIVEN,
        "the VM has not started",
        |w| w.vm_with_memory().vcpu(0).ioctl(RUN, 0),
        Same(|w| {
            let (_vm, mut vcpu) = w.our_configured();
            vcpu.run().map(drop)
        }),
    )
    .on(|host| host.guest(one_read())),
    row(
        RunVcpu,
        ENODEV,
        DRIVEN,
        "the guest has no such vCPU",
        |w| {
            let (vm, _vcpu) = w.started();
            vm.vcpu(5).ioctl(RUN, 0)
        },
        Same(|w| {
            let (vm, _vcpu) = w.our_started();
            vm.add_vcpu(5).unwrap().run().map(drop)
        }),
    )
    .on(|host| host.guest(one_read())),
    row(
        RunVcpu,
        ENODEV,
        DRIVEN,
        "the vCPU was removed",
        |w| {
            let (vm, vcpu) = w.started();
            vm.remove(VCPU, 4, &[0]).unwrap();
            vcpu.ioctl(RUN, 0)
        },
        Inexpressible("removing takes the vCPU"),
    )
    .on(|host| host.guest(one_read())),
    row(
        RunVcpu,
        EINTR,
        DRIVEN,
        "immediate_exit",
        |w| {
            let (_vm, vcpu) = w.started();
            Page::of(&vcpu).set_byte(0, 1);
            vcpu.ioctl(RUN, 0)
        },
        Becomes("Interrupted", |w| {
            let (_vm, mut vcpu) = w.our_started();
            vcpu.kick_handle().kick();
            ends_in(vcpu.run(), |answer| matches!(answer, Ok(VcpuExit::Interrupted)))?;
            ends_in(vcpu.run(), |answer| matches!(answer, Ok(VcpuExit::MmioRead { .. })))
        }),
    )
    .on(|host| host.guest(one_read())),
    row(RunVcpu, ENOMEM, DRIVEN, "the hypervisor has no memory left", run, Same(our_run))
        .on(|host| host.guest(hypervisor(HypError::NoMem))),
    row(RunVcpu, EACCES, DRIVEN, "the hypervisor denies", run, Same(our_run))
        .on(|host| host.guest(hypervisor(HypError::Denied))),
    row(RunVcpu, EBUSY, DRIVEN, "the hypervisor is busy, and stays so", run, Same(our_run))
        .on(|host| host.guest(hypervisor(HypError::Busy))),
    row(
        RunVcpu,
        EBUSY,
        DRIVEN,
        "the hypervisor is busy for a moment while the VM ends",
        run,
        Becomes("the VM's end", |w| {
            let (_vm, mut vcpu) = w.our_started();
            ends_in(vcpu.run(), |answer| matches!(answer, Ok(VcpuExit::Status(_))))
        }),
    )
    .on(|host| {
        let busy = Script::new().repeat(3, |script| script.error(HypError::Busy));
        host.guest(Guest::scripts([busy.exit(1, &[])]))
    }),
    row(RunVcpu, EOPNOTSUPP, DRIVEN, "the hypervisor has no such call", run, Same(our_run))
        .on(|host| host.guest(hypervisor(HypError::Unimplemented))),
    row(RunVcpu, EINVAL, DRIVEN, "the hypervisor finds the call invalid", run, Same(our_run))
        .on(|host| host.guest(hypervisor(HypError::Invalid))),
    row(RunVcpu, EINVAL, A16, "a vCPU state that the kernel does not know", run, Same(our_run))
        .on(|host| host.guest(Guest::scripts([Script::new().state(99, [0; 3])]))),
    row(
        RunVcpu,
        EINVAL,
        TOUCH,
        "an MMIO access to be tried again",
        |w| resume(w, 2),
        Absent(|w| {
            let (_vm, mut vcpu) = w.our_started();
            vcpu.run().unwrap();
            w.mark();
            vcpu.retry_mmio()
        }),
    )
    .on(|host| host.guest(one_read())),
    row(
        RunVcpu,
        0,
        M,
        "an MMIO access to be tried again",
        |w| resume(w, 2),
        Same(|w| {
            let (_vm, mut vcpu) = w.our_started();
            vcpu.run().unwrap();
            vcpu.retry_mmio()?;
            vcpu.run().map(drop)
        }),
    )
    .on(|host| host.guest(one_read())),
    row(
        RunVcpu,
        EINVAL,
        PAGED,
        "an unknown resume action",
        |w| resume(w, 77),
        Inexpressible("the crate writes no other action"),
    )
    .on(|host| host.guest(one_read())),
    row(
        RunVcpu,
        EPERM,
        TOUCH,
        "another process made the VM",
        |w| {
            let (_vm, vcpu) = w.started();
            in_child(|| vcpu.ioctl(RUN, 0))
        },
        Same(|w| {
            let (_vm, mut vcpu) = w.our_started();
            our_child(|| vcpu.run().map(drop))
        }),
    )
    .on(|host| host.guest(one_read())),
    never(RunVcpu, EAGAIN, DRIVEN, "the hypervisor asks to try again", "the kernel does so itself").injected(
        RUN,
        Becomes("Interrupted", |w| {
            let (_vm, mut vcpu) = w.our_started();
            ends_in(vcpu.run(), |answer| matches!(answer, Ok(VcpuExit::Interrupted)))
        }),
    ),
    row(RunVcpu, EIO, DRIVEN, "an interrupt or queue error of the hypervisor", run, Same(our_run))
        .on(|host| host.guest(hypervisor(HypError::Io))),
    row(
        PageFault,
        ENOENT,
        PAGED,
        "nothing is mapped there",
        fault,
        Becomes("a page-fault exit", |w| our_fault(w, ENOENT)),
    )
    .on(|host| host.guest(Guest::scripts([Script::new().page_fault(NOWHERE, false)]))),
    row(
        PageFault,
        ENOENT,
        PAGED,
        "nothing is mapped there, a thousand times over",
        fault,
        Becomes("PageFaultLoop", |w| {
            let (_vm, mut vcpu) = w.our_started();
            for _ in 0..gunyah_ioctls::VcpuFd::PAGE_FAULT_LIMIT {
                ends_in(vcpu.run(), |answer| matches!(answer, Ok(VcpuExit::PageFault { .. })))?;
            }
            ends_in(vcpu.run(), |answer| matches!(answer, Err(Error::PageFaultLoop { attempt: ENOENT, .. })))
        }),
    )
    .on(|host| host.guest(Guest::scripts([Script::new().repeat(2000, |s| s.page_fault(NOWHERE, false))]))),
    row(
        PageFault,
        EPERM,
        TOUCH,
        "a store to memory that the guest may only read",
        |w| {
            let vm = w.vm();
            let page = crate::world::page();
            w.give_memory(&vm);
            let user = w.ram(4);
            vm.with(crate::world::SET_USER_MEM, &crate::world::region(1, 1, NOWHERE, 4 * page, user))
                .unwrap();
            let vcpu = vm.vcpu(0);
            vm.with(crate::world::SET_DTB, &[RAM, 4096]).unwrap();
            vm.ioctl(crate::world::START, 0).unwrap();
            vcpu.ioctl(RUN, 0)?;
            Err(-(Page::of(&vcpu).u32(24) as i32))
        },
        Becomes("a page-fault exit", |w| {
            let (vm, mut vcpu) = w.our_configured();
            let region = gunyah_ioctls::UserMemoryRegion {
                access: gunyah_ioctls::Access::READ,
                ..w.our_region(1, NOWHERE)
            };
            // SAFETY: nobody touches the memory, and it is kept until the VM is closed.
            unsafe { vm.set_user_memory_region(&region) }.unwrap();
            vm.start().unwrap();
            ends_in(vcpu.run(), |answer| matches!(answer, Ok(VcpuExit::PageFault { attempt: EPERM, .. })))
        }),
    )
    .on(|host| host.guest(Guest::scripts([Script::new().page_fault(NOWHERE, true)]))),
    row(
        PageFault,
        ENOMEM,
        TOUCH,
        "the limit of locked memory",
        fault,
        Becomes("a page-fault exit", |w| our_fault(w, ENOMEM)),
    )
    .on(|host| {
        let page = crate::world::page();
        let script = (0..4).fold(Script::new(), |script, n| script.page_fault(RAM + n * page, false));
        host.memlock(page).guest(Guest::scripts([script]))
    }),
    attempt!(EPERM, M, "memory that the host still maps", "the fake takes nothing from the host"),
    attempt!(ENOMEM, M, "the hypervisor's page tables", PAGE_TABLES),
    attempt!(ENODEV, PAGED, "the VM has not started", "a vCPU cannot run then"),
    attempt!(EAGAIN, PAGED, "the page changed meanwhile", "the kernel tries again itself"),
    attempt!(EBUSY, PAGED, "the hypervisor is busy", PAGE_TABLES),
    attempt!(
        EFAULT,
        TOUCH,
        "the user range is not mapped any more",
        "needs memory that goes under a running guest"
    ),
    attempt!(EIO, &[Android15], "a page that cannot be swapped", "needs memory of a special file"),
    attempt!(EOPNOTSUPP, A16, "memory of a reserved region", "the start gives all of it"),
    row(
        VcpuMmapSize,
        EINVAL,
        PINNED,
        "a call that vCPUs do not have",
        |w| w.vm().vcpu(0).ioctl(NO_IOCTL, 0),
        Inexpressible("the crate makes no such call"),
    ),
    row(
        VcpuMmapSize,
        ENOTTY,
        PAGED,
        "a call that vCPUs do not have",
        |w| w.vm().vcpu(0).ioctl(NO_IOCTL, 0),
        Inexpressible("the crate makes no such call"),
    ),
    never(MapRunPage, ENOMEM, DRIVEN, "no room for a mapping", FULL).refused(no_run_page),
    never(MapRunPage, EAGAIN, DRIVEN, "the limit of locked memory with mlockall", LOCKED)
        .refused(no_run_page),
];

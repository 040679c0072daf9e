//! The start.

use fake_gunyah::Errno;
use gunyah_ioctls::causes::Operation::StartVm;
use gunyah_ioctls::{Access, GuestMemoryMapping, Sharing};
use libc::{E2BIG, EBADMSG, EBUSY, EINTR, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, EOPNOTSUPP, EPERM};

use super::Ours::{Becomes, Refused, Same};
use super::{
    Android14, Android14Early, Android15, Android16, DRIVEN, LENDING, LOCK_WAIT, M, PAGED, PINNED, Row,
    TOUCH, V11, V17, never, row,
};
use crate::world::{
    Answer, Fd, MAP_MEM, NOWHERE, RAM, RUN, Raw, SET_DTB, SET_FW, START, World, map_mem, page, signalled,
};

/// Starts a VM with memory whose devicetree is said to be at `addr`.
fn start(w: &World, addr: u64, size: u64) -> Raw {
    let vm = w.vm_with_memory();
    vm.with(SET_DTB, &[addr, size]).unwrap();
    vm.ioctl(START, 0)
}

fn our_start(w: &World, addr: u64, size: u64) -> Answer {
    let (vm, _vcpu) = w.our_configured();
    vm.set_dtb_config(addr, size).unwrap();
    vm.start()
}

/// Starts a VM with firmware at `addr`.
fn firmware(w: &World, addr: u64) -> Raw {
    let vm = w.vm_with_memory();
    vm.with(SET_DTB, &[RAM, 4096]).unwrap();
    vm.with(SET_FW, &[addr, 4096]).unwrap();
    vm.ioctl(START, 0)
}

fn our_firmware(w: &World, addr: u64) -> Answer {
    let (vm, _vcpu) = w.our_configured();
    vm.set_firmware_config(addr, 4096).unwrap();
    vm.start()
}

/// A VM whose start has failed, and might succeed now.
fn failed(w: &World) -> Fd {
    let vm = w.vm_with_memory();
    vm.with(SET_DTB, &[NOWHERE, 4096]).unwrap();
    vm.ioctl(START, 0).unwrap_err();
    vm.with(SET_DTB, &[RAM, 4096]).unwrap();
    vm
}

fn our_second_start(w: &World) -> Answer {
    let (vm, _vcpu) = w.our_configured();
    vm.set_dtb_config(NOWHERE, 4096).unwrap();
    vm.start().unwrap_err();
    w.mark();
    vm.start()
}

/// A start that the Resource Manager, or the hypervisor, fails with this.
macro_rules! refused {
    ($errno:ident, $cause:literal) => {
        row(StartVm, $errno, DRIVEN, $cause, |w| start(w, RAM, 4096), Same(|w| our_start(w, RAM, 4096)))
            .on(|host| host.start_fails(Errno::$errno))
    };
}

pub(crate) static ROWS: &[Row] = &[
    row(
        StartVm,
        EINVAL,
        PINNED,
        "no region holds the devicetree",
        |w| start(w, NOWHERE, 4096),
        Same(|w| our_start(w, NOWHERE, 4096)),
    ),
    row(
        StartVm,
        ENOENT,
        PAGED,
        "no region holds the devicetree",
        |w| start(w, NOWHERE, 4096),
        Same(|w| our_start(w, NOWHERE, 4096)),
    ),
    row(
        StartVm,
        EINVAL,
        PINNED,
        "the devicetree runs past its region's end",
        |w| start(w, RAM + 3 * page(), 2 * page()),
        Same(|w| our_start(w, RAM + 3 * page(), 2 * page())),
    ),
    row(
        StartVm,
        ENOENT,
        PAGED,
        "the devicetree runs past its region's end",
        |w| start(w, RAM + 3 * page(), 2 * page()),
        Same(|w| our_start(w, RAM + 3 * page(), 2 * page())),
    ),
    row(
        StartVm,
        EINVAL,
        PAGED,
        "the devicetree is smaller than a page",
        |w| start(w, RAM, 100),
        Refused(|w| {
            let (vm, _vcpu) = w.our_configured();
            w.mark();
            vm.set_dtb_config(RAM, 100)
        }),
    ),
    row(
        StartVm,
        EINVAL,
        &[Android14Early, Android14],
        "no region holds the firmware",
        |w| firmware(w, NOWHERE),
        Same(|w| our_firmware(w, NOWHERE)),
    ),
    row(
        StartVm,
        ENOENT,
        TOUCH,
        "no region holds the firmware",
        |w| firmware(w, NOWHERE),
        Same(|w| our_firmware(w, NOWHERE)),
    ),
    row(
        StartVm,
        0,
        LENDING,
        "firmware inside a region",
        |w| firmware(w, RAM + page()),
        Same(|w| our_firmware(w, RAM + page())),
    ),
    row(
        StartVm,
        ENOMEM,
        TOUCH,
        "the limit of locked memory, counted for the devicetree",
        |w| start(w, RAM, 2 * page()),
        Same(|w| our_start(w, RAM, 2 * page())),
    )
    .on(|host| host.memlock(page())),
    row(
        StartVm,
        ENOMEM,
        M,
        "the devicetree is in guest memory that is forced to be shared",
        |w| {
            let (vm, memory) = (w.vm(), w.guest_memory(4 * page()));
            vm.with(MAP_MEM, &map_mem(RAM, 0x72, &memory, 0, 4 * page())).unwrap();
            vm.with(SET_DTB, &[RAM, 4096]).unwrap();
            vm.ioctl(START, 0)
        },
        Same(|w| {
            let vm = w.our_vm();
            let memory = w.our_device().create_guest_memory(4 * page(), false).unwrap();
            let (guest_addr, size, sharing) = (RAM, 4 * page(), Sharing::Share);
            let access = Access::RWX;
            vm.map_guest_memory(
                &memory,
                &GuestMemoryMapping { guest_addr, offset: 0, size, access, sharing },
            )
            .unwrap();
            vm.set_dtb_config(RAM, 4096).unwrap();
            vm.start()
        }),
    ),
    refused!(EINVAL, "the Resource Manager finds an argument invalid"),
    refused!(ENODEV, "the Resource Manager refuses the devicetree or its addresses"),
    refused!(EPERM, "the Resource Manager denies"),
    refused!(ENOMEM, "the Resource Manager has no memory left"),
    refused!(EBUSY, "the Resource Manager is busy"),
    refused!(EOPNOTSUPP, "the Resource Manager has no such call"),
    refused!(EBADMSG, "the Resource Manager answers an unknown code"),
    refused!(EIO, "the transport was aborted"),
    refused!(E2BIG, "the message is too long"),
    row(
        StartVm,
        ENODEV,
        &[V11, Android14, Android15, Android16, V17],
        "an earlier start failed",
        |w| failed(w).ioctl(START, 0),
        Refused(our_second_start),
    ),
    row(
        StartVm,
        EINTR,
        &[Android14Early],
        "an earlier start failed and broke the lock, which nobody gets any more",
        |w| {
            let vm = failed(w);
            signalled(|| vm.ioctl(START, 0))
        },
        Refused(our_second_start),
    ),
    row(
        StartVm,
        ENODEV,
        DRIVEN,
        "the VM has exited",
        |w| {
            let (vm, vcpu) = w.started();
            vcpu.ioctl(RUN, 0).unwrap();
            vm.ioctl(START, 0)
        },
        Same(|w| {
            let (vm, mut vcpu) = w.our_started();
            assert!(matches!(vcpu.run(), Ok(gunyah_ioctls::VcpuExit::Status(_))));
            vm.start()
        }),
    )
    .on(|host| host.guest(fake_gunyah::Guest::scripts([fake_gunyah::Script::new().exit(1, &[])]))),
    row(
        StartVm,
        0,
        DRIVEN,
        "the VM runs already",
        |w| w.started().0.ioctl(START, 0),
        Same(|w| w.our_started().0.start()),
    ),
    never(StartVm, EINTR, DRIVEN, "a signal while it waits for the lock", LOCK_WAIT).injected(
        START,
        Becomes("EINTR, and another try", |w| {
            let (vm, _vcpu) = w.our_configured();
            match vm.start() {
                Err(error) if error.errno() == Some(EINTR) => vm.start().map_err(|error| error.to_string()),
                other => Err(format!("{other:?}")),
            }
        }),
    ),
];

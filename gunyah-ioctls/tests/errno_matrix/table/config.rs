//! What a VM is told before its start: devicetree, firmware, registers, who vouches for it.

use gunyah_ioctls::causes::Operation::{
    CheckExtension, SetAuthType, SetBootContext, SetDtbConfig, SetFirmwareConfig,
};
use gunyah_ioctls::{AuthType, BootRegister};
use libc::{EFAULT, EINTR, EINVAL, ENODEV, ENOENT, ENOMEM, ENOTTY, EOPNOTSUPP, EOVERFLOW};

use super::Ours::{Absent, Inexpressible, Refused, Same};
use super::{
    A16, Android14, Android14Early, DEAD_CHECK, DRIVEN, GOOD_POINTER, LENDING, LOCK_WAIT, M, NO_MEMORY,
    NOT_A16, PAGED, PINNED, Row, V11, V17, never, row,
};
use crate::world::{
    Answer, BOOT_CONTEXT, CHECK_EXTENSION, RAM, Raw, SET_AUTH, SET_DTB, SET_FW, World, page, pair,
};

fn our_dtb(w: &World, addr: u64, size: u64) -> Answer {
    let vm = w.our_vm();
    w.mark();
    vm.set_dtb_config(addr, size)
}

fn our_register(w: &World, register: BootRegister, value: u64) -> Answer {
    let vm = w.our_vm();
    w.mark();
    vm.set_boot_context(register, value)
}

fn auth(w: &World, kind: u64, size: u64) -> Raw {
    let arg = [7, RAM, page()];
    w.vm().with(SET_AUTH, &[pair(kind, size), arg.as_ptr() as u64])
}

fn our_auth(w: &World, auth: &AuthType) -> Answer {
    let vm = w.our_vm();
    w.mark();
    vm.set_auth_type(auth)
}

const QTVM: AuthType =
    AuthType::QualcommTrustedVm { vm_id: 7, peripheral_id: 0, guest_phys_addr: RAM, size: 0x1000 };

pub(crate) static ROWS: &[Row] = &[
    row(SetDtbConfig, EFAULT, DRIVEN, "a null pointer", |w| w.vm().ioctl(SET_DTB, 0), GOOD_POINTER),
    row(
        SetDtbConfig,
        EOVERFLOW,
        &[Android14Early],
        "the range wraps around",
        |w| w.vm().with(SET_DTB, &[u64::MAX - 4095, 8192]),
        Refused(|w| our_dtb(w, u64::MAX - 4095, 8192)),
    ),
    row(
        SetDtbConfig,
        0,
        &[V11, Android14, super::Android15, super::Android16, V17],
        "the range wraps around, and the kernel does not look",
        |w| w.vm().with(SET_DTB, &[u64::MAX - 4095, 8192]),
        Refused(|w| our_dtb(w, u64::MAX - 4095, 8192)),
    ),
    never(
        SetDtbConfig,
        EOVERFLOW,
        &[V11, Android14, super::Android15, super::Android16, V17],
        "the range wraps around",
        DEAD_CHECK,
    ),
    row(
        SetDtbConfig,
        0,
        DRIVEN,
        "less than a page, which some kernels take as nothing",
        |w| w.vm().with(SET_DTB, &[RAM, 100]),
        Refused(|w| our_dtb(w, RAM, 100)),
    ),
    row(
        SetDtbConfig,
        0,
        DRIVEN,
        "no multiple of a page, of which some kernels cut the rest off",
        |w| w.vm().with(SET_DTB, &[RAM, 5000]),
        Refused(|w| our_dtb(w, RAM, 5000)),
    ),
    row(
        SetDtbConfig,
        0,
        DRIVEN,
        "after the start, when nobody reads it any more",
        |w| w.started().0.with(SET_DTB, &[RAM, 4096]),
        Refused(|w| {
            let (vm, _vcpu) = w.our_started();
            w.mark();
            vm.set_dtb_config(RAM, 4096)
        }),
    ),
    row(SetFirmwareConfig, EFAULT, LENDING, "a null pointer", |w| w.vm().ioctl(SET_FW, 0), GOOD_POINTER),
    row(
        SetFirmwareConfig,
        0,
        LENDING,
        "an empty range",
        |w| w.vm().with(SET_FW, &[RAM, 0]),
        Refused(|w| {
            let vm = w.our_vm();
            w.mark();
            vm.set_firmware_config(RAM, 0)
        }),
    ),
    row(
        SetFirmwareConfig,
        ENOTTY,
        &[V11, V17],
        "no such call",
        |w| w.vm().ioctl(SET_FW, 0),
        Absent(|w| {
            let vm = w.our_vm();
            w.mark();
            vm.set_firmware_config(RAM, 4096)
        }),
    ),
    row(SetBootContext, EFAULT, PAGED, "a null pointer", |w| w.vm().ioctl(BOOT_CONTEXT, 0), GOOD_POINTER),
    row(
        SetBootContext,
        EINVAL,
        PAGED,
        "an unknown set of registers",
        |w| w.vm().with(BOOT_CONTEXT, &[0x300, 0]),
        Inexpressible("BootRegister has no such set"),
    ),
    row(
        SetBootContext,
        EINVAL,
        PAGED,
        "X32",
        |w| w.vm().with(BOOT_CONTEXT, &[32, 0]),
        Refused(|w| our_register(w, BootRegister::X(32), 0)),
    ),
    row(
        SetBootContext,
        EINVAL,
        PAGED,
        "a second PC",
        |w| w.vm().with(BOOT_CONTEXT, &[0x101, 0]),
        Inexpressible("BootRegister has one PC"),
    ),
    row(
        SetBootContext,
        EINVAL,
        PAGED,
        "SP3",
        |w| w.vm().with(BOOT_CONTEXT, &[0x203, 0]),
        Refused(|w| our_register(w, BootRegister::Sp(3), 0)),
    ),
    row(
        SetBootContext,
        EINVAL,
        super::TOUCH,
        "bits above those of set and index",
        |w| w.vm().with(BOOT_CONTEXT, &[0x1_0000, 0]),
        Inexpressible("BootRegister has no such bits"),
    ),
    row(
        SetBootContext,
        EINVAL,
        PAGED,
        "the VM has started",
        |w| w.started().0.with(BOOT_CONTEXT, &[0x100, RAM]),
        Refused(|w| {
            let (vm, _vcpu) = w.our_started();
            w.mark();
            vm.set_boot_context(BootRegister::Pc, RAM)
        }),
    ),
    row(
        SetBootContext,
        EINVAL,
        PAGED,
        "an earlier start failed",
        |w| {
            let vm = w.vm();
            vm.with(SET_DTB, &[RAM, 4096]).unwrap();
            vm.ioctl(crate::world::START, 0).unwrap_err();
            vm.with(BOOT_CONTEXT, &[0x100, RAM])
        },
        Refused(|w| {
            let vm = w.our_vm();
            vm.set_dtb_config(RAM, 4096).unwrap();
            vm.start().unwrap_err();
            w.mark();
            vm.set_boot_context(BootRegister::Pc, RAM)
        }),
    ),
    row(
        SetBootContext,
        EINVAL,
        M,
        "a value that looks like an entry of the kernel's own",
        |w| w.vm().with(BOOT_CONTEXT, &[0, u64::MAX - 1]),
        Same(|w| our_register(w, BootRegister::X(0), u64::MAX - 1)),
    ),
    row(
        SetBootContext,
        0,
        super::TOUCH,
        "the same value where each has a box of its own",
        |w| w.vm().with(BOOT_CONTEXT, &[0, u64::MAX - 1]),
        Same(|w| our_register(w, BootRegister::X(0), u64::MAX - 1)),
    ),
    row(
        SetBootContext,
        ENOTTY,
        PINNED,
        "no such call",
        |w| w.vm().ioctl(BOOT_CONTEXT, 0),
        Absent(|w| our_register(w, BootRegister::Pc, RAM)),
    ),
    never(
        SetBootContext,
        ENODEV,
        PINNED,
        "no such call, as one vendor's 6.1 kernel was said to answer",
        "nobody has seen that kernel's source",
    )
    .injected(
        BOOT_CONTEXT,
        // The crate asks once what there is; the fake answers ENODEV then.
        Absent(|w| our_register(w, BootRegister::Pc, RAM)),
    )
    .first(),
    never(SetBootContext, EINTR, PAGED, "a signal while it waits for the lock", LOCK_WAIT)
        .injected(BOOT_CONTEXT, Same(|w| our_register(w, BootRegister::Pc, RAM))),
    never(SetBootContext, ENOMEM, PAGED, "the register's entry", NO_MEMORY)
        .injected(BOOT_CONTEXT, Same(|w| our_register(w, BootRegister::Pc, RAM))),
    row(SetAuthType, EFAULT, A16, "a null pointer", |w| w.vm().ioctl(SET_AUTH, 0), GOOD_POINTER),
    row(
        SetAuthType,
        EINVAL,
        A16,
        "an unknown type",
        |w| auth(w, 9, 0),
        Inexpressible("AuthType has no such value"),
    ),
    row(
        SetAuthType,
        EINVAL,
        A16,
        "the argument's size",
        |w| auth(w, 1, 8),
        Inexpressible("the crate passes the size of the structure"),
    ),
    row(
        SetAuthType,
        EINVAL,
        A16,
        "a trusted VM: the kernel stores the choice, and fails",
        |w| auth(w, 1, 24),
        Same(|w| our_auth(w, &QTVM)),
    ),
    row(
        SetAuthType,
        0,
        A16,
        "a protected VM",
        |w| auth(w, 0, 0),
        Same(|w| our_auth(w, &AuthType::AndroidProtectedVm)),
    ),
    row(
        SetAuthType,
        ENOTTY,
        NOT_A16,
        "no such call",
        |w| w.vm().ioctl(SET_AUTH, 0),
        Absent(|w| our_auth(w, &AuthType::AndroidProtectedVm)),
    ),
    never(SetAuthType, EOPNOTSUPP, A16, "no module for the type", "needs a kernel built without it")
        .injected(SET_AUTH, Same(|w| our_auth(w, &AuthType::AndroidProtectedVm))),
    never(SetAuthType, ENOENT, A16, "no module for the type", "needs a kernel built without it")
        .injected(SET_AUTH, Same(|w| our_auth(w, &AuthType::AndroidProtectedVm))),
    never(SetAuthType, ENOMEM, A16, "the argument's copy", NO_MEMORY)
        .injected(SET_AUTH, Same(|w| our_auth(w, &AuthType::AndroidProtectedVm))),
    row(
        CheckExtension,
        0,
        A16,
        "a number that nobody knows is \"no\"",
        |w| w.vm().ioctl(CHECK_EXTENSION, 77),
        Same(|w| {
            assert!(!w.our_vm().check_extension(77)?);
            Ok(())
        }),
    ),
    row(
        CheckExtension,
        ENOTTY,
        NOT_A16,
        "no such call",
        |w| w.vm().ioctl(CHECK_EXTENSION, 0),
        Absent(|w| {
            let vm = w.our_vm();
            w.mark();
            vm.check_extension(0).map(drop)
        }),
    ),
    row(
        CheckExtension,
        ENOTTY,
        A16,
        "no such call in the first builds",
        |w| w.vm().ioctl(CHECK_EXTENSION, 0),
        Absent(|w| {
            let vm = w.our_vm();
            w.mark();
            vm.check_extension(0).map(drop)
        }),
    )
    .on(|host| host.differences(|d| d.check_extension = false)),
];

//! The node, and the first call on it.

use fake_gunyah::Flavour;
use gunyah_ioctls::causes::Operation::{CreateVm, Open};
use gunyah_ioctls::{Error, Gunyah};
use libc::{
    E2BIG, EACCES, EBADMSG, EBUSY, EINVAL, EIO, EMFILE, ENFILE, ENODEV, ENOENT, ENOMEM, ENOTTY, ENXIO,
    EOPNOTSUPP, EPERM,
};

use super::Ours::{Becomes, Inexpressible, Same};
use super::{DRIVEN, EARLY, NO_MEMORY, Row, SYSTEM_FILES, Vendor, never, row};
use crate::world::{Answer, CREATE_VM, World, open, own, refused, without_files};

const ANY: &[Flavour] = &Flavour::ALL;
const RM: &str = "needs a Resource Manager that has no VM id left, or refuses one";

fn our_open(path: &str) -> Answer {
    Gunyah::new_with_path(path).map(drop)
}

fn no_node(w: &World, errno: i32) -> Answer {
    refused(w, libc::SYS_openat, errno, || our_open(Gunyah::DEFAULT_PATH))
}

/// A file in the way of a node, with another user's rights.
fn forbidden<T>(body: impl FnOnce(&str) -> T) -> T {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("gunyah-forbidden-{}", std::process::id()));
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o0)).unwrap();
    // SAFETY: the ids of this thread for files only; root loses its powers over them, others lose nothing.
    let before = unsafe { libc::syscall(libc::SYS_setfsuid, 65534) };
    let answer = body(path.to_str().unwrap());
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_setfsuid, before) };
    std::fs::remove_file(&path).unwrap();
    answer
}

/// A name with nothing behind it that could be opened: a socket's.
fn socket<T>(body: impl FnOnce(&str) -> T) -> T {
    let path = std::env::temp_dir().join(format!("gunyah-socket-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let answer = body(path.to_str().unwrap());
    drop(socket);
    std::fs::remove_file(&path).unwrap();
    answer
}

pub(crate) static ROWS: &[Row] = &[
    row(
        Open,
        ENOENT,
        ANY,
        "there is no node",
        |_| open("/dev/there-is-no-gunyah"),
        Same(|_| our_open("/dev/there-is-no-gunyah")),
    ),
    row(Open, EACCES, ANY, "the node's mode", |_| forbidden(open), Same(|_| forbidden(our_open))),
    row(Open, ENXIO, ANY, "nothing behind the node", |_| socket(open), Same(|_| socket(our_open))),
    row(
        Open,
        EMFILE,
        ANY,
        "this process has all the files it may have",
        |_| without_files(|| open(Gunyah::DEFAULT_PATH)),
        Same(|_| without_files(|| our_open(Gunyah::DEFAULT_PATH))),
    ),
    never(Open, ENFILE, ANY, "the host has all the files it may have", SYSTEM_FILES).refused(no_node),
    never(Open, EPERM, ANY, "a device control group", "needs a container that forbids the device")
        .refused(no_node),
    never(Open, ENODEV, ANY, "a driver that went away", "needs a module that is being removed")
        .refused(no_node),
    row(
        CreateVm,
        EINVAL,
        DRIVEN,
        "the argument is not 0",
        |w| w.device().ioctl(CREATE_VM, 1),
        Inexpressible("the crate passes 0"),
    ),
    row(
        CreateVm,
        EINVAL,
        &[Vendor],
        "the vendor ABI does not know the call",
        |w| w.device().ioctl(CREATE_VM, 0),
        Becomes("VendorAbi", |w| match w.our_device().create_vm() {
            Err(Error::VendorAbi { path: Some(path) }) if path.ends_with("gunyah") => Ok(()),
            other => Err(format!("{other:?}")),
        }),
    ),
    row(
        CreateVm,
        ENOTTY,
        ANY,
        "the node is something else",
        |_| own(open("/dev/null").unwrap()).ioctl(CREATE_VM, 0),
        Becomes("NotGunyah", |_| match Gunyah::new_with_path("/dev/null").unwrap().create_vm() {
            Err(Error::NotGunyah { path: Some(path) }) if path.ends_with("null") => Ok(()),
            other => Err(format!("{other:?}")),
        }),
    ),
    row(
        CreateVm,
        EMFILE,
        DRIVEN,
        "this process has all the files it may have",
        |w| {
            let device = w.device();
            without_files(|| device.ioctl(CREATE_VM, 0))
        },
        Same(|w| {
            let device = w.our_device();
            without_files(|| device.create_vm()).map(drop)
        }),
    ),
    never(CreateVm, ENFILE, DRIVEN, "the host has all the files it may have", SYSTEM_FILES)
        .injected(CREATE_VM, Same(|w| w.our_device().create_vm().map(drop))),
    never(CreateVm, ENOMEM, DRIVEN, "the VM's object", NO_MEMORY)
        .injected(CREATE_VM, Same(|w| w.our_device().create_vm().map(drop))),
    never(CreateVm, ENODEV, EARLY, "no VM id left", RM)
        .injected(CREATE_VM, Same(|w| w.our_device().create_vm().map(drop))),
    never(CreateVm, EPERM, EARLY, "the Resource Manager denies", RM)
        .injected(CREATE_VM, Same(|w| w.our_device().create_vm().map(drop))),
    never(CreateVm, EBUSY, EARLY, "the Resource Manager is busy", RM)
        .injected(CREATE_VM, Same(|w| w.our_device().create_vm().map(drop))),
    never(CreateVm, EOPNOTSUPP, EARLY, "the Resource Manager has no such call", RM)
        .injected(CREATE_VM, Same(|w| w.our_device().create_vm().map(drop))),
    never(CreateVm, EBADMSG, EARLY, "the Resource Manager answers an unknown code", RM)
        .injected(CREATE_VM, Same(|w| w.our_device().create_vm().map(drop))),
    never(CreateVm, EIO, EARLY, "the message queue fails", RM)
        .injected(CREATE_VM, Same(|w| w.our_device().create_vm().map(drop))),
    never(CreateVm, E2BIG, EARLY, "a message that is too long", RM)
        .injected(CREATE_VM, Same(|w| w.our_device().create_vm().map(drop))),
];

//! Opening the device, and asking what it is, without creating anything.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use gunyah_ioctls::{Error, Gunyah};

use super::super::finding::{Finding, Level};
use super::super::machine::Situation;
use super::super::{Device, DeviceKind, Examination, sys};

/// An ioctl that no Gunyah has. Its errno tells the families apart.
const UNKNOWN: u32 = 0x47ff;
/// Creating a VM. With an argument that is not 0 every Gunyah refuses it, and creates nothing.
const CREATE_VM: u32 = gunyah_bindings::v11::GH_CREATE_VM;
const TENTATIVE: u32 = gunyah_bindings::android::GUNYAH_ANDROID_TENTATIVE;

pub(super) fn selinux(examination: &Examination) -> Finding {
    let host = &examination.host;
    let label = examination.root.read("proc/self/attr/current").unwrap_or_default();
    let label = label.trim_matches(['\0', '\n', ' ']);
    let state = match host.selinux_enforcing {
        Some(true) => "enforcing",
        Some(false) => "permissive",
        None => "not visible",
    };
    let user = match host.uid {
        Some(0) => "root",
        Some(_) => "an ordinary user",
        None => "an unknown user",
    };
    let mut finding = Finding::new("selinux", Level::Note, format!("{state}; {user}"))
        .fact("selinux", state)
        .fact("user", user);
    if host.selinux_enforcing.is_some() && !label.is_empty() {
        finding = finding.fact("context", label);
    }
    finding
}

pub(super) fn device(examination: &Examination) -> Finding {
    let paths: Vec<PathBuf> = match &examination.options.device {
        Some(path) => vec![path.clone()],
        None => vec![examination.root.path("dev/gunyah"), examination.root.path("dev/qgunyah")],
    };
    let mut first = None;
    for path in paths {
        match Gunyah::new_with_path(&path) {
            Ok(gunyah) => return opened(examination, path, gunyah),
            Err(error) if error.errno() == Some(libc::ENOENT) => {
                first.get_or_insert(error);
            }
            Err(error) => return refused(examination, &error),
        }
    }
    match first {
        Some(error) => missing(examination, &error),
        None => Finding::new("device", Level::Unknown, "no path was given"),
    }
}

fn missing(examination: &Examination, error: &Error) -> Finding {
    let machine = &examination.machine;
    let mut finding = Finding::new("device", Level::Problem, error.to_string())
        .fact("errno", "ENOENT")
        .fact("situation", format!("{:?}", machine.situation()));
    if machine.names_gunyah() && machine.situation() == Situation::Phone {
        finding = finding.detail("Gunyah is below this kernel, but its host driver has not made a node");
    }
    let backends = examination.root.list("dev").iter().any(|name| name.starts_with("gh_virtio_backend_"));
    if backends && machine.situation() != Situation::VendorPhone {
        finding = finding
            .detail("nodes of the vendors' oldest ABI are there; they serve the vendor's own images only");
    }
    for text in machine.way_forward() {
        finding = finding.advise(text);
    }
    finding
}

fn refused(examination: &Examination, error: &Error) -> Finding {
    let errno = error.errno().map_or_else(|| "none".to_owned(), |errno| errno.to_string());
    let finding = Finding::new("device", Level::Problem, error.to_string()).fact("errno", errno);
    let mut finding = finding.causes(&error.causes(&examination.context()));
    if examination.machine.vendor_release() {
        for text in examination.machine.way_forward() {
            finding = finding.advise(text);
        }
    }
    finding
}

fn opened(examination: &Examination, path: PathBuf, gunyah: Gunyah) -> Finding {
    let shown = path.display().to_string();
    let finding = match ask(&gunyah) {
        Ok(kind) => {
            let finding = match kind {
                DeviceKind::Gunyah => {
                    Finding::new("device", Level::Good, format!("{shown} opens and speaks Gunyah"))
                }
                DeviceKind::Android14Early => Finding::new(
                    "device",
                    Level::Good,
                    format!("{shown} opens and speaks Gunyah, an early android14 form"),
                ),
                DeviceKind::Vendor => {
                    let error = Error::VendorAbi { path: Some(path) };
                    let finding = Finding::new("device", Level::Problem, error.to_string());
                    let mut finding = finding.causes(&error.causes(&examination.context()));
                    if examination.machine.situation() == Situation::VendorPhone {
                        for text in examination.machine.way_forward() {
                            finding = finding.advise(text);
                        }
                    }
                    finding
                }
                DeviceKind::Other => {
                    let error = Error::NotGunyah { path: Some(path) };
                    Finding::new("device", Level::Problem, error.to_string())
                        .causes(&error.causes(&examination.context()))
                }
            };
            *examination.device.borrow_mut() = Some(Device { gunyah, kind });
            finding.fact("kind", format!("{kind:?}"))
        }
        Err(error) => {
            Finding::new("device", Level::Unknown, format!("{shown} opens, and answers strangely: {error}"))
        }
    };
    finding.fact("opens", true)
}

/// Asks what the device is, by three calls that change nothing.
fn ask(gunyah: &Gunyah) -> io::Result<DeviceKind> {
    let errno = |answer: io::Result<i64>| answer.map_err(|error| error.raw_os_error());
    match errno(sys::ask(gunyah.as_fd(), UNKNOWN, 0)) {
        Err(Some(libc::EINVAL)) => return Ok(DeviceKind::Vendor),
        Err(Some(libc::ENOTTY)) => {}
        Err(Some(other)) => return Err(io::Error::from_raw_os_error(other)),
        _ => return Err(io::Error::other("it takes an ioctl that no Gunyah has")),
    }
    match errno(sys::ask(gunyah.as_fd(), CREATE_VM, 1)) {
        Err(Some(libc::EINVAL)) => {}
        Err(Some(libc::ENOTTY)) => return Ok(DeviceKind::Other),
        Err(Some(other)) => return Err(io::Error::from_raw_os_error(other)),
        _ => return Err(io::Error::other("it takes a VM type, and no Gunyah has types")),
    }
    let early = sys::ask(gunyah.as_fd(), TENTATIVE, 0).is_ok();
    Ok(if early { DeviceKind::Android14Early } else { DeviceKind::Gunyah })
}

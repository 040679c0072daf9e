//! Creating a VM, asking for its features, and adding each kind of function. It is never started.

use std::io;
use std::os::fd::AsFd;

use gunyah_ioctls::causes::Operation;
use gunyah_ioctls::{Error, IoEventMatch, Result, Trigger, VmFd};

use super::super::finding::{Finding, Level};
use super::super::{DeviceKind, Examination, sys};

const VENDOR_CREATE_VM: u32 = gunyah_bindings::vendor::GH_VENDOR_CREATE_VM;

/// Adds a function to a VM and removes it.
type Try = fn(&VmFd) -> Result<()>;

pub(super) fn vm(examination: &Examination) -> Finding {
    if !examination.options.probe {
        return Finding::new("vm", Level::Skipped, "needs --probe");
    }
    let device = examination.device.borrow();
    let Some(device) = device.as_ref() else {
        return Finding::new("vm", Level::Skipped, "there is no device");
    };
    match device.kind {
        DeviceKind::Other => return Finding::new("vm", Level::Skipped, "the device is no Gunyah"),
        DeviceKind::Vendor => return vendor(device.gunyah.as_fd()),
        DeviceKind::Android14Early => {
            return Finding::new(
                "vm",
                Level::Unknown,
                "not tried: on this early kernel a VM that never starts keeps its id and its memory until a reboot",
            );
        }
        DeviceKind::Gunyah => {}
    }
    match device.gunyah.create_vm() {
        Ok(vm) => {
            let features = *vm.features();
            *examination.features.borrow_mut() = Some(features);
            *examination.vm.borrow_mut() = Some(vm);
            let names: Vec<String> = features.iter().map(|feature| format!("{feature:?}")).collect();
            Finding::new("vm", Level::Good, format!("works; {features}"))
                .fact("flavour", features.flavour().to_string())
                .fact("features", names)
        }
        Err(error) => failed(examination, "vm", None, &error),
    }
}

/// The vendors' ABI has its own call. What it answers says whether the driver is alive, no more.
fn vendor(device: std::os::fd::BorrowedFd<'_>) -> Finding {
    let answer = match sys::ask_for_fd(device, VENDOR_CREATE_VM) {
        Ok(_) => {
            "works: its driver is alive. It takes the names of signed images, and nothing else".to_owned()
        }
        Err(error) => format!("failed by the vendors' own call: {error}"),
    };
    Finding::new("vm", Level::Note, answer.clone()).fact("vendor_create_vm", answer)
}

pub(super) fn functions(examination: &Examination) -> Finding {
    // Taken out, so that it is closed when this is through.
    let Some(vm) = examination.vm.borrow_mut().take() else {
        return Finding::new("functions", Level::Skipped, "no VM was created");
    };
    let checks: [(Operation, &str, Try); 3] = [
        (Operation::AddVcpu, "vCPU", |vm| vm.add_vcpu(0)?.remove()),
        (Operation::AddIrqfd, "irqfd", |vm| {
            let eventfd = eventfd()?;
            let irqfd = vm.add_irqfd(&eventfd, 0, Trigger::Edge)?;
            // Some kernels leave a waiter in the eventfd of a VM that never started. Closed first, it is never woken.
            drop(eventfd);
            irqfd.remove()
        }),
        (Operation::AddIoeventfd, "ioeventfd", |vm| {
            let eventfd = eventfd()?;
            vm.add_ioeventfd(&eventfd, 0x1000, IoEventMatch::Width(4))?.remove()
        }),
    ];
    for (operation, name, check) in checks {
        if let Err(error) = check(&vm) {
            return failed(examination, "functions", Some(operation), &error).fact("function", name);
        }
    }
    Finding::new("functions", Level::Good, "each can be added and removed").fact("works", true)
}

fn eventfd() -> Result<std::os::fd::OwnedFd> {
    sys::eventfd().map_err(|source: io::Error| Error::Os {
        call: "eventfd",
        doing: "trying a function",
        source,
    })
}

fn failed(examination: &Examination, id: &'static str, adding: Option<Operation>, error: &Error) -> Finding {
    let mut context = examination.context();
    context.adding = adding;
    Finding::new(id, Level::Problem, error.to_string())
        .causes(&error.causes(&context))
        .fact("errno", error.errno().unwrap_or(0))
}

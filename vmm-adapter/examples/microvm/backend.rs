//! Which hypervisor: the device, KVM, or the fake where there is no device. The only file that knows their names.

use std::path::Path;

#[cfg(feature = "gunyah")]
use fake_gunyah::{Engine, Fake, Guest};
#[cfg(feature = "gunyah")]
use vmm_adapter::gunyah::Gunyah;
use vmm_adapter::{Backend, GuestArch, Hypervisor};

use crate::cli::{Choice, Options};
use crate::error::{Error, Result};
use crate::machine;
use crate::outcome::Outcome;

/// Runs the guest on the hypervisor that was asked for, on the host's device, or on the fake.
pub(crate) fn run(options: &Options) -> Result<Outcome> {
    match (options.hypervisor, &options.device) {
        (Choice::Kvm, None) => on(&*opened(vmm_adapter::open_backend(Backend::Kvm))?, options),
        (Choice::Kvm | Choice::Fake, Some(_)) => {
            Err(Error::new("--device is for Gunyah: leave it, or --hypervisor, away"))
        }
        // A build for KVM alone.
        (Choice::Auto, None) if !Backend::Gunyah.is_compiled() => on(&*opened(vmm_adapter::open())?, options),
        (choice, device) => gunyah(choice, device.as_deref(), options),
    }
}

#[cfg(feature = "gunyah")]
fn gunyah(choice: Choice, device: Option<&Path>, options: &Options) -> Result<Outcome> {
    let default = Path::new(Gunyah::DEFAULT_PATH);
    match (choice, device) {
        (Choice::Fake, _) => on_fake(options, "using"),
        (_, Some(path)) => on(&opened(Gunyah::open_path(path))?, options),
        (Choice::Auto, None) if !default.exists() => {
            on_fake(options, &format!("this host has no {}: using", default.display()))
        }
        _ => on(&opened(Gunyah::open())?, options),
    }
}

#[cfg(not(feature = "gunyah"))]
fn gunyah(_choice: Choice, _device: Option<&Path>, options: &Options) -> Result<Outcome> {
    // Says that this build has none.
    on(&*opened(vmm_adapter::open_backend(Backend::Gunyah))?, options)
}

/// Without a hypervisor there is nobody to refuse a VM.
fn opened<T>(hypervisor: vmm_adapter::Result<T>) -> Result<T> {
    hypervisor.map_err(|error| Error::new(error.chain()))
}

fn on(hypervisor: &dyn Hypervisor, options: &Options) -> Result<Outcome> {
    let caps = hypervisor.capabilities();
    if caps.guest_arch() != GuestArch::Arm64 {
        let (backend, arch) = (caps.backend(), caps.guest_arch());
        let fake =
            if Backend::Gunyah.is_compiled() { "; --hypervisor fake runs them all the same" } else { "" };
        return Err(Error::new(format!(
            "{backend} runs {arch} guests on this host, and microvm's are arm64{fake}"
        )));
    }
    machine::run(hypervisor, options)
}

#[cfg(feature = "gunyah")]
fn on_fake(options: &Options, why: &str) -> Result<Outcome> {
    let engine = Engine::best();
    eprintln!("microvm: {why} a fake Gunyah kernel in this process, and {engine} for the guest's code");
    let no_fake =
        |error| Error::new(format!("no fake of {} can be made here: {error}", Gunyah::DEFAULT_PATH));
    let builder = Fake::builder().device(Gunyah::DEFAULT_PATH).guest(Guest::code_on_best());
    let fake = builder.notices(std::io::stderr()).build().map_err(no_fake)?;
    fake.run(|_| on(&opened(Gunyah::open())?, options)).map_err(no_fake)?
}

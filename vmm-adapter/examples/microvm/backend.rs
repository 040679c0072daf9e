//! Which hypervisor: the device, KVM, or the fake where there is no device. The only file that knows their names.

use std::io;
use std::path::Path;

use fake_gunyah::{Engine, Fake, Guest};
use vmm_adapter::gunyah::Gunyah;
use vmm_adapter::{Backend, GuestArch, Hypervisor};

use crate::cli::{Choice, Options};
use crate::error::{Error, Result};
use crate::machine;
use crate::outcome::Outcome;

/// Runs the guest on the hypervisor that was asked for, on the host's device, or on the fake.
pub(crate) fn run(options: &Options) -> Result<Outcome> {
    let default = Path::new(Gunyah::DEFAULT_PATH);
    match (options.hypervisor, &options.device) {
        (Choice::Kvm, None) => on(&*vmm_adapter::open_backend(Backend::Kvm)?, options),
        (Choice::Fake, None) => on_fake(options, "using"),
        (Choice::Kvm | Choice::Fake, Some(_)) => {
            Err(Error::new("--device is for Gunyah: leave it, or --hypervisor, away"))
        }
        (Choice::Auto | Choice::Gunyah, Some(path)) => on(&Gunyah::open_path(path)?, options),
        (Choice::Gunyah, None) => on(&Gunyah::open()?, options),
        (Choice::Auto, None) if default.exists() => on(&Gunyah::open()?, options),
        (Choice::Auto, None) => on_fake(options, &format!("this host has no {}: using", default.display())),
    }
}

fn on(hypervisor: &dyn Hypervisor, options: &Options) -> Result<Outcome> {
    let caps = hypervisor.capabilities();
    if caps.guest_arch() != GuestArch::Arm64 {
        let (backend, arch) = (caps.backend(), caps.guest_arch());
        return Err(Error::new(format!(
            "{backend} runs {arch} guests on this host, and microvm's are arm64; without --hypervisor it runs them all the same"
        )));
    }
    machine::run(hypervisor, options)
}

fn on_fake(options: &Options, why: &str) -> Result<Outcome> {
    let engine = Engine::best();
    eprintln!("microvm: {why} a fake Gunyah kernel in this process, and {engine} for the guest's code");
    let no_fake =
        |error| Error::new(format!("no fake of {} can be made here: {error}", Gunyah::DEFAULT_PATH));
    let builder = Fake::builder().device(Gunyah::DEFAULT_PATH).guest(Guest::code_on_best());
    let fake = builder.notices(io::stderr()).build().map_err(no_fake)?;
    fake.run(|_| on(&Gunyah::open()?, options)).map_err(no_fake)?
}

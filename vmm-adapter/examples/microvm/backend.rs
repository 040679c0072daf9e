//! Which hypervisor: the device, or the fake where there is none. The only file that knows their names.

use std::path::Path;

use fake_gunyah::{Fake, Guest};
use vmm_adapter::gunyah::Gunyah;

use crate::cli::Options;
use crate::error::{Error, Result};
use crate::machine;
use crate::outcome::Outcome;

/// Runs the guest on the device that was asked for, on the host's, or on the fake.
pub(crate) fn run(options: &Options) -> Result<Outcome> {
    match &options.device {
        Some(path) => on_device(path, options),
        None if Path::new(Gunyah::DEFAULT_PATH).exists() => {
            on_device(Path::new(Gunyah::DEFAULT_PATH), options)
        }
        None => on_fake(options),
    }
}

fn on_device(path: &Path, options: &Options) -> Result<Outcome> {
    let hypervisor = Gunyah::open_path(path)?;
    machine::run(&hypervisor, options)
}

fn on_fake(options: &Options) -> Result<Outcome> {
    eprintln!(
        "microvm: this host has no {}: using a fake Gunyah kernel in this process",
        Gunyah::DEFAULT_PATH
    );
    let no_fake = |error| {
        Error::new(format!(
            "there is no {}, and no fake of it can be made here: {error}",
            Gunyah::DEFAULT_PATH
        ))
    };
    let fake = Fake::builder().device(Gunyah::DEFAULT_PATH).guest(Guest::code()).build().map_err(no_fake)?;
    fake.run(|_| on_device(Path::new(Gunyah::DEFAULT_PATH), options)).map_err(no_fake)?
}

//! Cloud Hypervisor's traits over vmm-adapter's, and a small VMM on top that does what Cloud Hypervisor does, in its order.
//!
//! The guide to it is `vmm_adapter::cloud_hypervisor`.
//!
//! ```sh
//! cargo run -p vmm-adapter --example chv-glue -- --hypervisor fake --flavour android15
//! ```

mod glue;
mod guest;
mod hypervisor;
mod vmm;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use fake_gunyah::{Fake, Flavour, Guest};
use vmm_adapter::Backend;

use glue::AdapterHypervisor;
use guest::Ending;
use hypervisor::additions::Protection;
use vmm::{End, Log, Machine, Settings};

/// The guest has reset itself.
const RESET: u8 = 32;
/// The guest, or the VMM, could not go on.
const FAILED: u8 = 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// A fake Gunyah kernel inside this process
    #[default]
    Fake,
    /// Gunyah, by way of /dev/gunyah
    Gunyah,
    /// KVM, on arm64 hosts
    Kvm,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Protect {
    /// As the host is most sure to run it
    #[default]
    Auto,
    /// Share all memory with the host
    Never,
    /// Share a DMA pool only
    Always,
}

/// A small VMM that knows only traits like Cloud Hypervisor's, with vmm-adapter behind them. It runs a guest that tries them out, and
/// prints what happens.
#[derive(Debug, Parser)]
#[command(
    name = "chv-glue",
    after_help = "\
Exit codes: 0 the guest powered off, 1 something failed (the guest, for one), 2 the command line is wrong, 32 the guest reset itself"
)]
struct Options {
    /// The hypervisor
    #[arg(long, value_enum, default_value_t)]
    hypervisor: Choice,

    /// Which kernel the fake is: v11, android14-early, android14, android15, android16, v17 [default: android15]
    #[arg(long, value_name = "NAME")]
    flavour: Option<Flavour>,

    /// Whether the host loses the guest's memory
    #[arg(long, value_enum, default_value_t)]
    protect: Protect,

    /// How many vCPUs, 1 to 8
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    cpus: u32,

    /// How the guest ends
    #[arg(long, value_enum, default_value_t)]
    ending: Ending,
}

/// Nobody reads on: no reason for a vCPU to end.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(End::Shutdown) => {
            print("vmm: the guest powered off");
            ExitCode::SUCCESS
        }
        Ok(End::Reset) => {
            print("vmm: the guest reset itself: a new VM would start it again");
            ExitCode::from(RESET)
        }
        Ok(End::Failed(error)) | Err(error) => {
            eprintln!("chv-glue: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(options: &Options) -> anyhow::Result<End> {
    if options.hypervisor != Choice::Fake {
        if options.flavour.is_some() {
            bail!("--flavour is the fake's");
        }
        if options.ending == Ending::Crash {
            bail!(
                "--ending crash is for the fake: on hardware such a guest was seen to take the host with it"
            );
        }
    }
    match options.hypervisor {
        Choice::Gunyah => on(Backend::Gunyah, options),
        Choice::Kvm => on(Backend::Kvm, options),
        Choice::Fake => {
            let flavour = options.flavour.unwrap_or(Flavour::Android15);
            let fake = Fake::builder().flavour(flavour).guest(Guest::code()).build().context("no fake")?;
            print(&format!("vmm: a fake Gunyah kernel in this process, {flavour}"));
            fake.run(|_| on(Backend::Gunyah, options)).context("no fake")?
        }
    }
}

fn on(backend: Backend, options: &Options) -> anyhow::Result<End> {
    let hypervisor = AdapterHypervisor::new(backend)?;
    let protection = match options.protect {
        Protect::Auto => Protection::Auto,
        Protect::Never => Protection::Never,
        Protect::Always => Protection::Always,
    };
    let settings = Settings { vcpus: options.cpus, protection };
    let payload = guest::program(options.cpus, options.ending);
    let log: Log = Arc::new(|line| print(&line));
    let machine = Machine::boot(&hypervisor, &settings, &payload, &log)?;
    // As early as can be: some vCPU may not have run yet.
    machine.pause()?;
    log("vmm: no vCPU runs now".to_owned());
    machine.resume()?;
    machine.wait()
}

//! `fake-gunyah run`.

use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitStatus;

use clap::Args;
use fake_gunyah::flavour::FeatureName;
use fake_gunyah::{Builder, Engine, Error, Fake, Fault, Flavour, Guest, Host};

use super::program::{self, FAILED};

/// Run a program for which /dev/gunyah exists, and so do the processes that it starts.
///
/// The guests are the arm64 code and the devicetree that the program puts into guest memory.
#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub(crate) struct Run {
    /// The kernel to imitate: v11, android14-early, android14, android15, android16, v17 or vendor.
    #[arg(long, default_value = "v11", value_name = "FLAVOUR")]
    flavour: Flavour,

    /// A host that was seen and mixes flavours, whole: open-2023 (a driver of the v17 line with user memory, under the open
    /// Resource Manager of December 2023) or open-2023-debug (with that one's debug build).
    #[arg(long, value_name = "HOST", conflicts_with = "flavour")]
    host: Option<Host>,

    /// What the host has beside what its flavour has; see below.
    #[arg(long, value_name = "FEATURES", value_delimiter = ',')]
    with: Vec<FeatureName>,

    /// What the host lacks of it.
    #[arg(long, value_name = "FEATURES", value_delimiter = ',')]
    without: Vec<FeatureName>,

    /// Something that goes wrong, as CALL[#N]:EFFECT: the Nth such ioctl, or all of them. May be repeated; see below.
    #[arg(long, value_name = "FAULT")]
    fault: Vec<Fault>,

    /// The Nth wake-up of a sleeping vCPU never comes. May be repeated.
    #[arg(long, value_name = "N")]
    lose_wakeup: Vec<u64>,

    /// How many KiB a VM may lock, instead of the limit that the program has.
    #[arg(long, value_name = "KIB")]
    memlock: Option<u64>,

    /// The path that the program opens; may be repeated.
    #[arg(long, value_name = "PATH", default_value = Fake::DEFAULT_DEVICE)]
    device: Vec<PathBuf>,

    /// What executes the guest's code: KVM on arm64 hosts whose /dev/kvm can be used, or an interpreter, for small guests
    /// only. auto takes KVM where it can, and where KVM cannot have a VM it says so and takes the interpreter.
    #[arg(long, value_enum, default_value_t = EngineChoice::Auto, value_name = "ENGINE")]
    engine: EngineChoice,

    /// Print each call with its arguments and its result to standard error.
    #[arg(long)]
    trace: bool,

    /// Print them to a file.
    #[arg(long, value_name = "FILE", conflicts_with = "trace")]
    trace_file: Option<PathBuf>,

    /// The program and its arguments.
    #[arg(required = true, last = true, value_name = "PROGRAM ARGS")]
    command: Vec<std::ffi::OsString>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum EngineChoice {
    Auto,
    Kvm,
    Interpreter,
}

impl EngineChoice {
    fn guest(self) -> Result<Guest, (u8, String)> {
        match self {
            Self::Auto => Ok(Guest::code_on_best()),
            Self::Kvm => {
                let usable = Engine::Kvm.check();
                usable.map(|()| Guest::code_on(Engine::Kvm)).map_err(|why| (FAILED, why.to_string()))
            }
            Self::Interpreter => Ok(Guest::code()),
        }
    }
}

fn after_help() -> String {
    let mut text = String::from(
        "\
Features for --with and --without:
",
    );
    for feature in FeatureName::all() {
        let _ = writeln!(text, "  {:<18}{}", feature.name(), feature.what());
    }
    text.push_str(
        "
Faults: CALL is an ioctl as the trace names it, EFFECT one of
  ENOMEM             the call fails, with any errno
  delay=MS           it takes so many milliseconds longer
  exit=TYPE          the VM exits before it, with this exit type
  page=OFFSET:BYTES  after it, these bytes (in hex) are in the run page

Examples:
  fake-gunyah run -- ./my-vmm --kernel Image
  fake-gunyah run --trace -- ./my-vmm --kernel Image
  fake-gunyah run --flavour android16 --device /dev/qgunyah -- cargo test
  fake-gunyah run --engine kvm -- ./my-vmm --kernel Image
  fake-gunyah run --host open-2023 -- ./my-vmm
  fake-gunyah run --flavour v17 --with user-memory,lend --without rm-boot-context -- ./my-vmm
  fake-gunyah run --fault VM_START:ENODEV -- ./my-vmm
  fake-gunyah run --fault VCPU_RUN#1000:exit=5 --fault VCPU_RUN#7:page=32:c8000000 -- ./my-vmm

Exit status: the program's; 128 and the signal's number if a signal ended it; 127 or 126 if it could not be run;
125 if the fake could not be set up.",
    );
    text
}

impl Run {
    /// The host that was asked for.
    fn builder(&self) -> Builder {
        let builder = match self.host {
            Some(host) => Fake::builder().host(host),
            None => Fake::builder().flavour(self.flavour),
        };
        let mut builder = builder.differences(|host| {
            self.with.iter().for_each(|feature| host.set(*feature, true));
            self.without.iter().for_each(|feature| host.set(*feature, false));
        });
        for fault in &self.fault {
            builder = builder.fault(fault.clone());
        }
        for n in &self.lose_wakeup {
            builder = builder.lose_wakeup(*n);
        }
        if let Some(kib) = self.memlock {
            builder = builder.memlock(kib.saturating_mul(1024));
        }
        for path in &self.device {
            builder = builder.device(path);
        }
        builder
    }

    /// Runs it: how the program ended, or the exit code and why there is none.
    pub(crate) fn run(self) -> Result<ExitStatus, (u8, String)> {
        let mut builder = self.builder().guest(self.engine.guest()?).record_calls(false);
        builder = builder.notices(std::io::stderr());
        if self.trace {
            builder = builder.trace(std::io::stderr());
        }
        if let Some(path) = &self.trace_file {
            let file =
                File::create(path).map_err(|error| (FAILED, format!("{}: {error}", path.display())))?;
            builder = builder.trace(file);
        }
        let fake = builder.build().map_err(failed)?;
        let (command, signals) = program::command(self.command);
        let child = fake.spawn(command).map_err(failed)?;
        signals.forward_to(child.id());
        let handle = child.handle().clone();
        let status = child.wait().map_err(failed)?;
        for left in handle.leftovers() {
            eprintln!("fake-gunyah: still open after the program's end: {left}");
        }
        Ok(status)
    }
}

fn failed(error: Error) -> (u8, String) {
    let code = match &error {
        Error::Spawn { errno, .. } => program::not_run(std::io::Error::from_raw_os_error(errno.0).kind()),
        _ => FAILED,
    };
    (code, error.to_string())
}

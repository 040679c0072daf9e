//! The backends and flavours to test.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use fake_gunyah::{Builder, Engine, Fake, Flavour, Guest, Handle, Host};
use vmm_adapter::gunyah::Gunyah;
use vmm_adapter::kvm::Kvm;
use vmm_adapter::{Backend, Capabilities, Hypervisor};

use crate::promises::Promise;

/// A promise that takes longer hangs.
const WATCHDOG: Duration = Duration::from_secs(300);

/// The node of memory that the fakes have reserved, where they have such nodes, and its size.
pub const RESERVED: &str = "/dev/conformance-reserved";
pub const RESERVED_SIZE: u64 = 16 << 20;

/// A backend, and what it runs on.
pub struct Target {
    name: String,
    kind: Kind,
}

enum Kind {
    FakeGunyah(Kernel, Engine),
    RealGunyah,
    Kvm,
    Missing(String),
}

/// Which kernel the fake is.
enum Kernel {
    Flavour(Flavour),
    Host(Host),
}

/// What a promise may ask of the world behind the hypervisor, where it can be asked.
pub struct Probe {
    handle: Option<Handle>,
    /// Eventfds are bound to the host's KVM: nobody else hears of their signals.
    silent: bool,
    inapplicable: Mutex<Option<&'static str>>,
}

impl Probe {
    fn new(handle: Option<Handle>, silent: bool) -> Self {
        Self { handle, silent, inapplicable: Mutex::default() }
    }

    /// The promise is about something that this target has not, and nothing is checked: the table says so.
    pub fn inapplicable(&self, why: &'static str) {
        self.inapplicable.lock().unwrap().get_or_insert(why);
    }

    /// How often the guest's doorbell was rung.
    pub fn doorbells(&self, label: u32) -> Option<u64> {
        self.handle.as_ref().filter(|_| !self.silent).map(|handle| handle.doorbells(label))
    }

    /// Whether guests of a fake run on a real processor.
    pub fn is_hardware(&self) -> bool {
        self.silent
    }

    /// The last SPI that a guest on this target can have.
    pub fn last_spi(&self, caps: &Capabilities) -> u32 {
        if self.silent || caps.backend() == Backend::Kvm { 959 } else { 987 }
    }

    /// How many answers the kernel dropped.
    pub fn answers_lost(&self) -> Option<u64> {
        self.handle.as_ref().map(Handle::answers_lost)
    }

    /// How many of the hypervisor's objects are open.
    pub fn objects(&self) -> Option<usize> {
        self.handle.as_ref().map(|handle| handle.objects().len())
    }
}

/// The flavours that can run guests.
const FLAVOURS: [Flavour; 6] = [
    Flavour::V11,
    Flavour::Android14Early,
    Flavour::Android14,
    Flavour::Android15,
    Flavour::Android16,
    Flavour::V17,
];

/// Set where KVM must be there: a row that cannot run is a failure then.
const REQUIRED: &str = "ARM64_RIG_KVM";

/// Every row of the table.
pub fn all() -> Vec<Target> {
    let mut targets: Vec<Target> =
        FLAVOURS.into_iter().map(|flavour| fake(flavour.name(), Kernel::Flavour(flavour))).collect();
    targets.extend(Host::ALL.map(|host| fake(host.name(), Kernel::Host(host))));
    targets.extend(FLAVOURS.map(fake_on_kvm));
    let real = if Path::new(Gunyah::DEFAULT_PATH).exists() {
        Kind::RealGunyah
    } else {
        Kind::Missing(format!("there is no {}", Gunyah::DEFAULT_PATH))
    };
    targets.push(Target { name: "gunyah".into(), kind: real });
    let kvm = match Kvm::open() {
        Ok(_) => Kind::Kvm,
        Err(error) => Kind::Missing(format!("{}: {}", Kvm::DEFAULT_PATH, error.chain())),
    };
    targets.push(Target { name: "kvm".into(), kind: kvm });
    targets
}

/// A fake that the host does not allow fails its tests: it is not a backend that happens to be away.
fn fake(name: &str, kernel: Kernel) -> Target {
    Target { name: format!("fake-{name}"), kind: Kind::FakeGunyah(kernel, Engine::Interpreter) }
}

/// The fake whose guests run on this host's KVM, where it has one for them.
fn fake_on_kvm(flavour: Flavour) -> Target {
    let kind = match Engine::Kvm.check() {
        Err(why) if std::env::var_os(REQUIRED).is_none() => Kind::Missing(why.to_string()),
        _ => Kind::FakeGunyah(Kernel::Flavour(flavour), Engine::Kvm),
    };
    Target { name: format!("fake-{flavour}-on-kvm"), kind }
}

impl Kernel {
    fn builder(&self) -> Builder {
        match self {
            Self::Flavour(flavour) => Fake::builder().flavour(*flavour),
            Self::Host(host) => Fake::builder().host(*host),
        }
    }
}

impl Target {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why it is not here, if it is not.
    pub fn missing(&self) -> Option<&str> {
        match &self.kind {
            Kind::Missing(why) => Some(why),
            _ => None,
        }
    }

    /// Gives the reason why nothing was checked, if nothing was.
    fn run(&self, check: fn(&dyn Hypervisor, &Probe)) -> Option<&'static str> {
        let silent = matches!(self.kind, Kind::FakeGunyah(_, Engine::Kvm));
        let run = |hypervisor: &dyn Hypervisor, handle| {
            let probe = Probe::new(handle, silent);
            check(hypervisor, &probe);
            probe.inapplicable.into_inner().unwrap()
        };
        match &self.kind {
            Kind::FakeGunyah(kernel, engine) => {
                let fake = kernel.builder().guest(Guest::code_on(*engine));
                let fake = fake.cma_region(RESERVED, RESERVED_SIZE).build().unwrap();
                fake.run(|handle| run(&Gunyah::open().unwrap(), Some(handle.clone()))).unwrap()
            }
            Kind::RealGunyah => run(&Gunyah::open().unwrap(), None),
            Kind::Kvm => run(&Kvm::open().unwrap(), None),
            Kind::Missing(why) => panic!("{why}"),
        }
    }
}

/// Runs one promise on one target. Gives the reason why nothing was checked, if nothing was.
pub fn attempt(target: &Target, promise: &Promise) -> Result<Option<&'static str>, String> {
    let (done, wait) = mpsc::channel::<()>();
    let what = format!("{}::{}", target.name, promise.name);
    let watchdog = std::thread::spawn(move || {
        if wait.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{what} hangs");
            std::process::abort();
        }
    });
    let outcome = catch_unwind(AssertUnwindSafe(|| target.run(promise.check)));
    drop(done);
    watchdog.join().unwrap();
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").to_owned()
    })
}

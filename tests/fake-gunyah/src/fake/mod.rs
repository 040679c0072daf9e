//! The fake as a library: build one, run a closure in it, look at what happened.

use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::errno::Errno;
use crate::flavour::{Differences, Flavour, Host};
use crate::hyp::Engine;
use crate::hyp::script::Script;
use crate::kernel::guest::{Execution, Guests};
use crate::kernel::observer::{Notices, Observer};
use crate::kernel::{Hypervisor, Kernel, Settings};
use crate::trace::Trace;
use crate::transport::filter;
use crate::transport::pool::Pool;
use crate::transport::sys;

mod child;
pub(crate) mod fault;
mod handle;
mod signals;

pub use child::Child;
pub use fault::{BadFault, Fault};
pub use handle::Handle;
pub use signals::Forwarder;

use fault::Faults;

/// How long the end of a run waits for what was left open.
const GRACE: Duration = Duration::from_millis(500);

/// Why there is no fake, or why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host gives no seccomp listener.
    #[error("this host refuses a seccomp listener ({errno}): {why}")]
    NoListener {
        /// What the kernel answered.
        errno: Errno,
        /// What that means.
        why: &'static str,
    },
    /// The host refuses something else.
    #[error("cannot set up the fake: {what}: {errno}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
    /// A program cannot be run.
    #[error("cannot run {program}: {}", std::io::Error::from_raw_os_error(errno.0))]
    Spawn {
        /// The program, as it was named.
        program: String,
        /// What the kernel answered.
        errno: Errno,
    },
    /// A script's expectation was not met.
    #[error("the guest saw what it should not have: {}", .0.join("; "))]
    Script(Vec<String>),
}

/// What the VMs of a fake run.
#[derive(Clone, Debug)]
pub struct Guest(GuestKind);

#[derive(Clone, Debug)]
enum GuestKind {
    Scripts(Vec<Script>),
    Code(Execution),
}

impl Guest {
    /// The arm64 code that user space has put into guest memory. The Resource Manager reads the guest's devicetree: it
    /// declares the vCPUs and the doorbells, and says where the interrupt controller is. The guest starts at the beginning of the region that holds the tree.
    ///
    /// The region's memory must stay mapped while the VM exists.
    #[must_use]
    pub fn code() -> Self {
        Self::code_on(Engine::Interpreter)
    }

    /// The same, on the engine of choice. Where it cannot be used ([`Engine::check`]), `VM_START` fails.
    #[must_use]
    pub fn code_on(engine: Engine) -> Self {
        Self(GuestKind::Code(Execution { engine, or_interpreter: false }))
    }

    /// The same on the [best](Engine::best) engine of this host. Where KVM refuses a VM, the interpreter runs it, and a
    /// [notice](Builder::notices) says so.
    #[must_use]
    pub fn code_on_best() -> Self {
        Self(GuestKind::Code(Execution { engine: Engine::best(), or_interpreter: true }))
    }

    /// A script for each vCPU id, from 0.
    ///
    /// The Resource Manager is lenient then: `VM_START` needs no devicetree and every doorbell label exists. Each VM runs
    /// the scripts from the start; functions ([`Script::from_fn`]) are shared by all VMs.
    #[must_use]
    pub fn scripts(scripts: impl IntoIterator<Item = Script>) -> Self {
        Self(GuestKind::Scripts(scripts.into_iter().collect()))
    }
}

/// Settings of a [`Fake`].
pub struct Builder {
    flavour: Flavour,
    differences: Option<Differences>,
    devices: Vec<PathBuf>,
    cma_nodes: Vec<(PathBuf, u64)>,
    guest: Guest,
    hypervisor: Hypervisor,
    memlock: Option<u64>,
    start_failure: Option<Errno>,
    memory_failure: Option<Errno>,
    faults: Vec<Fault>,
    lost_wakeups: Vec<u64>,
    record: bool,
    trace: Option<Arc<Trace>>,
    notices: Option<Notices>,
    killable: bool,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("flavour", &self.flavour)
            .field("devices", &self.devices)
            .field("guest", &self.guest)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// The flavour; v11 if none is chosen.
    #[must_use]
    pub fn flavour(mut self, flavour: Flavour) -> Self {
        self.flavour = flavour;
        self
    }

    /// A host that was seen and is no flavour of its own: its features, and how its Resource Manager answers.
    #[must_use]
    pub fn host(mut self, host: Host) -> Self {
        self.flavour = host.flavour();
        self.differences = Some(host.differences());
        self
    }

    /// Changes single facts about the flavour chosen: hosts were seen that mix.
    #[must_use]
    pub fn differences(mut self, change: impl FnOnce(&mut Differences)) -> Self {
        let mut differences = self.differences.unwrap_or_else(|| self.flavour.differences());
        change(&mut differences);
        self.differences = Some(differences);
        self
    }

    /// A path that the fake answers for, `/dev/gunyah` if none is given. May be repeated.
    #[must_use]
    pub fn device(mut self, path: impl Into<PathBuf>) -> Self {
        self.devices.push(path.into());
        self
    }

    /// The node of a region of contiguous memory of `size` bytes, on flavours that know such regions (android16).
    #[must_use]
    pub fn cma_region(mut self, path: impl Into<PathBuf>, size: u64) -> Self {
        self.cma_nodes.push((path.into(), size));
        self
    }

    /// What the VMs run. Without it, vCPUs never exist.
    #[must_use]
    pub fn guest(mut self, guest: Guest) -> Self {
        self.guest = guest;
        self
    }

    /// The hypervisor has no vCPUs for the host to schedule.
    #[must_use]
    pub fn without_vcpus(mut self) -> Self {
        self.hypervisor.vcpu = false;
        self
    }

    /// The hypervisor has no memory extents.
    #[must_use]
    pub fn without_memory_extents(mut self) -> Self {
        self.hypervisor.memory_extents = false;
        self
    }

    /// How many bytes a VM may lock, instead of the caller's `RLIMIT_MEMLOCK`.
    #[must_use]
    pub fn memlock(mut self, bytes: u64) -> Self {
        self.memlock = Some(bytes);
        self
    }

    /// Every `VM_START` fails with this in its last step, after vCPUs and doorbells have been handed out.
    #[must_use]
    pub fn start_fails(mut self, errno: Errno) -> Self {
        self.start_failure = Some(errno);
        self
    }

    /// Every `VM_START` fails with this in its first step: the Resource Manager does not take the memory.
    #[must_use]
    pub fn memory_refused(mut self, errno: Errno) -> Self {
        self.memory_failure = Some(errno);
        self
    }

    /// Something that goes wrong. May be repeated.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// The `n`th wake-up interrupt of a run, counted from 1 over all vCPUs, never comes.
    #[must_use]
    pub fn lose_wakeup(mut self, n: u64) -> Self {
        self.lost_wakeups.push(n);
        self
    }

    /// Whether [`Handle::calls`] gets a record of each call. It does, unless switched off.
    #[must_use]
    pub fn record_calls(mut self, record: bool) -> Self {
        self.record = record;
        self
    }

    /// Writes a line for each call, with its arguments and its result in words.
    #[must_use]
    pub fn trace(mut self, out: impl std::io::Write + Send + 'static) -> Self {
        self.trace = Some(Arc::new(Trace::new(Box::new(out))));
        self
    }

    /// Writes a line for what a user should know at once: that KVM refuses a VM, say. All of them are among
    /// [`Handle::notes`], too.
    #[must_use]
    pub fn notices(mut self, out: impl std::io::Write + Send + 'static) -> Self {
        self.notices = Some(Arc::new(Mutex::new(out)));
        self
    }

    /// Makes the fake.
    ///
    /// # Errors
    /// [`Error::NoListener`] if this host or sandbox gives no seccomp listener; it says why in one line.
    pub fn build(mut self) -> Result<Fake, Error> {
        self.killable = probe_listener()?;
        if self.devices.is_empty() {
            self.devices.push(Fake::DEFAULT_DEVICE.into());
        }
        Ok(Fake { settings: self })
    }

    fn kernel(&self) -> Result<Arc<Kernel>, Error> {
        Kernel::new(Settings {
            flavour: self.flavour,
            differences: self.differences.unwrap_or_else(|| self.flavour.differences()),
            hypervisor: self.hypervisor,
            devices: self.devices.clone(),
            cma_nodes: self.cma_nodes.clone(),
            guest: match &self.guest.0 {
                GuestKind::Scripts(scripts) => Guests::Scripts(scripts.clone()),
                GuestKind::Code(execution) => Guests::Code(*execution),
            },
            memlock: self.memlock,
            start_failure: self.start_failure,
            memory_failure: self.memory_failure,
            faults: Faults::new(self.faults.clone(), self.lost_wakeups.clone()),
            observer: Observer::new(self.record, self.trace.clone(), self.notices.clone()),
        })
        .map_err(|errno| Error::Host { what: "inotify or epoll", errno })
    }
}

/// A fake Gunyah kernel.
#[derive(Debug)]
pub struct Fake {
    settings: Builder,
}

impl Fake {
    /// The path that a fake answers for when no other is given.
    pub const DEFAULT_DEVICE: &'static str = "/dev/gunyah";

    /// Settings to start from: v11, `/dev/gunyah`, no guest.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            flavour: Flavour::default(),
            differences: None,
            devices: Vec::new(),
            cma_nodes: Vec::new(),
            guest: Guest::scripts([]),
            hypervisor: Hypervisor { vcpu: true, memory_extents: true },
            memlock: None,
            start_failure: None,
            memory_failure: None,
            faults: Vec::new(),
            lost_wakeups: Vec::new(),
            record: true,
            trace: None,
            notices: None,
            killable: true,
        }
    }

    /// Runs a closure on a new thread for which the device exists. Threads and processes that it starts have it, too.
    ///
    /// Ends when the closure has returned and everything that it opened is closed again, or half a second later:
    /// [`Handle::leftovers`] tells what was still open then.
    ///
    /// # Errors
    /// [`Error::Script`] if a script's expectation failed; [`Error::NoListener`] if the calling thread is inside a
    /// fake already.
    ///
    /// # Panics
    /// With the closure's panic, if it panics.
    pub fn run<T: Send>(&self, body: impl FnOnce(&Handle) -> T + Send) -> Result<T, Error> {
        let kernel = self.settings.kernel()?;
        let handle = Handle::new(Arc::clone(&kernel));
        let filter = filter::program();
        let killable = self.settings.killable;
        let (to_us, from_body) = mpsc::sync_channel(1);
        let (go, wait) = mpsc::sync_channel::<()>(1);

        let (result, pool) = std::thread::scope(|scope| {
            let body = std::thread::Builder::new().name("fake-gunyah-body".into()).spawn_scoped(scope, {
                let handle = handle.clone();
                move || {
                    let listener = sys::install_listener(&filter, killable);
                    let refused = listener.is_err();
                    let _ = to_us.send(listener);
                    // From here on the listener must be served, so wait until it is.
                    if refused || wait.recv().is_err() {
                        return None;
                    }
                    Some(body(&handle))
                }
            });
            let body = match body {
                Ok(body) => body,
                Err(error) => {
                    return (Err(Error::Host { what: "a thread", errno: error.into() }), None);
                }
            };
            let listener = from_body.recv().unwrap_or(Err(Errno::EPIPE));
            let started = listener
                .map_err(no_listener)
                .and_then(|listener| Pool::start(kernel, listener, killable).map_err(pool_error));
            let pool = match started {
                Ok(pool) => pool,
                Err(error) => {
                    drop(go);
                    let _ = body.join();
                    return (Err(error), None);
                }
            };
            let _ = go.send(());
            (Ok(body.join()), Some(pool))
        });
        if let Some(pool) = pool {
            handle.end(&pool, GRACE);
        }
        match result? {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(None) => Err(Error::Host { what: "a thread", errno: Errno::EPIPE }),
            Ok(Some(value)) => {
                let failures = handle.failures();
                if failures.is_empty() { Ok(value) } else { Err(Error::Script(failures)) }
            }
        }
    }
}

fn pool_error(errno: Errno) -> Error {
    Error::Host { what: "a thread or an eventfd", errno }
}

/// Tries on threads of their own, which end at once. True: received calls can be kept from being interrupted, which
/// kernels before 5.19 cannot.
pub(crate) fn probe_listener() -> Result<bool, Error> {
    let probe = |killable| {
        let body = move || sys::install_listener(&filter::program(), killable).map(drop);
        let probe = std::thread::Builder::new().spawn(body);
        let probe = probe.map_err(|error| Error::Host { what: "a thread", errno: error.into() })?;
        probe.join().unwrap_or(Err(Errno::EPIPE)).map_err(no_listener)
    };
    if probe(true).is_ok() {
        return Ok(true);
    }
    probe(false).map(|()| false)
}

fn no_listener(errno: Errno) -> Error {
    let why = match errno {
        Errno::EBUSY => {
            "this thread has one already: it runs inside a fake, or under a container or WSL that intercepts system calls"
        }
        Errno::EINVAL | Errno::ENOSYS => {
            "the kernel is older than 5.14, or a sandbox such as gVisor stands in for it"
        }
        Errno::EACCES | Errno::EPERM => "a sandbox forbids seccomp(2)",
        _ => "no known reason",
    };
    Error::NoListener { errno, why }
}

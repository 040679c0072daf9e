//! The doctor: looks, asks, and reports. It needs no root to say what can be said.
//!
//! Each check is a function from an [`Examination`] to a [`Finding`]. The examination has a root directory, so that
//! tests show it the files of other hosts.

mod checks;
mod finding;
mod machine;
mod options;
mod report;
mod root;
mod sys;

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::Write;

use clap::Parser;
use gunyah_ioctls::causes::{Context, Host};
use gunyah_ioctls::{Features, VmFd};

use finding::Finding;
use machine::Machine;
use options::Options;
use report::Report;
use root::Root;

/// What the checks work on.
pub(crate) struct Examination {
    pub(crate) options: Options,
    pub(crate) root: Root,
    pub(crate) machine: Machine,
    pub(crate) host: Host,
    /// What the device turned out to be, once it was asked.
    pub(crate) device: RefCell<Option<Device>>,
    /// The VM that was created, until the checks that need it are through.
    pub(crate) vm: RefCell<Option<VmFd>>,
    /// What that VM answered.
    pub(crate) features: RefCell<Option<Features>>,
}

impl Examination {
    fn new(options: Options) -> Self {
        let root = Root::new(options.root.clone());
        let machine = Machine::look(&root);
        let host = Host::observe_under(root.dir(), sys::page_size());
        Self {
            options,
            root,
            machine,
            host,
            device: RefCell::new(None),
            vm: RefCell::new(None),
            features: RefCell::new(None),
        }
    }

    /// What is known here, for the table of causes.
    pub(crate) fn context(&self) -> Context {
        let mut context = Context::default();
        context.host = self.host.clone();
        context.features = *self.features.borrow();
        context
    }

    /// The memory that the user wants to give a guest, in bytes.
    pub(crate) fn wanted(&self) -> u64 {
        self.options.memory.saturating_mul(1 << 20)
    }
}

/// A device that was opened, and what it is.
pub(crate) struct Device {
    pub(crate) gunyah: gunyah_ioctls::Gunyah,
    pub(crate) kind: DeviceKind,
}

/// What a device node turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    /// It speaks the Gunyah ABI of the lists or of Android.
    Gunyah,
    /// The same, of the early android14 snapshots, where a VM that never starts leaks.
    Android14Early,
    /// It speaks the vendors' older ABI.
    Vendor,
    /// It is something else.
    Other,
}

/// Runs the doctor with a command line, and returns the exit code.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>, out: &mut dyn Write) -> u8 {
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(error) => {
            // Help and version are no failures, and go where the report goes.
            if error.use_stderr() {
                eprint!("{error}");
                return 64;
            }
            let _ = write!(out, "{error}");
            return 0;
        }
    };
    let json = options.json;
    let examination = Examination::new(options);
    let findings: Vec<Finding> = checks::ALL.iter().map(|check| check(&examination)).collect();
    let report = Report::new(&examination, findings);
    // A reader who has closed the pipe has seen enough.
    let _ = if json { report.json(out) } else { report.text(out) };
    report.verdict().exit_code()
}

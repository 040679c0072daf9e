//! Why a call may have failed: the causes known from the field, for each operation and errno.
//!
//! One errno of Gunyah has many causes: ENOMEM at the start has six. [`Error::causes`] lists those that are known for
//! the host's flavour, the likely ones first, each with what to check and what to do. What can be seen from here
//! decides the order: give [`Context::observe`] what the VMM knows, and it adds what the host shows to every process.
//!
//! ```
//! use gunyah_ioctls::causes::{self, Context, Operation, Region};
//!
//! let mut context = Context::observe();
//! context.asked = Some(Region { label: 0, guest_phys_addr: 0x8000_0000, size: 256 << 20, ..Region::default() });
//! let causes = causes::of(Operation::SetUserMemory, libc::ENOMEM, &context);
//! assert!(causes.iter().any(|cause| cause.id() == "memlock"));
//! println!("{causes}");
//! ```
//!
//! The table is data, in `causes/table/`. To add a cause, add a row there; the tests hold the table against the list
//! of every errno that the kernels are known to answer.

mod context;
mod flavours;
mod host;
mod judge;
mod operation;
mod table;

use std::fmt;
use std::ops::Deref;

pub use context::{Context, Range, Region};
pub use flavours::Flavours;
pub use host::{Host, Limit};
pub use operation::Operation;

use super::Error;
use crate::features::Flavour;
use table::Row;

/// How likely a cause is, given what could be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Likelihood {
    /// What could be seen speaks against it.
    Unlikely,
    /// Nothing could be seen that speaks for or against it.
    Possible,
    /// What could be seen speaks for it.
    Likely,
}

impl fmt::Display for Likelihood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unlikely => "unlikely",
            Self::Possible => "possible",
            Self::Likely => "likely",
        })
    }
}

/// One cause of a failure.
#[derive(Clone, Debug)]
pub struct Cause {
    row: &'static Row,
    flavours: Flavours,
    likelihood: Likelihood,
    evidence: Option<String>,
}

impl Cause {
    /// A short name that stays the same from release to release.
    pub fn id(&self) -> &'static str {
        self.row.id
    }

    /// What is wrong, in a sentence.
    pub fn text(&self) -> &'static str {
        self.row.text
    }

    /// How to find out whether this is it.
    pub fn check(&self) -> &'static str {
        self.row.check
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        self.row.remedy
    }

    /// The flavours on which this operation fails for this cause with this errno.
    pub fn flavours(&self) -> Flavours {
        self.flavours
    }

    /// How likely it is, given what could be seen.
    pub fn likelihood(&self) -> Likelihood {
        self.likelihood
    }

    /// What was seen that speaks for or against it.
    pub fn evidence(&self) -> Option<&str> {
        self.evidence.as_deref()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[{}] {} ({})", self.likelihood, self.row.text, self.row.id)?;
        if let Some(evidence) = &self.evidence {
            writeln!(f, "     seen:  {evidence}")?;
        }
        writeln!(f, "     check: {}", self.row.check)?;
        write!(f, "     do:    {}", self.row.remedy)
    }
}

/// The known causes of one failure, the likeliest first. Prints as a report.
#[derive(Clone, Debug)]
pub struct Causes {
    title: String,
    list: Vec<Cause>,
}

impl Deref for Causes {
    type Target = [Cause];

    fn deref(&self) -> &[Cause] {
        &self.list
    }
}

impl IntoIterator for Causes {
    type Item = Cause;
    type IntoIter = std::vec::IntoIter<Cause>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl<'a> IntoIterator for &'a Causes {
    type Item = &'a Cause;
    type IntoIter = std::slice::Iter<'a, Cause>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        if self.list.is_empty() {
            return f.write_str("\n  no cause of this is on record");
        }
        for (index, cause) in self.list.iter().enumerate() {
            write!(f, "\n{:3}. {cause}", index.saturating_add(1))?;
        }
        Ok(())
    }
}

/// The known causes of `operation` failing with `errno`.
///
/// [`Context::features`] or [`Context::flavour`] narrow the list to the host's flavour. An errno that is not known on
/// that flavour, but is on others, gives the others' causes as unlikely ones: hosts mix.
pub fn of(operation: Operation, errno: i32, context: &Context) -> Causes {
    let title = format!("{operation} failed with {}", describe(errno));
    Causes { title, list: collect(&[operation], errno, context) }
}

fn collect(operations: &[Operation], errno: i32, context: &Context) -> Vec<Cause> {
    let host = Flavours::of_host(context.flavour, context.features.as_ref());
    let find = |any_flavour: bool| -> Vec<Cause> {
        table::rows()
            .filter_map(|row| {
                let flavours = row.flavours(operations, errno)?;
                if !any_flavour && !flavours.meets(host) {
                    return None;
                }
                let (mut likelihood, evidence) = (row.judge)(context);
                if any_flavour {
                    likelihood = Likelihood::Unlikely;
                }
                Some(Cause { row, flavours, likelihood, evidence })
            })
            .collect()
    };
    let mut list = find(false);
    if list.is_empty() {
        list = find(true);
    }
    // Stable: rows that are equally likely stay in the table's order, which is by how often they were met.
    list.sort_by_key(|cause| std::cmp::Reverse(cause.likelihood));
    list
}

fn describe(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}

impl Error {
    /// The known causes of this error, the likeliest first.
    ///
    /// An error that says itself what is wrong, such as [`Error::InvalidArgument`], has none.
    ///
    /// # Examples
    ///
    /// ```
    /// use gunyah_ioctls::Gunyah;
    /// use gunyah_ioctls::causes::Context;
    ///
    /// let error = Gunyah::new_with_path("/dev/there-is-no-such-node").unwrap_err();
    /// let causes = error.causes(&Context::observe());
    /// assert!(!causes.is_empty());
    /// eprintln!("{causes}");
    /// ```
    pub fn causes(&self, context: &Context) -> Causes {
        let mut context = context.clone();
        let (operations, errno): (&[Operation], i32) = match self {
            Self::Open { source, .. } => (&[Operation::Open], source.raw_os_error().unwrap_or(0)),
            Self::NotGunyah { .. } => (&[Operation::CreateVm], libc::ENOTTY),
            Self::VendorAbi { .. } => {
                context.flavour = Some(Flavour::Vendor);
                context.features = None;
                (&[Operation::CreateVm], libc::EINVAL)
            }
            Self::Ioctl { op, source, flavour } => {
                context.flavour = flavour.or(context.flavour);
                (Operation::by_ioctl(op), source.raw_os_error().unwrap_or(0))
            }
            Self::Os { call, doing, source } => {
                (Operation::by_call(call, doing), source.raw_os_error().unwrap_or(0))
            }
            Self::NotInAbi { op, flavour } => {
                context.flavour = Some(*flavour);
                (Operation::by_ioctl(op), libc::ENOTTY)
            }
            Self::IoEventFdLost { source, .. } => {
                (&[Operation::AddIoeventfd], source.raw_os_error().unwrap_or(0))
            }
            Self::PageFaultLoop { attempt, .. } => (&[Operation::PageFault], *attempt),
            _ => (&[], 0),
        };
        let operations: Vec<Operation> = match context.adding {
            Some(adding) if operations.contains(&adding) => vec![adding],
            _ => operations.to_vec(),
        };
        Causes { title: self.to_string(), list: collect(&operations, errno, &context) }
    }
}

/// Every (operation, errno) pair that the table has a cause for, with the cause's id and the flavours.
///
/// For tests and for tools that list the table.
pub fn table() -> impl Iterator<Item = (Operation, i32, &'static str, Flavours)> {
    table::rows().flat_map(|row| {
        row.on.iter().flat_map(move |on| {
            on.operations.iter().flat_map(move |operation| {
                on.errnos.iter().map(move |errno| (*operation, *errno, row.id, on.flavours))
            })
        })
    })
}

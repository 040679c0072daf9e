//! Checks a finished devicetree offline: whether a Gunyah host will start it, and what will go wrong when it does.
//!
//! The Resource Manager reads the guest's tree at `VM_START`, and whatever it does not like is one errno, most often ENODEV,
//! with no reason. [`lint`] finds the reason before, on any machine and for any VMM's tree:
//!
//! ```
//! use vmm_adapter::fdt::lint::{Expect, Severity, lint};
//!
//! let mut tree = vm_fdt::FdtWriter::new()?;
//! let root = tree.begin_node("")?;
//! tree.end_node(root)?;
//! let findings = lint(&tree.finish()?, &Expect::default());
//! let first = &findings[0];
//! assert_eq!((first.rule.code, first.rule.severity), ("no-config", Severity::Error));
//! println!("{first}");
//! # Ok::<(), vm_fdt::Error>(())
//! ```
//!
//! Alone, a tree is checked against itself. [`Expect`] adds what the VMM does beside it: its regions, lines and vCPUs.
//!
//! What a host refuses is an error for that host ([`Expect::flavour`]), and may be a warning where the host is not known.
//!
//! The rules are data: see [`RULES`]. They come from the open Resource Manager of December 2023, from a host that runs it, and from
//! what users of phones report. The Resource Managers on phones are closed and newer; they may refuse more.

mod blob;
mod boot;
mod config;
mod cpus;
mod expect;
mod form;
mod interrupts;
mod rules;
mod vdevices;

use std::fmt;

pub use expect::{Expect, ExpectedRegion};
pub use rules::{RULES, Rule, Severity};

use blob::{Node, Tree};

/// Something wrong with a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which rule the tree breaks: its code, why it matters, where it holds, and what to do.
    pub rule: &'static Rule,
    /// How bad it is on the host that was asked for.
    pub severity: Severity,
    /// The path of the node.
    pub node: String,
    /// The property, if it is about one.
    pub property: Option<String>,
    /// What is there.
    pub detail: String,
}

impl fmt::Display for Finding {
    /// Three lines: what is wrong where, why it matters, and what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}] {}", self.severity, self.rule.code, self.node)?;
        if let Some(property) = &self.property {
            write!(f, " {property}")?;
        }
        writeln!(f, ": {}", self.detail)?;
        write!(f, "  why: {} ({}", self.rule.why, self.rule.flavours)?;
        if self.severity == Severity::Warning && !self.rule.refused_on.is_empty() {
            write!(f, "; an error on {}", self.rule.refused_on)?;
        }
        writeln!(f, ")")?;
        write!(f, "  fix: {}", self.rule.fix)
    }
}

/// The findings of one run.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Notes a finding about a node.
    fn node(&mut self, rule: &'static Rule, node: &str, detail: impl Into<String>) {
        self.0.push(Finding {
            rule,
            severity: rule.severity,
            node: node.to_owned(),
            property: None,
            detail: detail.into(),
        });
    }

    /// Notes a finding about a property.
    fn property(&mut self, rule: &'static Rule, node: &Node, property: &str, detail: impl Into<String>) {
        let (node, property) = (node.path.clone(), Some(property.to_owned()));
        self.0.push(Finding { rule, severity: rule.severity, node, property, detail: detail.into() });
    }
}

/// Checks the tree at the start of `buffer`, errors first.
///
/// `buffer` is all that is handed over as the devicetree's range: what lies behind the tree is the room that the Resource
/// Manager has for its additions. Nothing in it is trusted; a blob that is no tree is a finding, too.
#[must_use]
pub fn lint(buffer: &[u8], expect: &Expect) -> Vec<Finding> {
    let mut findings = Findings::default();
    if let Some(tree) = form::check(buffer, &mut findings) {
        check(&tree, buffer.len(), expect, &mut findings);
    }
    let mut findings = findings.0;
    if let Some(flavour) = &expect.flavour {
        findings.retain(|finding| finding.rule.holds_on(flavour));
        for finding in &mut findings {
            finding.severity = finding.rule.severity_on(flavour);
        }
    }
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn check(tree: &Tree, size: usize, expect: &Expect, findings: &mut Findings) {
    form::check_names(tree, findings);
    let config = config::find(tree, findings);
    form::check_room(tree, size, config, expect, findings);
    form::check_cells(tree, config, expect, findings);
    if let Some(config) = config {
        config::check(config, expect, findings);
    }
    cpus::check(tree, config, expect, findings);
    interrupts::check(tree, config, findings);
    let doorbells = config.map(|config| vdevices::check(config, expect, findings)).unwrap_or_default();
    interrupts::check_devices(tree, config, &doorbells, findings);
    boot::check(tree, expect, findings);
}

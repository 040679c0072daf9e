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

use std::collections::BTreeMap;
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

/// How many findings of one rule are told: a hostile tree can break one as often as it likes.
const MAX_OF_A_RULE: usize = 100;
/// How many bytes of a detail are told: some show what stands in the tree.
const MAX_DETAIL: usize = 1000;

/// The findings of one run.
#[derive(Debug, Default)]
struct Findings {
    all: Vec<Finding>,
    of_a_rule: BTreeMap<&'static str, usize>,
}

impl Findings {
    /// Notes a finding about a node.
    fn node(&mut self, rule: &'static Rule, node: &str, detail: impl Into<String>) {
        self.note(rule, node, None, detail.into());
    }

    /// Notes a finding about a property.
    fn property(&mut self, rule: &'static Rule, node: &Node, property: &str, detail: impl Into<String>) {
        self.note(rule, &node.path, Some(property), detail.into());
    }

    fn note(&mut self, rule: &'static Rule, node: &str, property: Option<&str>, mut detail: String) {
        let count = self.of_a_rule.entry(rule.code).or_default();
        *count = count.saturating_add(1);
        if *count > MAX_OF_A_RULE {
            return;
        }
        if detail.len() > MAX_DETAIL {
            let end = (0..=MAX_DETAIL).rev().find(|end| detail.is_char_boundary(*end)).unwrap_or(0);
            detail.truncate(end);
            detail.push_str("...");
        }
        let (node, property) = (node.to_owned(), property.map(str::to_owned));
        self.all.push(Finding { rule, severity: rule.severity, node, property, detail });
    }
}

/// Checks the tree at the start of `buffer`, errors first.
///
/// `buffer` is all that is handed over as the devicetree's range: what lies behind the tree is the room that the Resource
/// Manager has for its additions. Nothing in it is trusted; a blob that is no tree is a finding, too. Of each rule a hundred findings
/// are told, which is enough.
#[must_use]
pub fn lint(buffer: &[u8], expect: &Expect) -> Vec<Finding> {
    let mut findings = Findings::default();
    if let Some(tree) = form::check(buffer, &mut findings) {
        check(&tree, buffer.len(), expect, &mut findings);
    }
    let mut findings = findings.all;
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

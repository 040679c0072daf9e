//! The report: for people, and for programs.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::finding::{Finding, Level};
use super::{Examination, checks};

/// What all findings together say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Can,
    Cannot,
    Unsure,
}

impl Verdict {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Can => 0,
            Self::Cannot => 1,
            Self::Unsure => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Can => "can host",
            Self::Cannot => "cannot host",
            Self::Unsure => "unsure",
        }
    }
}

/// All findings.
pub(crate) struct Report<'a> {
    examination: &'a Examination,
    findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(examination: &'a Examination, findings: Vec<Finding>) -> Self {
        Self { examination, findings }
    }

    fn any(&self, level: Level) -> bool {
        self.findings.iter().any(|finding| finding.level == level)
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let proved = self.examination.features.borrow().is_some();
        if self.any(Level::Problem) {
            Verdict::Cannot
        } else if proved && !self.any(Level::Warning) && !self.any(Level::Unknown) {
            Verdict::Can
        } else {
            Verdict::Unsure
        }
    }

    fn conclusion(&self) -> String {
        let proved = self.examination.features.borrow().is_some();
        match self.verdict() {
            Verdict::Can => "This host can run Gunyah VMs.".to_owned(),
            Verdict::Cannot => "This host cannot run Gunyah VMs from here.".to_owned(),
            Verdict::Unsure if proved => "This host can run Gunyah VMs, with the warnings above.".to_owned(),
            Verdict::Unsure if !self.examination.options.probe && !self.any(Level::Unknown) => {
                "It looks as if this host could run Gunyah VMs; --probe creates an empty one and makes sure."
                    .to_owned()
            }
            Verdict::Unsure => {
                "Whether this host can run Gunyah VMs could not be told; see above.".to_owned()
            }
        }
    }

    pub(crate) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Gunyah doctor {}\n", env!("CARGO_PKG_VERSION"))?;
        for finding in &self.findings {
            writeln!(out, "{:>8}  {}: {}", finding.level.name(), title(finding), finding.summary)?;
            for detail in &finding.details {
                writeln!(out, "{:12}{detail}", "")?;
            }
            for advice in &finding.advice {
                writeln!(out, "{:10}> {advice}", "")?;
            }
        }
        writeln!(out, "\n{}", self.conclusion())?;
        writeln!(
            out,
            "\n--- paste this in a bug report (no serial numbers, host or user names, addresses) ---"
        )?;
        for line in self.block() {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "--- end ---")
    }

    pub(crate) fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        let checks: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "id": finding.id,
                    "title": title(finding),
                    "level": finding.level.name(),
                    "summary": finding.summary,
                    "details": finding.details,
                    "advice": finding.advice,
                    "facts": finding.facts,
                })
            })
            .collect();
        let report = json!({
            "schema": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "verdict": self.verdict().name(),
            "exit_code": self.verdict().exit_code(),
            "conclusion": self.conclusion(),
            "checks": checks,
            "bug_report": self.block(),
        });
        writeln!(out, "{report:#}")
    }

    /// One line per check, short enough for an issue.
    fn block(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "gunyah doctor {}, verdict: {}{}{}",
            env!("CARGO_PKG_VERSION"),
            self.verdict().name(),
            if self.examination.options.probe { ", probed" } else { "" },
            if self.examination.root.is_live() { "" } else { ", from copied files" },
        )];
        lines.extend(self.findings.iter().filter(|finding| finding.level != Level::Skipped).map(|finding| {
            let facts: Vec<String> =
                finding.facts.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{} [{}] {}", finding.id, finding.level.name(), facts.join(" "))
        }));
        lines
    }
}

fn title(finding: &Finding) -> &'static str {
    checks::title(finding.id)
}

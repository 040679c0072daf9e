//! Whether a Gunyah host will start a guest's devicetree.

use vmm_adapter::fdt::lint::{Expect, Severity, lint};

use super::super::Examination;
use super::super::finding::{Finding, Level};

/// More say nothing new.
const MANY: usize = 10;

pub(super) fn devicetree(examination: &Examination) -> Finding {
    const ID: &str = "guest-tree";
    let Some(path) = &examination.options.dtb else {
        return Finding::new(ID, Level::Skipped, "needs --dtb");
    };
    let blob = match std::fs::read(path) {
        Ok(blob) => blob,
        Err(error) => return Finding::new(ID, Level::Unknown, format!("{}: {error}", path.display())),
    };
    // What was found out about this host leaves out what does not hold here.
    let mut expect = Expect::default();
    expect.flavour = examination.features.borrow().map(|features| features.flavour().to_string());
    let findings = lint(&blob, &expect);
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let (level, summary) = match (errors, findings.len()) {
        (0, 0) => (Level::Good, "nothing that is known to go wrong".to_owned()),
        (0, warnings) => (Level::Note, format!("{warnings} warnings")),
        (errors, all) => (
            Level::Warning,
            format!("the start of this guest will fail: {errors} errors, {} warnings", all - errors),
        ),
    };
    let mut report = Finding::new(ID, level, summary);
    for finding in findings.iter().take(MANY) {
        let property = finding.property.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        let (rule, node) = (finding.rule, &finding.node);
        report = report
            .detail(format!("{}[{}] {node}{property}: {}", finding.severity, rule.code, finding.detail))
            .advise(format!("{}: {}", rule.code, rule.fix));
    }
    if findings.len() > MANY {
        report = report.detail(format!("and {} more: see the example lint", findings.len() - MANY));
    }
    report.fact("codes", findings.iter().map(|finding| finding.rule.code).collect::<Vec<_>>())
}

//! Checks a guest's devicetree for Gunyah, whichever VMM has written it.
//!
//! ```sh
//! cargo run -p vmm-adapter --example lint -- guest.dtb
//! ```

mod cli;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use vmm_adapter::fdt::lint::{Finding, RULES, Severity, lint};

use cli::Options;

/// The tree has errors.
const ERRORS: u8 = 1;
/// There is nothing to check.
const UNREADABLE: u8 = 2;

fn main() -> ExitCode {
    let options = Options::parse();
    let mut out = std::io::stdout().lock();
    let code = match &options.file {
        Some(file) => match std::fs::read(file) {
            Ok(blob) => report(&mut out, &lint(&blob, &options.expect()), options.json),
            Err(error) => {
                eprintln!("lint: {}: {error}", file.display());
                return ExitCode::from(UNREADABLE);
            }
        },
        None => rules(&mut out, options.json).map(|()| 0),
    };
    // Nobody reads on: no reason to fail.
    ExitCode::from(code.unwrap_or(0))
}

fn as_json(finding: &Finding) -> serde_json::Value {
    serde_json::json!({
        "code": finding.rule.code,
        "severity": finding.severity.to_string(),
        "node": finding.node,
        "property": finding.property,
        "detail": finding.detail,
        "why": finding.rule.why,
        "flavours": finding.rule.flavours,
        "fix": finding.rule.fix,
    })
}

fn report(out: &mut impl Write, findings: &[Finding], json: bool) -> std::io::Result<u8> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    if json {
        let all: Vec<_> = findings.iter().map(as_json).collect();
        writeln!(out, "{:#}", serde_json::Value::Array(all))?;
    } else {
        for finding in findings {
            writeln!(out, "{finding}\n")?;
        }
        match findings.len() - errors {
            0 if errors == 0 => writeln!(out, "No finding.")?,
            warnings => writeln!(out, "errors: {errors}, warnings: {warnings}")?,
        }
    }
    Ok(if errors > 0 { ERRORS } else { 0 })
}

fn rules(out: &mut impl Write, json: bool) -> std::io::Result<()> {
    if json {
        let all: Vec<_> = RULES
            .iter()
            .map(|rule| {
                serde_json::json!({
                    "code": rule.code,
                    "severity": rule.severity.to_string(),
                    "why": rule.why,
                    "flavours": rule.flavours,
                    "refused_on": rule.refused_on,
                    "fix": rule.fix,
                })
            })
            .collect();
        return writeln!(out, "{:#}", serde_json::Value::Array(all));
    }
    for rule in RULES {
        writeln!(
            out,
            "{}[{}] {} ({})\n  fix: {}",
            rule.severity, rule.code, rule.why, rule.flavours, rule.fix
        )?;
    }
    Ok(())
}

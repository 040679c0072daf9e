//! Reads a recording, whoever wrote it.

use std::collections::HashSet;
use std::fmt;

use crate::record::format::{Event, FORMAT, Header, Kind, Object, Outcome, VERSION};

/// A recording, read and found to be consistent.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Where and of what it was made.
    pub header: Header,
    /// The calls in the order in which they ended, each with the number of its line.
    pub events: Vec<(usize, Event)>,
}

/// What is wrong with a recording, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for ParseError {}

/// Reads a recording: see [`crate::record::format`] for how it must look.
///
/// # Errors
/// Says which line is wrong and why: no JSON, a field missing or of the wrong kind, another format or version, a call
/// on an object that no earlier call made.
pub fn parse(text: &[u8]) -> Result<Recording, ParseError> {
    let mut lines = text.split(|byte| *byte == b'\n').enumerate().map(|(n, line)| (n + 1, line.trim_ascii()));
    let fail = |line, why: String| ParseError { line, why };

    let (line, first) = lines.next().unwrap_or((1, &[]));
    if first.is_empty() {
        return Err(fail(line, "no header".to_owned()));
    }
    let header: Header = serde_json::from_slice(first).map_err(|error| fail(line, reason(&error)))?;
    if header.format != FORMAT {
        return Err(fail(line, format!("the format is `{}`, not `{FORMAT}`", header.format)));
    }
    if header.version != VERSION {
        return Err(fail(line, format!("version {}; this program reads {VERSION}", header.version)));
    }
    if !header.page_size.is_power_of_two() {
        return Err(fail(line, format!("a page size of {} bytes", header.page_size)));
    }

    let mut events = Vec::new();
    let mut objects = HashSet::new();
    for (line, text) in lines {
        if text.is_empty() {
            continue;
        }
        let event: Event = serde_json::from_slice(text).map_err(|error| fail(line, reason(&error)))?;
        check(&event, &mut objects).map_err(|why| fail(line, why))?;
        events.push((line, event));
    }
    Ok(Recording { header, events })
}

/// The parser's reason. It counts lines within the one that it was given, which would confuse: only the column is kept.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((why, _)) if error.column() > 0 => format!("{why} (column {})", error.column()),
        Some((why, _)) => why.to_owned(),
        None => text,
    }
}

/// Whether an event fits those before it.
fn check(event: &Event, objects: &mut HashSet<Object>) -> Result<(), String> {
    let op = &event.op;
    match (op.as_str(), event.obj) {
        ("open" | "exit", None) => {}
        ("open" | "exit", Some(object)) => return Err(format!("an `{op}` on {object}")),
        (_, None) => return Err(format!("`{op}` without `obj`")),
        // These two may have been open before the program was started.
        (_, Some(object)) if matches!(object.kind, Kind::Device | Kind::Node) => {}
        (_, Some(object)) if !objects.contains(&object) => {
            return Err(format!("no earlier call has made {object}"));
        }
        _ => {}
    }
    if event.page.is_some() && event.obj.map(|object| object.kind) != Some(Kind::Vcpu) {
        return Err(format!("`{op}` has a `page`, but not a vCPU"));
    }
    if let Some(new) = event.new {
        if !matches!(event.outcome, Outcome::Value(_)) {
            return Err(format!("`{op}` has made {new}, but not succeeded"));
        }
        if new.kind == Kind::Node || (op == "open") != (new.kind == Kind::Device) {
            return Err(format!("`{op}` cannot make {new}"));
        }
        if !objects.insert(new) {
            return Err(format!("{new} exists already"));
        }
    }
    Ok(())
}

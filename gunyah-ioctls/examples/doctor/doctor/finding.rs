//! What one check found.

use gunyah_ioctls::causes::Causes;
use serde_json::{Map, Value};

/// What a finding means for running VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Will probably hurt.
    Warning,
    /// No VM can run.
    Problem,
    /// It matters, and could not be told.
    Unknown,
    /// Not looked at.
    Skipped,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::Unknown => "unknown",
            Self::Skipped => "skipped",
        }
    }
}

/// What one check found.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) id: &'static str,
    pub(crate) level: Level,
    pub(crate) summary: String,
    pub(crate) details: Vec<String>,
    pub(crate) advice: Vec<String>,
    pub(crate) facts: Map<String, Value>,
}

impl Finding {
    pub(crate) fn new(id: &'static str, level: Level, summary: impl Into<String>) -> Self {
        Self {
            id,
            level,
            summary: summary.into(),
            details: Vec::new(),
            advice: Vec::new(),
            facts: Map::new(),
        }
    }

    /// A check that only the running system can answer.
    pub(crate) fn not_live(id: &'static str) -> Self {
        Self::new(id, Level::Skipped, "only the running system can tell, and --root was given")
    }

    pub(crate) fn detail(mut self, text: impl Into<String>) -> Self {
        self.details.push(text.into());
        self
    }

    pub(crate) fn advise(mut self, text: impl Into<String>) -> Self {
        self.advice.push(text.into());
        self
    }

    pub(crate) fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// Adds the first few of a failure's causes.
    pub(crate) fn causes(mut self, causes: &Causes) -> Self {
        const MANY: usize = 3;
        for cause in causes.iter().take(MANY) {
            let seen = cause.evidence().map(|evidence| format!(" (seen: {evidence})")).unwrap_or_default();
            self.details.push(format!("{} cause: {}{seen}", cause.likelihood(), cause.text()));
            self.advice.push(format!("check: {}; do: {}", cause.check(), cause.remedy()));
        }
        let ids: Vec<Value> = causes.iter().map(|cause| cause.id().into()).collect();
        self.facts.insert("causes".to_owned(), Value::Array(ids));
        self
    }
}

//! The table of backends and promises.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::promises;
use crate::target::Target;

pub struct Table {
    rows: Vec<(String, Option<String>)>,
    kept: Mutex<BTreeMap<(String, &'static str), bool>>,
}

impl Table {
    pub fn new(targets: &[Target]) -> Self {
        let rows = targets
            .iter()
            .map(|target| (target.name().to_owned(), target.missing().map(str::to_owned)))
            .collect();
        Self { rows, kept: Mutex::default() }
    }

    pub fn note(&self, target: &str, promise: &'static str, kept: bool) {
        self.kept.lock().unwrap().insert((target.to_owned(), promise), kept);
    }

    /// Promises down, backends across. A backend that is not here is named with the reason.
    pub fn print(&self) {
        let here: Vec<&str> = self
            .rows
            .iter()
            .filter(|(_, missing)| missing.is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        let width = promises::ALL.iter().map(|promise| promise.name.len()).max().unwrap_or(0);
        let kept = self.kept.lock().unwrap();
        println!("{:width$}  {}", "promise", here.join("  "));
        for promise in promises::ALL {
            let cells: Vec<String> = here
                .iter()
                .map(|name| {
                    let cell = match kept.get(&((*name).to_owned(), promise.name)) {
                        Some(true) => "kept",
                        Some(false) => "BROKEN",
                        None => "not run",
                    };
                    format!("{cell:len$}", len = name.len())
                })
                .collect();
            println!("{:width$}  {}", promise.name, cells.join("  ").trim_end());
        }
        for (name, why) in self.rows.iter().filter_map(|(name, missing)| Some((name, missing.as_ref()?))) {
            println!("{name}: not here: {why}");
        }
    }
}

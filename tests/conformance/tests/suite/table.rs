//! The table of backends and promises.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::promises;
use crate::target::Target;

/// Kept, or the reason why nothing was checked; or broken.
type Cell = Result<Option<&'static str>, ()>;

pub struct Table {
    rows: Vec<(String, Option<String>)>,
    cells: Mutex<BTreeMap<(String, &'static str), Cell>>,
}

impl Table {
    pub fn new(targets: &[Target]) -> Self {
        let rows = targets
            .iter()
            .map(|target| (target.name().to_owned(), target.missing().map(str::to_owned)))
            .collect();
        Self { rows, cells: Mutex::default() }
    }

    pub fn note(&self, target: &str, promise: &'static str, cell: Cell) {
        self.cells.lock().unwrap().insert((target.to_owned(), promise), cell);
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
        let found = self.cells.lock().unwrap();
        let mut reasons: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        println!("{:width$}  {}", "promise", here.join("  "));
        for promise in promises::ALL {
            let cells: Vec<String> = here
                .iter()
                .map(|name| {
                    let cell = match found.get(&((*name).to_owned(), promise.name)) {
                        Some(Ok(None)) => "kept",
                        Some(Ok(Some(why))) => {
                            reasons.entry((promise.name, *why)).or_default().push(name);
                            "n/a"
                        }
                        Some(Err(())) => "BROKEN",
                        None => "not run",
                    };
                    format!("{cell:len$}", len = name.len())
                })
                .collect();
            println!("{:width$}  {}", promise.name, cells.join("  ").trim_end());
        }
        for ((promise, why), names) in reasons {
            println!("n/a: {promise} on {}: {why}", names.join(", "));
        }
        for (name, why) in self.rows.iter().filter_map(|(name, missing)| Some((name, missing.as_ref()?))) {
            println!("{name}: not here: {why}");
        }
    }
}

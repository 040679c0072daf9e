//! The suite: every promise of the traits, on every backend that is here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "a test that fails panics"
)]

mod mailbox;
mod promises;
mod rig;
mod table;
mod target;

use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use crate::table::Table;

fn main() {
    let mut arguments = Arguments::from_args();
    // Some promises count this process's file descriptors.
    arguments.test_threads = Some(1);
    let targets = target::all();
    let table = Arc::new(Table::new(&targets));
    let mut trials = Vec::new();
    for target in targets.into_iter().map(Arc::new) {
        if target.missing().is_some() {
            continue;
        }
        for promise in promises::ALL {
            let (target, table) = (Arc::clone(&target), Arc::clone(&table));
            trials.push(Trial::test(format!("{}::{}", target.name(), promise.name), move || {
                let outcome = target::attempt(&target, promise);
                table.note(target.name(), promise.name, outcome.as_ref().map_err(drop).copied());
                outcome.map(drop).map_err(Into::into)
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        table.print();
    }
    conclusion.exit();
}

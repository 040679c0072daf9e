//! The table of causes. To add a cause, add a row to the file of its operation.
//!
//! Rows stand in the order in which they are met in the field, the frequent ones first: among equally likely causes that
//! order stays.

mod devicetree;
mod function;
mod guest_memory;
mod memory;
mod open;
mod run;
mod start;

use super::flavours::Flavours;
use super::judge::Judge;
use super::operation::Operation;

/// Where a cause shows: these operations fail with one of these errnos on these flavours.
#[derive(Debug)]
pub(super) struct On {
    pub(super) operations: &'static [Operation],
    pub(super) errnos: &'static [i32],
    pub(super) flavours: Flavours,
}

/// One cause.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: &'static str,
    pub(super) on: &'static [On],
    pub(super) text: &'static str,
    pub(super) check: &'static str,
    pub(super) remedy: &'static str,
    pub(super) judge: Judge,
}

const fn on(operations: &'static [Operation], errnos: &'static [i32], flavours: Flavours) -> On {
    On { operations, errnos, flavours }
}

impl Row {
    /// The flavours on which one of `operations` fails with `errno` for this cause.
    pub(super) fn flavours(&self, operations: &[Operation], errno: i32) -> Option<Flavours> {
        self.on
            .iter()
            .filter(|on| {
                on.errnos.contains(&errno) && on.operations.iter().any(|one| operations.contains(one))
            })
            .map(|on| on.flavours)
            .reduce(Flavours::and)
    }
}

pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    [open::ROWS, memory::ROWS, guest_memory::ROWS, devicetree::ROWS, start::ROWS, function::ROWS, run::ROWS]
        .into_iter()
        .flatten()
}

//! The subcommands that have a file of their own, and what all of them need.

pub(crate) mod program;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod run;

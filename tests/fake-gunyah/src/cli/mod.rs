//! The subcommands that have a file of their own.

pub(crate) mod record;
pub(crate) mod replay;

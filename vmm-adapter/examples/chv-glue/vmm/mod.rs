//! A VMM that does things in Cloud Hypervisor's order and knows only its traits, with the [additions].
//!
//! [additions]: crate::hypervisor::additions

pub(crate) mod boot;
pub(crate) mod card;
mod cpu;
mod devices;
mod interrupt;
pub(crate) mod layout;
mod machine;
mod memory;

use std::sync::Arc;

pub(crate) use boot::Payload;
pub(crate) use card::VECTORS;
pub(crate) use machine::{End, Machine, Settings};

/// Takes a line of what happens.
pub(crate) type Log = Arc<dyn Fn(String) + Send + Sync>;

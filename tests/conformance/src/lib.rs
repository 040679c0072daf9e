//! One test suite for every backend of vmm-adapter.
//!
//! Each promise of the traits is a test, run on every backend and flavour that this host has: `cargo test -p conformance`
//! prints a table of backends and promises, and a backend that is not there is a row that says why. The guests are made by
//! [`asm`], so that the same ones run on a fake and on hardware, of arm64 and of x86_64.
#![allow(clippy::panic, clippy::indexing_slicing, reason = "only tests use this")]

pub mod asm;
pub mod interrupts;
pub mod x86;

//! One test suite for every backend of vmm-adapter.
//!
//! Each promise of the traits is a test, run on every backend and flavour that this host has: `cargo test -p conformance`
//! prints a table of backends and promises, and a backend that is not there is a row that says why. The guests are arm64
//! code made by [`asm`], so that the same ones run on a fake and on hardware.

pub mod asm;

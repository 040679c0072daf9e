//! The unit tests in the microvm example's files. Cargo runs none of an example that it also builds as a program.
#![cfg(feature = "gunyah")]
#![allow(dead_code, unreachable_pub, reason = "only the tests are used")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::duplicate_mod,
    missing_docs
)]

#[path = "../examples/microvm/cli.rs"]
mod cli;
#[path = "../examples/microvm/config.rs"]
mod config;
#[path = "../examples/microvm/error.rs"]
mod error;
#[path = "../examples/microvm/input.rs"]
mod input;
#[path = "../examples/microvm/kernel_config.rs"]
mod kernel_config;
#[path = "../examples/microvm/layout.rs"]
mod layout;
#[path = "../examples/microvm/outcome.rs"]
mod outcome;
#[path = "../examples/microvm/payload.rs"]
mod payload;
#[path = "../examples/microvm/serial.rs"]
mod serial;
#[path = "../examples/microvm/spec.rs"]
mod spec;
#[path = "../examples/microvm/stop.rs"]
mod stop;
#[path = "../examples/microvm/sys.rs"]
mod sys;
#[path = "../examples/microvm/test_device.rs"]
mod test_device;
#[path = "../examples/microvm/virtio/mod.rs"]
mod virtio;

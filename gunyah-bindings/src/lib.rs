#![no_std]
//! Rust bindings to the Gunyah user ABI of Linux.

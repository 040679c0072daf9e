//! Every constant, size and offset of the bindings, with the numbers that kernels were seen to use, written by hand.
//!
//! A row holds what the compiled Rust says and what the table says. `layout.rs` and `ioctl_numbers.rs` compare the two;
//! `c_header.rs` takes the names from here and asks a C compiler.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "a part of each test; none uses all of it")]

mod constants;
mod structs;

pub use constants::constants;
pub use structs::structs;

/// The generated modules, each with a header of the same name.
pub const MODULES: [&str; 4] = ["v11", "android", "v17", "vendor"];

/// A constant.
#[derive(Debug)]
pub struct Constant {
    pub module: &'static str,
    /// The name, in C and in Rust.
    pub name: &'static str,
    /// The newtype whose associated constant it is.
    pub owner: Option<&'static str>,
    pub rust: u64,
    /// Size of the Rust type in bytes.
    pub width: usize,
    pub wanted: u64,
}

/// A struct.
#[derive(Debug)]
pub struct Struct {
    pub module: &'static str,
    pub name: &'static str,
    /// Size and alignment in bytes.
    pub rust: (usize, usize),
    pub wanted: (usize, usize),
    pub fields: Vec<Field>,
}

/// A member of a struct, or a member of a member.
#[derive(Debug)]
pub struct Field {
    /// The path in C.
    pub path: String,
    /// Offset and size in bytes.
    pub rust: (usize, usize),
    pub wanted: (usize, usize),
}

/// The path in C of a Rust path: no keyword's underscore, no nameless union.
pub fn c_path(rust: &str) -> String {
    let parts = rust.split('.').map(str::trim).filter(|p| *p != "__bindgen_anon_1");
    parts.map(|p| p.trim_end_matches('_')).collect::<Vec<_>>().join(".")
}

/// The size of what a pointer points to.
pub fn pointee<T>(_: *const T) -> usize {
    size_of::<T>()
}

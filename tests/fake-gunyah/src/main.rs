//! The `fake-gunyah` command.
fn main() {}

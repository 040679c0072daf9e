//! Says whether this host can run VMs under Gunyah, and if not, why and what to do.
//!
//! ```sh
//! cargo run -p gunyah-ioctls --example doctor -- --probe
//! ```

mod doctor;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(doctor::run(std::env::args_os(), &mut std::io::stdout().lock()))
}

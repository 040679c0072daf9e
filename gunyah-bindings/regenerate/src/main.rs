//! Writes `src/{v11,android,v17,vendor}.rs` of gunyah-bindings from `headers/*.h`.
//!
//! ```text
//! cargo run --manifest-path gunyah-bindings/regenerate/Cargo.toml              # write them
//! cargo run --manifest-path gunyah-bindings/regenerate/Cargo.toml -- --check   # exit 1 and show a diff if they differ
//! ```
//!
//! bindgen's version is pinned, the target is fixed, the two system headers come from `include/` here and rustfmt gets
//! the repository's own settings, so what is written does not depend on the host.

mod constants;
mod generate;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

/// The forms: `headers/NAME.h` becomes `src/NAME.rs`.
const MODULES: [&str; 4] = ["v11", "android", "v17", "vendor"];

fn main() -> ExitCode {
    let mut check = false;
    for arg in env::args().skip(1) {
        match arg.as_str() {
            "--check" => check = true,
            _ => {
                eprintln!("usage: gunyah-bindings-regenerate [--check]");
                return ExitCode::from(2);
            }
        }
    }
    match run(check) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("the checked-in bindings differ from the headers; run the generator without --check");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Generates every module; returns whether what is checked in was equal (with `check`) or is now (without).
fn run(check: bool) -> Result<bool, Box<dyn Error>> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bindings = tool.parent().ok_or("the generator lies in no directory")?;
    let mut equal = true;
    for module in MODULES {
        let header = bindings.join("headers").join(format!("{module}.h"));
        let wanted = generate::module(tool, &header, module)?;
        let path = bindings.join("src").join(format!("{module}.rs"));
        let found = fs::read_to_string(&path).unwrap_or_default();
        if found == wanted {
            continue;
        }
        if check {
            equal = false;
            let name = format!("gunyah-bindings/src/{module}.rs");
            let diff = similar::TextDiff::from_lines(&found, &wanted);
            print!(
                "{}",
                diff.unified_diff().header(&format!("{name} (checked in)"), &format!("{name} (generated)"))
            );
        } else {
            fs::write(&path, wanted).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
            println!("wrote gunyah-bindings/src/{module}.rs");
        }
    }
    Ok(equal)
}

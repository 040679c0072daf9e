//! The C headers against the compiled Rust, by a C compiler and the system's own `linux/ioctl.h`.
//!
//! Three lists must be equal: what the headers declare, what the generated Rust declares, and the table. Then a C program
//! made from the table prints each constant, size and offset, and they must be what Rust says.
//! Without a C compiler these tests fail; they never pass unrun.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![expect(unsafe_code, reason = "the table takes addresses of union members")]

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of one form: constants, and structs with their direct members.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    constants: BTreeSet<String>,
    structs: BTreeMap<String, BTreeSet<String>>,
}

fn names_in_table(module: &str) -> Names {
    let mut names = Names::default();
    for c in table::constants().iter().filter(|c| c.module == module) {
        assert!(names.constants.insert(c.name.to_owned()), "{} is twice in the table", c.name);
    }
    for s in table::structs().iter().filter(|s| s.module == module) {
        let members = s.fields.iter().filter(|f| !f.path.contains('.')).map(|f| f.path.clone()).collect();
        assert!(names.structs.insert(s.name.to_owned(), members).is_none(), "{} is twice", s.name);
    }
    names
}

/// `text` without its comments.
fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, comment)) = rest.split_once("/*") {
        out.push_str(before);
        rest = comment.split_once("*/").expect("a comment without an end").1;
    }
    out + rest
}

fn names_in_header(module: &str) -> Names {
    let text = fs::read_to_string(crate_dir().join(format!("headers/{module}.h"))).unwrap();
    let mut names = Names::default();
    let mut current = None;
    let mut in_enum = false;
    for line in without_comments(&text).lines().map(str::trim) {
        if let Some(definition) = line.strip_prefix("#define ") {
            if let Some((name, _)) = definition.split_once(' ') {
                names.constants.insert(name.to_owned());
            }
        } else if let Some(name) = line.strip_prefix("struct ").and_then(|l| l.strip_suffix(" {")) {
            current = Some(name.to_owned());
            names.structs.insert(name.to_owned(), BTreeSet::new());
        } else if line.starts_with("enum ") && line.ends_with(" {") {
            in_enum = true;
        } else if line == "};" && (current.is_some() || in_enum) {
            // The end of a nameless union is the same text, one level in; members may follow it.
            in_enum = false;
        } else if in_enum && line.contains(" = ") {
            names.constants.insert(line.split(' ').next().unwrap().to_owned());
        } else if let (Some(name), Some(member)) = (&current, line.strip_suffix(';')) {
            let member = member.rsplit(' ').next().unwrap().split('[').next().unwrap();
            names.structs.get_mut(name).unwrap().insert(member.to_owned());
        }
    }
    names
}

fn names_in_rust(module: &str) -> Names {
    let text = fs::read_to_string(crate_dir().join(format!("src/{module}.rs"))).unwrap();
    let mut names = Names::default();
    let mut current: Option<String> = None;
    for line in text.lines() {
        let item = line.trim().strip_prefix("pub ").unwrap_or_default();
        if let Some(constant) = item.strip_prefix("const ") {
            names.constants.insert(constant.split(':').next().unwrap().to_owned());
        } else if let Some(name) = item.strip_prefix("struct ").and_then(|i| i.strip_suffix(" {")) {
            current = Some(name.to_owned());
            names.structs.insert(name.to_owned(), BTreeSet::new());
        } else if item.starts_with("union ") {
            // Its members count as the members of the run page, which is the only struct with a union.
            current = names.structs.keys().find(|n| n.ends_with("_vcpu_run")).cloned();
        } else if line == "}" {
            current = None;
        } else if let (Some(name), Some((member, _))) = (&current, item.split_once(':')) {
            if member != "__bindgen_anon_1" {
                names.structs.get_mut(name).unwrap().insert(table::c_path(member));
            }
        }
    }
    names
}

#[test]
fn headers_rust_and_table_name_the_same_things() {
    for module in table::MODULES {
        let table = names_in_table(module);
        assert!(table.constants.len() > 20 && table.structs.len() >= 3, "{module}: the table is too short");
        assert_eq!(names_in_header(module), table, "headers/{module}.h (left) and the table (right)");
        assert_eq!(names_in_rust(module), table, "src/{module}.rs (left) and the table (right)");
    }
}

/// Whether the type's size can be compared: C's codes have a `sizeof` inside and are as wide as that.
fn has_width(constant: &table::Constant) -> bool {
    constant.rust <= 0xffff
}

/// A C program that prints `name value` for everything in the table.
fn program(module: &str) -> String {
    let mut c = format!("#include <stddef.h>\n#include <stdio.h>\n#include \"{module}.h\"\n\n");
    c.push_str("#define SHOW(name, value) printf(\"%s %llu\\n\", name, (unsigned long long)(value))\n\n");
    c.push_str("int main(void)\n{\n");
    for x in table::constants().iter().filter(|x| x.module == module) {
        let name = x.name;
        writeln!(c, "\tSHOW(\"{name}\", {name});").unwrap();
        if has_width(x) {
            // An enumeration's constants have type int in C; the type that counts is the enumeration's.
            let width = x.owner.map_or_else(|| name.to_owned(), |owner| format!("enum {owner}"));
            writeln!(c, "\tSHOW(\"{name}:width\", sizeof({width}));").unwrap();
        }
    }
    for s in table::structs().iter().filter(|s| s.module == module) {
        let name = s.name;
        writeln!(c, "\tSHOW(\"{name}:size\", sizeof(struct {name}));").unwrap();
        writeln!(c, "\tSHOW(\"{name}:align\", _Alignof(struct {name}));").unwrap();
        for f in &s.fields {
            let path = &f.path;
            writeln!(c, "\tSHOW(\"{name}.{path}:offset\", offsetof(struct {name}, {path}));").unwrap();
            writeln!(c, "\tSHOW(\"{name}.{path}:size\", sizeof(((struct {name} *)0)->{path}));").unwrap();
        }
    }
    c.push_str("\treturn 0;\n}\n");
    c
}

/// What Rust says, under the names that the program prints.
fn rust_says(module: &str) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    for x in table::constants().iter().filter(|x| x.module == module) {
        out.insert(x.name.to_owned(), x.rust);
        if has_width(x) {
            out.insert(format!("{}:width", x.name), x.width as u64);
        }
    }
    for s in table::structs().iter().filter(|s| s.module == module) {
        out.insert(format!("{}:size", s.name), s.rust.0 as u64);
        out.insert(format!("{}:align", s.name), s.rust.1 as u64);
        for f in &s.fields {
            out.insert(format!("{}.{}:offset", s.name, f.path), f.rust.0 as u64);
            out.insert(format!("{}.{}:size", s.name, f.path), f.rust.1 as u64);
        }
    }
    out
}

/// The C compiler for this very machine. Cargo tells a test nothing of host, target and optimisation, so they are set.
fn compiler() -> cc::Tool {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let triple = format!("{}-unknown-linux-{libc}", env::consts::ARCH);
    cc::Build::new()
        .host(&triple)
        .target(&triple)
        .opt_level(0)
        .debug(false)
        .cargo_metadata(false)
        .std("c11")
        .warnings(true)
        .warnings_into_errors(true)
        .include(crate_dir().join("headers"))
        .try_get_compiler()
        .expect("a C compiler is needed")
}

/// Compiles C text; the executable's path, or the compiler's complaint.
fn compile(name: &str, text: &str) -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = dir.join(format!("{name}-{}.c", std::process::id()));
    let executable = source.with_extension("bin");
    fs::write(&source, text).unwrap();
    let output = compiler().to_command().arg(&source).arg("-o").arg(&executable).output().unwrap();
    fs::remove_file(&source).unwrap();
    if output.status.success() {
        Ok(executable)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// What a C program made from `module`'s header prints.
fn c_says(module: &str) -> BTreeMap<String, u64> {
    let executable = compile(module, &program(module)).unwrap_or_else(|e| panic!("{module}: {e}"));
    let output = Command::new(&executable).output().unwrap();
    fs::remove_file(&executable).unwrap();
    assert!(output.status.success(), "{module}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let split = |line: &str| {
        let (name, value) = line.split_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    text.lines().map(split).collect()
}

#[test]
fn c_and_rust_agree_on_every_number() {
    for module in table::MODULES {
        let (c, rust) = (c_says(module), rust_says(module));
        assert_eq!(c.keys().collect::<Vec<_>>(), rust.keys().collect::<Vec<_>>(), "{module}: names");
        let differ: Vec<String> = rust
            .iter()
            .filter(|(name, value)| c[*name] != **value)
            .map(|(name, value)| format!("{name}: C says {:#x}, Rust says {value:#x}", c[name]))
            .collect();
        assert!(differ.is_empty(), "{module}:\n{}", differ.join("\n"));
    }
}

#[test]
fn two_headers_at_once_are_refused() {
    let text = "#include \"android.h\"\n#include \"v17.h\"\nint main(void) { return 0; }\n";
    let complaint = compile("two-headers", text).expect_err("this must not compile");
    assert!(complaint.contains("one header of gunyah-bindings at a time"), "{complaint}");
}

#[test]
fn one_header_twice_is_fine() {
    let text = "#include \"v11.h\"\n#include \"v11.h\"\nint main(void) { return 0; }\n";
    fs::remove_file(compile("one-header-twice", text).unwrap()).unwrap();
}

//! Macros with a value, turned into C constants that bindgen can see.
//!
//! libclang does not evaluate a macro such as `_IOW('G', 0x1, struct s)` and drops the comment of any macro. So for
//! each `#define NAME value` the generator declares a constant that has the macro as its initialiser and a copy of its
//! comment; the compiler evaluates it, and bindgen writes it with its documentation.

/// What the names of the declared constants start with; bindgen's callback takes it off again.
pub(crate) const PREFIX: &str = "constant_of_";

/// C declarations of one constant for each macro of `header` that has a value.
pub(crate) fn declarations(header: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut in_comment = false;
    for line in header.lines() {
        let text = line.trim();
        if in_comment || text.starts_with("/*") {
            if !in_comment {
                comment.clear();
            }
            comment.push(line);
            in_comment = !text.ends_with("*/");
            continue;
        }
        if let Some(definition) = text.strip_prefix("#define ") {
            // A macro without a value is an include guard.
            if let Some((name, value)) = definition.split_once(char::is_whitespace) {
                if !comment.first().is_some_and(|l| l.trim_start().starts_with("/**")) {
                    return Err(format!("{name} has no /** comment */ right above it"));
                }
                if name.contains('(') {
                    return Err(format!("{name} takes arguments: not supported"));
                }
                out.push_str(&comment.join("\n"));
                let c_type = type_of(value);
                out.push_str(&format!("\nstatic const {c_type} {PREFIX}{name} = {name};\n"));
            }
        }
        comment.clear();
    }
    Ok(out)
}

/// The type of the constant, told by how its value is written.
fn type_of(value: &str) -> &'static str {
    if value.starts_with("((__u8)") {
        "__u8"
    } else if value.ends_with("ULL") {
        "__u64"
    } else {
        "__u32"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_macro_with_a_value_becomes_a_constant_with_its_comment() {
        let c = declarations(
            "#define GUARD\n/** Doc. */\n#define A _IO(1, 2)\n/**\n * Wide.\n */\n#define B 1ULL\n",
        );
        let wanted = "/** Doc. */\nstatic const __u32 constant_of_A = A;\n\
                      /**\n * Wide.\n */\nstatic const __u64 constant_of_B = B;\n";
        assert_eq!(c.as_deref(), Ok(wanted));
    }

    #[test]
    fn a_macro_without_a_doc_comment_is_refused() {
        assert!(declarations("#define A 1U\n").is_err());
        assert!(declarations("/* plain */\n#define A 1U\n").is_err());
        assert!(declarations("/** far */\n\n#define A 1U\n").is_err());
    }
}

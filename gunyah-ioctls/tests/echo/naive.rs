//! The naive loops, in C, on the same hosts: they must lose what they lose on a real host, or the proof is worth nothing.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use fake_gunyah::{Answer, Builder, Guest, Handle, Script};

use super::{ADDR, hosts, rounds};

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fake-gunyah/tests/c/echo.c");
        let program =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("naive-echo-{}", std::process::id()));
        let status = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-O2", "-Wall", "-Werror", "-o"])
            .arg(&program)
            .arg(source)
            .status()
            .expect("a C compiler");
        assert!(status.success());
        program
    })
}

fn guest(rounds: u64) -> Guest {
    let mut step = 0;
    Guest::scripts([Script::from_fn(move |resume| {
        step += 1;
        if step > 2 * rounds {
            Answer::exit(1, &[0; 4])
        } else if step % 2 == 1 {
            Answer::mmio_read(ADDR, 4)
        } else {
            Answer::mmio_write(ADDR + 8, 4, resume[0] & 0xffff_ffff)
        }
    })])
}

fn echo(name: &str, host: Builder, mode: &str) -> (HashMap<String, u64>, Handle) {
    let fake = host.guest(guest(rounds(name))).build().unwrap();
    let mut command = Command::new(program());
    command.arg(mode).stdout(Stdio::piped());
    let mut child = fake.spawn(command).unwrap();
    let handle = child.handle().clone();
    let mut text = String::new();
    child.process().stdout.as_mut().unwrap().read_to_string(&mut text).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{name}: {status}: {text}");
    println!("C, {mode} on {name}: {}", text.trim_end());
    let counts = text.split_whitespace().map(|word| {
        let (name, value) = word.split_once('=').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    (counts.collect(), handle)
}

#[test]
fn the_naive_loops_lose_exits_and_answers_on_the_same_hosts() {
    for (name, host) in hosts() {
        let (seen, handle) = echo(name, host, "kvm");
        let hundredth = rounds(name) / 100;
        assert_eq!((seen["completed"], seen["zero"]), (hundredth, hundredth), "{name}");
        assert_eq!(handle.answers_lost(), hundredth, "{name}");
    }
    // When a signal comes is chance: a few rounds may lose nothing, ten times as many do.
    let until = |kernel: usize, mode: &str, lost: &dyn Fn(&HashMap<String, u64>) -> bool| {
        let mut tries = 0;
        loop {
            let (name, host) = hosts().into_iter().nth(kernel).unwrap();
            let (seen, handle) = echo(name, host, mode);
            tries += 1;
            if lost(&seen) || tries == 10 {
                return (name, seen, handle);
            }
        }
    };
    for kernel in 0..hosts().len() {
        let (name, seen, handle) = until(kernel, "look", &|seen| seen["finished"] > 0 && seen["zero"] > 0);
        assert!(seen["finished"] > 0, "{name}: no exit was found behind EINTR");
        assert!(seen["zero"] > 0, "{name}: no answer was lost");
        assert_eq!(seen["zero"], handle.answers_lost(), "{name}");
        let all = 2 * rounds(name);
        let (name, seen, _) = until(kernel, "restart", &|seen| seen["reads"] + seen["writes"] < all);
        assert_eq!(seen["eintr"], 0, "{name}");
        assert!(seen["reads"] + seen["writes"] < all, "{name}: every exit was seen");
    }
}

//! The naive C loops lose here what they lose on a real host, for the same reasons.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod c_program;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use fake_gunyah::{Answer, Fake, Guest, Handle, Script};

const ROUNDS: u64 = 20_000;
const ADDR: u64 = 0x1000;

/// The guest: load, store what came, and so on; then power off.
fn echo_guest() -> Guest {
    let mut step = 0;
    Guest::scripts([Script::from_fn(move |resume| {
        step += 1;
        if step > 2 * ROUNDS {
            Answer::exit(1, &[0; 4])
        } else if step % 2 == 1 {
            Answer::mmio_read(ADDR, 4)
        } else {
            Answer::mmio_write(ADDR + 8, 4, resume[0] & 0xffff_ffff)
        }
    })])
}

struct Outcome {
    counts: HashMap<String, u64>,
    handle: Handle,
}

impl Outcome {
    fn get(&self, name: &str) -> u64 {
        self.counts[name]
    }
}

fn echo(mode: &str) -> Outcome {
    use std::sync::OnceLock;
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let fake = Fake::builder().guest(echo_guest()).record_calls(false).build().unwrap();
    let mut command = Command::new(PROGRAM.get_or_init(|| c_program::compile("c/echo.c")));
    command.arg(mode).stdout(Stdio::piped());
    let mut child = fake.spawn(command).unwrap();
    let handle = child.handle().clone();
    let mut text = String::new();
    std::io::Read::read_to_string(child.process().stdout.as_mut().unwrap(), &mut text).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {text}");
    assert_eq!(handle.leftovers(), []);
    println!(
        "{mode}: {text}  fake: answers lost {}, exits lost {}",
        handle.answers_lost(),
        handle.exits_lost()
    );
    let counts = text
        .split_whitespace()
        .map(|word| {
            let (name, value) = word.split_once('=').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect();
    Outcome { counts, handle }
}

#[test]
fn without_signals_nothing_is_lost() {
    let seen = echo("plain");
    assert_eq!(seen.get("reads"), ROUNDS);
    assert_eq!(seen.get("right"), ROUNDS);
    assert_eq!(seen.handle.answers_lost(), 0);
    assert_eq!(seen.handle.exits_lost(), 0);
}

#[test]
fn the_kvm_idiom_loses_every_answer_it_completes() {
    let seen = echo("kvm");
    assert_eq!(seen.get("completed"), ROUNDS / 100);
    assert_eq!(seen.get("zero"), ROUNDS / 100, "each of them reads as 0 in the guest");
    assert_eq!(seen.get("right"), ROUNDS - ROUNDS / 100);
    assert_eq!(seen.handle.answers_lost(), ROUNDS / 100);
}

#[test]
fn a_look_at_the_page_saves_exits_but_not_answers() {
    let seen = echo("look");
    // Every exit is seen, because the page is looked at.
    assert_eq!(seen.get("reads"), ROUNDS);
    assert_eq!(seen.get("writes"), ROUNDS);
    assert!(seen.get("eintr") > 0, "no signal hit");
    // What is missing are answers, and the fake knows of each: the guest got 0.
    assert_eq!(seen.get("wrong"), 0);
    assert_eq!(seen.get("zero"), seen.handle.answers_lost());
    // Only an interrupted call with an answer outstanding and nothing in the page can have lost one.
    assert!(seen.get("zero") <= seen.get("outstanding"));
}

#[test]
fn restarted_calls_lose_exits_without_a_word() {
    let seen = echo("restart");
    assert_eq!(seen.get("eintr"), 0, "SA_RESTART hides every signal");
    let unseen = 2 * ROUNDS - seen.get("reads") - seen.get("writes");
    assert!(unseen > 0, "nothing was lost");
    assert!(seen.handle.exits_lost() > 0);
}

//! microvm on a recorded host: it does what it did, and nothing of its guest's memory is in the recording.
//!
//! One test, and a file of its own: the recorder reaps every child of its process.
#![cfg(feature = "gunyah")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use common::example;
use fake_gunyah::record::Recording;
use fake_gunyah::replay::{Options, Replay, parse};

const SECRET: &str = "SECRET-IN-GUEST-MEMORY";

/// Writes "Az" to the UART, and powers off.
const GUEST: [u32; 9] = [
    0xd2a2_0009, // movz x9, #0x1000, lsl #16
    0x5280_0821, // movz w1, #'A'
    0x3900_0121, // strb w1, [x9]
    0x5280_0f41, // movz w1, #'z'
    0x3900_0121,
    0x5280_0100,
    0x72b0_8000,
    0xd400_0002, // SYSTEM_OFF
    0x1400_0000,
];

#[test]
fn microvm_is_recorded_and_replayed_without_its_guests_memory() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("recording-{}", std::process::id()));
    fs::create_dir_all(&scratch).unwrap();
    let file = |name: &str| scratch.join(name);
    let kernel = [GUEST.map(u32::to_le_bytes).concat(), SECRET.into()].concat();
    fs::write(file("kernel"), kernel).unwrap();
    fs::write(file("initrd"), SECRET.repeat(100)).unwrap();

    let microvm = |out: &str, arguments: &[&str]| {
        let mut command = Command::new(example("microvm"));
        command.args(arguments).stdin(Stdio::null());
        // The sanitizer's search for leaks wants to trace the process, which the recorder does.
        let sanitizer = std::env::var("ASAN_OPTIONS").unwrap_or_default();
        command.env("ASAN_OPTIONS", format!("{sanitizer}:detect_leaks=0"));
        command.stdout(File::create(file(out)).unwrap());
        command
    };
    let secretive = |out: &str, more: &[&str]| {
        let mut command = microvm(out, more);
        command.arg("--kernel").arg(file("kernel")).arg("--initrd").arg(file("initrd"));
        command.args(["--memory", "4M", "--cmdline", SECRET]);
        command
    };
    type Make<'a> = &'a dyn Fn(&str, &[&str]) -> Command;
    let runs: [(&str, Make<'_>); 2] = [("built-in guest", &microvm), ("a kernel with secrets", &secretive)];
    for (what, make) in runs {
        let recording = Recording::start(&file("recording"), &[], make("first", &[])).unwrap();
        let (ended, events) = recording.follow().unwrap();
        assert_eq!(ended.code(), 0, "{what}");
        assert!(events > 10, "{what}: {events} events");
        let text = fs::read(file("recording")).unwrap();
        let lines = String::from_utf8(text.clone()).unwrap();
        let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
        for secret in [SECRET, &hex[..16]] {
            assert!(!lines.to_lowercase().contains(&secret.to_lowercase()), "{what}: {secret} was recorded");
        }

        let again = make("second", &["--device", "/dev/gunyah"]);
        let report =
            Replay::start(parse(&text).unwrap(), Options::default(), again).unwrap().serve().unwrap();
        assert!(report.divergences.is_empty(), "{what}: {report:?}");
        assert_eq!(report.status.code(), Some(0), "{what}: {report:?}");
        assert_eq!(fs::read(file("first")).unwrap(), fs::read(file("second")).unwrap(), "{what}");
    }
    assert_eq!(fs::read(file("second")).unwrap(), b"Az");
    fs::remove_dir_all(scratch).unwrap();
}

//! `fake-gunyah replay`: a recorded host answers as it did.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod record_common;

use record_common::*;

/// The exit code for a program that does something else than was recorded.
const DIFFERS: i32 = 122;

fn same_behaviour(mode: &[&str]) {
    let args = [&["2"], mode].concat();
    let (recorded, file, _) = record(100, &args);
    assert_eq!(recorded.status.code(), Some(11), "{}", recorded.out);
    // More than once: what is in the file must not depend on luck.
    for _ in 0..3 {
        let replayed = plainly(replayer(&[], &file, &args));
        assert_eq!(replayed.status.code(), Some(11), "{}", replayed.err);
        for vcpu in 0..2 {
            assert_eq!(recorded.of(vcpu), replayed.of(vcpu));
        }
    }
}

#[test]
fn a_program_sees_what_it_saw() {
    same_behaviour(&[]);
}

#[test]
fn a_program_that_is_kicked_sees_what_it_saw() {
    same_behaviour(&["kick"]);
}

#[test]
fn a_program_whose_calls_start_over_sees_what_it_saw() {
    same_behaviour(&["sa-restart"]);
}

#[test]
fn a_program_without_the_signals_sees_the_same_exits() {
    let (recorded, file, _) = record(100, &["2", "kick"]);
    let replayed = plainly(replayer(&[], &file, &["2"]));
    assert_eq!(replayed.status.code(), Some(11), "{}", replayed.err);
    assert_eq!((recorded.of(0), recorded.of(1)), (replayed.of(0), replayed.of(1)));
}

#[test]
fn one_that_loses_exits_loses_them_again() {
    // Whatever was lost on the fake, and none or more: the replay shows the page and EINTR where the host did.
    let (recorded, file, _) = record(300, &["2", "naive"]);
    let naive = plainly(replayer(&[], &file, &["2", "naive"]));
    assert_eq!((recorded.of(0), recorded.of(1)), (naive.of(0), naive.of(1)), "{}", naive.err);
}

/// What comes before the first RUN of vCPU 0 in the VMM.
const BEGIN: [&str; 9] = [
    r#"{"t":1,"tid":0,"op":"open","args":{"path":"/dev/gunyah"},"ret":0,"new":{"kind":"device","n":0}}"#,
    r#"{"t":2,"tid":0,"op":"0x47ff","obj":{"kind":"device","n":0},"errno":"ENOTTY"}"#,
    r#"{"t":3,"tid":0,"op":"GH_CREATE_VM","obj":{"kind":"device","n":0},"args":{"arg":"0x0"},"ret":0,"new":{"kind":"vm","n":0}}"#,
    r#"{"t":4,"tid":0,"op":"GH_VM_SET_USER_MEM_REGION","obj":{"kind":"vm","n":0},"args":{"arg":"null"},"errno":"EFAULT"}"#,
    r#"{"t":5,"tid":0,"op":"GH_VM_SET_USER_MEM_REGION","obj":{"kind":"vm","n":0},"args":{"flags":7,"guest_phys_addr":"0x80000000","label":0,"memory_size":"0x100000","userspace_addr":"aligned"},"ret":0}"#,
    r#"{"t":6,"tid":0,"op":"GH_VM_ADD_FUNCTION","obj":{"kind":"vm","n":0},"args":{"arg_size":16,"fd":"eventfd5","flags":0,"function":"irqfd","label":7},"ret":0}"#,
    r#"{"t":7,"tid":1,"op":"GH_VM_ADD_FUNCTION","obj":{"kind":"vm","n":0},"args":{"arg_size":4,"function":"vcpu","id":0},"ret":0,"new":{"kind":"vcpu","n":0}}"#,
    r#"{"t":8,"tid":1,"op":"GH_VCPU_MMAP_SIZE","obj":{"kind":"vcpu","n":0},"ret":16384}"#,
    r#"{"t":9,"tid":0,"op":"GH_VM_START","obj":{"kind":"vm","n":0},"ret":0}"#,
];
const WRITE_EINTR: &str = r#"{"t":10,"tid":1,"op":"GH_VCPU_RUN","obj":{"kind":"vcpu","n":0},"errno":"EINTR","page":{"exit_reason":1,"mmio":{"phys_addr":"0x42","len":1,"is_write":1,"data":"2100000000000000"}}}"#;
const STALE_EINTR: &str = r#"{"t":11,"tid":1,"op":"GH_VCPU_RUN","obj":{"kind":"vcpu","n":0},"errno":"EINTR","page":{"exit_reason":1,"stale":true,"mmio":{"phys_addr":"0x42","len":1,"is_write":1,"data":"2100000000000000"}}}"#;
const END: &str = r#"{"t":12,"tid":1,"op":"GH_VCPU_RUN","obj":{"kind":"vcpu","n":0},"ret":0,"page":{"exit_reason":2,"status":{"status":3,"exit_type":6,"reason_size":4,"reason":"7700000000000000"}}}"#;

fn with_runs(runs: &[&str]) -> std::path::PathBuf {
    by_hand(&[&BEGIN, runs].concat())
}

#[test]
fn an_exit_under_eintr_is_shown_with_eintr() {
    let file = with_runs(&[WRITE_EINTR, STALE_EINTR, END]);
    let careful = plainly(replayer(&[], &file, &["1"]));
    let end = "vcpu0: status 3, type 6, reason 77";
    assert_eq!(careful.of(0), ["vcpu0: write 1 bytes at 42: 21", end], "{}", careful.err);
    assert_eq!(careful.status.code(), Some(16));
    // One that doesn't look at the page after EINTR loses this exit, as it does on a real host.
    let naive = plainly(replayer(&[], &file, &["1", "naive"]));
    assert_eq!(naive.of(0), [end], "{}", naive.err);
}

#[test]
fn an_errno_is_answered() {
    let ebusy = r#"{"t":9,"tid":1,"op":"GH_VCPU_RUN","obj":{"kind":"vcpu","n":0},"errno":"EBUSY"}"#;
    let replayed = plainly(replayer(&[], &with_runs(&[ebusy]), &["1"]));
    assert_eq!((replayed.out.as_str(), replayed.status.code()), ("run: Device or resource busy\n", Some(1)));
    // One without a name.
    let odd = ebusy.replace("\"EBUSY\"", "133");
    let replayed = plainly(replayer(&[], &with_runs(&[&odd]), &["1"]));
    assert_eq!(replayed.out, "run: Memory page has hardware error\n");
    // START.
    let begin = BEGIN.map(|line| {
        line.replace(
            r#"_START","obj":{"kind":"vm","n":0},"ret":0"#,
            r#"_START","obj":{"kind":"vm","n":0},"errno":"ENODEV""#,
        )
    });
    let lines: Vec<&str> = begin.iter().map(String::as_str).collect();
    let replayed = plainly(replayer(&[], &by_hand(&lines), &["1"]));
    assert_eq!((replayed.out.as_str(), replayed.status.code()), ("start: No such device\n", Some(1)));
}

#[test]
fn garbage_in_the_page_is_shown_as_it_was() {
    let raw = format!(
        r#"{{"t":10,"tid":1,"op":"GH_VCPU_RUN","obj":{{"kind":"vcpu","n":0}},"ret":0,"page":{{"exit_reason":77,"raw":"{}"}}}}"#,
        "ab".repeat(24)
    );
    let replayed = plainly(replayer(&[], &with_runs(&[&raw]), &["1"]));
    assert_eq!(replayed.of(0), ["vcpu0: exit reason 77"], "{}", replayed.err);
}

#[test]
fn a_call_that_was_never_answered_is_not_answered() {
    let run = r#"{"t":10,"tid":1,"op":"GH_VCPU_RUN","obj":{"kind":"vcpu","n":0},"end":"unfinished"}"#;
    let mut replay = replayer(&[], &with_runs(&[run]), &["1", "hang"]);
    let mut child = replay.stdout(std::process::Stdio::piped()).spawn().unwrap();
    use std::io::{BufRead, BufReader};
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("pid "));
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(lines.next(), None);
    assert_eq!(child.wait().unwrap().code(), Some(128 + libc::SIGTERM));
}

#[test]
fn a_program_that_crashes_again_ends_the_same_way() {
    let (recorded, file, _) = record(1, &["1", "crash"]);
    assert_eq!(recorded.status.code(), Some(128 + libc::SIGSEGV));
    let replayed = plainly(replayer(&[], &file, &["1", "crash"]));
    // How far the vCPU had come by then is a matter of luck; that it crashes is not.
    assert_eq!(replayed.status.code(), Some(128 + libc::SIGSEGV), "{}", replayed.err);
}

#[test]
fn a_call_that_differs_is_shown_with_both_sides() {
    let (_, file, _) = record(3, &["1"]);
    let differs = |args: &[&str], both: &[&str]| {
        let replayed = plainly(replayer(&[], &file, args));
        assert_eq!(replayed.status.code(), Some(DIFFERS), "{args:?}: {}", replayed.err);
        for text in both {
            assert!(replayed.err.contains(text), "{args:?}: {}", replayed.err);
        }
        // Only the first: what follows means nothing.
        assert_eq!(replayed.err.matches("differs from the recording").count(), 1);
    };
    differs(
        &["1", "wrong-region"],
        &[
            "recorded (line 7): vm0: GH_VM_SET_USER_MEM_REGION flags=7 guest_phys_addr=0x80000000",
            "now: vm0: GH_VM_SET_USER_MEM_REGION flags=7 guest_phys_addr=0x90000000",
        ],
    );
    differs(
        &["1", "extra-call"],
        &["recorded (line 8): vm0: GH_VM_ADD_FUNCTION", "now: vm0: GH_VM_SET_USER_MEM"],
    );
    differs(
        &["1", "wrong-answer"],
        &["answers the last exit with 00300000", "now: GH_VCPU_RUN answers the last exit with 01300000"],
    );
    differs(&["2"], &["now: vm0: GH_VM_ADD_FUNCTION arg_size=4 function=vcpu id=1"]);
}

#[test]
fn a_program_that_stops_early_differs() {
    let (_, file, _) = record(3, &["2"]);
    let replayed = plainly(replayer(&[], &file, &["1"]));
    assert_eq!(replayed.status.code(), Some(DIFFERS), "{}", replayed.err);
    assert!(replayed.err.contains("the program has ended; recorded calls not made: 6"), "{}", replayed.err);
}

#[test]
fn lenient_goes_on() {
    let (recorded, file, _) = record(3, &["1"]);
    let replayed = plainly(replayer(&["--lenient"], &file, &["1", "wrong-answer"]));
    assert_eq!(recorded.of(0), replayed.of(0));
    assert_eq!(replayed.err.matches("differs from the recording").count(), 3, "{}", replayed.err);
    assert_eq!(replayed.status.code(), Some(DIFFERS));
    // A call that nobody recorded.
    let replayed = plainly(replayer(&["--lenient"], &file, &["1", "extra-call"]));
    assert_eq!(recorded.of(0), replayed.of(0), "{}", replayed.err);
    assert_eq!(replayed.err.matches("differs from the recording").count(), 1, "{}", replayed.err);
}

#[test]
fn another_order_of_threads_is_no_difference() {
    // vCPU 1's calls as if they had come first.
    let (recorded, file, _) = record(20, &["2"]);
    let text = std::fs::read_to_string(&file).unwrap();
    let is_second = |line: &&str| line.contains("GH_VCPU_RUN") && line.contains(r#""n":1}"#);
    let is_first = |line: &&str| line.contains("GH_VCPU_RUN") && !is_second(line);
    let rest = |line: &&str| !line.contains("GH_VCPU_RUN");
    let mut lines: Vec<&str> = text.lines().filter(rest).collect();
    let start = lines.iter().position(|line| line.contains("GH_VM_START")).unwrap() + 1;
    let runs = text.lines().filter(is_second).chain(text.lines().filter(is_first));
    lines.splice(start..start, runs);
    std::fs::write(&file, lines.join("\n")).unwrap();
    let replayed = plainly(replayer(&[], &file, &["2"]));
    assert_eq!(replayed.status.code(), Some(11), "{}", replayed.err);
    assert_eq!((recorded.of(0), recorded.of(1)), (replayed.of(0), replayed.of(1)));
    // And they came in that order: only the last of them, answered but not printed yet, may be late.
    let first_of_first = replayed.out.lines().position(|line| line.starts_with("vcpu0:"));
    assert!(first_of_first >= Some(19), "{}", replayed.out);
}

#[test]
fn a_file_that_is_no_recording() {
    let run = |path: &std::path::Path| plainly(replayer(&[], path, &["1"]));
    let done = run(std::path::Path::new("/no/such/file"));
    assert_eq!(done.status.code(), Some(125));
    assert!(done.err.contains("/no/such/file: No such file"), "{}", done.err);
    let done = run(&by_hand(&[r#"{"t":1,"op":"GH_VM_START","obj":{"kind":"vm","n":0},"ret":0}"#]));
    assert_eq!(done.status.code(), Some(125));
    assert!(done.err.contains("line 2: no earlier call has made vm0"), "{}", done.err);
    // The program was not even started.
    assert_eq!(done.out, "");
}

#[test]
fn a_missing_program() {
    let mut command = std::process::Command::new(FAKE_GUNYAH);
    command.arg("replay").arg(by_hand(&[])).args(["--", "/no/such/program"]);
    let done = plainly(command);
    assert_eq!(done.status.code(), Some(127), "{}", done.err);
}

#[test]
fn a_recording_of_a_recording_is_the_same() {
    // Replay is a host, too: what is recorded on it is what was recorded on the fake.
    let (_, file, first) = record(5, &["1"]);
    let again = scratch("again");
    let mut command = std::process::Command::new(FAKE_GUNYAH);
    command.arg("replay").arg(&file).args(["--", FAKE_GUNYAH, "record", "-o"]).arg(&again);
    command.arg("--").arg(vmm()).arg("1");
    let done = plainly(command);
    assert_eq!(done.status.code(), Some(11), "{}", done.err);
    let what = |recording: &fake_gunyah::replay::Recording| {
        let timeless = |event: &fake_gunyah::record::format::Event| {
            let mut event = event.clone();
            (event.t, event.us) = (0, 0);
            event
        };
        recording.events.iter().map(|(line, event)| (*line, timeless(event))).collect::<Vec<_>>()
    };
    assert_eq!(what(&first), what(&read(&again)));
}

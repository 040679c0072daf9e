//! `fake-gunyah record`: what it writes about a program, and that the program does not notice.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod record_common;

use std::process::Command;

use fake_gunyah::record::format::{Event, Kind, Object, Outcome};
use fake_gunyah::{Guest, Script};
use record_common::*;

fn ops(events: &[(usize, Event)]) -> Vec<String> {
    let name = |event: &Event| match event.obj {
        Some(object) => format!("{object} {} {}", event.op, event.outcome),
        None => format!("{} {}", event.op, event.outcome),
    };
    events.iter().map(|(_, event)| name(event)).collect()
}

fn runs(events: &[(usize, Event)], vcpu: u32) -> Vec<&Event> {
    let object = Object { kind: Kind::Vcpu, n: vcpu };
    events.iter().map(|(_, e)| e).filter(|e| e.op == "GH_VCPU_RUN" && e.obj == Some(object)).collect()
}

#[test]
fn every_call_is_recorded_in_order() {
    let (done, _, recording) = record(1, &["1"]);
    assert_eq!(done.status.code(), Some(11), "{}", done.err);
    assert_eq!(
        ops(&recording.events),
        [
            "open 0",
            "device0 0x47ff ENOTTY",
            "device0 GH_CREATE_VM 0",
            "vm0 close 0",
            "vm0 GH_VM_SET_USER_MEM_REGION EFAULT",
            "vm0 GH_VM_SET_USER_MEM_REGION 0",
            "vm0 GH_VM_ADD_FUNCTION 0",
            "vm0 GH_VM_ADD_FUNCTION 0",
            &format!("vcpu0 GH_VCPU_MMAP_SIZE {}", recording.header.page_size),
            "vcpu0 mmap 0",
            "vm0 GH_VM_START 0",
            "vcpu0 GH_VCPU_RUN 0",
            "vcpu0 GH_VCPU_RUN 0",
            "vcpu0 GH_VCPU_RUN 0",
            "vcpu0 close 0",
            "exit 0",
        ]
    );
    let args = |n: usize| serde_json::to_string(&recording.events[n].1.args).unwrap();
    assert_eq!(args(0), r#"{"path":"/dev/gunyah"}"#);
    assert_eq!(args(4), r#"{"arg":"null"}"#);
    assert_eq!(
        args(5),
        r#"{"flags":7,"guest_phys_addr":"0x80000000","label":0,"memory_size":"0x100000","userspace_addr":"aligned"}"#
    );
    assert_eq!(args(6), r#"{"arg_size":16,"fd":"eventfd0","flags":0,"function":"irqfd","label":7}"#);
    assert_eq!(args(7), r#"{"arg_size":4,"function":"vcpu","id":0}"#);
}

#[test]
fn exits_and_answers_are_recorded() {
    let (_, _, recording) = record(1, &["1"]);
    let runs = runs(&recording.events, 0);
    let text = |event: &Event| {
        let value = serde_json::to_value(event).unwrap();
        format!("{} {}", value["answer"], value["page"])
    };
    assert_eq!(
        text(runs[0]),
        r#"null {"exit_reason":1,"mmio":{"data":"0000000000000000","is_write":0,"len":4,"phys_addr":"0x1000"}}"#
    );
    assert_eq!(
        text(runs[1]),
        r#"{"data":"00300000"} {"exit_reason":1,"mmio":{"data":"0030000000000000","is_write":1,"len":4,"phys_addr":"0x1008"}}"#
    );
    assert_eq!(
        text(runs[2]),
        r#"null {"exit_reason":2,"status":{"exit_type":1,"reason":"5a00000000000000","reason_size":1,"status":2}}"#
    );
}

#[test]
fn the_header_says_where_it_was_made() {
    let (_, file, recording) = record(1, &["1"]);
    let uname = plainly({
        let mut command = Command::new("uname");
        command.args(["-r", "-m"]);
        command
    });
    let header = recording.header;
    assert_eq!(format!("{} {}", header.kernel, header.machine), uname.out.trim());
    // The program's name, but not where it lies; and nobody who passes the file on is surprised by what is in it.
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(header.program, vmm().file_name().unwrap().to_str().unwrap());
    assert!(!text.contains(vmm().parent().unwrap().to_str().unwrap()));
    assert!(header.contents.contains("Guest memory is not in this file"));
}

#[test]
fn threads_are_followed_and_the_program_does_not_notice() {
    let plain = on_the_fake(guest(2, 50), {
        let mut command = Command::new(vmm());
        command.arg("2");
        command
    });
    let (done, _, recording) = record(50, &["2"]);
    assert_eq!(done.status.code(), plain.status.code());
    for vcpu in 0..2 {
        assert_eq!(done.of(vcpu), plain.of(vcpu));
    }
    assert_eq!(runs(&recording.events, 0).len(), 101);
    assert_eq!(runs(&recording.events, 1).len(), 51);
    let tid =
        |vcpu| runs(&recording.events, vcpu).iter().map(|e| e.tid).collect::<std::collections::HashSet<_>>();
    assert_eq!((tid(0).len(), tid(1).len()), (1, 1));
    assert_ne!(tid(0), tid(1));
}

#[test]
fn a_signal_is_recorded_as_the_program_saw_it() {
    let (done, _, recording) = record(300, &["2", "kick"]);
    assert_eq!(done.status.code(), Some(11), "{}", done.out);
    assert_eq!(done.of(0).len(), 601);
    let outcomes: Vec<_> = recording.events.iter().map(|(_, e)| e.outcome).collect();
    assert!(outcomes.contains(&Outcome::Errno(libc::EINTR)));
    assert!(!outcomes.contains(&Outcome::Restarted));
    // Every exit is there, whether RUN returned 0 or EINTR.
    let seen = |n| {
        let fresh = |e: &&&Event| e.page.is_some_and(|page| page.exit_reason != 0 && !page.stale);
        runs(&recording.events, n).iter().filter(fresh).count()
    };
    assert_eq!((seen(0), seen(1)), (601, 301));
}

#[test]
fn a_call_that_starts_over_is_recorded_as_such() {
    let (done, _, recording) = record(300, &["2", "sa-restart"]);
    assert_eq!(done.status.code(), Some(11), "{}", done.out);
    let outcomes: Vec<_> = recording.events.iter().map(|(_, e)| e.outcome).collect();
    assert!(outcomes.contains(&Outcome::Restarted));
    assert!(!outcomes.contains(&Outcome::Errno(libc::EINTR)));
}

#[test]
fn a_descriptor_that_came_over_a_socket_is_the_same_object() {
    let (done, _, recording) = record(1, &["1", "socket"]);
    assert_eq!(done.status.code(), Some(11), "{}", done.out);
    assert!(recording.events.iter().any(|(_, e)| e.op == "GH_VM_START"));
    let vms = recording.events.iter().filter(|(_, e)| e.new.is_some_and(|new| new.kind == Kind::Vm));
    assert_eq!(vms.count(), 1);
}

#[test]
fn a_thread_that_executes_another_program_is_followed() {
    let (done, _, recording) = record(1, &["1", "exec"]);
    assert_eq!(done.status.code(), Some(11), "{}", done.out);
    assert_eq!(runs(&recording.events, 0).len(), 3);
}

#[test]
fn child_processes_are_followed() {
    let file = scratch("recording");
    let mut command = Command::new(FAKE_GUNYAH);
    command
        .arg("record")
        .arg("-o")
        .arg(&file)
        .args(["--", "sh", "-c", "(\"$0\" 1; exit 3) & wait $!"])
        .arg(vmm());
    let done = on_the_fake(guest(1, 1), command);
    assert_eq!(done.status.code(), Some(3), "{}", done.err);
    assert_eq!(runs(&read(&file).events, 0).len(), 3);
}

#[test]
fn a_program_that_is_killed_leaves_a_whole_recording() {
    let file = scratch("recording");
    let guest = Guest::scripts([Script::new().mmio_write(0x1000, 1, 7).wfi()]);
    let (_, status) = with_lines(guest, recorder(&file, &["1", "hang"]), |lines, _| {
        let mut pid = None;
        // Both the process id and the first exit, in whatever order.
        for line in lines.take(2) {
            pid = line.strip_prefix("pid ").map(str::to_owned).or(pid);
        }
        // The next RUN must have begun, else there is nothing to be cut off.
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(Command::new("kill").args(["-KILL", &pid.unwrap()]).status().unwrap().success());
    });
    assert_eq!(status.code(), Some(128 + libc::SIGKILL));
    let recording = read(&file);
    assert_eq!(runs(&recording.events, 0).last().unwrap().outcome, Outcome::Unfinished);
    let (_, end) = recording.events.last().unwrap();
    assert_eq!((end.op.as_str(), end.args["signal"].as_i64()), ("exit", Some(9)));
}

#[test]
fn a_signal_for_the_recorder_is_one_for_the_program() {
    let file = scratch("recording");
    let guest = Guest::scripts([Script::new().wfi()]);
    let (_, status) = with_lines(guest, recorder(&file, &["1", "hang"]), |lines, recorder| {
        assert!(lines.next().unwrap().starts_with("pid "));
        assert!(Command::new("kill").args(["-TERM", &recorder.to_string()]).status().unwrap().success());
    });
    assert_eq!(status.code(), Some(128 + libc::SIGTERM));
    read(&file);
}

#[test]
fn a_program_ends_with_its_recorder() {
    let file = scratch("recording");
    let guest = Guest::scripts([Script::new().wfi()]);
    let mut pid = String::new();
    with_lines(guest, recorder(&file, &["1", "hang"]), |lines, recorder| {
        pid = lines.next().unwrap().strip_prefix("pid ").unwrap().to_owned();
        assert!(Command::new("kill").args(["-KILL", &recorder.to_string()]).status().unwrap().success());
        // It has the other end of this pipe, so this ends when it does.
        lines.for_each(drop);
    });
    // What was written until then can be read.
    assert!(read(&file).events.len() > 5);
}

#[test]
fn job_control_works() {
    let file = scratch("recording");
    let guest = Guest::scripts([Script::new().mmio_write(0x1000, 1, 7).wfi()]);
    let state = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("State:")).unwrap().trim().to_owned()
    };
    let wait_for = |pid: &str, wanted: fn(&str) -> bool| {
        // A generous watchdog: a stop takes effect within milliseconds.
        for _ in 0..3000 {
            if wanted(&state(pid)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("still {}", state(pid));
    };
    let (_, status) = with_lines(guest, recorder(&file, &["1", "hang"]), |mut lines, _| {
        let pid = |line: String| line.strip_prefix("pid ").map(str::to_owned);
        let pid = Iterator::find_map(&mut lines, pid).unwrap();
        let kill =
            |signal: &str| assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        for _ in 0..3 {
            kill("-STOP");
            // A stopped traced program shows as one that is being traced; in both states it does nothing.
            wait_for(&pid, |state| state.starts_with('t') || state.starts_with('T'));
            kill("-CONT");
            wait_for(&pid, |state| state.starts_with('S'));
        }
        kill("-TERM");
    });
    assert_eq!(status.code(), Some(128 + libc::SIGTERM));
    // Whether the stops have interrupted the second RUN is up to the host; what became of it is there.
    let recording = read(&file);
    let runs = runs(&recording.events, 0);
    assert!(runs.len() >= 2, "{runs:?}");
    let finished = |run: &&&Event| run.outcome == Outcome::Value(0);
    assert_eq!(runs.iter().filter(finished).count(), 1, "{runs:?}");
    assert_eq!(runs.last().unwrap().outcome, Outcome::Unfinished);
}

#[test]
fn exit_codes() {
    let file = scratch("recording");
    let run = |args: &[&str]| {
        let mut command = Command::new(FAKE_GUNYAH);
        command.args(["record", "-o"]).arg(&file).arg("--").args(args);
        plainly(command)
    };
    assert_eq!(run(&["sh", "-c", "exit 42"]).status.code(), Some(42));
    assert_eq!(run(&["sh", "-c", "kill -SEGV $$"]).status.code(), Some(128 + libc::SIGSEGV));
    let missing = run(&["/no/such/program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(missing.err.contains("cannot run /no/such/program: No such file"), "{}", missing.err);
    let no_program = scratch("no-program");
    std::fs::write(&no_program, "").unwrap();
    assert_eq!(run(&[no_program.to_str().unwrap()]).status.code(), Some(126));
    let quiet = run(&["true"]);
    assert_eq!(quiet.status.code(), Some(0));
    assert!(quiet.err.contains("nothing was recorded"), "{}", quiet.err);
}

#[test]
fn a_file_that_cannot_be_written() {
    let run = |file: &str| {
        let mut command = Command::new(FAKE_GUNYAH);
        command.args(["record", "-o", file, "--"]).arg(vmm()).arg("1");
        on_the_fake(guest(1, 1), command)
    };
    let done = run("/no/such/directory/file");
    assert_eq!(done.status.code(), Some(125));
    assert!(done.err.contains("cannot create /no/such/directory/file"), "{}", done.err);
    assert_eq!(done.out, "");
    // The header cannot be written: the program is not started. (Linux has a device that is always full.)
    let done = run("/dev/full");
    assert_eq!(done.status.code(), Some(125));
    assert_eq!(done.out, "");
}

#[test]
fn a_refused_open_is_recorded() {
    let file = scratch("recording");
    // No fake here, and a device that does not exist.
    let mut command = Command::new(FAKE_GUNYAH);
    command.args(["record", "--device", "/dev/no-gunyah-here", "-o"]).arg(&file);
    command.args(["--", "sh", "-c", "cat /dev/no-gunyah-here /dev/no-gunyah-here-either"]);
    assert_ne!(plainly(command).status.code(), Some(0));
    let recording = read(&file);
    let [(_, open), (_, exit)] = &recording.events[..] else { panic!("{:?}", recording.events) };
    assert_eq!((open.op.as_str(), &open.outcome), ("open", &Outcome::Errno(libc::ENOENT)));
    assert_eq!(exit.op, "exit");
}

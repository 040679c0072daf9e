//! The `fake-gunyah run` command, as a person uses it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]
#![cfg(feature = "cli")]

mod c_program;
#[path = "rm_config/tree.rs"]
#[allow(dead_code, unreachable_pub)]
mod tree;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

fn fake(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fake-gunyah"));
    command.arg("run").args(args);
    command
}

/// A shell script with a device where a shell could not create a file by mistake.
fn sh(script: &str) -> Output {
    fake(&["--device", "/proc/gunyah", "--", "sh", "-c", script]).output().unwrap()
}

fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()))
}

/// The C program, compiled once.
fn client() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| c_program::compile("c/client.c"))
}

fn client_with(args: &[&str], tree: &tree::Tree, name: &str) -> Output {
    let dtb = scratch(name);
    std::fs::write(&dtb, tree.buffer()).unwrap();
    let hello = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/hello.bin");
    let output = fake(args).arg("--").arg(client()).arg(hello).arg(&dtb).output().unwrap();
    std::fs::remove_file(dtb).unwrap();
    output
}

/// The tree with one CPU: the client runs one.
fn one_cpu() -> tree::Tree {
    let mut tree = tree::good();
    tree.remove("gunyah-vm-config/vdevices/shm-5");
    let cpus = tree.children.iter_mut().find(|child| child.name == "cpus").unwrap();
    let mut seen = 0;
    cpus.children.retain(|child| {
        seen += usize::from(child.name.starts_with("cpu@"));
        !child.name.starts_with("cpu@") || seen == 1
    });
    tree
}

const GREETING: &str = "Hello from a Gunyah guest.\r\nCPU 0 is up.\r\ntest device: 8 passed, 0 failed\r\n\
    There is no second CPU.\r\nPowering off.\r\n";

#[test]
fn a_c_program_runs_arm64_code() {
    let output = client_with(&[], &one_cpu(), "plain.dtb");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), GREETING);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_trace_names_calls_arguments_and_results() {
    let output = client_with(&["--trace"], &one_cpu(), "trace.dtb");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), GREETING);
    let trace = String::from_utf8_lossy(&output.stderr);
    for part in [
        "open(",
        ", GH_CREATE_VM, 0) = ",
        ", GH_VM_SET_USER_MEM_REGION, {label=0, flags=READ|WRITE|EXEC, guest_phys_addr=0x80000000, memory_size=0x400000, userspace_addr=0x",
        ", GH_VM_SET_DTB_CONFIG, {guest_phys_addr=0x80100000, size=0x",
        ", GH_VM_ADD_FUNCTION, {type=GH_FN_VCPU, id=0}) = ",
        ", GH_VCPU_MMAP_SIZE) = ",
        ", GH_VM_START) = 0\n",
        ", GH_VCPU_RUN) = 0 {MMIO read, addr=0x10000005, len=1}\n",
        ", GH_VCPU_RUN) = 0 {MMIO write, addr=0x10000000, len=1, data=0x48}\n",
        ", GH_VCPU_RUN) = 0 {status=EXITED, exit_type=1, reason_size=4, reason=[00, ",
    ] {
        assert!(trace.contains(part), "{part:?} is not in\n{trace}");
    }
}

#[test]
fn a_trace_into_a_file() {
    let file = scratch("trace");
    let output = client_with(&["--trace-file", file.to_str().unwrap()], &one_cpu(), "file.dtb");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let trace = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(file).unwrap();
    assert!(trace.lines().all(|line| line.starts_with('[') || line.starts_with("# ")), "{trace}");
    assert!(trace.contains("GH_VM_START"));
}

#[test]
fn what_the_resource_manager_refuses_is_said_in_the_trace() {
    let mut tree = one_cpu();
    tree.children.retain(|child| child.name != "gunyah-vm-config");
    let output = client_with(&["--trace"], &tree, "refused.dtb");
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("# Resource Manager: "), "{text}");
    assert!(text.contains("GH_VM_START) = -1 ENODEV"), "{text}");
    assert!(text.contains("VM_START: No such device"), "{text}");
}

/// The naive loops in C, as a person runs them: they lose on every host what they lose on a real one.
#[test]
fn the_naive_loops_lose_exits_and_answers() {
    let program = c_program::compile("c/echo.c");
    let rounds: u64 = std::env::var("GUNYAH_ECHO_ROUNDS").map_or(20_000, |text| text.parse().unwrap());
    let dtb = scratch("echo.dtb");
    std::fs::write(&dtb, one_cpu().blob()).unwrap();
    let hosts = [["--flavour", "v11"], ["--flavour", "android15"], ["--host", "open-2023"]];
    for host in hosts {
        let echo = |mode: &str| {
            let mut command = fake(&host);
            command.arg("--").arg(&program).arg(mode).arg(&dtb).arg(rounds.to_string());
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{host:?} {mode}: {text} {output:?}");
            println!("{host:?} {mode}: {}", text.trim_end());
            move |name: &str| -> u64 {
                let value = text.split_whitespace().find_map(|word| word.strip_prefix(&format!("{name}=")));
                value.unwrap().parse().unwrap()
            }
        };
        let seen = echo("plain");
        assert_eq!((seen("reads"), seen("writes"), seen("right")), (rounds, rounds, rounds), "{host:?}");
        let seen = echo("kvm");
        assert_eq!(
            (seen("completed"), seen("zero")),
            (rounds / 100, rounds / 100),
            "{host:?}: each such answer is lost"
        );
        // When a signal comes is chance: a few rounds may lose nothing, ten times as many do.
        let seen =
            (0..9).map(|_| echo("look")).find(|seen| seen("finished") > 0).unwrap_or_else(|| echo("look"));
        assert_eq!((seen("reads"), seen("writes"), seen("wrong")), (rounds, rounds, 0), "{host:?}");
        assert!(seen("finished") > 0, "{host:?}: no exit was found behind EINTR");
        assert!(seen("zero") <= seen("outstanding"), "{host:?}");
        let lost = |seen: &dyn Fn(&str) -> u64| seen("reads") + seen("writes") < 2 * rounds;
        let seen = (0..9).map(|_| echo("restart")).find(|seen| lost(seen)).unwrap_or_else(|| echo("restart"));
        assert_eq!(seen("eintr"), 0, "{host:?}");
        assert!(lost(&seen), "{host:?}: every exit was seen");
    }
    std::fs::remove_file(dtb).unwrap();
}

fn client_on(args: &[&str]) -> (Option<i32>, String) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("on-{}.dtb", NUMBER.fetch_add(1, Ordering::Relaxed));
    let output = client_with(args, &one_cpu(), &name);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn hosts_and_features_are_what_was_asked_for() {
    // The client shares its image: a production build of that Resource Manager refuses it.
    let (code, text) = client_on(&["--host", "open-2023", "--trace"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("the image is shared, and only a debug build"), "{text}");
    assert!(text.contains("GH_VM_START) = -1 ENODEV"), "{text}");
    // It does not know EBUSY either; the debug build shows it at the end.
    let (code, text) = client_on(&["--host", "open-2023-debug"]);
    assert_eq!((code, text.as_str()), (Some(3), "VCPU_RUN: Device or resource busy\n"));
    let (code, text) = client_on(&["--host", "open-2023-debug", "--without", "busy-at-end"]);
    assert_eq!(code, Some(0), "{text}");
    // The same out of parts.
    let (code, text) = client_on(&["--flavour", "v17"]);
    assert_eq!((code, text.as_str()), (Some(3), "SET_USER_MEM_REGION: Inappropriate ioctl for device\n"));
    let parts = ["--flavour", "v17", "--with", "user-memory,lend", "--without", "rm-shared-image"];
    let (code, text) = client_on(&parts);
    assert_eq!((code, text.as_str()), (Some(3), "VM_START: No such device\n"));
    let (code, text) = client_on(&["--without", "user-memory"]);
    assert_eq!((code, text.as_str()), (Some(3), "SET_USER_MEM_REGION: Inappropriate ioctl for device\n"));
    let (code, text) = client_on(&["--flavour", "android14", "--memlock", "64"]);
    assert_eq!((code, text.as_str()), (Some(3), "SET_USER_MEM_REGION: Cannot allocate memory\n"));
    assert_eq!(client_on(&["--flavour", "android14", "--memlock", "4096"]).0, Some(0));

    for (args, said) in [
        (["--host", "closed-2024"], "open-2023 and open-2023-debug"),
        (["--with", "wings"], "user-memory, lend"),
        (["--fault", "VM_START"], "CALL[#N]:EFFECT"),
        (["--lose-wakeup", "x"], "invalid digit"),
    ] {
        let output = fake(&args).args(["--", "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(said), "{args:?}: {text}");
    }
    let both = fake(&["--host", "open-2023", "--flavour", "v11", "--", "true"]).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn faults_come_when_they_were_asked_for() {
    let (code, text) = client_on(&["--fault", "VM_START:EBUSY"]);
    assert_eq!((code, text.as_str()), (Some(3), "VM_START: Device or resource busy\n"));
    // The client gives up at the first error of RUN; before that it has printed what came.
    let (code, text) = client_on(&["--fault", "VCPU_RUN#20:EIO"]);
    assert_eq!((code, text.as_str()), (Some(3), "VCPU_RUN: Input/output error\n"));
    let (code, text) = client_on(&["--fault", "VCPU_RUN#20:exit=4", "--trace"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("status=EXITED, exit_type=4"), "{text}");
    // A status exit where there was none.
    let (code, text) = client_on(&["--fault", "VCPU_RUN#1:page=8:02000000"]);
    assert_eq!(code, Some(1), "{text}");
    let started = std::time::Instant::now();
    assert_eq!(client_on(&["--fault", "VM_START:delay=300"]).0, Some(0));
    assert!(started.elapsed() >= std::time::Duration::from_millis(300));
}

#[test]
fn the_exit_status_is_the_programs() {
    assert_eq!(sh("exit 0").status.code(), Some(0));
    assert_eq!(sh("exit 42").status.code(), Some(42));
    assert_eq!(sh("kill -9 $$").status.code(), Some(128 + 9));
    assert_eq!(sh("kill -TERM $$").status.code(), Some(128 + 15));
}

#[test]
fn children_have_the_device_too() {
    // `<>` opens for reading and writing.
    assert_eq!(sh("sh -c 'exec 3<>/proc/gunyah' && exit 7").status.code(), Some(7));
    // Only the path that was asked for. (Somewhere where the shell cannot create it.)
    let script = "exec 3<>/proc/gunyah && exec 4<>/proc/other";
    let output = fake(&["--device", "/proc/gunyah", "--", "sh", "-c", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("/proc/other") && !text.contains("/proc/gunyah"), "{text}");
}

#[test]
fn a_program_that_cannot_be_run() {
    let output = fake(&["--", "/no/such/program"]).output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/program"));
    let no_program = scratch("no-program");
    std::fs::write(&no_program, "").unwrap();
    let output = fake(&["--"]).arg(&no_program).output().unwrap();
    assert_eq!(output.status.code(), Some(126));
}

#[test]
fn bad_usage() {
    let output = fake(&["--flavour", "android99", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("android14-early"), "the names are listed: {text}");
    assert_eq!(fake(&[]).output().unwrap().status.code(), Some(2));
    let output = fake(&["--trace-file", "/no/such/dir/x", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let output = fake(&["--help"]).output().unwrap();
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in ["Examples:", "open-2023-debug", "rm-boot-context", "page=OFFSET:BYTES"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}

#[test]
fn signals_are_passed_on() {
    let script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = fake(&["--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    assert_eq!(lines.next().unwrap().unwrap(), "got it");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn what_is_left_open_is_told() {
    // A process that outlives the program keeps the device open.
    let output = sh("exec 3<>/proc/gunyah; (sleep 2 >/dev/null 2>&1 &) ; exit 0");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("still open after the program's end: the device"), "{text}");
}

#[test]
fn a_fake_inside_a_fake() {
    let inner = env!("CARGO_BIN_EXE_fake-gunyah");
    let output = fake(&["--", inner, "run", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("EBUSY"));
}

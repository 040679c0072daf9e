//! That nothing is left, whoever ends first.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fake_gunyah::{Engine, Flavour};

use crate::common::*;
use crate::rig::*;
use crate::vmm;

/// Open files, threads, and mappings of this process.
fn counts() -> [usize; 3] {
    let entries = |path: &str| std::fs::read_dir(path).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    [entries("/proc/self/fd"), entries("/proc/self/task"), maps]
}

/// Waits until this process has no more of anything than it had. Allocators keep a few mappings.
fn back_to(before: [usize; 3]) {
    let start = Instant::now();
    loop {
        let now = counts();
        let more = now[0] > before[0] || now[1] > before[1] || now[2] > before[2] + 24;
        if !more {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "before: {before:?}, now: {now:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn nothing_is_left_of_many_vms(engine: Engine) {
    const EACH: usize = 25;
    for flavour in [Flavour::V11, Flavour::Android14, Flavour::Android16, Flavour::V17] {
        let some = |n: usize, most: Option<[usize; 3]>| {
            fake(engine, flavour)
                .build()
                .unwrap()
                .run(|handle| {
                    for _ in 0..n {
                        let rig = Rig::new(flavour, &image(|_| ())).started();
                        assert_eq!(rig.exit(), OFF);
                        drop(rig);
                    }
                    gone(handle);
                    most.map_or_else(|| std::thread::sleep(Duration::from_millis(200)), back_to);
                    counts()
                })
                .unwrap()
        };
        // A few before, for what is kept for good.
        let few = some(2, None);
        let before = counts();
        // Many leave no more than few, while the fake goes on. A thread may serve another call.
        some(EACH, Some([few[0] + 1, few[1] + 1, few[2]]));
        back_to(before);
    }
}

fn wait_until_running(process: &mut Child) {
    let mut line = String::new();
    BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "running\n");
}

pub fn nothing_is_left_of_a_killed_program(engine: Engine) {
    for flavour in [Flavour::V11, Flavour::Android14, Flavour::Android16, Flavour::V17] {
        let mut before = [0; 3];
        for round in 0..4_u64 {
            let mut command = vmm::command(&format!("spins@{flavour}"));
            command.stdout(Stdio::piped());
            let mut child = fake(engine, flavour).build().unwrap().spawn(command).unwrap();
            wait_until_running(child.process());
            std::thread::sleep(Duration::from_millis(7 * round));
            let handle = child.handle().clone();
            child.process().kill().unwrap();
            let status = child.wait().unwrap();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
            assert_eq!(handle.leftovers(), [], "{flavour}");
            drop(handle);
            match round {
                0 => before = counts(),
                _ => back_to(before),
            }
        }
    }
}

pub fn a_program_outlives_its_host(engine: Engine) {
    for flavour in [Flavour::V11, Flavour::Android16] {
        let role = vmm::command(&format!("spins@{flavour}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_fake-gunyah"));
        let name = if engine == Engine::Kvm { "kvm" } else { "interpreter" };
        command.args(["run", "--engine", name, "--flavour", flavour.name(), "--"]).arg(role.get_program());
        command.envs(role.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut host = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        wait_until_running(&mut host);
        let children = format!("/proc/{0}/task/{0}/children", host.id());
        let program: i32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        host.kill().unwrap();
        host.wait().unwrap();
        // Its calls are none of the kernel's any more, and it ends.
        eventually("the program ends", || {
            let stat = std::fs::read_to_string(format!("/proc/{program}/stat")).unwrap_or_default();
            // Nobody waits for it where there is no init that does.
            stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
        });
    }
}

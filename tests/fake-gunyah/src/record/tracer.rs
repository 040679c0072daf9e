//! Follows a program's threads from stop to stop.

use std::collections::{HashMap, HashSet};
use std::io::Write;

use super::ptrace::{self, SyscallStop};
use super::recorder::Recorder;
use super::task::{Task, What};

/// Event stops, as wait reports them in the status's third byte.
const EVENT_FORK: i32 = 1;
const EVENT_VFORK: i32 = 2;
const EVENT_CLONE: i32 = 3;
const EVENT_EXEC: i32 = 4;
const EVENT_STOP: i32 = 128;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl Ended {
    /// The code that a shell would show: the program's own, or 128 plus the signal's number.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128 + signal,
        }
    }
}

/// Records until nothing of the program is left.
pub(crate) fn follow<W: Write>(main: i32, recorder: &mut Recorder<W>) -> Option<Ended> {
    let mut tasks = HashMap::from([(main, Task::first(main))]);
    // New threads may stop before their creator's stop says whose they are.
    let mut orphans = HashSet::new();
    let mut ended = None;

    while let Some((tid, status)) = ptrace::wait_any() {
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            if let Some(task) = tasks.remove(&tid) {
                recorder.thread_ended(task);
            }
            orphans.remove(&tid);
            if tid == main {
                ended = Some(if libc::WIFEXITED(status) {
                    Ended::Exited(libc::WEXITSTATUS(status))
                } else {
                    Ended::Killed(libc::WTERMSIG(status))
                });
            }
            continue;
        }
        if !libc::WIFSTOPPED(status) {
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let event = status >> 16 & 0xff;

        if event == EVENT_EXEC {
            executed(tid, &mut tasks, recorder);
            ptrace::resume(tid, 0);
            continue;
        }
        let Some(task) = tasks.get_mut(&tid) else {
            orphans.insert(tid);
            continue;
        };
        match event {
            EVENT_FORK | EVENT_VFORK | EVENT_CLONE => {
                if let Some(child) = ptrace::event_message(tid) {
                    let flags = match task.call.as_ref().map(|call| &call.what) {
                        Some(What::Clone { flags }) => *flags,
                        _ => 0,
                    };
                    let child_task = task.child(child, flags);
                    tasks.insert(child, child_task);
                    if orphans.remove(&child) {
                        ptrace::resume(child, 0);
                    }
                }
                ptrace::resume(tid, 0);
            }
            // A stop by job control lasts; any other such stop is a new thread's first or the end of one that lasted.
            EVENT_STOP if signal != libc::SIGTRAP => ptrace::stay_stopped(tid),
            EVENT_STOP => ptrace::resume(tid, 0),
            0 if signal == libc::SIGTRAP | 0x80 => {
                match ptrace::syscall_stop(tid) {
                    Some(SyscallStop::Entry { nr, args }) => recorder.entry(tid, task, nr, args),
                    Some(SyscallStop::Exit { ret }) => recorder.exit(tid, task, ret),
                    Some(SyscallStop::Foreign) | None => task.call = None,
                }
                ptrace::resume(tid, 0);
            }
            0 => {
                recorder.signal(task, signal);
                ptrace::resume(tid, signal);
            }
            _ => ptrace::resume(tid, 0),
        }
    }
    ended
}

/// An exec ends every other thread of its process, and the thread that made it goes on under the process's id.
fn executed<W: Write>(tid: i32, tasks: &mut HashMap<i32, Task>, recorder: &mut Recorder<W>) {
    let former = ptrace::event_message(tid).unwrap_or(tid);
    if former != tid {
        if let Some(mut task) = tasks.remove(&former) {
            if let Some(leader) = tasks.remove(&tid) {
                task.index = leader.index.or(task.index);
                recorder.thread_ended(leader);
            }
            tasks.insert(tid, task);
        }
    }
    if let Some(task) = tasks.get_mut(&tid) {
        task.executed();
    }
}

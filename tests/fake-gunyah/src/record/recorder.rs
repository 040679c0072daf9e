//! The recorder's memory, and its pen.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Map;

use super::caller::{EventFds, FdInfo, link};
use super::format::{Answer, Event, ExitPage, Kind, Object, Outcome};
use super::ptrace;
use super::task::{Descriptor, Task, lock};
use super::tracer::Ended;

/// Writes a recording.
pub(crate) struct Recorder<W> {
    out: W,
    failed: Option<io::Error>,
    start: Instant,
    pub(super) page_size: u64,
    pub(super) devices: Vec<PathBuf>,
    threads: u32,
    objects: HashMap<Kind, u32>,
    /// Each object's known descriptors, by thread and number, and what their links say: to recognise one that came
    /// another way.
    holders: HashMap<Object, Holders>,
    /// The exit that each vCPU's page shows since its last RUN.
    pub(super) last_exits: HashMap<Object, ExitPage>,
    pub(super) eventfds: EventFds,
    pub(crate) events: u64,
}

impl<W: Write> Recorder<W> {
    pub(crate) fn new(out: W, start: Instant, devices: Vec<PathBuf>) -> Self {
        Self {
            out,
            failed: None,
            start,
            page_size: ptrace::page_size(),
            devices,
            threads: 0,
            objects: HashMap::new(),
            holders: HashMap::new(),
            last_exits: HashMap::new(),
            eventfds: EventFds::default(),
            events: 0,
        }
    }

    /// Writes down how the program has ended.
    pub(crate) fn program_ended(&mut self, ended: Ended) {
        let mut event = Event {
            t: micros(self.start.elapsed()),
            us: 0,
            tid: 0,
            op: "exit".to_owned(),
            obj: None,
            args: Map::new(),
            answer: Answer::default(),
            outcome: Outcome::Value(0),
            new: None,
            page: None,
        };
        let (name, value) = match ended {
            Ended::Exited(code) => ("code", code),
            Ended::Killed(signal) => ("signal", signal),
        };
        event.args.insert(name.to_owned(), value.into());
        let calls = self.events;
        self.write(&event);
        self.events = calls;
    }

    /// The first error of the file that is written, once.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.out.flush().map(|()| self.events),
        }
    }

    /// Writes a line. A full disk must not stop the program: the first error is kept for the end.
    pub(super) fn write(&mut self, event: &Event) {
        if self.failed.is_some() {
            return;
        }
        let mut line = match serde_json::to_vec(event) {
            Ok(line) => line,
            Err(error) => {
                self.failed = Some(error.into());
                return;
            }
        };
        line.push(b'\n');
        // A whole line at once: the file ends at a line's end, however the recording ends.
        match self.out.write_all(&line) {
            Ok(()) => self.events += 1,
            Err(error) => self.failed = Some(error),
        }
    }

    pub(super) fn event(
        &mut self,
        task: &mut Task,
        started: Instant,
        op: &str,
        obj: Option<Object>,
    ) -> Event {
        let index = *task.index.get_or_insert_with(|| {
            let next = self.threads;
            self.threads += 1;
            next
        });
        Event {
            t: micros(self.start.elapsed()),
            us: micros(started.elapsed()),
            tid: index,
            op: op.to_owned(),
            obj,
            args: Map::new(),
            answer: Answer::default(),
            outcome: Outcome::Unfinished,
            new: None,
            page: None,
        }
    }

    pub(super) fn new_object(&mut self, kind: Kind) -> Object {
        let next = self.objects.entry(kind).or_insert(0);
        let object = Object { kind, n: *next };
        *next += 1;
        object
    }

    pub(super) fn is_device(&self, path: &Path) -> bool {
        self.devices.iter().any(|device| device == path)
    }

    /// Remembers that `fd` stands for `object`.
    pub(super) fn learn(&mut self, tid: i32, task: &Task, fd: i32, object: Object) {
        let cloexec = FdInfo::of(tid, fd).is_some_and(|info| info.cloexec);
        let link = link(tid, fd).unwrap_or_default();
        let holders = self.holders.entry(object).or_default();
        holders.link.clone_from(&link);
        holders.known.push((tid, fd));
        lock(&task.files).insert(fd, Descriptor { object, cloexec, link });
    }

    /// The object behind a descriptor.
    pub(super) fn object(&mut self, tid: i32, task: &Task, fd: i32) -> Option<Object> {
        let target = link(tid, fd)?;
        {
            let mut files = lock(&task.files);
            if let Some(known) = files.get(&fd) {
                if known.link == target {
                    return Some(known.object);
                }
                files.remove(&fd);
            }
        }
        // It may have come over a socket, or by a call that isn't followed.
        let found = self.recognise(tid, fd, &target);
        let object = match found {
            Some(object) => object,
            // It may have been open before the program was started.
            None if self.is_device(Path::new(&target)) => self.new_object(Kind::Device),
            None => return None,
        };
        self.learn(tid, task, fd, object);
        Some(object)
    }

    /// One more descriptor of an object.
    pub(super) fn duplicated(&mut self, object: Object, tid: i32, fd: i32) {
        self.holders.entry(object).or_default().known.push((tid, fd));
    }

    /// The object that an unknown descriptor stands for: one with the same open file. If no known descriptor is left to
    /// compare with, or the kernel cannot compare: the only object whose link says the same.
    fn recognise(&mut self, tid: i32, fd: i32, target: &str) -> Option<Object> {
        let mut alike = Vec::new();
        for (object, holders) in &mut self.holders {
            if holders.link != target {
                continue;
            }
            holders.known.retain(|(other, other_fd)| link(*other, *other_fd).as_deref() == Some(target));
            let same = |(other, other_fd): &(i32, i32)| ptrace::same_file(tid, fd, *other, *other_fd);
            match holders.known.iter().find_map(same) {
                Some(true) => return Some(*object),
                Some(false) => {}
                None => alike.push(*object),
            }
        }
        match alike.as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// An object's descriptors.
#[derive(Default)]
struct Holders {
    link: String,
    known: Vec<(i32, i32)>,
}

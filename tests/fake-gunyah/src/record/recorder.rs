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

/// Writes a recording.
pub(crate) struct Recorder<W> {
    out: W,
    failed: Option<io::Error>,
    start: Instant,
    pub(super) page_size: u64,
    pub(super) devices: Vec<PathBuf>,
    threads: u32,
    objects: HashMap<Kind, u32>,
    /// One known holder of each object's file, to recognise a descriptor that came another way.
    holders: HashMap<Object, (i32, i32)>,
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
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
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
        lock(&task.files).insert(fd, Descriptor { object, cloexec, link });
        self.holders.insert(object, (tid, fd));
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
        let found = self.holders.iter().find_map(|(object, (other, other_fd))| {
            (ptrace::same_file(tid, fd, *other, *other_fd) == Some(true)).then_some(*object)
        });
        let object = match found {
            Some(object) => object,
            // It may have been open before the program was started.
            None if self.is_device(Path::new(&target)) => self.new_object(Kind::Device),
            None => return None,
        };
        self.learn(tid, task, fd, object);
        Some(object)
    }
}

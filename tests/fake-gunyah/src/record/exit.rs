//! A system call returns, or will not: what to write down.

use std::io::Write;

use serde_json::Value;

use super::decode::returns;
use super::format::{Event, ExitPage, Kind, Object, Outcome};
use super::page::PAGE_BYTES;
use super::ptrace;
use super::recorder::Recorder;
use super::task::{Call, Descriptor, RunEntry, Task, What, lock};

impl<W: Write> Recorder<W> {
    /// A system call returns `ret`.
    pub(crate) fn exit(&mut self, tid: i32, task: &mut Task, ret: i64) {
        let Some(Call { started, what }) = task.call.take() else { return };
        let ok = !(-4095..0).contains(&ret);
        let new_fd = if ok { i32::try_from(ret).ok() } else { None };
        let outcome = if ok { Outcome::Value(ret) } else { Outcome::Errno(-ret as i32) };
        match what {
            What::Open { path } => {
                let mut event = self.event(task, started, "open", None);
                event.args.insert("path".to_owned(), path.into());
                event.outcome = outcome;
                if let Some(fd) = new_fd {
                    self.returned(tid, task, &mut event, fd, Kind::Device);
                }
                self.finish_call(task, event, ret);
            }
            What::Ioctl { object, code, request, run } => {
                let mut event = self.event(task, started, &request.op, Some(object));
                event.outcome = outcome;
                let new = new_fd.and_then(|fd| Some((fd, returns(code, &request.args)?)));
                event.args = request.args;
                if let Some((fd, kind)) = new {
                    self.returned(tid, task, &mut event, fd, kind);
                }
                if let Some(entry) = run {
                    event.page = self.run_exit(tid, object, &entry, ok);
                    event.answer = entry.answer;
                }
                self.finish_call(task, event, ret);
            }
            What::Mmap { object, len, prot, shared, offset } => {
                if ok && object.kind == Kind::Vcpu && offset == 0 && shared {
                    lock(&task.pages).mapped(object, ret as u64);
                }
                let mut event = self.event(task, started, "mmap", Some(object));
                event.args.insert("length".to_owned(), hex(len));
                event.args.insert("prot".to_owned(), prot.into());
                event.args.insert("shared".to_owned(), shared.into());
                event.args.insert("offset".to_owned(), hex(offset));
                event.outcome = if ok { Outcome::Value(0) } else { outcome };
                self.write(&event);
            }
            What::Munmap { addr, len } if ok => lock(&task.pages).unmapped(addr, len),
            What::Dup { from, cloexec } => {
                // dup2 onto itself changes nothing.
                if let Some(fd) = new_fd.filter(|fd| *fd != from) {
                    let mut files = lock(&task.files);
                    files.remove(&fd);
                    if let Some(known) = files.get(&from).cloned() {
                        self.duplicated(known.object, tid, fd);
                        files.insert(fd, Descriptor { cloexec, ..known });
                    }
                }
            }
            What::Close { fd } => {
                let closed = lock(&task.files).remove(&fd);
                if let Some(closed) = closed {
                    let mut event = self.event(task, started, "close", Some(closed.object));
                    event.outcome = outcome;
                    self.write(&event);
                }
            }
            What::CloseRange { first, last, flags } if ok => {
                if flags & libc::CLOSE_RANGE_UNSHARE as u64 != 0 {
                    task.own_files();
                }
                let mut files = lock(&task.files);
                if flags & libc::CLOSE_RANGE_CLOEXEC as u64 != 0 {
                    files
                        .iter_mut()
                        .filter(|(fd, _)| (first..=last).contains(*fd))
                        .for_each(|(_, d)| d.cloexec = true);
                } else {
                    files.retain(|fd, _| !(first..=last).contains(fd));
                }
            }
            What::Fallocate { object, mode, offset, len } => {
                let mut event = self.event(task, started, "fallocate", Some(object));
                event.args.insert("mode".to_owned(), mode.into());
                event.args.insert("offset".to_owned(), hex(offset));
                event.args.insert("length".to_owned(), hex(len));
                event.outcome = outcome;
                self.write(&event);
            }
            What::SetHandler { signal, handler } if ok => {
                let mut handlers = lock(&task.handlers);
                match handler {
                    Some(handler) => handlers.insert(signal, handler),
                    None => handlers.remove(&signal),
                };
            }
            What::Munmap { .. } | What::CloseRange { .. } | What::SetHandler { .. } | What::Clone { .. } => {}
        }
    }

    /// The call has returned a descriptor.
    fn returned(&mut self, tid: i32, task: &Task, event: &mut Event, fd: i32, kind: Kind) {
        let object = self.new_object(kind);
        lock(&task.files).remove(&fd);
        self.learn(tid, task, fd, object);
        event.new = Some(object);
        // The number means nothing in another process.
        event.outcome = Outcome::Value(0);
    }

    /// The page after a RUN.
    fn run_exit(&mut self, tid: i32, object: Object, entry: &RunEntry, ok: bool) -> Option<ExitPage> {
        let mut page = [0; PAGE_BYTES];
        ptrace::read_memory(tid, entry.addr, &mut page)?;
        let mut exit = ExitPage::from_page(&page);
        let before = ExitPage::from_page(&entry.page);
        exit.stale = !ok && exit.exit_reason != 0 && exit == before;
        if exit.exit_reason != 0 && !exit.stale {
            self.last_exits.insert(object, exit);
        } else if ok {
            // Nothing to answer.
            self.last_exits.remove(&object);
        }
        Some(exit)
    }

    /// Writes a call's event, unless it is not decided yet how the call ends.
    fn finish_call(&mut self, task: &mut Task, event: Event, ret: i64) {
        match -ret {
            ptrace::ERESTARTSYS
            | ptrace::ERESTARTNOINTR
            | ptrace::ERESTARTNOHAND
            | ptrace::ERESTART_RESTARTBLOCK => task.interrupted = Some((event, -ret)),
            _ => self.write(&event),
        }
    }

    /// A signal is about to be delivered.
    pub(crate) fn signal(&mut self, task: &mut Task, signal: i32) {
        let handler = {
            let mut handlers = lock(&task.handlers);
            let handler = handlers.get(&signal).copied();
            if handler.is_some_and(|handler| handler.once) {
                handlers.remove(&signal);
            }
            handler
        };
        // Without a handler, the call starts over, or the thread ends.
        let Some(handler) = handler else { return };
        if let Some((mut event, code)) = task.interrupted.take() {
            let restarts = match code {
                ptrace::ERESTARTSYS => handler.restarts,
                ptrace::ERESTARTNOINTR => true,
                _ => false,
            };
            event.outcome = if restarts { Outcome::Restarted } else { Outcome::Errno(libc::EINTR) };
            self.write(&event);
        }
    }

    /// A thread is gone.
    pub(crate) fn thread_ended(&mut self, mut task: Task) {
        if let Some((mut event, _)) = task.interrupted.take() {
            event.outcome = Outcome::Unfinished;
            self.write(&event);
        }
        let Some(Call { started, what: What::Ioctl { object, request, run, .. } }) = task.call.take() else {
            return;
        };
        let mut event = self.event(&mut task, started, &request.op, Some(object));
        event.args = request.args;
        event.answer = run.map(|entry| entry.answer).unwrap_or_default();
        self.write(&event);
    }
}

fn hex(value: u64) -> Value {
    format!("{value:#x}").into()
}

//! Answers a program's calls with what a recording says.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use gunyah_bindings::v11;

use super::plan::{Asked, Divergence, Match, Plan, exit_of};
use super::{Error, Options, Report};
use crate::errno::Errno;
use crate::record::caller::EventFds;
use crate::record::decode;
use crate::record::format::{Event, ExitPage, Kind, Object, Outcome, PAGE_BYTES};
use crate::transport::files::Files;
use crate::transport::memory::Caller;
use crate::transport::page::SharedPage;
use crate::transport::pending::{Pending, Signals};
use crate::transport::sys::{self, FileId, Notif, Resp};

/// How often the program's end is looked for.
const TICK: Duration = Duration::from_millis(20);
/// How often calls that wait are looked after: whether their callers have signals.
const SCAN: Duration = Duration::from_millis(1);
/// How many looks without any news a call waits for others that were answered before it when it was recorded: a second.
/// Threads may meet in another order than they did then. Looks and not time, because on a busy machine the program gets
/// as little done as this does.
const PATIENCE: u32 = 1000;
/// How long processes that the program leaves behind are still answered.
const GRACE: Duration = Duration::from_millis(500);

/// An open file that stands for an object.
struct Live {
    object: Object,
    page: Option<SharedPage>,
}

/// A call that is not answered yet.
struct Held {
    notif: Notif,
    file: Option<FileId>,
    /// The step that will answer it; `None` if nothing will.
    step: Option<usize>,
    cloexec: bool,
    /// Looks in a row that saw a signal which may be another thread's.
    doubts: u32,
}

pub(crate) struct Server {
    plan: Plan,
    lenient: bool,
    listener: OwnedFd,
    /// A received call stays with its caller until it is answered, whatever signals come. Before Linux 5.19, a signal
    /// takes the caller away, and an exit that is being put into the page just then may go unseen.
    killable: bool,
    signals: Signals,
    files: Files,
    paths: Vec<PathBuf>,
    live: HashMap<FileId, Live>,
    last_exits: HashMap<Object, ExitPage>,
    held: Vec<Held>,
    eventfds: EventFds,
    /// Looks, since the last answer, at which a call waited for its turn.
    idle: u32,
    own_tgid: u32,
    answered: u64,
    reordered: u64,
    divergences: Vec<Divergence>,
}

/// The calling process, as the decoder sees it.
struct Asking<'a> {
    caller: Caller,
    live: &'a HashMap<FileId, Live>,
    eventfds: &'a EventFds,
}

impl decode::Caller for Asking<'_> {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Option<()> {
        sys::process_read(self.caller.tid, addr, buf).ok()
    }

    fn describe_fd(&self, fd: i32) -> String {
        match self.caller.file_id(fd).ok().and_then(|id| self.live.get(&id)) {
            Some(live) => live.object.to_string(),
            None => self.eventfds.describe(self.caller.tid as i32, fd),
        }
    }

    fn page_size(&self) -> u64 {
        sys::page_size() as u64
    }
}

impl Server {
    pub(crate) fn new(
        plan: Plan,
        options: Options,
        (listener, killable): (OwnedFd, bool),
    ) -> Result<Self, Errno> {
        let mut paths: Vec<PathBuf> = plan.paths().map(PathBuf::from).collect();
        paths.extend(options.devices);
        sys::set_sync_wake_up(listener.as_fd());
        Ok(Self {
            plan,
            lenient: options.lenient,
            listener,
            killable,
            signals: Signals::new(std::process::id()),
            files: Files::new()?,
            paths,
            live: HashMap::new(),
            last_exits: HashMap::new(),
            held: Vec::new(),
            eventfds: EventFds::default(),
            idle: 0,
            own_tgid: std::process::id(),
            answered: 0,
            reordered: 0,
            divergences: Vec::new(),
        })
    }

    /// Answers until the program and what it started have ended.
    pub(crate) fn serve(mut self, mut program: Child) -> Result<Report, Error> {
        let mut ended: Option<Instant> = None;
        let mut ticked = Instant::now();
        let mut scanned = ticked;
        loop {
            let mut fds = [self.listener.as_fd(), self.files.as_fd()].map(|fd| libc::pollfd {
                fd: fd.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            });
            let pause = if self.held.is_empty() { TICK } else { SCAN };
            sys::poll(&mut fds, pause.as_millis() as i32);
            let [listener, files] = fds.map(|fd| fd.revents);
            if files != 0 {
                for file in self.files.closed() {
                    self.live.remove(&file);
                }
            }
            if listener & libc::POLLIN != 0 {
                if let Some(notif) = sys::notif_recv(self.listener.as_fd()) {
                    self.arrive(notif);
                }
            } else if listener & (libc::POLLHUP | libc::POLLERR) != 0 {
                break;
            }
            if !self.held.is_empty() && scanned.elapsed() >= SCAN {
                self.scan();
                // Down again, but not to nothing: a program that is being kicked makes its call over and over.
                let waits = self.held.iter().any(|held| self.returns(held));
                self.idle = if waits { self.idle + 1 } else { self.idle.saturating_sub(1) };
                scanned = Instant::now();
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                if matches!(program.try_wait(), Ok(Some(_))) {
                    ended.get_or_insert(ticked);
                }
                if ended.is_some_and(|ended| ended.elapsed() > GRACE) {
                    break;
                }
            }
            if !self.lenient && !self.divergences.is_empty() {
                // Nothing that it does from here on means anything.
                let _ = program.kill();
                break;
            }
            self.answer_due();
        }
        drop(self.listener);
        let status = program.wait().map_err(Error::Wait)?;
        let (runs, others) = self.plan.left();
        let left = runs.len() + others.len();
        // The end of a process cuts off its threads where they are. If it is the recorded end, it may be a bit early.
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        let same_end = code.map(i64::from) == self.plan.exit_code() && code.is_some();
        let first = others.first().or_else(|| if same_end { None } else { runs.first() });
        if let (Some(first), true) = (first, self.divergences.is_empty() || self.lenient) {
            self.divergences.push(Divergence {
                line: Some(first.line),
                recorded: super::plan::describe(&first.event),
                now: format!("the program has ended; recorded calls not made: {left}"),
            });
        }
        Ok(Report {
            status,
            divergences: self.divergences,
            answered: self.answered,
            reordered: self.reordered,
            not_made: left as u64,
        })
    }

    /// Ends the waiting calls whose callers have signals, or are gone.
    fn scan(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        held.retain_mut(|call| {
            let Notif { id, tid, .. } = call.notif;
            let error = if !sys::notif_valid(self.listener.as_fd(), id) {
                Some(Errno::EINTR)
            } else if self.killable {
                match self.signals.of(tid, false) {
                    Pending::No => {
                        call.doubts = 0;
                        None
                    }
                    Pending::Yes => Some(Errno::ERESTARTSYS),
                    // Another thread would have taken it meanwhile. A plain error: starting over is safe only if the
                    // kernel agrees that this thread has a signal.
                    Pending::Maybe if call.doubts >= 2 => Some(Errno::EINTR),
                    Pending::Maybe => {
                        call.doubts += 1;
                        None
                    }
                }
            } else {
                None
            };
            let Some(error) = error else { return true };
            if let Some(step) = call.step {
                self.plan.unclaim(step);
            }
            self.send(Resp { id, error: -error.0, ..Resp::default() });
            false
        });
        self.held = held;
    }

    /// A thread makes one call at a time: when it makes the next, something has ended the one before.
    fn forget(&mut self, tid: u32) {
        let plan = &mut self.plan;
        self.held.retain(|held| {
            if let (true, Some(step)) = (held.notif.tid == tid, held.step) {
                plan.unclaim(step);
            }
            held.notif.tid != tid
        });
    }

    fn send(&self, resp: Resp) -> bool {
        sys::notif_send(self.listener.as_fd(), resp).is_ok()
    }

    fn carry_on(&self, notif: &Notif) {
        self.send(Resp { id: notif.id, flags: sys::RESP_CONTINUE, ..Resp::default() });
    }

    /// A call comes in.
    fn arrive(&mut self, notif: Notif) {
        self.forget(notif.tid);
        let caller = Caller::new(notif.tid, self.own_tgid);
        let [a, b, c, ..] = notif.args;
        let opened = match libc::c_long::from(notif.nr) {
            libc::SYS_ioctl => return self.ioctl(notif, caller, a as RawFd, b as u32, c),
            libc::SYS_openat => self.path(caller, a as RawFd, b).map(|path| (path, c)),
            libc::SYS_openat2 => {
                let flags = caller.read_array::<8>(c).map_or(0, u64::from_le_bytes);
                self.path(caller, a as RawFd, b).map(|path| (path, flags))
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => self.path(caller, libc::AT_FDCWD, a).map(|path| (path, b)),
            _ => None,
        };
        let Some((path, flags)) = opened else { return self.carry_on(&notif) };
        let mut args = serde_json::Map::new();
        args.insert("path".to_owned(), path.to_string_lossy().into_owned().into());
        let asked = Asked { obj: None, op: "open".to_owned(), args, answer: None };
        let cloexec = flags & libc::O_CLOEXEC as u64 != 0;
        self.claim(notif, None, &asked, cloexec);
    }

    /// The path that a caller opens, if it is a recorded one.
    fn path(&self, caller: Caller, dirfd: RawFd, path: u64) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        let bytes = caller.read_c_string(path, libc::PATH_MAX as usize)?;
        let path = caller.absolute(dirfd, std::ffi::OsString::from_vec(bytes).into());
        self.paths.contains(&path).then_some(path)
    }

    fn ioctl(&mut self, notif: Notif, caller: Caller, fd: RawFd, code: u32, arg: u64) {
        let file = caller.file_id(fd).ok();
        let Some((id, live)) = file.and_then(|id| Some((id, self.live.get(&id)?))) else {
            return self.carry_on(&notif);
        };
        let object = live.object;
        let asking = Asking { caller, live: &self.live, eventfds: &self.eventfds };
        let request = decode::decode(code, arg, &asking);
        let mut answer = None;
        if let (v11::GH_VCPU_RUN, Some(page)) = (code, &live.page) {
            if page.byte(ExitPage::IMMEDIATE_EXIT_AT) != 0 {
                // What every driver does, whenever it is asked.
                self.send(Resp { id: notif.id, error: -libc::EINTR, ..Resp::default() });
                return;
            }
            let mut bytes = [0; PAGE_BYTES];
            page.read(0, &mut bytes);
            answer = self.last_exits.get(&object).map(|exit| exit.answer(&bytes));
        }
        let asked = Asked { obj: Some(object), op: request.op.into_owned(), args: request.args, answer };
        self.claim(notif, Some(id), &asked, true);
    }

    /// Finds the step that answers a call, and keeps the call until then.
    fn claim(&mut self, notif: Notif, file: Option<FileId>, asked: &Asked, cloexec: bool) {
        let step = match self.plan.claim(asked, self.lenient) {
            Match::Step(step) => Some(step),
            Match::OtherAnswer(step, divergence) => {
                self.divergences.push(divergence);
                Some(step)
            }
            Match::None(divergence) => {
                self.divergences.push(divergence);
                if self.lenient && asked.op != super::plan::RUN {
                    self.send(Resp { id: notif.id, error: -libc::EIO, ..Resp::default() });
                    return;
                }
                // A vCPU without anything left to do does not exit any more.
                None
            }
        };
        self.held.push(Held { notif, file, step, cloexec, doubts: 0 });
    }

    /// Whether a waiting call is one that will be answered.
    fn returns(&self, held: &Held) -> bool {
        let step = held.step.and_then(|step| self.plan.step(step));
        step.is_some_and(|step| step.event.outcome != Outcome::Unfinished)
    }

    /// Answers every call whose turn has come.
    fn answer_due(&mut self) {
        loop {
            let mut due = None;
            for (position, held) in self.held.iter().enumerate() {
                let Some(step) = held.step.filter(|_| self.returns(held)) else { continue };
                if self.plan.is_due(step) {
                    due = Some(position);
                    break;
                }
            }
            if let Some(position) = due {
                let held = self.held.swap_remove(position);
                self.answer(held);
                continue;
            }
            if self.idle < PATIENCE || !self.held.iter().any(|held| self.returns(held)) {
                return;
            }
            let earliest =
                self.held.iter().filter(|held| self.returns(held)).filter_map(|held| held.step).min();
            let Some(position) = self.held.iter().position(|held| held.step == earliest) else { return };
            let held = self.held.swap_remove(position);
            self.reordered += 1;
            if let Some(step) = held.step {
                self.plan.wait_no_more(step);
            }
            self.answer(held);
        }
    }

    fn answer(&mut self, held: Held) {
        let Some(index) = held.step else { return };
        let Some(step) = self.plan.step(index) else { return };
        if !sys::notif_valid(self.listener.as_fd(), held.notif.id) {
            self.plan.unclaim(index);
            return;
        }
        let event = step.event.clone();
        let exit = self.show_exit(&held, &event);
        let answered = match (event.new, event.outcome) {
            (Some(object), _) => self.hand_out(&held, object),
            (None, Outcome::Value(value)) => {
                // The page is this machine's, whatever the recorded one's was.
                let value = if event.op == "GH_VCPU_MMAP_SIZE" { sys::page_size() as i64 } else { value };
                self.send(Resp { id: held.notif.id, val: value, ..Resp::default() })
            }
            (None, Outcome::Errno(errno)) => {
                self.send(Resp { id: held.notif.id, error: -errno, ..Resp::default() })
            }
            (None, Outcome::Restarted | Outcome::Unfinished) => {
                self.held.push(held);
                return;
            }
        };
        // An exit that is in the page has happened, whether a signal has overtaken the answer or not.
        if answered || exit {
            self.plan.finish(index);
            self.answered += 1;
            self.idle = 0;
        } else {
            self.plan.unclaim(index);
        }
    }

    /// Puts a recorded exit into the page.
    fn show_exit(&mut self, held: &Held, event: &Event) -> bool {
        let page = held.file.and_then(|id| self.live.get(&id)).and_then(|live| live.page.as_ref());
        let (Some(page), Some(exit), Some(object)) = (page, exit_of(event), event.obj) else { return false };
        self.last_exits.insert(object, exit);
        if exit.exit_reason == v11::GH_VCPU_EXIT_UNKNOWN {
            return false;
        }
        page.write(ExitPage::EXIT_AT, &exit.exit);
        page.write(ExitPage::REASON_AT, &exit.exit_reason.to_le_bytes());
        true
    }

    /// Answers with a new descriptor.
    fn hand_out(&mut self, held: &Held, object: Object) -> bool {
        let listener = self.listener.as_fd();
        let size = self.plan.size(object);
        let page = sys::page_size();
        let has_page = object.kind == Kind::Vcpu;
        let size = match object.kind {
            Kind::Vcpu => page as u64,
            Kind::GuestMem | Kind::Cma => size,
            _ => 0,
        };
        let made = self.files.create(size).and_then(|file| {
            sys::notif_add_fd(listener, held.notif.id, file.theirs.as_fd(), held.cloexec)?;
            Ok((file.id, has_page.then(|| SharedPage::new(file.mapping))))
        });
        match made {
            Ok((id, page)) => {
                self.live.insert(id, Live { object, page });
                true
            }
            // The program's table is full, say: that is its answer. Were it gone, this fails, too.
            Err(errno) => self.send(Resp { id: held.notif.id, error: -errno.0, ..Resp::default() }),
        }
    }
}

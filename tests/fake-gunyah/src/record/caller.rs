//! What the recorder learns about a traced process: its memory, its descriptors.

use std::cell::RefCell;

use super::decode::Caller;
use super::ptrace;
use super::task::{Task, lock};

/// The eventfds seen so far, by the kernel's id, in the order of their appearance.
#[derive(Debug, Default)]
pub(crate) struct EventFds(RefCell<Vec<u64>>);

impl EventFds {
    /// What a descriptor that is no object is called.
    pub(crate) fn describe(&self, tid: i32, fd: i32) -> String {
        let Some(info) = FdInfo::of(tid, fd) else { return "closed".to_owned() };
        let Some(id) = info.eventfd else { return "other".to_owned() };
        // The borrow cannot clash: nothing else happens meanwhile.
        let Ok(mut known) = self.0.try_borrow_mut() else { return "eventfd".to_owned() };
        let n = known.iter().position(|other| *other == id).unwrap_or_else(|| {
            known.push(id);
            known.len() - 1
        });
        format!("eventfd{n}")
    }
}

/// A traced process, as the decoder sees it.
pub(crate) struct Traced<'a> {
    pub(crate) tid: i32,
    pub(crate) task: &'a Task,
    pub(crate) page_size: u64,
    pub(crate) eventfds: &'a EventFds,
}

impl Caller for Traced<'_> {
    fn read(&self, addr: u64, buf: &mut [u8]) -> Option<()> {
        ptrace::read_memory(self.tid, addr, buf)
    }

    fn describe_fd(&self, fd: i32) -> String {
        match lock(&self.task.files).get(&fd) {
            Some(descriptor) => descriptor.object.to_string(),
            None => self.eventfds.describe(self.tid, fd),
        }
    }

    fn page_size(&self) -> u64 {
        self.page_size
    }
}

/// What `/proc/PID/fdinfo/N` says.
pub(crate) struct FdInfo {
    pub(crate) cloexec: bool,
    /// The eventfd's id; 0 on kernels that don't tell.
    eventfd: Option<u64>,
}

impl FdInfo {
    pub(crate) fn of(tid: i32, fd: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")).ok()?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let flags = field("flags:").and_then(|octal| i32::from_str_radix(octal, 8).ok()).unwrap_or(0);
        let eventfd =
            field("eventfd-count:").map(|_| field("eventfd-id:").and_then(|id| id.parse().ok()).unwrap_or(0));
        Some(Self { cloexec: flags & libc::O_CLOEXEC != 0, eventfd })
    }
}

/// What a descriptor refers to.
pub(crate) fn link(tid: i32, fd: i32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{tid}/fd/{fd}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Copies a path from a traced process.
pub(crate) fn read_c_string(tid: i32, addr: u64) -> Option<Vec<u8>> {
    let page = ptrace::page_size();
    let mut out = Vec::new();
    let mut at = addr;
    while out.len() < libc::PATH_MAX as usize {
        // Never across a page: the string may end just before memory that isn't there.
        let mut chunk = vec![0; (page - at % page).min(256) as usize];
        ptrace::read_memory(tid, at, &mut chunk)?;
        match chunk.iter().position(|byte| *byte == 0) {
            Some(end) => {
                out.extend_from_slice(chunk.get(..end)?);
                return Some(out);
            }
            None => out.extend_from_slice(&chunk),
        }
        at = at.checked_add(chunk.len() as u64)?;
    }
    None
}

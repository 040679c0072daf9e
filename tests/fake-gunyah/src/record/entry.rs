//! A system call begins: what of it matters.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use gunyah_bindings::{android, v11};

use super::caller::{Traced, read_c_string};
use super::decode;
use super::format::{ExitPage, Kind, Object, Outcome};
use super::page::PAGE_BYTES;
use super::ptrace;
use super::recorder::Recorder;
use super::task::{Call, Handler, RunEntry, Task, What, lock};
use super::text::take;

impl<W: Write> Recorder<W> {
    /// A system call begins.
    pub(crate) fn entry(&mut self, tid: i32, task: &mut Task, nr: i64, args: [u64; 6]) {
        if let Some((mut event, _)) = task.interrupted.take() {
            // No handler ran in between, so the kernel has started the call again.
            event.outcome = Outcome::Restarted;
            self.write(&event);
        }
        let what = self.what(tid, task, nr, args);
        task.call = what.map(|what| Call { started: Instant::now(), what });
    }

    fn what(&mut self, tid: i32, task: &mut Task, nr: i64, args: [u64; 6]) -> Option<What> {
        let [a, b, c, d, e, f] = args;
        let fd = |n: u64| n as i32;
        match nr as libc::c_long {
            libc::SYS_ioctl => self.ioctl(tid, task, fd(a), b as u32, c),
            libc::SYS_openat | libc::SYS_openat2 => self.open(tid, fd(a), b),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => self.open(tid, libc::AT_FDCWD, a),
            libc::SYS_mmap => {
                let mapped = fd(e);
                // Most mappings are of other files, or of none.
                if d & libc::MAP_ANONYMOUS as u64 != 0 || !lock(&task.files).contains_key(&mapped) {
                    return None;
                }
                let object = self.object(tid, task, mapped)?;
                let shared = d & 0xf != libc::MAP_PRIVATE as u64;
                Some(What::Mmap { object, len: b, prot: c, shared, offset: f })
            }
            libc::SYS_munmap => Some(What::Munmap { addr: a, len: b }),
            libc::SYS_dup => Some(What::Dup { from: fd(a), cloexec: false }),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2 => Some(What::Dup { from: fd(a), cloexec: false }),
            libc::SYS_dup3 => Some(What::Dup { from: fd(a), cloexec: c & libc::O_CLOEXEC as u64 != 0 }),
            libc::SYS_fcntl => match b as i32 {
                libc::F_DUPFD => Some(What::Dup { from: fd(a), cloexec: false }),
                libc::F_DUPFD_CLOEXEC => Some(What::Dup { from: fd(a), cloexec: true }),
                libc::F_SETFD => {
                    if let Some(known) = lock(&task.files).get_mut(&fd(a)) {
                        known.cloexec = c & libc::FD_CLOEXEC as u64 != 0;
                    }
                    None
                }
                _ => None,
            },
            libc::SYS_close => lock(&task.files).contains_key(&fd(a)).then_some(What::Close { fd: fd(a) }),
            libc::SYS_close_range => {
                let last = i32::try_from(b as u32).unwrap_or(i32::MAX);
                Some(What::CloseRange { first: fd(a), last, flags: c })
            }
            libc::SYS_fallocate => {
                let object = lock(&task.files).get(&fd(a)).map(|known| known.object)?;
                Some(What::Fallocate { object, mode: b, offset: c, len: d })
            }
            libc::SYS_rt_sigaction if b != 0 => {
                // The handler's address, then the flags, on every machine that this crate supports.
                let mut action = [0u8; 16];
                ptrace::read_memory(tid, b, &mut action)?;
                let word = |at| u64::from_le_bytes(take(&action, at));
                let (address, flags) = (word(0), word(8));
                let handler = (address > 1).then_some(Handler {
                    restarts: flags & libc::SA_RESTART as u64 != 0,
                    once: flags & u64::from(libc::SA_RESETHAND as u32) != 0,
                });
                Some(What::SetHandler { signal: fd(a), handler })
            }
            libc::SYS_clone => Some(What::Clone { flags: a }),
            libc::SYS_clone3 => {
                let mut flags = [0u8; 8];
                ptrace::read_memory(tid, a, &mut flags)?;
                Some(What::Clone { flags: u64::from_le_bytes(flags) })
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_vfork => Some(What::Clone { flags: libc::CLONE_VM as u64 }),
            _ => None,
        }
    }

    fn open(&self, tid: i32, dirfd: i32, path: u64) -> Option<What> {
        let bytes = read_c_string(tid, path)?;
        let path = String::from_utf8_lossy(&bytes).into_owned();
        let absolute = if path.starts_with('/') {
            PathBuf::from(&path)
        } else {
            let base = if dirfd == libc::AT_FDCWD {
                format!("/proc/{tid}/cwd")
            } else {
                format!("/proc/{tid}/fd/{dirfd}")
            };
            std::fs::read_link(base).ok()?.join(&path)
        };
        // What it was called, and what it is: the caller may go through a symbolic link.
        let real = || std::fs::canonicalize(&absolute).is_ok_and(|real| self.is_device(&real));
        let plausible = absolute.starts_with("/dev") || self.devices.iter().any(|d| !d.starts_with("/dev"));
        let ours = self.is_device(&absolute) || (plausible && real());
        ours.then(|| What::Open { path: absolute.to_string_lossy().into_owned() })
    }

    fn ioctl(&mut self, tid: i32, task: &mut Task, fd: i32, code: u32, arg: u64) -> Option<What> {
        if !decode::is_candidate(code) {
            return None;
        }
        let object = match self.object(tid, task, fd) {
            Some(object) => object,
            // Contiguous memory comes from nodes of any name.
            None if code == android::GUNYAH_ANDROID_CREATE_CMA_MEM_FD => {
                let object = self.new_object(Kind::Node);
                self.learn(tid, task, fd, object);
                object
            }
            None => return None,
        };
        let traced = Traced { tid, task, page_size: self.page_size, eventfds: &self.eventfds };
        let request = decode::decode(code, arg, &traced);
        let run = if code == v11::GH_VCPU_RUN { self.run_entry(tid, task, object) } else { None };
        Some(What::Ioctl { object, code, request, run })
    }

    /// The page before a RUN, if its place is known.
    fn run_entry(&self, tid: i32, task: &Task, object: Object) -> Option<RunEntry> {
        let addr = lock(&task.pages).of(object)?;
        let mut page = [0; PAGE_BYTES];
        ptrace::read_memory(tid, addr, &mut page)?;
        let answer = match self.last_exits.get(&object) {
            Some(exit) => exit.answer(&page),
            None => ExitPage { exit_reason: 0, ..ExitPage::from_page(&page) }.answer(&page),
        };
        Some(RunEntry { addr, page, answer })
    }
}

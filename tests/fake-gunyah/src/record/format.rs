//! The recording's lines: a header, then one event per system call, each a JSON object on a line of its own.
//!
//! ```text
//! {"format":"gunyah-recording","version":1,"kernel":"6.6.30","machine":"aarch64","page_size":4096,…}
//! {"t":812,"us":31,"tid":0,"op":"open","args":{"path":"/dev/gunyah",…},"ret":0,"new":{"kind":"device","n":0}}
//! {"t":871,"us":25,"tid":0,"op":"GH_CREATE_VM","obj":{"kind":"device","n":0},"args":{"arg":"0x0"},"ret":0,"new":{"kind":"vm","n":0}}
//! {"t":9120,"us":44,"tid":1,"op":"GH_VCPU_RUN","obj":{"kind":"vcpu","n":0},"ret":0,
//!  "page":{"exit_reason":1,"mmio":{"phys_addr":"0x10000005","len":1,"is_write":0,"data":"0000000000000000"}}}
//! ```
//!
//! (Broken here for the reader; a file has no breaks inside an event.)
//!
//! | field | meaning |
//! |---|---|
//! | `t` | when the call ended, in µs since the program was started |
//! | `us` | how long it took, in µs |
//! | `tid` | which thread made it, counted from 0 in the order of their appearance |
//! | `op` | the ioctl's name in its header, or its code (`0x47ff`) if it has none; or `open`, `mmap`, `close`, `fallocate`; the last line is the program's `exit`, with its `code` or `signal` |
//! | `obj` | what it was made on: `device`, `vm`, `vcpu`, `guest_mem`, `cma`, `node`, each kind counted from 0 |
//! | `args` | the argument's fields, decoded |
//! | `answer` | for RUN: what the program left in the page before it |
//! | `ret`, `errno`, `end` | how it ended: a number; an error by name; `restarted` (a signal's handler ran and the kernel started the call again), `unfinished` (the thread was killed inside it) |
//! | `new` | the object that the call's new descriptor stands for |
//! | `page` | for RUN: the page after it |
//!
//! Numbers that may exceed 2⁵³ are strings in hexadecimal. Descriptors and addresses of the recorded process never
//! appear: they mean nothing elsewhere. Unknown fields are ignored by readers, so that later versions can add some.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

pub use super::page::{ExitPage, PAGE_BYTES};

/// What [`Header::format`] says.
pub const FORMAT: &str = "gunyah-recording";
/// The version that this crate writes, and the only one that it reads.
pub const VERSION: u32 = 1;
/// What a reader of a recording must know before passing it on; the value of [`Header::contents`].
pub const CONTENTS: &str = "Guest memory is not in this file. The data of the guest's device accesses is: \
    what it wrote to a console can be read here.";

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Always [`FORMAT`].
    pub format: String,
    /// Always [`VERSION`].
    pub version: u32,
    /// The host kernel's release, as `uname -r` prints it.
    #[serde(default)]
    pub kernel: String,
    /// The host's machine, as `uname -m` prints it.
    #[serde(default)]
    pub machine: String,
    /// The host's page size in bytes.
    pub page_size: u64,
    /// The recorded program's file name, without directories and arguments.
    #[serde(default)]
    pub program: String,
    /// What is in the file and what is not, in words.
    #[serde(default)]
    pub contents: String,
}

/// The kinds of objects that calls are made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The device node, opened.
    Device,
    /// A virtual machine.
    Vm,
    /// A vCPU.
    Vcpu,
    /// A guest memory file.
    GuestMem,
    /// A contiguous memory file.
    Cma,
    /// Another device node, which makes contiguous memory files.
    Node,
}

impl Kind {
    /// The name, as a recording has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Vm => "vm",
            Self::Vcpu => "vcpu",
            Self::GuestMem => "guest_mem",
            Self::Cma => "cma",
            Self::Node => "node",
        }
    }
}

/// An object: its kind, and its number among those of its kind in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Which one, from 0.
    pub n: u32,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.name(), self.n)
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned a number; 0 if the number was a descriptor's.
    Value(i64),
    /// It failed with this errno.
    Errno(i32),
    /// A signal interrupted it and the kernel started it again: the program saw nothing of this.
    Restarted,
    /// The calling thread ended inside it.
    Unfinished,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Value(value) => write!(f, "{value}"),
            Self::Errno(errno) => match super::errno::name(errno) {
                Some(name) => f.write_str(name),
                None => write!(f, "errno {errno}"),
            },
            Self::Restarted => f.write_str("restarted"),
            Self::Unfinished => f.write_str("unfinished"),
        }
    }
}

/// What the program left in the run page for the call that follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// `immediate_exit`.
    #[serde(skip_serializing_if = "is_zero")]
    pub immediate_exit: u8,
    /// If the exit before this call was an MMIO read: the `len` bytes (at most 8) that the guest gets, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// `resume_action`, if not 0 and the exit before this call was an MMIO access or a page fault.
    #[serde(skip_serializing_if = "is_zero")]
    pub resume_action: u8,
}

impl Answer {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
pub(crate) fn is_zero(n: &u8) -> bool {
    *n == 0
}

/// One system call.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When it ended, in µs since the program's start.
    pub t: u64,
    /// How long it took, in µs.
    pub us: u64,
    /// The thread that made it.
    pub tid: u32,
    /// What was called.
    pub op: String,
    /// What it was called on; `None` for `open` and `exit`.
    pub obj: Option<Object>,
    /// The argument's fields.
    pub args: Map<String, Value>,
    /// For RUN: what the program left in the page.
    pub answer: Answer,
    /// How it ended.
    pub outcome: Outcome,
    /// The object behind a descriptor that it returned.
    pub new: Option<Object>,
    /// For RUN: the page afterwards.
    pub page: Option<ExitPage>,
}

/// [`Event`] as it is written.
#[derive(Serialize, Deserialize)]
struct Line {
    t: u64,
    #[serde(default)]
    us: u64,
    #[serde(default)]
    tid: u32,
    op: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    obj: Option<Object>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    args: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Answer::is_empty")]
    answer: Answer,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ret: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    errno: Option<ErrnoName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<End>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    new: Option<Object>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page: Option<ExitPage>,
}

/// An errno by its name, or by its number if it has none.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ErrnoName {
    Name(String),
    Number(i32),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum End {
    Restarted,
    Unfinished,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.clone();
        let mut line = Line {
            t: event.t,
            us: event.us,
            tid: event.tid,
            op: event.op,
            obj: event.obj,
            args: event.args,
            answer: event.answer,
            ret: None,
            errno: None,
            end: None,
            new: event.new,
            page: event.page,
        };
        match event.outcome {
            Outcome::Value(value) => line.ret = Some(value),
            Outcome::Errno(errno) => {
                line.errno = Some(match super::errno::name(errno) {
                    Some(name) => ErrnoName::Name(name.to_owned()),
                    None => ErrnoName::Number(errno),
                });
            }
            Outcome::Restarted => line.end = Some(End::Restarted),
            Outcome::Unfinished => line.end = Some(End::Unfinished),
        }
        line.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let line = Line::deserialize(deserializer)?;
        let outcome = match (line.ret, line.errno, line.end) {
            (Some(value), None, None) if value >= 0 => Outcome::Value(value),
            (Some(_), None, None) => {
                return Err(D::Error::custom("`ret` is negative: an error is an `errno`"));
            }
            (None, Some(ErrnoName::Name(name)), None) => {
                let errno = super::errno::number(&name);
                Outcome::Errno(errno.ok_or_else(|| D::Error::custom(format!("no errno is called `{name}`")))?)
            }
            // The kernel's own limit: beyond, a return value is no error.
            (None, Some(ErrnoName::Number(n @ 1..=4095)), None) => Outcome::Errno(n),
            (None, Some(ErrnoName::Number(_)), None) => {
                return Err(D::Error::custom("`errno` is not in 1 to 4095"));
            }
            (None, None, Some(End::Restarted)) => Outcome::Restarted,
            (None, None, Some(End::Unfinished)) => Outcome::Unfinished,
            _ => return Err(D::Error::custom("needs exactly one of `ret`, `errno` and `end`")),
        };
        Ok(Self {
            t: line.t,
            us: line.us,
            tid: line.tid,
            op: line.op,
            obj: line.obj,
            args: line.args,
            answer: line.answer,
            outcome,
            new: line.new,
            page: line.page,
        })
    }
}

//! Calls in words, as strace would print them.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use gunyah_bindings::{android, v11, v17, vendor};

use crate::errno::Errno;
use crate::kernel::observer::{CallRecord, Exit};
use crate::kernel::uapi::Arg;
use crate::transport::call::Call;
use crate::transport::memory::Caller;

/// Where a trace goes.
pub(crate) struct Trace {
    out: Mutex<Box<dyn Write + Send>>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace")
    }
}

impl Trace {
    pub(crate) fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out: Mutex::new(out) }
    }

    fn line(&self, line: &str) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A trace that can't be written must not stop the program that is traced.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    pub(crate) fn print(&self, record: &CallRecord) {
        self.line(&record.to_string());
    }

    /// Something that the driver would write to the kernel's log.
    pub(crate) fn note(&self, text: &str) {
        self.line(&format!("# {text}"));
    }
}

/// A call's argument, read when the call came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// There is none.
    #[default]
    None,
    /// A number.
    Number(u64),
    /// Nothing can be read there.
    Bad(u64),
    Region(v11::gh_userspace_memory_region),
    Range(v11::gh_vm_dtb_config),
    Function(v11::gh_fn_desc, Option<Vec<u8>>),
    /// Some other structure.
    Bytes(Vec<u8>),
}

impl Decoded {
    pub(crate) fn read(call: &Call<'_>) -> Self {
        let [_, request, addr, ..] = call.notif.args;
        let caller = &call.caller;
        let decoded = match request as u32 {
            v11::GH_VCPU_RUN | v11::GH_VCPU_MMAP_SIZE | v11::GH_VM_START => return Self::None,
            v11::GH_VM_SET_USER_MEM_REGION | android::GUNYAH_VM_ANDROID_LEND_USER_MEM => {
                Arg::copy_from_user(caller, addr).map(Self::Region)
            }
            v11::GH_VM_SET_DTB_CONFIG
            | android::GUNYAH_VM_ANDROID_SET_FW_CONFIG
            | android::GUNYAH_VM_ANDROID_RECLAIM_REGION => Arg::copy_from_user(caller, addr).map(Self::Range),
            v11::GH_VM_ADD_FUNCTION | v11::GH_VM_REMOVE_FUNCTION => Self::read_function(caller, addr),
            other => {
                // The size is part of the request; without one, the argument is a number.
                let size = (other >> 16) & 0x3fff;
                if size == 0 {
                    return Self::Number(addr);
                }
                caller.read_bytes(addr, size as usize).map(Self::Bytes)
            }
        };
        decoded.unwrap_or(Self::Bad(addr))
    }

    fn read_function(caller: &Caller, addr: u64) -> Result<Self, Errno> {
        let desc = v11::gh_fn_desc::copy_from_user(caller, addr)?;
        let readable = desc.arg_size <= v11::GH_FN_MAX_ARG_SIZE;
        let arg = readable.then(|| caller.read_bytes(desc.arg, desc.arg_size as usize).ok()).flatten();
        Ok(Self::Function(desc, arg))
    }
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bad(addr) => write!(f, "{addr:#x}"),
            Self::Region(region) => write!(
                f,
                "{{label={}, flags={}, guest_phys_addr={:#x}, memory_size={:#x}, userspace_addr={:#x}}}",
                region.label,
                access(region.flags),
                region.guest_phys_addr,
                region.memory_size,
                region.userspace_addr
            ),
            Self::Range(range) => {
                write!(f, "{{guest_phys_addr={:#x}, size={:#x}}}", range.guest_phys_addr, range.size)
            }
            Self::Function(desc, arg) => function(f, desc, arg.as_deref()),
            Self::Bytes(bytes) => bytes_in_words(f, bytes),
        }
    }
}

fn function(f: &mut fmt::Formatter<'_>, desc: &v11::gh_fn_desc, arg: Option<&[u8]>) -> fmt::Result {
    let Some(arg) = arg else {
        return write!(f, "{{type={}, arg_size={}, arg={:#x}}}", desc.type_, desc.arg_size, desc.arg);
    };
    let sized = |size: usize| arg.len() == size;
    match desc.type_ {
        v11::GH_FN_VCPU if sized(v11::gh_fn_vcpu_arg::SIZE) => {
            write!(f, "{{type=GH_FN_VCPU, id={}}}", v11::gh_fn_vcpu_arg::parse(arg).id)
        }
        v11::GH_FN_IRQFD if sized(v11::gh_fn_irqfd_arg::SIZE) => {
            let arg = v11::gh_fn_irqfd_arg::parse(arg);
            let flags = bit(arg.flags, v11::GH_IRQFD_LEVEL, "GH_IRQFD_LEVEL");
            write!(f, "{{type=GH_FN_IRQFD, fd={}, label={}, flags={flags}}}", arg.fd as i32, arg.label)
        }
        v11::GH_FN_IOEVENTFD if sized(v11::gh_fn_ioeventfd_arg::SIZE) => {
            let arg = v11::gh_fn_ioeventfd_arg::parse(arg);
            let flags = bit(arg.flags, v11::GH_IOEVENTFD_DATAMATCH, "GH_IOEVENTFD_DATAMATCH");
            write!(
                f,
                "{{type=GH_FN_IOEVENTFD, fd={}, addr={:#x}, len={}, datamatch={:#x}, flags={flags}}}",
                arg.fd, arg.addr, arg.len, arg.datamatch
            )
        }
        other => {
            write!(f, "{{type={other}, arg=")?;
            bytes_in_words(f, arg)?;
            f.write_char('}')
        }
    }
}

fn bytes_in_words(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_char('{')?;
    for (i, word) in bytes.chunks(8).enumerate() {
        let mut whole = [0u8; 8];
        for (to, from) in whole.iter_mut().zip(word) {
            *to = *from;
        }
        write!(f, "{}{:#x}", if i == 0 { "" } else { ", " }, u64::from_le_bytes(whole))?;
    }
    f.write_char('}')
}

fn bit(flags: u32, one: u32, name: &str) -> String {
    match flags {
        0 => "0".to_owned(),
        flags if flags == one => name.to_owned(),
        flags => format!("{flags:#x}"),
    }
}

fn access(flags: u32) -> String {
    let names = [
        (v11::GH_MEM_ALLOW_READ, "READ"),
        (v11::GH_MEM_ALLOW_WRITE, "WRITE"),
        (v11::GH_MEM_ALLOW_EXEC, "EXEC"),
    ];
    let mut out: Vec<String> =
        names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    let rest = flags & !names.iter().fold(0, |all, (bit, _)| all | bit);
    if rest != 0 || out.is_empty() {
        out.push(format!("{rest:#x}"));
    }
    out.join("|")
}

/// The requests by name, as v11 writes it where it has it.
const REQUESTS: [(u32, &str); 20] = [
    (v11::GH_CREATE_VM, "GH_CREATE_VM"),
    (v11::GH_VM_SET_USER_MEM_REGION, "GH_VM_SET_USER_MEM_REGION"),
    (v11::GH_VM_SET_DTB_CONFIG, "GH_VM_SET_DTB_CONFIG"),
    (v11::GH_VM_START, "GH_VM_START"),
    (v11::GH_VM_ADD_FUNCTION, "GH_VM_ADD_FUNCTION"),
    (v11::GH_VM_REMOVE_FUNCTION, "GH_VM_REMOVE_FUNCTION"),
    (v11::GH_VCPU_RUN, "GH_VCPU_RUN"),
    (v11::GH_VCPU_MMAP_SIZE, "GH_VCPU_MMAP_SIZE"),
    (v17::GUNYAH_CREATE_GUEST_MEM, "GUNYAH_CREATE_GUEST_MEM"),
    (v17::GUNYAH_VM_MAP_MEM, "GUNYAH_VM_MAP_MEM"),
    (v17::GUNYAH_VM_SET_BOOT_CONTEXT, "GUNYAH_VM_SET_BOOT_CONTEXT"),
    (android::GUNYAH_ANDROID_TENTATIVE, "GUNYAH_ANDROID_TENTATIVE"),
    (android::GUNYAH_VM_ANDROID_LEND_USER_MEM, "GUNYAH_VM_ANDROID_LEND_USER_MEM"),
    (android::GUNYAH_VM_ANDROID_SET_FW_CONFIG, "GUNYAH_VM_ANDROID_SET_FW_CONFIG"),
    (android::GUNYAH_VM_ANDROID_RECLAIM_REGION, "GUNYAH_VM_ANDROID_RECLAIM_REGION"),
    (android::GUNYAH_ANDROID_CREATE_CMA_MEM_FD, "GUNYAH_ANDROID_CREATE_CMA_MEM_FD"),
    (android::GUNYAH_VM_ANDROID_MAP_CMA_MEM, "GUNYAH_VM_ANDROID_MAP_CMA_MEM"),
    (android::GUNYAH_VM_ANDROID_SET_AUTH_TYPE, "GUNYAH_VM_ANDROID_SET_AUTH_TYPE"),
    (android::GUNYAH_VM_ANDROID_CHECK_EXTENSION, "GUNYAH_VM_ANDROID_CHECK_EXTENSION"),
    (vendor::GH_VENDOR_CREATE_VM, "GH_VENDOR_CREATE_VM"),
];

/// The name of an ioctl request, as v11 writes it where it has it.
#[must_use]
pub fn request_name(request: u32) -> Option<&'static str> {
    REQUESTS.iter().find(|(code, _)| *code == request).map(|(_, name)| *name)
}

/// The request behind a name as [`request_name`] has it, with or without what it begins with: `GH_VM_START`, `VM_START`.
pub(crate) fn request_code(name: &str) -> Option<u32> {
    let bare = |name: &str| {
        let rest =
            ["GH_", "GUNYAH_"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).to_owned();
        rest.replacen("ANDROID_", "", 1)
    };
    REQUESTS.iter().find(|(_, known)| *known == name || bare(known) == bare(name)).map(|(code, _)| *code)
}

impl fmt::Display for CallRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] ", self.tid)?;
        if self.fd < 0 && self.request == 0 {
            f.write_str("open(\"gunyah\", O_RDWR)")?;
        } else {
            write!(f, "ioctl({}, ", self.fd)?;
            match request_name(self.request) {
                Some(name) => f.write_str(name)?,
                None => write!(f, "{:#x}", self.request)?,
            }
            if self.decoded != Decoded::None {
                write!(f, ", {}", self.decoded)?;
            }
            f.write_char(')')?;
        }
        match self.result {
            None => f.write_str(" = ? (interrupted)")?,
            Some(Ok(value)) => write!(f, " = {value}")?,
            Some(Err(errno)) => write!(f, " = -1 {errno}")?,
        }
        if let Some(exit) = &self.exit {
            write!(f, " {exit}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mmio { addr, len, write: None } => write!(f, "{{MMIO read, addr={addr:#x}, len={len}}}"),
            Self::Mmio { addr, len, write: Some(value) } => {
                let mask = if *len < 8 { (1 << (8 * len)) - 1 } else { u64::MAX };
                write!(f, "{{MMIO write, addr={addr:#x}, len={len}, data={:#x}}}", value & mask)
            }
            Self::Status { status, info } => {
                let name = match status {
                    1 => "LOAD_FAILED",
                    2 => "EXITED",
                    _ => "CRASHED",
                };
                write!(
                    f,
                    "{{status={name}, exit_type={}, reason_size={}, reason={:02x?}}}",
                    info.exit_type, info.reason_size, info.reason
                )
            }
            Self::PageFault { addr, attempt } => {
                write!(f, "{{page fault, addr={addr:#x}, attempt=-{}}}", Errno(-attempt))
            }
        }
    }
}

//! The device node: opening it, and `CREATE_VM`.

use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::vm_mgr::Vm;
use super::{Answer, Kernel, Kind, Object, Undo};
use crate::errno::Errno;
use crate::transport::call::{Call, Reply};

/// How an `open` gives its arguments.
pub(crate) struct Open {
    pub(crate) dirfd: RawFd,
    pub(crate) path: u64,
    pub(crate) flags: u64,
}

impl Kernel {
    /// `open` of some path for reading and writing: ours, or not.
    pub(crate) fn open(&self, call: &Call<'_>, open: &Open) -> Option<Result<Answer, Errno>> {
        let paths = self.devices.iter().chain(self.cma_nodes.iter().map(|(path, _)| path));
        let longest = paths.map(|path| path.as_os_str().len()).max().unwrap_or(0);
        let path = call.caller.read_c_string(open.path, longest)?;
        let path = call.caller.absolute(open.dirfd, PathBuf::from(std::ffi::OsString::from_vec(path)));
        let cma = self.cma_nodes.iter().find(|(node, _)| self.differences.cma && *node == path);
        let kind = match cma {
            Some((_, size)) => Kind::CmaNode(*size),
            None if self.devices.contains(&path) => Kind::Device,
            None => return None,
        };
        Some(self.open_device(kind, open.flags))
    }

    fn open_device(&self, kind: Kind, flags: u64) -> Result<Answer, Errno> {
        let file = self.files.create(0)?;
        self.add_object(file.id, Object::new(kind));
        let cloexec = flags & libc::O_CLOEXEC as u64 != 0;
        Ok(Answer { reply: Reply::Fd { fd: file.theirs, cloexec }, undo: Undo::None })
    }

    /// `CREATE_VM`.
    pub(crate) fn create_vm(self: &Arc<Self>, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        if arg != 0 {
            return Err(Errno::EINVAL);
        }
        let file = self.files.create(0)?;
        let vm = Vm::new(self, self.next_token(), call.caller.tgid());
        self.add_vm(&vm);
        self.add_object(file.id, Object::vm(&vm));
        Ok(Answer { reply: Reply::Fd { fd: file.theirs, cloexec: true }, undo: Undo::None })
    }

    /// The vendors' `CREATE_VM`.
    pub(crate) fn create_vendor_vm(&self) -> Result<Answer, Errno> {
        let file = self.files.create(0)?;
        self.add_object(file.id, Object::new(Kind::VendorVm));
        Ok(Answer { reply: Reply::Fd { fd: file.theirs, cloexec: true }, undo: Undo::None })
    }
}

//! VM functions: what is added to a VM by one ioctl and removed by another.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use gunyah_bindings::v11;

use crate::book::Book;
use crate::error::{Error, Result};
use crate::ops;
use crate::sys::Op;
use crate::vm::VmInner;

/// A function with its argument. Removal passes the same bytes as addition: each kernel compares others of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Vcpu(v11::gh_fn_vcpu_arg),
    Irqfd(v11::gh_fn_irqfd_arg),
    Ioeventfd(v11::gh_fn_ioeventfd_arg),
}

/// How often a call that a signal interrupted is tried again.
const INTERRUPTED_TRIES: u32 = 100;

impl Function {
    fn describe(&self) -> v11::gh_fn_desc {
        fn desc<T>(kind: u32, arg: &T) -> v11::gh_fn_desc {
            let address = std::ptr::from_ref(arg).expose_provenance() as u64;
            v11::gh_fn_desc { type_: kind, arg_size: size_of::<T>() as u32, arg: address }
        }
        match self {
            Self::Vcpu(arg) => desc(v11::GH_FN_VCPU, arg),
            Self::Irqfd(arg) => desc(v11::GH_FN_IRQFD, arg),
            Self::Ioeventfd(arg) => desc(v11::GH_FN_IOEVENTFD, arg),
        }
    }

    fn check(&self, book: &Book) -> Result<()> {
        let op = ops::ADD_FUNCTION.name;
        match self {
            Self::Vcpu(arg) => book.check_vcpu(op, arg.id),
            Self::Irqfd(arg) => book.check_irqfd(op, arg.label),
            Self::Ioeventfd(arg) => book.check_ioeventfd(op, arg),
        }
    }

    fn note(&self, book: &mut Book) {
        match self {
            Self::Vcpu(arg) => book.add_vcpu(arg.id),
            Self::Irqfd(arg) => book.add_irqfd(arg.label),
            Self::Ioeventfd(arg) => book.add_ioeventfd(*arg),
        }
    }

    fn forget(&self, book: &mut Book) {
        match self {
            Self::Vcpu(arg) => book.remove_vcpu(arg.id),
            Self::Irqfd(arg) => book.remove_irqfd(arg.label),
            Self::Ioeventfd(arg) => book.remove_ioeventfd(arg),
        }
    }

    /// The kernel did not remove it. Its id, label or match stays taken: android16 would take it a second time, and that one
    /// would never work.
    fn note_unwanted(&self, book: &mut Book) {
        if let Self::Ioeventfd(arg) = self {
            book.keep_unwanted_ioeventfd(arg);
        }
    }
}

impl VmInner {
    /// Adds a function that answers with a file descriptor of its own: a vCPU.
    pub(crate) fn add_vcpu_function(self: &Arc<Self>, id: u32) -> Result<(OwnedFd, FunctionHandle)> {
        let function = Function::Vcpu(v11::gh_fn_vcpu_arg { id });
        self.add(function, None, |op, desc| op.call_fd(self.fd.as_fd(), desc))
    }

    /// Adds any other function. `kept` is the file that its argument names, where that must stay open as long as the handle.
    pub(crate) fn add_function(
        self: &Arc<Self>,
        function: Function,
        kept: Option<OwnedFd>,
    ) -> Result<FunctionHandle> {
        self.add(function, kept, |op, desc| op.call(self.fd.as_fd(), desc)).map(|(_, handle)| handle)
    }

    fn add<T>(
        self: &Arc<Self>,
        function: Function,
        kept: Option<OwnedFd>,
        call: impl FnOnce(&Op<crate::sys::In<v11::gh_fn_desc>>, &v11::gh_fn_desc) -> std::io::Result<T>,
    ) -> Result<(T, FunctionHandle)> {
        let op = ops::ADD_FUNCTION;
        let mut book = self.book();
        book.usable(op.name)?;
        function.check(&book)?;
        match call(&op, &function.describe()) {
            Ok(answer) => {
                function.note(&mut book);
                Ok((answer, FunctionHandle { vm: Arc::downgrade(self), function, live: true, _kept: kept }))
            }
            Err(error) => {
                if self.features.failures_are_final() {
                    book.unusable = Some("a failed GH_VM_ADD_FUNCTION leaves this early kernel's lock held");
                }
                Err(self.error(op, error))
            }
        }
    }

    fn remove(&self, function: &Function) -> Result<()> {
        let op = ops::REMOVE_FUNCTION;
        let mut book = self.book();
        book.usable(op.name)?;
        let answer = uninterrupted(|| op.call(self.fd.as_fd(), &function.describe()));
        match &answer {
            // All others mean that the kernel still has it.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => function.note_unwanted(&mut book),
            _ => function.forget(&mut book),
        }
        // Also after a failure: what an earlier removal could not put back may fit now.
        let restored = match function {
            Function::Ioeventfd(arg) => self.restore_siblings(&book, arg),
            _ => Ok(()),
        };
        answer.map_err(|error| self.error(op, error)).and(restored)
    }

    /// android14 removes every ioeventfd at the address, whatever their values: puts the others back. Tries all, and reports the
    /// first failure.
    ///
    /// The files are open under the numbers in the arguments: the siblings' handles hold them.
    fn restore_siblings(&self, book: &Book, removed: &v11::gh_fn_ioeventfd_arg) -> Result<()> {
        if !self.features.removal_takes_siblings() {
            return Ok(());
        }
        let op = ops::ADD_FUNCTION;
        let mut answer = Ok(());
        for sibling in book.ioeventfd_siblings(removed) {
            let function = Function::Ioeventfd(sibling);
            match uninterrupted(|| op.call(self.fd.as_fd(), &function.describe())) {
                Ok(_) => {}
                // This kernel compares all bytes, and the sibling is still there.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(source) => answer = answer.and(Err(Error::IoEventFdLost { addr: sibling.addr, source })),
            }
        }
        answer
    }
}

/// Makes a call again that a signal has interrupted.
fn uninterrupted<T>(call: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut tries: u32 = 0;
    loop {
        match call() {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) && tries < INTERRUPTED_TRIES => {
                tries = tries.saturating_add(1);
            }
            answer => return answer,
        }
    }
}

/// A function that was added. Removed by `remove`, or silently when dropped.
///
/// Holds no reference to the VM: with the VM's file descriptor closed there is nothing to remove from.
#[derive(Debug)]
pub(crate) struct FunctionHandle {
    vm: Weak<VmInner>,
    function: Function,
    live: bool,
    /// Closed after the removal: up to then the number in the argument is this file's.
    _kept: Option<OwnedFd>,
}

impl FunctionHandle {
    pub(crate) fn function(&self) -> &Function {
        &self.function
    }

    pub(crate) fn remove(mut self) -> Result<()> {
        self.live = false;
        let vm = self.vm.upgrade().ok_or(Error::VmClosed { op: ops::REMOVE_FUNCTION.name })?;
        vm.remove(&self.function)
    }
}

impl Drop for FunctionHandle {
    fn drop(&mut self) {
        if !self.live {
            return;
        }
        if let Some(vm) = self.vm.upgrade() {
            // There is nobody to tell.
            let _ = vm.remove(&self.function);
        }
    }
}

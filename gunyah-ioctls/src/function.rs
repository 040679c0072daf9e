//! VM functions: what is added to a VM by one ioctl and removed by another.

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

/// How often a removal that a signal interrupted is tried again.
const INTERRUPTED_REMOVALS: u32 = 100;

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
}

impl VmInner {
    /// Adds a function that answers with a file descriptor of its own: a vCPU.
    pub(crate) fn add_vcpu_function(self: &Arc<Self>, id: u32) -> Result<(OwnedFd, FunctionHandle)> {
        self.add(Function::Vcpu(v11::gh_fn_vcpu_arg { id }), |op, desc| op.call_fd(self.fd.as_fd(), desc))
    }

    /// Adds any other function.
    pub(crate) fn add_function(self: &Arc<Self>, function: Function) -> Result<FunctionHandle> {
        self.add(function, |op, desc| op.call(self.fd.as_fd(), desc)).map(|(_, handle)| handle)
    }

    fn add<T>(
        self: &Arc<Self>,
        function: Function,
        call: impl FnOnce(&Op<crate::sys::In<v11::gh_fn_desc>>, &v11::gh_fn_desc) -> std::io::Result<T>,
    ) -> Result<(T, FunctionHandle)> {
        let op = ops::ADD_FUNCTION;
        let mut book = self.book();
        book.usable(op.name)?;
        function.check(&book)?;
        match call(&op, &function.describe()) {
            Ok(answer) => {
                function.note(&mut book);
                Ok((answer, FunctionHandle { vm: Arc::downgrade(self), function, live: true }))
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
        let mut tries: u32 = 0;
        loop {
            match op.call(self.fd.as_fd(), &function.describe()) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) && tries < INTERRUPTED_REMOVALS => {
                    tries = tries.saturating_add(1);
                }
                Err(error) => return Err(self.error(op, error)),
                Ok(_) => break,
            }
        }
        function.forget(&mut book);
        if let Function::Ioeventfd(arg) = function {
            self.restore_siblings(&book, arg);
        }
        Ok(())
    }

    /// android14 removes every ioeventfd at the address, whatever their values: puts the others back.
    ///
    /// Where they were not removed this is EEXIST and changes nothing, except that a failed addition is fatal to an early
    /// android14 VM; but those kernels compare all bytes.
    fn restore_siblings(&self, book: &Book, removed: &v11::gh_fn_ioeventfd_arg) {
        if self.features.failures_are_final() || self.features.memory_after_start() {
            return;
        }
        for sibling in book.ioeventfd_siblings(removed) {
            let _ = ops::ADD_FUNCTION.call(self.fd.as_fd(), &Function::Ioeventfd(sibling).describe());
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

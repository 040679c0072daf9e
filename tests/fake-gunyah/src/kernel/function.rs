//! VM functions: what user space adds to a VM and takes out again.

use std::sync::Arc;

use gunyah_bindings::v11;

use super::ioeventfd::Ioeventfd;
use super::irqfd::Irqfd;
use super::uapi::Arg;
use super::vcpu::Vcpu;
use super::vm_mgr::Vm;
use super::{Answer, Undo};
use crate::errno::Errno;
use crate::flavour::Removal;
use crate::transport::call::{Call, Reply};

/// One function, with the argument it was added with.
pub(crate) struct Function {
    kind: u32,
    arg: Vec<u8>,
    bound: Bound,
}

enum Bound {
    Vcpu(Arc<Vcpu>),
    Irqfd(Arc<Irqfd>),
    Ioeventfd(Arc<Ioeventfd>),
}

/// The kernel's allocator gives no more than this in one piece: a longer argument is `ENOMEM`.
const MAX_ALLOCATION: u32 = 4 << 20;

impl Function {
    pub(crate) fn unbind(&self, vm: &Vm, call: Option<&Call<'_>>) {
        match &self.bound {
            Bound::Vcpu(vcpu) => vcpu.unbind(vm, call),
            Bound::Irqfd(irqfd) => irqfd.unbind(vm, call),
            Bound::Ioeventfd(handler) => handler.unbind(vm),
        }
    }

    /// Whether a removal with `arg` means this function.
    fn is_meant(&self, removal: Removal, kind: u32, arg: &[u8]) -> bool {
        if self.kind != kind {
            return false;
        }
        if removal == Removal::Bytes {
            return self.arg == arg;
        }
        match kind {
            v11::GH_FN_VCPU => v11::gh_fn_vcpu_arg::parse(&self.arg).id == v11::gh_fn_vcpu_arg::parse(arg).id,
            v11::GH_FN_IRQFD => {
                v11::gh_fn_irqfd_arg::parse(&self.arg).label == v11::gh_fn_irqfd_arg::parse(arg).label
            }
            _ => {
                let ours = v11::gh_fn_ioeventfd_arg::parse(&self.arg);
                let theirs = v11::gh_fn_ioeventfd_arg::parse(arg);
                let matching = ours.flags & v11::GH_IOEVENTFD_DATAMATCH != 0;
                let whole = ours.len == theirs.len
                    && ours.flags == theirs.flags
                    && (!matching || ours.datamatch == theirs.datamatch);
                ours.addr == theirs.addr && (removal == Removal::Key || whole)
            }
        }
    }
}

impl Vm {
    /// `ADD_FUNCTION`.
    pub(crate) fn add_function(self: &Arc<Self>, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        let desc = v11::gh_fn_desc::copy_from_user(&call.caller, arg)?;
        if desc.arg_size > v11::GH_FN_MAX_ARG_SIZE {
            return Err(Errno::EINVAL);
        }
        let arg = call.caller.read_bytes(desc.arg, desc.arg_size as usize)?;
        if !(v11::GH_FN_VCPU..=v11::GH_FN_IOEVENTFD).contains(&desc.type_) {
            return Err(Errno::ENOENT);
        }
        let lock = self.fn_lock.lock_interruptible(call)?;
        let bound = self.bind(desc.type_, &arg, call);
        if bound.is_err() && self.kernel().differences.failed_add_wedges {
            // Nobody unlocks this any more. The VM can still be closed.
            std::mem::forget(lock);
        }
        let (bound, reply) = bound?;
        let function = Arc::new(Function { kind: desc.type_, arg, bound });
        self.functions().push(Arc::clone(&function));
        let vm = Arc::clone(self);
        let undo = Undo::Do(Box::new(move || vm.take_back(&function)));
        Ok(Answer { reply, undo })
    }

    fn bind(self: &Arc<Self>, kind: u32, arg: &[u8], call: &Call<'_>) -> Result<(Bound, Reply), Errno> {
        match kind {
            v11::GH_FN_VCPU => {
                let (vcpu, fd) = Vcpu::bind(self, arg, call)?;
                Ok((Bound::Vcpu(vcpu), Reply::Fd { fd, cloexec: true }))
            }
            v11::GH_FN_IRQFD => Ok((Bound::Irqfd(Irqfd::bind(self, arg, call)?), Reply::Value(0))),
            _ => Ok((Bound::Ioeventfd(Ioeventfd::bind(self, arg, call)?), Reply::Value(0))),
        }
    }

    /// The caller never heard of a function that was just added: it isn't there.
    fn take_back(&self, function: &Arc<Function>) {
        self.functions().retain(|other| !Arc::ptr_eq(other, function));
        function.unbind(self, None);
    }

    /// `REMOVE_FUNCTION`.
    pub(crate) fn remove_function(&self, call: &Call<'_>, arg: u64) -> Result<Answer, Errno> {
        let desc = v11::gh_fn_desc::copy_from_user(&call.caller, arg)?;
        let _lock = self.fn_lock.lock_interruptible(call)?;
        if desc.arg_size > MAX_ALLOCATION {
            return Err(Errno::ENOMEM);
        }
        let removal = self.kernel().differences.removal;
        let arg = call.caller.read_bytes(desc.arg, desc.arg_size as usize)?;
        let meant: Vec<_> = {
            let mut functions = self.functions();
            let found = |f: &Arc<Function>| !arg.is_empty() && f.is_meant(removal, desc.type_, &arg);
            let (meant, kept) = functions.drain(..).partition(found);
            *functions = kept;
            meant
        };
        if meant.is_empty() && removal != Removal::Bytes {
            return Err(Errno::ENOENT);
        }
        for function in meant {
            function.unbind(self, Some(call));
        }
        Ok(Answer::value(0))
    }
}

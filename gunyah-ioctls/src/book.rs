//! What a VM was told so far: what the kernels do not check on every flavour is checked against this.

use std::collections::BTreeSet;

use gunyah_bindings::v11;

use crate::error::{Error, Result};

/// The phase a VM is in, as far as its `VmFd` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Configuring,
    Started,
    StartFailed,
}

/// A range of guest physical addresses that is taken.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: u64,
    size: u64,
    label: Option<u32>,
}

/// A binding of guest memory: a piece of a file at a guest address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) memory: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) guest_addr: u64,
    pub(crate) flags: u32,
}

#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) phase: Phase,
    /// Why calls may hang from now on.
    pub(crate) unusable: Option<&'static str>,
    ranges: Vec<Range>,
    bindings: Vec<Binding>,
    vcpus: BTreeSet<u32>,
    irqfds: BTreeSet<u32>,
    ioeventfds: Vec<v11::gh_fn_ioeventfd_arg>,
    /// Those that the kernel did not remove when it was asked to: nobody wants them any more, but they are there.
    unwanted: Vec<v11::gh_fn_ioeventfd_arg>,
}

fn overlap(a: u64, a_size: u64, b: u64, b_size: u64) -> bool {
    a < b.saturating_add(b_size) && b < a.saturating_add(a_size)
}

impl Book {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Configuring,
            unusable: None,
            ranges: Vec::new(),
            bindings: Vec::new(),
            vcpus: BTreeSet::new(),
            irqfds: BTreeSet::new(),
            ioeventfds: Vec::new(),
            unwanted: Vec::new(),
        }
    }

    /// Fails when an earlier failure left the kernel's VM in a state in which calls may hang.
    pub(crate) fn usable(&self, op: &'static str) -> Result<()> {
        self.unusable.map_or(Ok(()), |why| Err(Error::VmUnusable { op, why }))
    }

    /// Fails unless the VM has not been started. `after` says what the call would do to a started VM.
    pub(crate) fn configuring(&self, op: &'static str, after: &'static str) -> Result<()> {
        match self.phase {
            Phase::Configuring => Ok(()),
            Phase::Started => Err(Error::WrongPhase { op, why: after }),
            Phase::StartFailed => Err(Self::start_failed(op)),
        }
    }

    pub(crate) fn start_failed(op: &'static str) -> Error {
        Error::WrongPhase {
            op,
            why: "the VM's start failed, which is final: close the VM and create a new one",
        }
    }

    /// Whether a range can be added: labels are unique, ranges do not overlap.
    pub(crate) fn check_range(
        &self,
        op: &'static str,
        start: u64,
        size: u64,
        label: Option<u32>,
    ) -> Result<()> {
        if label.is_some() && self.ranges.iter().any(|range| range.label == label) {
            return Err(Error::InvalidArgument { op, why: "the VM has a region with this label already" });
        }
        if self.ranges.iter().any(|range| overlap(start, size, range.start, range.size)) {
            return Err(Error::InvalidArgument {
                op,
                why: "the guest addresses overlap memory that the VM has already",
            });
        }
        Ok(())
    }

    pub(crate) fn add_range(&mut self, start: u64, size: u64, label: Option<u32>) {
        self.ranges.push(Range { start, size, label });
    }

    /// Whether a piece of guest memory can be bound: no byte of it is bound, nor is its place in the guest.
    pub(crate) fn check_binding(&self, op: &'static str, new: &Binding) -> Result<()> {
        self.check_range(op, new.guest_addr, new.size, None)?;
        let bound =
            |old: &Binding| old.memory == new.memory && overlap(old.offset, old.size, new.offset, new.size);
        if self.bindings.iter().any(bound) {
            return Err(Error::InvalidArgument {
                op,
                why: "part of this guest memory is mapped in the VM already",
            });
        }
        Ok(())
    }

    pub(crate) fn add_binding(&mut self, binding: Binding) {
        self.add_range(binding.guest_addr, binding.size, None);
        self.bindings.push(binding);
    }

    pub(crate) fn binding(&self, memory: u64, guest_addr: u64) -> Option<Binding> {
        self.bindings.iter().find(|old| old.memory == memory && old.guest_addr == guest_addr).copied()
    }

    pub(crate) fn remove_binding(&mut self, binding: &Binding) {
        self.bindings.retain(|old| old != binding);
        self.ranges.retain(|range| range.start != binding.guest_addr);
    }

    pub(crate) fn check_vcpu(&self, op: &'static str, id: u32) -> Result<()> {
        if self.vcpus.contains(&id) {
            return Err(Error::InvalidArgument { op, why: "the VM has a vCPU with this id already" });
        }
        Ok(())
    }

    pub(crate) fn check_irqfd(&self, op: &'static str, label: u32) -> Result<()> {
        if self.irqfds.contains(&label) {
            return Err(Error::InvalidArgument { op, why: "the VM has an irqfd with this label already" });
        }
        Ok(())
    }

    /// Two ioeventfds at one address tell each other apart only by width and value, and only if both have a value.
    pub(crate) fn check_ioeventfd(&self, op: &'static str, new: &v11::gh_fn_ioeventfd_arg) -> Result<()> {
        let by_value = |arg: &v11::gh_fn_ioeventfd_arg| arg.flags & v11::GH_IOEVENTFD_DATAMATCH != 0;
        let conflict = |old: &v11::gh_fn_ioeventfd_arg| {
            old.addr == new.addr
                && !(by_value(old) && by_value(new) && (old.len != new.len || old.datamatch != new.datamatch))
        };
        if self.ioeventfds.iter().chain(&self.unwanted).any(conflict) {
            return Err(Error::InvalidArgument {
                op,
                why: "the VM has an ioeventfd at this address that matches the same stores",
            });
        }
        Ok(())
    }

    pub(crate) fn add_vcpu(&mut self, id: u32) {
        self.vcpus.insert(id);
    }

    pub(crate) fn add_irqfd(&mut self, label: u32) {
        self.irqfds.insert(label);
    }

    pub(crate) fn add_ioeventfd(&mut self, arg: v11::gh_fn_ioeventfd_arg) {
        self.ioeventfds.push(arg);
    }

    pub(crate) fn remove_vcpu(&mut self, id: u32) {
        self.vcpus.remove(&id);
    }

    pub(crate) fn remove_irqfd(&mut self, label: u32) {
        self.irqfds.remove(&label);
    }

    pub(crate) fn remove_ioeventfd(&mut self, arg: &v11::gh_fn_ioeventfd_arg) {
        self.ioeventfds.retain(|old| old != arg);
    }

    /// The kernel still has it, but its handle, and with it the eventfd's number, is gone.
    pub(crate) fn keep_unwanted_ioeventfd(&mut self, arg: &v11::gh_fn_ioeventfd_arg) {
        self.remove_ioeventfd(arg);
        self.unwanted.push(*arg);
    }

    /// The other ioeventfds at the address of `arg` that are to stay.
    pub(crate) fn ioeventfd_siblings(&self, arg: &v11::gh_fn_ioeventfd_arg) -> Vec<v11::gh_fn_ioeventfd_arg> {
        self.ioeventfds.iter().filter(|old| old.addr == arg.addr && *old != arg).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ioeventfd(addr: u64, len: u32, value: Option<u64>) -> v11::gh_fn_ioeventfd_arg {
        v11::gh_fn_ioeventfd_arg {
            datamatch: value.unwrap_or(0),
            addr,
            len,
            fd: 3,
            flags: u32::from(value.is_some()),
            padding: 0,
        }
    }

    #[test]
    fn ioeventfds_conflict_as_in_the_kernel() {
        let mut book = Book::new();
        book.add_ioeventfd(ioeventfd(0x100, 4, Some(1)));
        book.add_ioeventfd(ioeventfd(0x200, 0, None));
        for (new, good) in [
            (ioeventfd(0x100, 4, Some(2)), true),
            (ioeventfd(0x100, 2, Some(1)), true),
            (ioeventfd(0x100, 4, Some(1)), false),
            (ioeventfd(0x100, 0, None), false),
            (ioeventfd(0x200, 4, Some(1)), false),
            (ioeventfd(0x200, 4, None), false),
            (ioeventfd(0x204, 4, None), true),
        ] {
            assert_eq!(book.check_ioeventfd("op", &new).is_ok(), good, "{new:?}");
        }
        book.remove_ioeventfd(&ioeventfd(0x200, 0, None));
        assert!(book.check_ioeventfd("op", &ioeventfd(0x200, 4, None)).is_ok());
        // One that the kernel did not let go is in the way, and is never put back.
        book.add_ioeventfd(ioeventfd(0x100, 4, Some(2)));
        assert_eq!(book.ioeventfd_siblings(&ioeventfd(0x100, 4, Some(1))), [ioeventfd(0x100, 4, Some(2))]);
        book.keep_unwanted_ioeventfd(&ioeventfd(0x100, 4, Some(2)));
        assert_eq!(book.ioeventfd_siblings(&ioeventfd(0x100, 4, Some(1))), []);
        assert!(book.check_ioeventfd("op", &ioeventfd(0x100, 4, Some(2))).is_err());
    }

    #[test]
    fn ranges_and_labels_are_unique() {
        let mut book = Book::new();
        book.add_range(0x1000, 0x1000, Some(0));
        assert!(book.check_range("op", 0x2000, 0x1000, Some(1)).is_ok());
        assert!(book.check_range("op", 0x2000, 0x1000, Some(0)).is_err());
        assert!(book.check_range("op", 0, 0x1001, Some(1)).is_err());
        assert!(book.check_range("op", 0, 0x1000, Some(1)).is_ok());
        let binding = Binding { memory: 1, offset: 0, size: 0x1000, guest_addr: 0x8000, flags: 0 };
        book.add_binding(binding);
        assert!(book.check_binding("op", &Binding { guest_addr: 0x9000, ..binding }).is_err());
        assert!(book.check_binding("op", &Binding { memory: 2, ..binding }).is_err());
        assert!(book.check_binding("op", &Binding { memory: 2, guest_addr: 0x9000, ..binding }).is_ok());
        book.remove_binding(&binding);
        assert!(book.check_binding("op", &binding).is_ok());
    }
}

//! What a file descriptor of ours stands for, and how long it lives.

use std::sync::{Arc, Mutex};

use super::guest_memfd::GuestMem;
use super::lock;
use super::observer::Target;
use super::vcpu::Vcpu;
use super::vm_mgr::Vm;

/// What a file descriptor of ours stands for.
pub(crate) struct Object {
    pub(super) kind: Kind,
    /// The file itself, and the calls in progress on it.
    users: Mutex<u32>,
}

pub(super) enum Kind {
    Device,
    Vm(Arc<Vm>),
    Vcpu(Arc<Vcpu>),
    GuestMem(GuestMem),
    /// The node of a region of contiguous memory, with its size.
    CmaNode(u64),
    /// A VM of the vendors' interface, which nothing here can boot.
    VendorVm,
}

impl Object {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, users: Mutex::new(1) }
    }
    pub(super) fn vm(vm: &Arc<Vm>) -> Self {
        Self::new(Kind::Vm(Arc::clone(vm)))
    }
    pub(super) fn vcpu(vcpu: &Arc<Vcpu>) -> Self {
        Self::new(Kind::Vcpu(Arc::clone(vcpu)))
    }

    pub(super) fn target(&self) -> Target {
        match &self.kind {
            Kind::Device => Target::Device,
            Kind::Vm(vm) => Target::Vm(vm.number),
            Kind::Vcpu(vcpu) => Target::Vcpu(vcpu.vm.number, vcpu.label),
            Kind::GuestMem(memory) => Target::Memory(memory.number),
            Kind::CmaNode(_) => Target::Device,
            Kind::VendorVm => Target::Vm(0),
        }
    }

    /// A call on the file begins.
    pub(super) fn get(&self) -> bool {
        let mut users = lock(&self.users);
        if *users > 0 {
            *users += 1;
        }
        *users > 0
    }

    /// A call has ended, or the file was closed for the last time. With the last user the file is released.
    pub(super) fn put(&self) {
        let mut users = lock(&self.users);
        *users = users.saturating_sub(1);
        if *users > 0 {
            return;
        }
        drop(users);
        match &self.kind {
            Kind::Device | Kind::GuestMem(_) | Kind::CmaNode(_) | Kind::VendorVm => {}
            Kind::Vm(vm) => vm.put(),
            Kind::Vcpu(vcpu) => vcpu.vm.put(),
        }
    }
}

//! irqfd: a write to an eventfd rings a doorbell.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use gunyah_bindings::v11;

use super::ticket::Ticket;
use super::uapi::Arg;
use super::vm_mgr::Vm;
use crate::errno::Errno;
use crate::transport::call::Call;
use crate::transport::sys;

/// One irqfd.
pub(crate) struct Irqfd {
    pub(crate) label: u32,
    vm: Weak<Vm>,
    eventfd: OwnedFd,
    token: u64,
    /// The guest's doorbell exists: the VM has started and its devicetree declares the label.
    rings: AtomicBool,
    /// The hypervisor listens to the eventfd itself.
    bypassed: AtomicBool,
}

impl Irqfd {
    pub(crate) fn bind(vm: &Arc<Vm>, arg: &[u8], call: &Call<'_>) -> Result<Arc<Self>, Errno> {
        if arg.len() != v11::gh_fn_irqfd_arg::SIZE {
            return Err(Errno::EINVAL);
        }
        let arg = v11::gh_fn_irqfd_arg::parse(arg);
        if arg.flags & !v11::GH_IRQFD_LEVEL != 0 {
            return Err(Errno::EINVAL);
        }
        // Duplicated: the eventfd lives on when user space closes its number.
        let eventfd = call.caller.eventfd(arg.fd as i32)?;
        let kernel = vm.kernel();
        let irqfd = Arc::new(Self {
            label: arg.label,
            vm: Arc::downgrade(vm),
            eventfd,
            token: kernel.next_token(),
            rings: AtomicBool::new(false),
            bypassed: AtomicBool::new(false),
        });
        vm.add_resource_ticket(&Ticket::Irqfd(Arc::clone(&irqfd)), call)?;
        if irqfd.bypassed.load(Ordering::Acquire) {
            return Ok(irqfd);
        }
        kernel.watch_doorbell(irqfd.token, &irqfd);
        if let Err(error) = sys::epoll_add_edge(kernel.doorbells.as_fd(), irqfd.eventfd.as_fd(), irqfd.token)
        {
            irqfd.unbind(vm, Some(call));
            return Err(error);
        }
        // A counter that is not 0 already reports itself at once. That is no ring: take it out here.
        kernel.doorbells_rung_except(Some(irqfd.token));
        Ok(irqfd)
    }

    pub(crate) fn unbind(self: &Arc<Self>, vm: &Vm, call: Option<&Call<'_>>) {
        let kernel = vm.kernel();
        sys::epoll_remove(kernel.doorbells.as_fd(), self.eventfd.as_fd());
        kernel.unwatch_doorbell(self.token);
        vm.remove_resource_ticket(&Ticket::Irqfd(Arc::clone(self)), call);
    }

    pub(crate) fn populate(&self) -> bool {
        let first = !self.rings.swap(true, Ordering::AcqRel);
        if let (true, Some(vm)) = (first, self.vm.upgrade()) {
            let eventfd = self.eventfd.as_fd();
            if vm.guest.get().is_some_and(|guest| guest.bind_irqfd(&vm, self.label, eventfd)) {
                self.bypassed.store(true, Ordering::Release);
                sys::epoll_remove(vm.kernel().doorbells.as_fd(), eventfd);
            }
        }
        first
    }

    pub(crate) fn unpopulate(&self) -> bool {
        if self.bypassed.swap(false, Ordering::AcqRel) {
            if let Some(vm) = self.vm.upgrade() {
                if let Some(guest) = vm.guest.get() {
                    guest.unbind_irqfd(self.label, self.eventfd.as_fd());
                }
            }
        }
        self.rings.swap(false, Ordering::AcqRel)
    }

    /// The eventfd was written to. Its counter stays as it is. Before the start this is dropped, never replayed.
    pub(crate) fn signalled(&self) {
        let Some(vm) = self.vm.upgrade() else { return };
        if self.rings.load(Ordering::Acquire) {
            vm.ring(self.label);
        } else {
            vm.kernel().observer.note(|| format!("irqfd {}: premature, dropped", self.label));
        }
    }
}

//! Resource tickets: who waits for which of the resources that the Resource Manager hands out at start.
//!
//! A vCPU or an irqfd is added before the VM starts, its hypervisor side comes into being with the start. A ticket joins
//! the two, whichever is first: by type and label.

use std::sync::Arc;

use super::irqfd::Irqfd;
use super::vcpu::Vcpu;
use super::vm_mgr::Vm;
use crate::errno::Errno;
use crate::hyp::VcpuEngine;
use crate::transport::call::Call;

/// What the Resource Manager hands out.
pub(crate) enum Resource {
    /// A vCPU that the host schedules.
    Vcpu { label: u32, engine: Box<dyn VcpuEngine> },
    /// A doorbell that the host rings.
    Doorbell { label: u32 },
}

/// Who waits for a resource.
#[derive(Clone)]
pub(crate) enum Ticket {
    Vcpu(Arc<Vcpu>),
    Irqfd(Arc<Irqfd>),
}

impl Ticket {
    fn label(&self) -> u32 {
        match self {
            Self::Vcpu(vcpu) => vcpu.label,
            Self::Irqfd(irqfd) => irqfd.label,
        }
    }

    fn collides(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other) && self.label() == other.label()
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vcpu(a), Self::Vcpu(b)) => Arc::ptr_eq(a, b),
            (Self::Irqfd(a), Self::Irqfd(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    fn wants(&self, resource: &Resource) -> bool {
        match (self, resource) {
            (Self::Vcpu(vcpu), Resource::Vcpu { label, .. }) => vcpu.label == *label,
            (Self::Irqfd(irqfd), Resource::Doorbell { label }) => irqfd.label == *label,
            _ => false,
        }
    }

    /// Gives the resource to its owner, or back if the owner has one already.
    fn populate(&self, resource: Resource, call: Option<&Call<'_>>) -> Option<Resource> {
        match (self, resource) {
            (Self::Vcpu(vcpu), Resource::Vcpu { label, engine }) => {
                let engine = vcpu.populate(engine, call)?;
                Some(Resource::Vcpu { label, engine })
            }
            (Self::Irqfd(irqfd), Resource::Doorbell { label }) => {
                (!irqfd.populate()).then_some(Resource::Doorbell { label })
            }
            (_, resource) => Some(resource),
        }
    }

    fn unpopulate(&self, call: Option<&Call<'_>>) -> Option<Resource> {
        match self {
            Self::Vcpu(vcpu) => {
                let engine = vcpu.unpopulate(call)?;
                Some(Resource::Vcpu { label: vcpu.label, engine })
            }
            Self::Irqfd(irqfd) => irqfd.unpopulate().then_some(Resource::Doorbell { label: irqfd.label }),
        }
    }
}

/// A VM's tickets, and the resources that nobody has claimed.
#[derive(Default)]
pub(crate) struct Tickets {
    tickets: Vec<Ticket>,
    resources: Vec<Resource>,
    /// The guest has a doorbell of any label (scripts need no devicetree).
    any_doorbell: bool,
}

impl Vm {
    /// Adds a ticket and gives it its resource if that exists already. `EEXIST`: there is one of this type and label.
    pub(crate) fn add_resource_ticket(&self, ticket: &Ticket, call: &Call<'_>) -> Result<(), Errno> {
        let mut all = self.tickets();
        if all.tickets.iter().any(|other| other.collides(ticket)) {
            // Where this is only warned about, the newcomer never gets anything.
            let refused = self.kernel().differences.duplicates_refused;
            return if refused { Err(Errno::EEXIST) } else { Ok(()) };
        }
        all.tickets.push(ticket.clone());
        if let (true, Ticket::Irqfd(irqfd)) = (all.any_doorbell, ticket) {
            irqfd.populate();
        }
        let Some(at) = all.resources.iter().position(|resource| ticket.wants(resource)) else {
            return Ok(());
        };
        let resource = all.resources.swap_remove(at);
        all.resources.extend(ticket.populate(resource, Some(call)));
        Ok(())
    }

    /// Takes a ticket out; its resource is free for the next one.
    pub(crate) fn remove_resource_ticket(&self, ticket: &Ticket, call: Option<&Call<'_>>) {
        let mut all = self.tickets();
        let Some(at) = all.tickets.iter().position(|other| other.is(ticket)) else { return };
        let ticket = all.tickets.swap_remove(at);
        let resource = ticket.unpopulate(call);
        all.resources.extend(resource);
    }

    /// A resource has come: whose is it?
    pub(crate) fn add_resource(&self, resource: Resource, call: &Call<'_>) {
        let mut all = self.tickets();
        let ticket = all.tickets.iter().find(|ticket| ticket.wants(&resource)).cloned();
        let left = match ticket {
            Some(ticket) => ticket.populate(resource, Some(call)),
            None => Some(resource),
        };
        all.resources.extend(left);
    }

    /// From now on every doorbell label exists.
    pub(crate) fn add_all_doorbells(&self) {
        let mut all = self.tickets();
        all.any_doorbell = true;
        for ticket in &all.tickets {
            if let Ticket::Irqfd(irqfd) = ticket {
                irqfd.populate();
            }
        }
    }

    /// Forgets what is left at the VM's end.
    pub(crate) fn drop_resources(&self) {
        let mut all = self.tickets();
        all.tickets.clear();
        all.resources.clear();
    }
}

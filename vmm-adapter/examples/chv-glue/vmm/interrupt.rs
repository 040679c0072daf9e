//! Interrupts of devices: a GSI and an eventfd each, bound when they are first used. The order of calls is Cloud Hypervisor's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::hypervisor::vm::{InterruptSourceConfig, IrqRoutingEntry, Vm};

/// All routes of a VM, which the hypervisor takes as a whole.
pub(super) struct InterruptManager {
    vm: Arc<dyn Vm>,
    routes: Mutex<BTreeMap<u32, Entry>>,
}

#[derive(Clone, Copy)]
struct Entry {
    route: IrqRoutingEntry,
    masked: bool,
}

/// The interrupts of a device.
pub(super) struct InterruptGroup {
    manager: Arc<InterruptManager>,
    interrupts: Vec<Interrupt>,
}

struct Interrupt {
    gsi: u32,
    event: EventFd,
    /// Whether the eventfd is registered.
    enabled: Mutex<bool>,
}

impl InterruptManager {
    pub(super) fn new(vm: Arc<dyn Vm>) -> Arc<Self> {
        Arc::new(Self { vm, routes: Mutex::default() })
    }

    /// Makes the interrupts of a device, with GSIs from this one on.
    pub(super) fn group(self: &Arc<Self>, first_gsi: u32, count: u32) -> anyhow::Result<InterruptGroup> {
        let make = |gsi| {
            anyhow::Ok(Interrupt {
                gsi,
                event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
                enabled: Mutex::default(),
            })
        };
        let interrupts = (first_gsi..first_gsi + count).map(make).collect::<anyhow::Result<_>>()?;
        Ok(InterruptGroup { manager: Arc::clone(self), interrupts })
    }

    /// Puts a route in, and gives all that are not masked to the hypervisor. A route that is not taken must not stay: it would keep
    /// every later one from being taken.
    fn set_route(&self, gsi: u32, entry: Entry) -> anyhow::Result<()> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = routes.insert(gsi, entry);
        let unmasked: Vec<_> =
            routes.values().filter(|entry| !entry.masked).map(|entry| entry.route).collect();
        let set = self.vm.set_gsi_routing(&unmasked);
        if set.is_err() {
            match before {
                Some(before) => routes.insert(gsi, before),
                None => routes.remove(&gsi),
            };
        }
        Ok(set?)
    }
}

impl InterruptGroup {
    fn get(&self, index: u32) -> anyhow::Result<&Interrupt> {
        let found = usize::try_from(index).ok().and_then(|index| self.interrupts.get(index));
        found.with_context(|| format!("the device has no interrupt {index}"))
    }

    /// Signals the interrupt.
    pub(super) fn trigger(&self, index: u32) -> anyhow::Result<()> {
        Ok(self.get(index)?.event.write(1)?)
    }

    /// Routes an interrupt elsewhere. One that is masked is nowhere.
    pub(super) fn update(&self, index: u32, to: InterruptSourceConfig, masked: bool) -> anyhow::Result<()> {
        let (interrupt, vm) = (self.get(index)?, &*self.manager.vm);
        let route = vm.make_routing_entry(interrupt.gsi, &to);
        if masked {
            interrupt.disable(vm)?;
        }
        self.manager.set_route(interrupt.gsi, Entry { route, masked })?;
        if masked { Ok(()) } else { interrupt.enable(vm) }
    }
}

impl Interrupt {
    fn enable(&self, vm: &dyn Vm) -> anyhow::Result<()> {
        let mut enabled = self.enabled.lock().unwrap_or_else(PoisonError::into_inner);
        if !*enabled {
            vm.register_irqfd(&self.event, self.gsi)?;
            *enabled = true;
        }
        Ok(())
    }

    fn disable(&self, vm: &dyn Vm) -> anyhow::Result<()> {
        let mut enabled = self.enabled.lock().unwrap_or_else(PoisonError::into_inner);
        if *enabled {
            vm.unregister_irqfd(&self.event, self.gsi)?;
            *enabled = false;
        }
        Ok(())
    }
}

//! Interrupts: Cloud Hypervisor binds eventfds to GSIs and routes GSIs to lines or messages, at any time. Below there are lines that
//! were declared before the VM was made, with one eventfd each.
//!
//! A route names its line by its pin, or by the message that the guest's driver wrote: GICv2m's messages are INTIDs. A new route is
//! the end of one binding and the beginning of another. What is signalled in between is lost, as it is without a route; drivers mask a
//! vector while they change its message.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use anyhow::{Context, bail};
use vmm_adapter::{IrqLine, MsiFrame, MsiPool, Vm, VmConfig};
use vmm_sys_util::eventfd::EventFd;

use super::lock;
use crate::hypervisor::vm::{
    InterruptSourceConfig, IrqRoutingEntry, LegacyIrqSourceConfig, MsiIrqSourceConfig,
};

/// The INTID of SPI 0.
pub(super) const FIRST_SPI: u32 = 32;

/// The frame's register with the first INTID and the number of lines.
const TYPER: u64 = 0x008;
/// The frame's register that messages are stored to.
const SETSPI: u64 = 0x040;

/// The bindings and routes of a VM.
pub(super) struct Irqs {
    vm: Arc<dyn Vm>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    routes: BTreeMap<u32, IrqLine>,
    events: BTreeMap<u32, Event>,
}

struct Event {
    /// The caller's, by which it unregisters.
    theirs: RawFd,
    /// The same eventfd, for bindings to come.
    event: EventFd,
    bound: Option<IrqLine>,
}

impl Irqs {
    pub(super) fn new(vm: Arc<dyn Vm>) -> Self {
        Self { vm, table: Mutex::default() }
    }

    /// Binds `fd` to the line of `gsi`, now or when it gets a route.
    pub(super) fn register(&self, fd: &EventFd, gsi: u32) -> anyhow::Result<()> {
        let mut table = lock(&self.table);
        if table.events.contains_key(&gsi) {
            bail!("GSI {gsi} has an eventfd already");
        }
        let event = fd.try_clone().context("cannot keep the eventfd")?;
        let mut new = Event { theirs: fd.as_raw_fd(), event, bound: None };
        if let Some(line) = table.routes.get(&gsi) {
            if let Some(other) = table.holder(*line) {
                bail!("GSI {gsi} is routed to SPI {}, which GSI {other} has already", line.spi);
            }
            new.bind(&*self.vm, *line)?;
        }
        table.events.insert(gsi, new);
        Ok(())
    }

    /// Undoes [`Irqs::register`].
    pub(super) fn unregister(&self, fd: &EventFd, gsi: u32) -> anyhow::Result<()> {
        let mut table = lock(&self.table);
        match table.events.get_mut(&gsi) {
            Some(event) if event.theirs == fd.as_raw_fd() => {
                event.unbind(&*self.vm)?;
                table.events.remove(&gsi);
                Ok(())
            }
            _ => bail!("GSI {gsi} does not have this eventfd"),
        }
    }

    /// Makes these the routes. When one of them is wrong, all stay as they were. When the hypervisor refuses to bind a line, which it has
    /// no reason to, some eventfds are bound to none until the next call.
    pub(super) fn set_routes(&self, entries: &[IrqRoutingEntry]) -> anyhow::Result<()> {
        let mut routes = BTreeMap::new();
        for IrqRoutingEntry::Adapter { gsi, to } in entries {
            let line = find_line(self.vm.config(), to).with_context(|| format!("the route of GSI {gsi}"))?;
            if routes.insert(*gsi, line).is_some() {
                bail!("GSI {gsi} has two routes");
            }
        }
        let mut table = lock(&self.table);
        let mut holders = BTreeMap::new();
        for (gsi, line) in routes.iter().filter(|(gsi, _)| table.events.contains_key(gsi)) {
            if let Some(other) = holders.insert(line.spi, gsi) {
                bail!(
                    "GSI {other} and GSI {gsi} are both routed to SPI {}, which takes one eventfd",
                    line.spi
                );
            }
        }
        // First all ends, so that two can change places.
        for (gsi, event) in &mut table.events {
            if event.bound.is_some() && event.bound.as_ref() != routes.get(gsi) {
                event.unbind(&*self.vm)?;
            }
        }
        for (gsi, event) in &mut table.events {
            if let (None, Some(line)) = (event.bound, routes.get(gsi)) {
                event.bind(&*self.vm, *line)?;
            }
        }
        table.routes = routes;
        Ok(())
    }

    /// Signals what a store of this INTID to the frame means. A line that nothing is bound to, or that is none of the pool's, stays
    /// silent, as in hardware.
    fn message(&self, pool: MsiPool, intid: u32) {
        let spi = intid.wrapping_sub(FIRST_SPI);
        if spi.wrapping_sub(pool.base) < pool.count {
            let table = lock(&self.table);
            let bound = |event: &&Event| event.bound == Some(IrqLine::edge(spi));
            if let Some(event) = table.events.values().find(bound) {
                // The counter is full only if nobody reads it, and then it says enough.
                let _ = event.event.write(1);
            }
        }
    }

    /// The pool, and the offset in the frame, if the access is to the frame.
    fn frame(&self, addr: u64) -> Option<(MsiPool, u64)> {
        let pool = self.vm.config().msi?;
        let offset = addr.checked_sub(pool.frame.0).filter(|offset| *offset < MsiFrame::SIZE)?;
        Some((pool, offset))
    }

    /// A load of the guest from the frame. `false`: it is from elsewhere.
    ///
    /// [`MsiFrame`] is the frame of VMMs whose devices ask it to signal. It has an eventfd for each line; here devices have their own.
    pub(super) fn frame_read(&self, addr: u64, data: &mut [u8]) -> bool {
        let Some((pool, offset)) = self.frame(addr) else { return false };
        let value = if offset == TYPER { (pool.base + FIRST_SPI) << 16 | pool.count } else { 0 };
        // Other registers read as zero, the identification (0xfcc), which Linux looks at, among them.
        for (to, from) in data.iter_mut().zip(value.to_le_bytes().into_iter().chain([0; 4])) {
            *to = from;
        }
        true
    }

    /// A store of the guest to the frame. `false`: it is to elsewhere.
    pub(super) fn frame_write(&self, addr: u64, data: &[u8]) -> bool {
        let Some((pool, offset)) = self.frame(addr) else { return false };
        if let (SETSPI, Ok(data)) = (offset, data.try_into()) {
            self.message(pool, u32::from_le_bytes(data));
        }
        true
    }
}

impl Table {
    /// The GSI whose eventfd is bound to a line.
    fn holder(&self, line: IrqLine) -> Option<u32> {
        self.events.iter().find(|(_, event)| event.bound == Some(line)).map(|(gsi, _)| *gsi)
    }
}

impl Event {
    fn bind(&mut self, vm: &dyn Vm, line: IrqLine) -> anyhow::Result<()> {
        vm.register_irqfd(&self.event, line)?;
        self.bound = Some(line);
        Ok(())
    }

    fn unbind(&mut self, vm: &dyn Vm) -> anyhow::Result<()> {
        if let Some(line) = self.bound {
            vm.unregister_irqfd(&self.event, line)?;
            self.bound = None;
        }
        Ok(())
    }
}

/// The line that a route means. It has to be one that was declared.
fn find_line(config: &VmConfig, to: &InterruptSourceConfig) -> anyhow::Result<IrqLine> {
    match *to {
        InterruptSourceConfig::LegacyIrq(LegacyIrqSourceConfig { irqchip: 0, pin }) => {
            let found = config.irq_lines.iter().find(|line| line.spi == pin);
            found.copied().with_context(|| format!("pin {pin} was not declared in GuestDescription::lines"))
        }
        InterruptSourceConfig::LegacyIrq(LegacyIrqSourceConfig { irqchip, .. }) => {
            bail!("there is no interrupt controller {irqchip}")
        }
        InterruptSourceConfig::MsiIrq(MsiIrqSourceConfig { high_addr, low_addr, data, .. }) => {
            let pool = config.msi.context("a message, and the VM has no GuestDescription::msi")?;
            let (addr, frame) = (u64::from(high_addr) << 32 | u64::from(low_addr), pool.frame.0 + SETSPI);
            if addr != frame {
                bail!("the message goes to {addr:#x}, and messages are taken at {frame:#x}");
            }
            let spi = data.checked_sub(FIRST_SPI).filter(|spi| spi.wrapping_sub(pool.base) < pool.count);
            let (first, last) = (pool.base + FIRST_SPI, pool.base + FIRST_SPI + pool.count - 1);
            spi.map(IrqLine::edge).with_context(|| {
                format!(
                    "the message names INTID {data}, and the VM's are {first} to {last}: the pool was fixed when it was made"
                )
            })
        }
    }
}

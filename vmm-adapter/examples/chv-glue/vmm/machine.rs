//! The machine, from its VM to its end.
#![expect(unsafe_code, reason = "it vouches for how long guest memory stays mapped")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use anyhow::Context;

use super::card::{Card, VECTORS};
use super::cpu::{CpuManager, Ended};
use super::devices::{Bus, Device, Mailbox, Panel};
use super::interrupt::InterruptManager;
use super::layout::{
    CARD, DMA_POOL, DMA_POOL_SIZE, MAILBOX, MSI_COUNT, MSI_FIRST_INTID, PANEL, PANEL_PIN, RAM, RAM_SIZE, vgic,
};
use super::memory::MemoryManager;
use super::{Log, Payload, boot};
use crate::hypervisor::additions::{GuestDescription, LegacyLine, MsiLines, Protection};
use crate::hypervisor::cpu::{Vcpu, VmExit};
use crate::hypervisor::vm::{InterruptSourceConfig, LegacyIrqSourceConfig, Vm, VmOps};
use crate::hypervisor::{Hypervisor, HypervisorVmConfig};

/// What can be chosen of a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) vcpus: u32,
    pub(crate) protection: Protection,
}

/// How a machine ended.
#[derive(Debug)]
pub(crate) enum End {
    Shutdown,
    /// The VM cannot start again: a new machine can.
    Reset,
    /// The guest or the VMM cannot go on, and why.
    Failed(anyhow::Error),
}

/// A machine that runs. Its fields are dropped in this order.
pub(crate) struct Machine {
    cpus: CpuManager,
    ended: Receiver<Ended>,
    /// Kept until no vCPU runs.
    vm: Arc<dyn Vm>,
    /// Last: the guest uses it until the VM is gone.
    _memory: MemoryManager,
}

/// GSIs: the panel's, and from there on the card's.
const PANEL_GSI: u32 = 0;
const CARD_GSI: u32 = 1;

impl Machine {
    /// Makes a machine and lets it run.
    pub(crate) fn boot(
        hypervisor: &dyn Hypervisor,
        settings: &Settings,
        payload: &Payload,
        log: &Log,
    ) -> anyhow::Result<Self> {
        let memory = MemoryManager::new()?;
        hypervisor.check_required_extensions()?;
        let description = description(settings);
        let vm = hypervisor.create_vm(HypervisorVmConfig { description: Some(description.clone()) })?;
        let kind = if vm.is_protected() { "a protected VM" } else { "a VM that the host sees all memory of" };
        log(format!("vmm: {:?} makes {kind}, {} vCPUs", hypervisor.hypervisor_type(), settings.vcpus));
        // SAFETY: the VM and its vCPUs, with all who hold them, are made after `memory` here and stand before it in `Self`, so they
        // are dropped before it.
        unsafe { memory.give(&*vm) }?;

        let bus = bus(&vm, &memory, log)?;
        let ops = Arc::new(bus) as Arc<dyn VmOps>;
        let vcpus: Vec<_> = (0..settings.vcpus)
            .map(|id| vm.create_vcpu(id, Some(Arc::clone(&ops))))
            .collect::<Result<_, _>>()?;
        try_facets(&*vm, &vcpus, log);
        vm.create_irq_chip()?;
        let gic = vm.create_vgic(&description.vgic)?;
        vm.init()?;

        let gic = gic.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        boot::boot(&*vm, &*gic, &memory, &vcpus, payload)?;
        drop(gic);
        let (sender, ended) = channel();
        let cpus = CpuManager::start(vcpus, &sender)?;
        Ok(Self { cpus, ended, vm, _memory: memory })
    }

    /// Keeps the guest from running.
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        self.cpus.pause();
        Ok(self.vm.pause()?)
    }

    /// Lets it run again.
    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        self.vm.resume()?;
        self.cpus.resume();
        Ok(())
    }

    /// Waits for the end. The first vCPU that has one decides; the others are ended.
    pub(crate) fn wait(mut self) -> anyhow::Result<End> {
        let end = self.ended.recv().context("every vCPU's thread is gone")?;
        self.cpus.shut_down();
        Ok(match end {
            Ok(VmExit::Shutdown) => End::Shutdown,
            Ok(VmExit::Reset) => End::Reset,
            Ok(VmExit::Ignore) => End::Failed(anyhow::anyhow!("the vCPUs were told to end")),
            Err(error) => End::Failed(error.into()),
        })
    }
}

fn description(settings: &Settings) -> GuestDescription {
    GuestDescription {
        vcpus: settings.vcpus,
        protection: settings.protection,
        dma_pool: Some((DMA_POOL, DMA_POOL_SIZE as u64)),
        vgic: vgic(settings.vcpus),
        lines: vec![LegacyLine { pin: PANEL_PIN, level: false }],
        msi: Some(MsiLines { first_intid: MSI_FIRST_INTID, count: MSI_COUNT }),
    }
}

/// MPIDR_EL1, as [`Vcpu::get_sys_reg`] has it.
const MPIDR: u32 = 3 << 19 | 5 << 5;

/// What some hypervisors can do. Nothing depends on it here; those that cannot say so.
fn try_facets(vm: &dyn Vm, vcpus: &[Box<dyn Vcpu>], log: &Log) {
    let say = |what: &str, tried: anyhow::Result<String>| match tried {
        Ok(result) => log(format!("vmm: {what}: {result}")),
        Err(error) => log(format!("vmm: {what}: no, {error:#}")),
    };
    for (id, vcpu) in vcpus.iter().enumerate() {
        say(
            &format!("MPIDR of vCPU {id}"),
            vcpu.get_sys_reg(MPIDR).map(|mpidr| format!("{mpidr:#x}")).map_err(Into::into),
        );
    }
    let logged = || {
        vm.start_dirty_log()?;
        let words = vm.get_dirty_log(0, RAM, RAM_SIZE as u64)?;
        vm.stop_dirty_log()?;
        let dirty: u32 = words.iter().map(|word| word.count_ones()).sum();
        anyhow::Ok(format!("{dirty} pages of {}", 64 * words.len()))
    };
    say("dirty log", logged());
}

/// The devices, with their interrupts and doorbells.
fn bus(vm: &Arc<dyn Vm>, memory: &MemoryManager, log: &Log) -> anyhow::Result<Bus> {
    let interrupts = InterruptManager::new(Arc::clone(vm));
    let line = interrupts.group(PANEL_GSI, 1)?;
    let pin = LegacyIrqSourceConfig { irqchip: 0, pin: PANEL_PIN };
    line.update(0, InterruptSourceConfig::LegacyIrq(pin), false)?;

    let shared = memory.for_devices(vm.is_protected())?;
    let taken = Arc::default();
    let panel = Panel::new(&**vm, line, Arc::clone(&taken), shared.clone(), Arc::clone(log))?;
    let card = Card::new(interrupts.group(CARD_GSI, VECTORS)?, Arc::clone(log))?;
    let mailbox = Mailbox { taken, log: Arc::clone(log) };
    let devices: [(u64, Arc<dyn Device>); 3] =
        [(PANEL, Arc::new(panel)), (MAILBOX, Arc::new(mailbox)), (CARD, Arc::new(card))];
    Ok(Bus { devices: BTreeMap::from(devices), memory: shared, log: Arc::clone(log) })
}

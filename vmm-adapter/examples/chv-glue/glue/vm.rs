//! A VM: memory, ioevents, the start.
#![expect(unsafe_code, reason = "the trait takes guest memory as a raw pointer")]

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use anyhow::{anyhow, bail};
use vm_fdt::FdtWriter;
use vm_memory::GuestAddress;
use vmm_adapter::fdt::lint::{Expect, Severity, lint};
use vmm_adapter::{DirtyLog, Feature, IoEventMatch, Vm as Inner};
use vmm_sys_util::eventfd::EventFd;

use super::gic::AdapterGic;
use super::irq::Irqs;
use super::vcpu::AdapterVcpu;
use super::{lock, memory, nowhere, unsupported};
use crate::hypervisor::additions::{BootContext, GuestDescription};
use crate::hypervisor::cpu::{Vcpu, VcpuInit};
use crate::hypervisor::gic::{Vgic, VgicConfig};
use crate::hypervisor::vm::{
    DataMatch, HypervisorVmError as Error, InterruptSourceConfig, IoEventAddress, IrqRoutingEntry, Result,
    VfioDeviceFd, Vm, VmOps,
};

/// A VM of vmm-adapter's.
pub(super) struct AdapterVm {
    vm: Arc<dyn Inner>,
    description: GuestDescription,
    irqs: Arc<Irqs>,
    ioevents: Mutex<Vec<IoEvent>>,
    /// Address and size of each slot of memory.
    slots: Mutex<BTreeMap<u32, (u64, u64)>>,
    boot: Arc<BootRegisters>,
}

/// The trait does not say at the end what a match was, so it is kept.
struct IoEvent {
    addr: u64,
    fd: RawFd,
    want: IoEventMatch,
}

/// What vCPU 0's `setup_regs` was told: entry and devicetree.
#[derive(Default)]
pub(super) struct BootRegisters(Mutex<Option<(u64, u64)>>);

impl BootRegisters {
    pub(super) fn set(&self, entry: u64, fdt: u64) {
        *lock(&self.0) = Some((entry, fdt));
    }

    /// There are two ways to say where the guest starts. They have to say the same.
    fn check(&self, boot: &BootContext) -> anyhow::Result<()> {
        match *lock(&self.0) {
            Some(told) if told == (boot.entry, boot.fdt) => Ok(()),
            Some((entry, fdt)) => bail!(
                "vCPU 0 was set up to enter at {entry:#x} with X0 = {fdt:#x}, and the start is to be at {:#x} with {:#x}",
                boot.entry,
                boot.fdt
            ),
            None => bail!("setup_regs of vCPU 0 was not called"),
        }
    }
}

impl AdapterVm {
    pub(super) fn new(vm: Arc<dyn Inner>, description: GuestDescription) -> Self {
        let irqs = Arc::new(Irqs::new(Arc::clone(&vm)));
        Self {
            vm,
            description,
            irqs,
            ioevents: Mutex::default(),
            slots: Mutex::default(),
            boot: Arc::default(),
        }
    }

    fn unsupported(&self, feature: Feature) -> anyhow::Error {
        unsupported(self.vm.capabilities().backend(), feature)
    }

    fn dirty_log(&self) -> anyhow::Result<&dyn DirtyLog> {
        self.vm.dirty_log().ok_or_else(|| self.unsupported(Feature::DirtyLog))
    }

    /// Calls this for every region of memory.
    fn each_region(
        &self,
        call: impl Fn(&dyn DirtyLog, GuestAddress) -> vmm_adapter::Result<()>,
    ) -> anyhow::Result<()> {
        let log = self.dirty_log()?;
        Ok(self.vm.memory().iter().try_for_each(|region| call(log, region.addr()))?)
    }

    /// The slot's address, if it is as the caller says.
    fn slot(&self, slot: u32, addr: u64, size: u64) -> anyhow::Result<GuestAddress> {
        match lock(&self.slots).get(&slot) {
            Some(found) if *found == (addr, size) => Ok(GuestAddress(addr)),
            Some((addr, size)) => bail!("memory slot {slot} is {addr:#x} + {size:#x}"),
            None => bail!("there is no memory slot {slot}"),
        }
    }

    /// The bytes of the devicetree's range, while the host can still read them.
    fn read_tree(&self, boot: &BootContext) -> Option<Vec<u8>> {
        let (fdt, size) = (GuestAddress(boot.fdt), boot.fdt_size);
        let regions = self.vm.memory();
        let region = regions.iter().find(|region| region.contains(fdt, size))?;
        let mut tree = vec![0; size.try_into().ok()?];
        region.read(fdt, &mut tree).ok().map(|()| tree)
    }

    /// A refused start is one errno without a reason. The lint may know it.
    fn explain(&self, refused: vmm_adapter::Error, boot: &BootContext, tree: Option<&[u8]>) -> anyhow::Error {
        let mut expect = Expect::of(&*self.vm);
        (expect.fdt, expect.entry) = (Some(boot.fdt), Some(boot.entry));
        let findings = tree.map(|tree| lint(tree, &expect)).unwrap_or_default();
        let errors: Vec<_> = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .map(|finding| format!("\n{finding}"))
            .collect();
        let found = match errors.len() {
            0 => "nothing is known to be wrong with the devicetree".to_owned(),
            count => format!("the devicetree has {count} errors:{}", errors.concat()),
        };
        anyhow::Error::new(refused).context(found)
    }
}

impl Vm for AdapterVm {
    /// Does nothing, rightly: the interrupt controller is made from the description, at the start.
    fn create_irq_chip(&self) -> Result<()> {
        Ok(())
    }

    fn register_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<()> {
        self.irqs.register(fd, gsi).map_err(Error::RegisterIrqFd)
    }

    fn unregister_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<()> {
        self.irqs.unregister(fd, gsi).map_err(Error::UnregisterIrqFd)
    }

    fn create_vcpu(&self, id: u32, vm_ops: Option<Arc<dyn VmOps>>) -> Result<Box<dyn Vcpu>> {
        let vcpu = self.vm.create_vcpu(id).map_err(|error| Error::CreateVcpu(error.into()))?;
        let (irqs, boot) = (Arc::clone(&self.irqs), Arc::clone(&self.boot));
        let backend = self.vm.capabilities().backend();
        Ok(Box::new(AdapterVcpu::new(vcpu, vm_ops, irqs, boot, backend)))
    }

    /// The controller was declared in the description, so it has to be that one.
    fn create_vgic(&self, config: &VgicConfig) -> Result<Arc<Mutex<dyn Vgic>>> {
        let declared = &self.description.vgic;
        if config != declared {
            let why = anyhow!("the VM was made for {declared:x?}, not for {config:x?}");
            return Err(Error::CreateVgic(why));
        }
        Ok(Arc::new(Mutex::new(AdapterGic::new(*config, self.description.msi.is_some()))))
    }

    fn register_ioevent(
        &self,
        fd: &EventFd,
        addr: &IoEventAddress,
        datamatch: Option<DataMatch>,
    ) -> Result<()> {
        let register = || {
            let addr = mmio(addr)?;
            let want = match datamatch {
                None => IoEventMatch::Any,
                Some(DataMatch::DataMatch32(value)) => IoEventMatch::Value { width: 4, value: value.into() },
                Some(DataMatch::DataMatch64(value)) => IoEventMatch::Value { width: 8, value },
            };
            let mut ioevents = lock(&self.ioevents);
            self.vm.register_ioevent(fd, GuestAddress(addr), want)?;
            ioevents.push(IoEvent { addr, fd: fd.as_raw_fd(), want });
            Ok(())
        };
        register().map_err(Error::RegisterIoEvent)
    }

    fn unregister_ioevent(&self, fd: &EventFd, addr: &IoEventAddress) -> Result<()> {
        let unregister = || {
            let addr = mmio(addr)?;
            let mut ioevents = lock(&self.ioevents);
            let same = |event: &IoEvent| event.addr == addr && event.fd == fd.as_raw_fd();
            if !ioevents.iter().any(same) {
                bail!("this eventfd has no ioevent at {addr:#x}");
            }
            while let Some(index) = ioevents.iter().position(same) {
                if let Some(IoEvent { want, .. }) = ioevents.get(index) {
                    self.vm.unregister_ioevent(fd, GuestAddress(addr), *want)?;
                }
                ioevents.swap_remove(index);
            }
            Ok(())
        };
        unregister().map_err(Error::UnregisterIoEvent)
    }

    fn make_routing_entry(&self, gsi: u32, config: &InterruptSourceConfig) -> IrqRoutingEntry {
        IrqRoutingEntry::Adapter { gsi, to: *config }
    }

    fn set_gsi_routing(&self, entries: &[IrqRoutingEntry]) -> Result<()> {
        self.irqs.set_routes(entries).map_err(Error::SetGsiRouting)
    }

    /// Before the start; the first region is the main one, which holds payload and devicetree. Of a protected VM all memory is lent but
    /// for the description's DMA pool.
    unsafe fn create_user_memory_region(
        &self,
        slot: u32,
        guest_phys_addr: u64,
        memory_size: usize,
        userspace_addr: *mut u8,
        readonly: bool,
        log_dirty_pages: bool,
    ) -> Result<()> {
        let create = || {
            let mut slots = lock(&self.slots);
            if slots.contains_key(&slot) {
                bail!("memory slot {slot} is taken");
            }
            let log = if log_dirty_pages { Some(self.dirty_log()?) } else { None };
            let size = u64::try_from(memory_size)?;
            let pool = self.description.dma_pool;
            let sharing = memory::sharing(self.is_protected(), pool, guest_phys_addr, size)?;
            // SAFETY: the caller keeps the memory mapped until the region is removed or the VM and its vCPUs are gone, and those are all
            // who hold the region. It promises that there is no reference into it.
            let region =
                unsafe { memory::region(guest_phys_addr, memory_size, userspace_addr, readonly, sharing) }?;
            self.vm.map(&region)?;
            slots.insert(slot, (guest_phys_addr, size));
            if let Some(log) = log {
                log.start(region.addr())?;
            }
            Ok(())
        };
        create().map_err(Error::CreateUserMemory)
    }

    unsafe fn remove_user_memory_region(
        &self,
        slot: u32,
        guest_phys_addr: u64,
        memory_size: usize,
        _userspace_addr: *mut u8,
        _readonly: bool,
        _log_dirty_pages: bool,
    ) -> Result<()> {
        let remove = || {
            let addr = self.slot(slot, guest_phys_addr, u64::try_from(memory_size)?)?;
            self.vm.unmap(addr)?;
            lock(&self.slots).remove(&slot);
            Ok(())
        };
        remove().map_err(Error::RemoveUserMemory)
    }

    fn get_preferred_target(&self, _kvi: &mut VcpuInit) -> Result<()> {
        Err(Error::GetPreferredTarget(anyhow!(
            "{} initialises vCPUs itself; see Vcpu::is_initialised",
            self.vm.capabilities().backend()
        )))
    }

    fn create_passthrough_device(&self) -> Result<VfioDeviceFd> {
        Err(Error::CreatePassthroughDevice(nowhere("devices that are passed through")))
    }

    fn start_dirty_log(&self) -> Result<()> {
        self.each_region(|log, addr| log.start(addr)).map_err(Error::StartDirtyLog)
    }

    fn stop_dirty_log(&self) -> Result<()> {
        self.each_region(|log, addr| log.stop(addr)).map_err(Error::StopDirtyLog)
    }

    fn get_dirty_log(&self, slot: u32, base_gpa: u64, memory_size: u64) -> Result<Vec<u64>> {
        let get = || {
            let log = self.dirty_log()?;
            Ok(log.take(self.slot(slot, base_gpa, memory_size)?)?)
        };
        get().map_err(Error::GetDirtyLog)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn is_protected(&self) -> bool {
        self.vm.config().kind.is_protected()
    }

    fn describe(&self, fdt: &mut FdtWriter, gic_phandle: u32) -> Result<()> {
        self.vm.describe(fdt, gic_phandle).map_err(|error| Error::Describe(error.into()))
    }

    fn fdt_slack(&self, blob: u64) -> u64 {
        self.vm.tree_slack(blob)
    }

    fn start(&self, boot: &BootContext) -> Result<()> {
        let start = || {
            self.boot.check(boot)?;
            let tree = self.read_tree(boot);
            let (entry, fdt) = (GuestAddress(boot.entry), GuestAddress(boot.fdt));
            let context = vmm_adapter::BootContext { entry, fdt, fdt_size: boot.fdt_size };
            self.vm.start(&context).map_err(|error| match error {
                refused @ vmm_adapter::Error::Backend { .. } => self.explain(refused, boot, tree.as_deref()),
                other => other.into(),
            })
        };
        start().map_err(Error::Start)
    }
}

/// arm64 guests have no ports.
fn mmio(addr: &IoEventAddress) -> anyhow::Result<u64> {
    match addr {
        IoEventAddress::Mmio(addr) => Ok(*addr),
        IoEventAddress::Pio(port) => bail!("port {port:#x}: arm64 guests have no ports"),
    }
}

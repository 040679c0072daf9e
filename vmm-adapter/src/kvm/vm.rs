//! A VM of KVM.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use kvm_ioctls::{VcpuFd, VmFd};
use vm_fdt::FdtWriter;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::dirty::KvmDirtyLog;
use super::ioevent::IoEvents;
use super::irq::Irqs;
use super::kick::Kick;
use super::memory::Slots;
use super::reclaim::KvmReclaim;
use super::vcpu::KvmVcpu;
use super::{arch, error, signal, sys};
use crate::boot::BootContext;
use crate::caps::{Capabilities, Feature};
use crate::config::{IrqLine, VmConfig};
use crate::error::{Error, Result};
use crate::memory::{MemoryRegion, Sharing};
use crate::phase::Phase;
use crate::setup::{Declared, PhaseCell, check_line, lock};
use crate::vcpu::{Vcpu, VcpuExit};
use crate::vm::{DirtyLog, IoEventMatch, Reclaim, Vm};

/// A VM of KVM. Its vCPUs hold it too.
#[derive(Debug)]
pub(super) struct KvmVm {
    shared: Arc<Shared>,
    dirty: KvmDirtyLog,
    reclaim: KvmReclaim,
}

/// What a VM and its vCPUs have in common. The order of the fields is the order in which they go: memory last, since the
/// guest uses it until everything else is closed.
pub(super) struct Shared {
    /// vCPUs that were dropped before the start: KVM does not forget them, and takes no second one of their number.
    parked: Mutex<BTreeMap<u32, OwnedFd>>,
    pub(super) fd: VmFd,
    pub(super) platform: arch::Platform,
    irqs: Mutex<Irqs>,
    ioevents: Mutex<IoEvents>,
    setup: Mutex<Setup>,
    phase: PhaseCell,
    /// How the VM ended.
    end: OnceLock<VcpuExit>,
    /// Those to tell of the end.
    kicks: Mutex<Vec<Weak<Kick>>>,
    boot: OnceLock<BootContext>,
    config: VmConfig,
    capabilities: Capabilities,
}

/// What is declared. Its lock is held for each step of the configuration and for the start.
#[derive(Debug, Default)]
pub(super) struct Setup {
    pub(super) declared: Declared,
    pub(super) slots: Slots,
}

impl KvmVm {
    pub(super) fn create(
        op: &'static str,
        device: &kvm_ioctls::Kvm,
        config: VmConfig,
        capabilities: Capabilities,
    ) -> Result<Arc<dyn Vm>> {
        let fd = arch::create_vm(device, &config).map_err(error::ioctl(op, "KVM_CREATE_VM"))?;
        let platform = arch::Platform::create(op, device, &fd, &config)?;
        let shared = Arc::new(Shared {
            parked: Mutex::default(),
            fd,
            platform,
            irqs: Mutex::default(),
            ioevents: Mutex::default(),
            setup: Mutex::default(),
            phase: PhaseCell::new(),
            end: OnceLock::new(),
            kicks: Mutex::default(),
            boot: OnceLock::new(),
            config,
            capabilities,
        });
        let dirty = KvmDirtyLog::new(Arc::clone(&shared));
        Ok(Arc::new(Self { dirty, reclaim: KvmReclaim::new(Arc::clone(&shared)), shared }))
    }

    /// The setup, if it can still be changed.
    fn configure(&self, op: &'static str) -> Result<MutexGuard<'_, Setup>> {
        let setup = self.shared.setup();
        self.shared.phase.require(op, &[Phase::Configuring])?;
        Ok(setup)
    }

    fn not_stopped(&self, op: &'static str) -> Result<()> {
        self.shared.phase.require(op, &[Phase::Configuring, Phase::Running])
    }
}

impl Vm for KvmVm {
    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    fn config(&self) -> &VmConfig {
        &self.shared.config
    }

    fn phase(&self) -> Phase {
        self.shared.phase.get()
    }

    fn memory(&self) -> Vec<MemoryRegion> {
        self.shared.setup().declared.regions().to_vec()
    }

    fn map(&self, region: &MemoryRegion) -> Result<()> {
        const OP: &str = "map";
        let mut setup = self.configure(OP)?;
        let (config, capabilities) = (&self.shared.config, &self.shared.capabilities);
        setup.declared.check_region(OP, region, config, capabilities, self.largest_region())?;
        setup.slots.add(OP, &self.shared.fd, region)?;
        setup.declared.add_region(region);
        Ok(())
    }

    fn allocate(&self, addr: GuestAddress, size: u64, sharing: Sharing) -> Result<MemoryRegion> {
        let region = MemoryRegion::new(addr, size, sharing)?;
        self.map(&region)?;
        Ok(region)
    }

    fn largest_region(&self) -> u64 {
        self.shared.config.largest_region.unwrap_or(u64::MAX)
    }

    fn unmap(&self, addr: GuestAddress) -> Result<()> {
        const OP: &str = "unmap";
        let mut setup = self.shared.setup();
        self.not_stopped(OP)?;
        let Setup { declared, slots } = &mut *setup;
        let found = declared.regions().iter().enumerate().find(|(_, region)| region.addr() == addr);
        match found {
            None => Err(Error::invalid(OP, format!("there is no memory region at {:#x}", addr.0))),
            Some((0, _)) => Err(Error::invalid(OP, "the main region holds the guest itself")),
            Some((index, region)) => {
                slots.remove(OP, &self.shared.fd, region, index)?;
                declared.remove_region(index);
                Ok(())
            }
        }
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        const OP: &str = "create_vcpu";
        let mut setup = self.configure(OP)?;
        setup.declared.check_vcpu(OP, id, &self.shared.config)?;
        signal::prepare(OP)?;
        let vcpu = KvmVcpu::create(OP, &self.shared, id)?;
        setup.declared.add_vcpu(id);
        Ok(Box::new(vcpu))
    }

    fn register_irqfd(&self, fd: &EventFd, line: IrqLine) -> Result<()> {
        const OP: &str = "register_irqfd";
        check_line(OP, &self.shared.config, line)?;
        let mut irqs = lock(&self.shared.irqs);
        self.not_stopped(OP)?;
        irqs.add(&self.shared.fd, fd, line)
    }

    fn unregister_irqfd(&self, fd: &EventFd, line: IrqLine) -> Result<()> {
        lock(&self.shared.irqs).remove(&self.shared.fd, fd, line)
    }

    fn register_ioevent(&self, fd: &EventFd, addr: GuestAddress, want: IoEventMatch) -> Result<()> {
        self.not_stopped("register_ioevent")?;
        lock(&self.shared.ioevents).add(&self.shared.fd, fd, addr, want)
    }

    fn unregister_ioevent(&self, fd: &EventFd, addr: GuestAddress, want: IoEventMatch) -> Result<()> {
        lock(&self.shared.ioevents).remove(&self.shared.fd, fd, addr, want)
    }

    /// Nothing: KVM reads no tree.
    fn describe(&self, _tree: &mut FdtWriter, _gic: u32) -> Result<()> {
        self.configure("describe").map(drop)
    }

    /// A page, which Gunyah needs at least: KVM itself adds nothing.
    fn tree_slack(&self, _blob: u64) -> u64 {
        4096
    }

    fn start(&self, boot: &BootContext) -> Result<()> {
        const OP: &str = "start";
        let setup = self.configure(OP)?;
        setup.declared.check_start(OP, boot, &self.shared.config, &self.shared.capabilities)?;
        // From here on there is no way back. All vCPUs are there, so none is parked.
        let _ = self.shared.boot.set(*boot);
        let mut irqs = lock(&self.shared.irqs);
        let started =
            self.shared.platform.start(OP, &self.shared.fd).and_then(|()| irqs.start(OP, &self.shared.fd));
        self.shared.phase.enter(if started.is_ok() { Phase::Running } else { Phase::Stopped });
        started
    }

    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        self.shared.capabilities.has(Feature::DirtyLog).then_some(&self.dirty as &dyn DirtyLog)
    }

    fn reclaim(&self) -> Option<&dyn Reclaim> {
        self.shared.capabilities.has(Feature::Reclaim).then_some(&self.reclaim as &dyn Reclaim)
    }
}

impl Shared {
    pub(super) fn setup(&self) -> MutexGuard<'_, Setup> {
        lock(&self.setup)
    }

    pub(super) fn phase(&self) -> &PhaseCell {
        &self.phase
    }

    pub(super) fn has(&self, feature: Feature) -> bool {
        self.capabilities.has(feature)
    }

    /// Where the guest starts, once it was said.
    pub(super) fn boot(&self) -> Option<BootContext> {
        self.boot.get().copied()
    }

    /// How the VM ended, if it did.
    pub(super) fn end(&self) -> Option<VcpuExit> {
        self.end.get().copied()
    }

    /// The VM has ended, and every vCPU is to say so. Of several ends the first counts.
    pub(super) fn ended(&self, exit: VcpuExit) -> VcpuExit {
        let end = *self.end.get_or_init(|| exit);
        self.phase.enter(Phase::Stopped);
        for kick in lock(&self.kicks).iter().filter_map(Weak::upgrade) {
            kick.nudge();
        }
        end
    }

    pub(super) fn add_kick(&self, kick: &Arc<Kick>) {
        lock(&self.kicks).push(Arc::downgrade(kick));
    }

    /// A vCPU with this number, which KVM has made now or before.
    pub(super) fn open_vcpu(&self, op: &'static str, id: u32) -> Result<VcpuFd> {
        match lock(&self.parked).remove(&id) {
            Some(kept) => sys::kept_vcpu(&self.fd, kept).map_err(error::ioctl(op, "mmap of the run page")),
            None => self.fd.create_vcpu(u64::from(id)).map_err(error::ioctl(op, "KVM_CREATE_VCPU")),
        }
    }

    /// Keeps a vCPU that is about to be closed, if its number can still be wanted.
    pub(super) fn park_vcpu(&self, id: u32, vcpu: &VcpuFd) {
        if self.phase.get() == Phase::Configuring {
            // No descriptor left: KVM will say EEXIST, should the number be wanted again.
            if let Ok(kept) = sys::keep_vcpu(vcpu) {
                lock(&self.parked).insert(id, kept);
            }
        }
    }

    /// Takes a vCPU that is gone off the lists.
    pub(super) fn forget_vcpu(&self, id: u32, vcpu: &VcpuFd) {
        lock(&self.kicks).retain(|kick| kick.strong_count() > 0);
        let mut setup = self.setup();
        self.park_vcpu(id, vcpu);
        setup.declared.remove_vcpu(id);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("phase", &self.phase.get())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

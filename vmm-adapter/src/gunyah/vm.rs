//! A VM of Gunyah.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use gunyah_ioctls as ioctls;
use gunyah_ioctls::{BootRegister, VmFd};
use vm_fdt::FdtWriter;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::functions::Functions;
use super::memory::Given;
use super::vcpu::GunyahVcpu;
use super::{error, tree};
use crate::boot::BootContext;
use crate::caps::{Backend, Capabilities, Feature};
use crate::config::{IrqLine, VmConfig, VmKind};
use crate::error::{Error, Result};
use crate::memory::{MemoryRegion, Sharing};
use crate::phase::Phase;
use crate::setup::{Declared, PhaseCell, check_line, lock};
use crate::vcpu::Vcpu;
use crate::vm::{DirtyLog, IoEventMatch, Vm};

/// A page of the tree, whatever the host's page size is.
const TREE_PAGE: u64 = 4096;
/// How often a start that a signal interrupted is tried again.
const START_TRIES: u32 = 100;

/// A VM of Gunyah. Its vCPUs hold it too.
#[derive(Debug)]
pub(super) struct GunyahVm(Arc<Shared>);

/// What a VM and its vCPUs have in common. The order of the fields is the order in which they go: memory last, since the
/// guest uses it until everything else is closed.
pub(super) struct Shared {
    functions: Mutex<Functions>,
    fd: VmFd,
    setup: Mutex<Setup>,
    phase: PhaseCell,
    config: VmConfig,
    capabilities: Capabilities,
    device: Arc<ioctls::Gunyah>,
}

/// What is declared before the start. Its lock is held for each step of the configuration and for the start.
#[derive(Debug, Default)]
struct Setup {
    declared: Declared,
    given: Given,
}

impl GunyahVm {
    pub(super) fn new(
        device: Arc<ioctls::Gunyah>,
        fd: VmFd,
        config: VmConfig,
        capabilities: Capabilities,
    ) -> Self {
        Self(Arc::new(Shared {
            functions: Mutex::default(),
            fd,
            setup: Mutex::default(),
            phase: PhaseCell::new(),
            config,
            capabilities,
            device,
        }))
    }

    /// The setup, if it can still be changed.
    fn configure(&self, op: &'static str) -> Result<MutexGuard<'_, Setup>> {
        let setup = lock(&self.0.setup);
        self.0.phase.require(op, &[Phase::Configuring])?;
        Ok(setup)
    }

    /// The functions, while any can be added.
    fn functions(&self, op: &'static str) -> Result<MutexGuard<'_, Functions>> {
        self.0.phase.require(op, &[Phase::Configuring, Phase::Running])?;
        Ok(lock(&self.0.functions))
    }
}

impl Vm for GunyahVm {
    fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }

    fn config(&self) -> &VmConfig {
        &self.0.config
    }

    fn phase(&self) -> Phase {
        self.0.phase()
    }

    fn memory(&self) -> Vec<MemoryRegion> {
        lock(&self.0.setup).declared.regions().to_vec()
    }

    fn map(&self, region: &MemoryRegion) -> Result<()> {
        const OP: &str = "map";
        let mut setup = self.configure(OP)?;
        self.0.capabilities.require(Feature::OwnMemory)?;
        setup.declared.check_region(OP, region, &self.0.config, &self.0.capabilities)?;
        Given::give(OP, &self.0.fd, region, setup.declared.regions().len())?;
        setup.declared.add_region(region);
        Ok(())
    }

    fn allocate(&self, addr: GuestAddress, size: u64, sharing: Sharing) -> Result<MemoryRegion> {
        const OP: &str = "allocate";
        if self.0.capabilities.has(Feature::OwnMemory) {
            let region = MemoryRegion::new(addr, size, sharing)?;
            self.map(&region)?;
            return Ok(region);
        }
        let mut setup = self.configure(OP)?;
        let (memory, region) = Given::make(OP, &self.0.device, addr, size, sharing)?;
        setup.declared.check_region(OP, &region, &self.0.config, &self.0.capabilities)?;
        setup.given.bind(OP, &self.0.fd, memory, &region)?;
        setup.declared.add_region(&region);
        Ok(region)
    }

    fn unmap(&self, _addr: GuestAddress) -> Result<()> {
        Err(Error::Unsupported { backend: Backend::Gunyah, feature: Feature::Unmap })
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        const OP: &str = "create_vcpu";
        let mut setup = self.configure(OP)?;
        setup.declared.check_vcpu(OP, id, &self.0.config)?;
        let fd = self.0.fd.add_vcpu(id).map_err(error::backend(OP))?;
        setup.declared.add_vcpu(id);
        Ok(Box::new(GunyahVcpu::new(fd, Arc::clone(&self.0))))
    }

    fn register_irqfd(&self, fd: &EventFd, line: IrqLine) -> Result<()> {
        const OP: &str = "register_irqfd";
        check_line(OP, &self.0.config, line)?;
        self.functions(OP)?.add_irqfd(&self.0.fd, fd, line)
    }

    fn unregister_irqfd(&self, fd: &EventFd, line: IrqLine) -> Result<()> {
        lock(&self.0.functions).remove_irqfd(fd, line)
    }

    fn register_ioevent(&self, fd: &EventFd, addr: GuestAddress, want: IoEventMatch) -> Result<()> {
        self.functions("register_ioevent")?.add_ioevent(&self.0.fd, fd, addr, want)
    }

    fn unregister_ioevent(&self, fd: &EventFd, addr: GuestAddress, want: IoEventMatch) -> Result<()> {
        lock(&self.0.functions).remove_ioevent(fd, addr, want)
    }

    fn describe(&self, tree: &mut FdtWriter, gic: u32) -> Result<()> {
        let setup = self.configure("describe")?;
        tree::describe(tree, gic, &self.0.config, self.0.fd.features(), setup.declared.regions())
    }

    /// The Resource Manager writes its nodes into the tree in place. A page holds them; while it works it may need the
    /// tree a second time.
    fn tree_slack(&self, blob: u64) -> u64 {
        blob.max(TREE_PAGE)
    }

    fn start(&self, boot: &BootContext) -> Result<()> {
        const OP: &str = "start";
        let setup = self.configure(OP)?;
        let main = setup.declared.check_start(OP, boot, &self.0.config, &self.0.capabilities)?;
        // It is not told where that can be avoided: a Resource Manager of 2023 takes the call and then refuses the start.
        let entry = (boot.entry != main.addr()).then_some(boot.entry);

        let fd = &self.0.fd;
        if let VmKind::ProtectedFirmware { addr, size } = self.0.config.kind {
            fd.set_firmware_config(addr.0, size).map_err(error::backend(OP))?;
        }
        fd.set_dtb_config(boot.fdt.0, boot.fdt_size).map_err(error::backend(OP))?;
        if let Some(entry) = entry {
            fd.set_boot_context(BootRegister::Pc, entry.0).map_err(error::backend(OP))?;
            fd.set_boot_context(BootRegister::X(0), boot.fdt.0).map_err(error::backend(OP))?;
        }
        // From here on there is no way back.
        setup.given.close_to_host(setup.declared.regions());
        match start(fd) {
            Ok(()) => {
                self.0.enter(Phase::Running);
                Ok(())
            }
            Err(refused) => {
                self.0.enter(Phase::Stopped);
                Err(error::backend(OP)(refused))
            }
        }
    }

    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        None
    }
}

fn start(fd: &VmFd) -> ioctls::Result<()> {
    for _ in 0..START_TRIES {
        match fd.start() {
            Err(error) if error.errno() == Some(libc::EINTR) => {}
            done => return done,
        }
    }
    fd.start()
}

impl Shared {
    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.enter(phase);
    }

    /// Whether the VM ran, and a vCPU has reported its end.
    pub(super) fn has_ended(&self) -> bool {
        self.fd.exit_status().is_some()
    }

    /// Whether an MMIO access can be answered by a fault.
    pub(super) fn mmio_fault(&self) -> bool {
        self.capabilities.has(Feature::MmioFault)
    }

    /// Takes a vCPU that is gone off the list, so that its number can be used again.
    pub(super) fn forget_vcpu(&self, id: u32) {
        lock(&self.setup).declared.remove_vcpu(id);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("fd", &self.fd)
            .field("phase", &self.phase())
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

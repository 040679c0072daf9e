//! A VM of Gunyah.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use gunyah_ioctls as ioctls;
use gunyah_ioctls::{AuthType, BootRegister, VmFd};
use vm_fdt::FdtWriter;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::functions::Functions;
use super::memory::{Backing, Given};
use super::vcpu::GunyahVcpu;
use super::{error, policy, reclaim, tree};
use crate::boot::BootContext;
use crate::caps::{Backend, Capabilities, Feature};
use crate::config::{IrqLine, VmConfig, VmKind};
use crate::error::{Error, Result};
use crate::memory::{MemoryRegion, Sharing};
use crate::phase::Phase;
use crate::setup::{Declared, PhaseCell, check_line, lock};
use crate::vcpu::Vcpu;
use crate::vm::{DirtyLog, IoEventMatch, Reclaim, Vm};

/// A page of the tree, whatever the host's page size is.
const TREE_PAGE: u64 = 4096;
/// How often a start that a signal interrupted is tried again.
const START_TRIES: u32 = 100;

/// A VM of Gunyah. Its vCPUs hold it too.
#[derive(Debug)]
pub(super) struct GunyahVm {
    shared: Arc<Shared>,
    reclaim: reclaim::GunyahReclaim,
}

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
pub(super) struct Setup {
    pub(super) declared: Declared,
    pub(super) given: Given,
}

impl Setup {
    fn add(&mut self, region: &MemoryRegion, backing: Backing) {
        self.declared.add_region(region);
        self.given.add(backing);
    }
}

impl GunyahVm {
    pub(super) fn new(
        device: Arc<ioctls::Gunyah>,
        fd: VmFd,
        config: VmConfig,
        capabilities: Capabilities,
    ) -> Self {
        let shared = Arc::new(Shared {
            functions: Mutex::default(),
            fd,
            setup: Mutex::default(),
            phase: PhaseCell::new(),
            config,
            capabilities,
            device,
        });
        Self { reclaim: reclaim::GunyahReclaim::new(Arc::clone(&shared)), shared }
    }

    /// The setup, if it can still be changed.
    fn configure(&self, op: &'static str) -> Result<MutexGuard<'_, Setup>> {
        let setup = lock(&self.shared.setup);
        self.shared.phase.require(op, &[Phase::Configuring])?;
        Ok(setup)
    }

    fn allocate_file(
        &self,
        mut setup: MutexGuard<'_, Setup>,
        addr: GuestAddress,
        size: u64,
        sharing: Sharing,
    ) -> Result<MemoryRegion> {
        const OP: &str = "allocate";
        let huge = policy::of(self.shared.fd.features()).huge_pages;
        let (memory, region) = Given::make_file(OP, &self.shared.device, addr, size, sharing, huge)?;
        self.shared.check_region(OP, &setup, &region)?;
        Given::bind_file(OP, &self.shared.fd, &memory, &region)?;
        setup.add(&region, Backing::File(memory));
        Ok(region)
    }

    fn allocate_reserved(
        &self,
        mut setup: MutexGuard<'_, Setup>,
        node: &Path,
        addr: GuestAddress,
        size: u64,
        sharing: Sharing,
    ) -> Result<MemoryRegion> {
        const OP: &str = "allocate";
        let (memory, region) = Given::take_reserved(OP, node, addr, size, sharing)?;
        self.shared.check_region(OP, &setup, &region)?;
        let place = setup.declared.regions().len();
        Given::bind_reserved(OP, &self.shared.fd, &memory, &region, place)?;
        setup.add(&region, Backing::Reserved(memory));
        Ok(region)
    }

    /// Tells the kernel what belongs to the start: who vouches for the image, where the tree is, where the guest begins.
    fn tell(
        &self,
        main: &MemoryRegion,
        boot: &BootContext,
        entry: Option<GuestAddress>,
    ) -> ioctls::Result<()> {
        let fd = &self.shared.fd;
        match self.shared.config.kind {
            VmKind::ProtectedFirmware { addr, size } => fd.set_firmware_config(addr.0, size)?,
            VmKind::Trusted { vm_id, peripheral_id } => {
                let (guest_phys_addr, size) = (main.addr().0, main.size());
                let auth = AuthType::QualcommTrustedVm { vm_id, peripheral_id, guest_phys_addr, size };
                fd.set_auth_type(&auth)?;
            }
            VmKind::Any | VmKind::Plain | VmKind::Protected => {}
        }
        fd.set_dtb_config(boot.fdt.0, boot.fdt_size)?;
        if let Some(entry) = entry {
            patiently(|| fd.set_boot_context(BootRegister::Pc, entry.0))?;
            patiently(|| fd.set_boot_context(BootRegister::X(0), boot.fdt.0))?;
        }
        Ok(())
    }

    /// The functions, while any can be added.
    fn functions(&self, op: &'static str) -> Result<MutexGuard<'_, Functions>> {
        self.shared.phase.require(op, &[Phase::Configuring, Phase::Running])?;
        Ok(lock(&self.shared.functions))
    }
}

impl Vm for GunyahVm {
    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    fn config(&self) -> &VmConfig {
        &self.shared.config
    }

    fn phase(&self) -> Phase {
        self.shared.phase()
    }

    fn memory(&self) -> Vec<MemoryRegion> {
        lock(&self.shared.setup).declared.regions().to_vec()
    }

    fn map(&self, region: &MemoryRegion) -> Result<()> {
        const OP: &str = "map";
        let mut setup = self.configure(OP)?;
        self.shared.capabilities.require(Feature::OwnMemory)?;
        self.shared.check_region(OP, &setup, region)?;
        Given::give(OP, &self.shared.fd, region, setup.declared.regions().len())?;
        setup.add(region, Backing::User);
        Ok(())
    }

    fn allocate(&self, addr: GuestAddress, size: u64, sharing: Sharing) -> Result<MemoryRegion> {
        const OP: &str = "allocate";
        let setup = self.configure(OP)?;
        let first = setup.declared.regions().is_empty();
        match &self.shared.config.reserved_memory {
            Some(node) if first => self.allocate_reserved(setup, node, addr, size, sharing),
            _ if self.shared.capabilities.has(Feature::OwnMemory) => {
                drop(setup);
                let region = MemoryRegion::new(addr, size, sharing)?;
                self.map(&region)?;
                Ok(region)
            }
            _ => self.allocate_file(setup, addr, size, sharing),
        }
    }

    fn largest_region(&self) -> u64 {
        self.shared.largest_region()
    }

    fn unmap(&self, _addr: GuestAddress) -> Result<()> {
        Err(Error::Unsupported { backend: Backend::Gunyah, feature: Feature::Unmap })
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        const OP: &str = "create_vcpu";
        let mut setup = self.configure(OP)?;
        setup.declared.check_vcpu(OP, id, &self.shared.config)?;
        let fd = self.shared.fd.add_vcpu(id).map_err(error::backend(OP))?;
        setup.declared.add_vcpu(id);
        Ok(Box::new(GunyahVcpu::new(fd, Arc::clone(&self.shared))))
    }

    fn register_irqfd(&self, fd: &EventFd, line: IrqLine) -> Result<()> {
        const OP: &str = "register_irqfd";
        check_line(OP, &self.shared.config, line)?;
        self.functions(OP)?.add_irqfd(&self.shared.fd, fd, line)
    }

    fn unregister_irqfd(&self, fd: &EventFd, line: IrqLine) -> Result<()> {
        lock(&self.shared.functions).remove_irqfd(fd, line)
    }

    fn register_ioevent(&self, fd: &EventFd, addr: GuestAddress, want: IoEventMatch) -> Result<()> {
        self.functions("register_ioevent")?.add_ioevent(&self.shared.fd, fd, addr, want)
    }

    fn unregister_ioevent(&self, fd: &EventFd, addr: GuestAddress, want: IoEventMatch) -> Result<()> {
        lock(&self.shared.functions).remove_ioevent(fd, addr, want)
    }

    fn describe(&self, tree: &mut FdtWriter, gic: u32) -> Result<()> {
        let setup = self.configure("describe")?;
        tree::describe(tree, gic, &self.shared.config, self.shared.fd.features(), setup.declared.regions())
    }

    /// The Resource Manager writes its nodes into the tree in place. A page holds them; while it works it may need the
    /// tree a second time.
    fn tree_slack(&self, blob: u64) -> u64 {
        blob.max(TREE_PAGE)
    }

    fn start(&self, boot: &BootContext) -> Result<()> {
        const OP: &str = "start";
        let setup = self.configure(OP)?;
        let main = setup.declared.check_start(OP, boot, &self.shared.config, &self.shared.capabilities)?;
        // It is not told where that can be avoided: a Resource Manager of 2023 takes the call and then refuses the start.
        let entry = (boot.entry != main.addr()).then_some(boot.entry);

        // From here on there is no way back: the kernel may have kept what it refused.
        let started = self.tell(main, boot, entry).and_then(|()| {
            setup.given.close_to_host(setup.declared.regions());
            patiently(|| self.shared.fd.start())
        });
        self.shared.enter(if started.is_ok() { Phase::Running } else { Phase::Stopped });
        started.map_err(error::backend(OP))
    }

    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        None
    }

    fn reclaim(&self) -> Option<&dyn Reclaim> {
        self.shared.capabilities.has(Feature::Reclaim).then_some(&self.reclaim as &dyn Reclaim)
    }
}

/// Calls again what a signal interrupted.
fn patiently(call: impl Fn() -> ioctls::Result<()>) -> ioctls::Result<()> {
    for _ in 0..START_TRIES {
        match call() {
            Err(error) if error.errno() == Some(libc::EINTR) => {}
            done => return done,
        }
    }
    call()
}

impl Shared {
    pub(super) fn setup(&self) -> MutexGuard<'_, Setup> {
        lock(&self.setup)
    }

    fn largest_region(&self) -> u64 {
        self.config.largest_region.unwrap_or_else(|| policy::of(self.fd.features()).largest_region)
    }

    fn check_region(&self, op: &'static str, setup: &Setup, region: &MemoryRegion) -> Result<()> {
        let largest = self.largest_region();
        setup.declared.check_region(op, region, &self.config, &self.capabilities, largest)
    }

    pub(super) fn fd(&self) -> &VmFd {
        &self.fd
    }

    pub(super) fn phase_cell(&self) -> &PhaseCell {
        &self.phase
    }

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

//! A VM of Gunyah.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gunyah_ioctls as ioctls;
use gunyah_ioctls::{BootRegister, VmFd};
use vm_fdt::FdtWriter;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::functions::Functions;
use super::memory::Regions;
use super::vcpu::GunyahVcpu;
use super::{error, tree};
use crate::boot::BootContext;
use crate::caps::{Backend, Capabilities, Feature};
use crate::config::{IrqLine, VmConfig, VmKind};
use crate::error::{Error, Result};
use crate::memory::{MemoryRegion, Sharing};
use crate::phase::Phase;
use crate::vcpu::Vcpu;
use crate::vm::{DirtyLog, IoEventMatch, Vm};

/// What the hypervisor counts a tree's size in, whatever the host's page size is.
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
    phase: AtomicU8,
    config: VmConfig,
    capabilities: Capabilities,
    device: Arc<ioctls::Gunyah>,
}

/// What is declared before the start. Its lock is held for each step of the configuration and for the start.
#[derive(Debug, Default)]
struct Setup {
    regions: Regions,
    vcpus: Vec<u32>,
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
            phase: AtomicU8::new(Phase::Configuring as u8),
            config,
            capabilities,
            device,
        }))
    }

    /// The setup, if it can still be changed.
    fn configure(&self, op: &'static str) -> Result<MutexGuard<'_, Setup>> {
        let setup = lock(&self.0.setup);
        match self.0.phase() {
            Phase::Configuring => Ok(setup),
            phase => Err(Error::WrongState { op, phase }),
        }
    }

    fn check_sharing(&self, op: &'static str, region: &MemoryRegion) -> Result<()> {
        if region.sharing() == Sharing::Private {
            self.0.capabilities.require(Feature::PrivateMemory)?;
            if !self.0.config.kind.is_protected() {
                return Err(Error::invalid(op, "a plain VM has no private memory"));
            }
        }
        Ok(())
    }

    /// The line as it was declared.
    fn check_line(&self, op: &'static str, line: IrqLine) -> Result<()> {
        match self.0.config.line(line.spi) {
            None => Err(Error::invalid(op, format!("interrupt line {} was not declared", line.spi))),
            Some(declared) if declared != line => {
                let why = format!("interrupt line {} was declared as {:?}", line.spi, declared.trigger);
                Err(Error::invalid(op, why))
            }
            Some(_) => Ok(()),
        }
    }

    /// The functions, while any can be added.
    fn functions(&self, op: &'static str) -> Result<MutexGuard<'_, Functions>> {
        match self.0.phase() {
            Phase::Stopped => Err(Error::WrongState { op, phase: Phase::Stopped }),
            _ => Ok(lock(&self.0.functions)),
        }
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
        lock(&self.0.setup).regions.all().to_vec()
    }

    fn map(&self, region: &MemoryRegion) -> Result<()> {
        const OP: &str = "map";
        let mut setup = self.configure(OP)?;
        self.0.capabilities.require(Feature::OwnMemory)?;
        self.check_sharing(OP, region)?;
        setup.regions.check(OP, region, &self.0.config)?;
        setup.regions.give(OP, &self.0.fd, region)
    }

    fn allocate(&self, addr: GuestAddress, size: u64, sharing: Sharing) -> Result<MemoryRegion> {
        const OP: &str = "allocate";
        if self.0.capabilities.has(Feature::OwnMemory) {
            let region = MemoryRegion::new(addr, size, sharing)?;
            self.map(&region)?;
            return Ok(region);
        }
        let mut setup = self.configure(OP)?;
        let (memory, region) = Regions::make(OP, &self.0.device, addr, size, sharing)?;
        self.check_sharing(OP, &region)?;
        setup.regions.check(OP, &region, &self.0.config)?;
        setup.regions.bind(OP, &self.0.fd, memory, &region)?;
        Ok(region)
    }

    fn unmap(&self, _addr: GuestAddress) -> Result<()> {
        Err(Error::Unsupported { backend: Backend::Gunyah, feature: Feature::Unmap })
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        const OP: &str = "create_vcpu";
        let mut setup = self.configure(OP)?;
        if id >= self.0.config.vcpus {
            let why = format!("there is no vCPU {id}, the VM has {}", self.0.config.vcpus);
            return Err(Error::invalid(OP, why));
        }
        let fd = self.0.fd.add_vcpu(id).map_err(error::backend(OP))?;
        if !setup.vcpus.contains(&id) {
            setup.vcpus.push(id);
        }
        Ok(Box::new(GunyahVcpu::new(fd, Arc::clone(&self.0))))
    }

    fn register_irqfd(&self, fd: &EventFd, line: IrqLine) -> Result<()> {
        const OP: &str = "register_irqfd";
        self.check_line(OP, line)?;
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
        tree::describe(tree, gic, &self.0.config, self.0.fd.features(), setup.regions.all())
    }

    /// The Resource Manager writes its nodes into the tree in place. A page holds them; while it works it may need the
    /// tree a second time.
    fn tree_slack(&self, blob: u64) -> u64 {
        blob.max(TREE_PAGE)
    }

    fn start(&self, boot: &BootContext) -> Result<()> {
        const OP: &str = "start";
        let setup = self.configure(OP)?;
        let main = setup.regions.all().first().ok_or_else(|| Error::invalid(OP, "the VM has no memory"))?;
        check_tree(OP, main, boot)?;
        let entry = self.check_entry(OP, main, boot)?;
        if let Some(id) = (0..self.0.config.vcpus).find(|id| !setup.vcpus.contains(id)) {
            return Err(Error::invalid(OP, format!("vCPU {id} was not created")));
        }

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
        setup.regions.close_to_host();
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

impl GunyahVm {
    /// The entry point, if it has to be told.
    ///
    /// It is not told where that can be avoided: a Resource Manager of 2023 takes the call and then refuses the start.
    fn check_entry(
        &self,
        op: &'static str,
        main: &MemoryRegion,
        boot: &BootContext,
    ) -> Result<Option<GuestAddress>> {
        if boot.entry == main.addr() {
            return Ok(None);
        }
        if !main.contains(boot.entry, 4) {
            return Err(Error::invalid(
                op,
                format!("the entry {:#x} is not in the main region", boot.entry.0),
            ));
        }
        self.0.capabilities.require(Feature::BootContext)?;
        Ok(Some(boot.entry))
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

/// Whether there is a tree, and room behind it.
fn check_tree(op: &'static str, main: &MemoryRegion, boot: &BootContext) -> Result<()> {
    const MAGIC: u32 = 0xd00d_feed;
    let (fdt, size) = (boot.fdt.0, boot.fdt_size);
    if fdt % 8 != 0 || size % TREE_PAGE != 0 {
        let why = format!(
            "the devicetree at {fdt:#x} + {size:#x} is not aligned to 8 bytes and sized in pages of 4096"
        );
        return Err(Error::invalid(op, why));
    }
    if !main.contains(boot.fdt, size) {
        return Err(Error::invalid(
            op,
            format!("the devicetree at {fdt:#x} + {size:#x} is not in the main region"),
        ));
    }
    let mut header = [0; 8];
    if size >= TREE_PAGE {
        main.read(boot.fdt, &mut header)?;
    }
    let [a, b, c, d, rest @ ..] = header;
    let (magic, blob) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(rest));
    if magic != MAGIC {
        return Err(Error::invalid(op, format!("there is no devicetree at {fdt:#x}")));
    }
    if u64::from(blob).saturating_add(TREE_PAGE) > size {
        let why = format!(
            "the devicetree has {blob} bytes of {size}: a page of {TREE_PAGE} must be left for the Resource Manager"
        );
        return Err(Error::invalid(op, why));
    }
    Ok(())
}

impl Shared {
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            phase if phase == Phase::Configuring as u8 => Phase::Configuring,
            phase if phase == Phase::Running as u8 => Phase::Running,
            _ => Phase::Stopped,
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
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
        lock(&self.setup).vcpus.retain(|other| *other != id);
    }
}

/// Nothing panics while it holds one of these locks, and what they guard is consistent between calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

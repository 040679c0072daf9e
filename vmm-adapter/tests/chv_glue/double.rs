//! A hypervisor on paper, which has every facet and writes down what it is told: for what Gunyah has not, and for what a guest would
//! not see.

use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use vm_fdt::FdtWriter;
use vm_memory::GuestAddress;
use vmm_adapter::{
    Backend, BootContext, Capabilities, DirtyLog, Error, ExitCause, ExitDetails, Feature, GuestArch,
    Hypervisor, IoEventMatch, IoHandler, IrqLine, Kicker, MemoryRegion, Phase, Reclaim, Registers, Result,
    Sharing, Vcpu, VcpuExit, Vm, VmConfig, VmKind,
};
use vmm_sys_util::eventfd::EventFd;

/// What is shared by the double's parts, and with the test.
pub(crate) struct Paper {
    caps: Capabilities,
    said: Mutex<Vec<String>>,
    bound: Mutex<Vec<(IrqLine, EventFd)>>,
    registers: Mutex<Vec<(u64, u64)>>,
    memory: Mutex<Vec<MemoryRegion>>,
    /// Accesses that the next runs make, and then the exit.
    script: Mutex<Vec<Access>>,
    /// Lines that cannot be bound.
    refused: Mutex<Vec<u32>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Access {
    Load(u64, usize),
    Store(u64, u32),
    Exit(VcpuExit),
}

impl fmt::Debug for Paper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Paper")
    }
}

impl Paper {
    pub(crate) fn new() -> Arc<Self> {
        Self::on(GuestArch::Arm64, Feature::ALL)
    }

    pub(crate) fn on(arch: GuestArch, features: impl IntoIterator<Item = Feature>) -> Arc<Self> {
        Arc::new(Self {
            caps: Capabilities::new(Backend::Kvm, arch, features, 4, 44),
            said: Mutex::default(),
            bound: Mutex::default(),
            registers: Mutex::default(),
            memory: Mutex::default(),
            script: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    pub(crate) fn hypervisor(self: &Arc<Self>) -> Box<dyn Hypervisor> {
        Box::new(PaperHypervisor(Arc::clone(self)))
    }

    fn say(&self, line: impl Into<String>) {
        self.said.lock().unwrap().push(line.into());
    }

    /// What it was told since the last time.
    pub(crate) fn take_said(&self) -> Vec<String> {
        std::mem::take(&mut *self.said.lock().unwrap())
    }

    /// How many signals have arrived at a line since the last time. `None`: nothing is bound to it.
    pub(crate) fn signals(&self, spi: u32) -> Option<u64> {
        let bound = self.bound.lock().unwrap();
        let (_, event) = bound.iter().find(|(line, _)| line.spi == spi)?;
        Some(event.read().unwrap_or(0))
    }

    pub(crate) fn refuse(&self, spi: u32) {
        self.refused.lock().unwrap().push(spi);
    }

    pub(crate) fn regions(&self) -> Vec<(u64, Sharing, bool)> {
        let memory = self.memory.lock().unwrap();
        memory.iter().map(|region| (region.addr().0, region.sharing(), region.is_writable())).collect()
    }

    /// The registers that were set.
    pub(crate) fn registers(&self) -> Vec<(u64, u64)> {
        self.registers.lock().unwrap().clone()
    }

    pub(crate) fn will(&self, accesses: impl IntoIterator<Item = Access>) {
        self.script.lock().unwrap().extend(accesses);
    }
}

pub(crate) fn details(cause: ExitCause) -> ExitDetails {
    ExitDetails { cause, raw_type: Some(8), reason_size: 0, reason: [0; 8] }
}

#[derive(Debug)]
struct PaperHypervisor(Arc<Paper>);

impl Hypervisor for PaperHypervisor {
    fn capabilities(&self) -> &Capabilities {
        &self.0.caps
    }

    fn create_vm(&self, config: &VmConfig) -> Result<Arc<dyn Vm>> {
        config.check()?;
        assert_eq!((config.max_vcpus, config.guest_phys_bits), (4, 44), "as the capabilities say");
        let mut config = config.clone();
        if config.kind == VmKind::Any {
            config.kind = VmKind::Protected;
        }
        Ok(Arc::new(PaperVm { config, paper: Arc::clone(&self.0) }))
    }
}

#[derive(Debug)]
struct PaperVm {
    config: VmConfig,
    paper: Arc<Paper>,
}

impl Vm for PaperVm {
    fn capabilities(&self) -> &Capabilities {
        &self.paper.caps
    }

    fn config(&self) -> &VmConfig {
        &self.config
    }

    fn phase(&self) -> Phase {
        Phase::Configuring
    }

    fn memory(&self) -> Vec<MemoryRegion> {
        self.paper.memory.lock().unwrap().clone()
    }

    fn map(&self, region: &MemoryRegion) -> Result<()> {
        self.paper.memory.lock().unwrap().push(region.clone());
        Ok(())
    }

    fn allocate(&self, _addr: GuestAddress, _size: u64, _sharing: Sharing) -> Result<MemoryRegion> {
        panic!("the glue gives memory")
    }

    fn largest_region(&self) -> u64 {
        u64::MAX
    }

    fn unmap(&self, addr: GuestAddress) -> Result<()> {
        self.paper.say(format!("unmap {:#x}", addr.0));
        self.paper.memory.lock().unwrap().retain(|region| region.addr() != addr);
        Ok(())
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        Ok(Box::new(PaperVcpu { id, paper: Arc::clone(&self.paper) }))
    }

    fn register_irqfd(&self, fd: &EventFd, line: IrqLine) -> Result<()> {
        if self.paper.refused.lock().unwrap().contains(&line.spi) {
            return Err(Error::WrongState { op: "register_irqfd", phase: Phase::Stopped });
        }
        assert_eq!(self.config.line(line.spi), Some(line));
        let mut bound = self.paper.bound.lock().unwrap();
        assert!(bound.iter().all(|(other, _)| other.spi != line.spi), "line {} is bound already", line.spi);
        bound.push((line, fd.try_clone().unwrap()));
        self.paper.say(format!("bind {}", line.spi));
        Ok(())
    }

    fn unregister_irqfd(&self, _fd: &EventFd, line: IrqLine) -> Result<()> {
        let mut bound = self.paper.bound.lock().unwrap();
        let at = bound.iter().position(|(other, _)| *other == line).unwrap();
        bound.remove(at);
        self.paper.say(format!("unbind {}", line.spi));
        Ok(())
    }

    fn register_ioevent(&self, fd: &EventFd, addr: GuestAddress, want: IoEventMatch) -> Result<()> {
        self.paper.say(format!("ioevent {} at {:#x}: {want:?}", fd.as_raw_fd(), addr.0));
        Ok(())
    }

    fn unregister_ioevent(&self, fd: &EventFd, addr: GuestAddress, want: IoEventMatch) -> Result<()> {
        self.paper.say(format!("no ioevent {} at {:#x}: {want:?}", fd.as_raw_fd(), addr.0));
        Ok(())
    }

    fn describe(&self, _tree: &mut FdtWriter, gic: u32) -> Result<()> {
        self.paper.say(format!("describe {gic}"));
        Ok(())
    }

    fn tree_slack(&self, blob: u64) -> u64 {
        blob * 3
    }

    fn start(&self, boot: &BootContext) -> Result<()> {
        self.paper.say(format!("start {:x} {:x} {:x}", boot.entry.0, boot.fdt.0, boot.fdt_size));
        Ok(())
    }

    fn dirty_log(&self) -> Option<&dyn DirtyLog> {
        self.paper.caps.has(Feature::DirtyLog).then_some(self)
    }

    fn reclaim(&self) -> Option<&dyn Reclaim> {
        None
    }
}

impl DirtyLog for PaperVm {
    fn start(&self, addr: GuestAddress) -> Result<()> {
        self.paper.say(format!("log {:#x}", addr.0));
        Ok(())
    }

    fn stop(&self, addr: GuestAddress) -> Result<()> {
        self.paper.say(format!("no log {:#x}", addr.0));
        Ok(())
    }

    fn take(&self, addr: GuestAddress) -> Result<Vec<u64>> {
        Ok(vec![addr.0, 5])
    }
}

#[derive(Debug)]
struct PaperVcpu {
    id: u32,
    paper: Arc<Paper>,
}

impl Vcpu for PaperVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn run(&mut self, io: &dyn IoHandler) -> Result<VcpuExit> {
        loop {
            let next = self.paper.script.lock().unwrap().remove(0);
            let outcome = match next {
                Access::Load(addr, len) => {
                    let mut data = [0; 8];
                    let outcome = io.mmio_read(GuestAddress(addr), &mut data[..len]);
                    self.paper.say(format!("load {addr:#x}: {outcome:?} {:x}", u64::from_le_bytes(data)));
                    outcome
                }
                Access::Store(addr, value) => io.mmio_write(GuestAddress(addr), &value.to_le_bytes()),
                Access::Exit(exit) => return Ok(exit),
            };
            if let Access::Store(addr, _) = next {
                self.paper.say(format!("store {addr:#x}: {outcome:?}"));
            }
        }
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        Arc::new(PaperKicker(Arc::clone(&self.paper)))
    }

    fn answers_possibly_lost(&self) -> u64 {
        0
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        self.paper.caps.has(Feature::Registers).then_some(self)
    }
}

impl Registers for PaperVcpu {
    /// A register that was not set reads as its number.
    fn get(&mut self, id: u64) -> Result<u64> {
        let registers = self.paper.registers.lock().unwrap();
        Ok(registers.iter().rev().find(|(number, _)| *number == id).map_or(id, |(_, value)| *value))
    }

    fn set(&mut self, id: u64, value: u64) -> Result<()> {
        self.paper.registers.lock().unwrap().push((id, value));
        Ok(())
    }
}

#[derive(Debug)]
struct PaperKicker(Arc<Paper>);

impl Kicker for PaperKicker {
    fn kick(&self) {
        self.0.say("kick");
        self.0.script.lock().unwrap().insert(0, Access::Exit(VcpuExit::Interrupted));
    }
}

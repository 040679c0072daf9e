//! A VM with a program in it.

use std::sync::Arc;

use conformance::asm::Program;
use conformance::x86;
use vm_memory::GuestAddress;
use vmm_adapter::fdt::{self, GuestTree};
use vmm_adapter::{
    BootContext, Feature, GuestArch, Hypervisor, IoHandler, IrqLine, MemoryRegion, Sharing, Vcpu, VcpuExit,
    Vm, VmConfig, VmKind,
};

pub const RAM: u64 = 0x8000_0000;
pub const RAM_SIZE: u64 = 2 << 20;
/// Where the tree is: the last 64 KiB.
pub const TREE: u64 = RAM + RAM_SIZE - 0x1_0000;
pub const TREE_SIZE: u64 = 0x4000;

pub struct Rig {
    pub vm: Arc<dyn Vm>,
    pub ram: MemoryRegion,
    pub vcpus: Vec<Box<dyn Vcpu>>,
}

pub fn boot() -> BootContext {
    BootContext { entry: GuestAddress(RAM), fdt: GuestAddress(TREE), fdt_size: TREE_SIZE }
}

/// An empty program for this hypervisor's guests.
pub fn guest(hypervisor: &dyn Hypervisor) -> Program {
    Program::on(hypervisor.capabilities().guest_arch(), GuestAddress(RAM).0)
}

/// A VM of the kind that the host is most sure to run.
pub fn create_vm(hypervisor: &dyn Hypervisor, config: VmConfig) -> Arc<dyn Vm> {
    let vm = hypervisor.create_vm(&config.with_kind(VmKind::Any)).unwrap();
    let lends = vm.capabilities().has(Feature::PrivateMemory);
    assert_eq!(vm.config().kind, if lends { VmKind::Protected } else { VmKind::Plain });
    vm
}

/// The main region as the VM wants it.
pub fn give_ram(vm: &dyn Vm) -> MemoryRegion {
    let sharing = if vm.config().kind.is_protected() { Sharing::Private } else { Sharing::Shared };
    vm.allocate(GuestAddress(RAM), RAM_SIZE, sharing).unwrap()
}

/// Puts the program into memory, and what its processor wants beside it.
pub fn load(vm: &dyn Vm, ram: &MemoryRegion, program: &Program) {
    ram.write(GuestAddress(RAM), &program.bytes()).unwrap();
    if vm.capabilities().guest_arch() == GuestArch::X86_64 {
        let tables = RAM + x86::TABLES;
        ram.write(GuestAddress(tables), &x86::page_tables(tables)).unwrap();
        if vm.config().vcpus > 1 {
            let low = vm.allocate(GuestAddress(0), x86::LOW_SIZE, Sharing::Shared).unwrap();
            low.write(GuestAddress(x86::TRAMPOLINE), &x86::Code::trampoline(tables)).unwrap();
        }
    }
}

/// How a VM ends whose guest did [`Program::power_off`].
pub fn assert_off(vm: &dyn Vm, exit: VcpuExit) {
    let caps = vm.capabilities();
    match exit {
        VcpuExit::PowerOff(_) if caps.has(Feature::GuestPower) => {}
        VcpuExit::Crashed(_) if !caps.has(Feature::GuestPower) => {}
        other => panic!("{other:?}"),
    }
}

impl Rig {
    /// Runs vCPU 0 to the end that its guest has asked for.
    pub fn run_to_the_end(&mut self, io: &dyn IoHandler) {
        let exit = self.vcpus[0].run(io).unwrap();
        assert_off(&*self.vm, exit);
    }

    /// Everything but the tree and the start.
    pub fn new(hypervisor: &dyn Hypervisor, vcpus: u32, lines: &[IrqLine], program: &Program) -> Self {
        let mut config = VmConfig::new(vcpus);
        config.irq_lines = lines.to_vec();
        Self::with_config(hypervisor, config, program)
    }

    /// The same, with more to it.
    pub fn with_config(hypervisor: &dyn Hypervisor, config: VmConfig, program: &Program) -> Self {
        let vcpus = config.vcpus;
        let vm = create_vm(hypervisor, config);
        let ram = give_ram(&*vm);
        load(&*vm, &ram, program);
        let vcpus = (0..vcpus).map(|id| vm.create_vcpu(id).unwrap()).collect();
        Self { vm, ram, vcpus }
    }

    pub fn write_tree(&self) {
        let tree = GuestTree {
            model: "conformance".into(),
            compatible: "rust-vmm,conformance".into(),
            ..Default::default()
        };
        let blob = fdt::write(&*self.vm, &tree).unwrap();
        let blob_size = blob.len() as u64;
        assert!(blob_size + self.vm.tree_slack(blob_size) <= TREE_SIZE, "the tree has {blob_size} bytes");
        self.ram.write(GuestAddress(TREE), &blob).unwrap();
    }

    pub fn start(self) -> Self {
        self.write_tree();
        self.vm.start(&boot()).unwrap();
        self
    }

    /// A started VM with one vCPU.
    pub fn one(hypervisor: &dyn Hypervisor, program: &Program) -> Self {
        Self::new(hypervisor, 1, &[], program).start()
    }
}

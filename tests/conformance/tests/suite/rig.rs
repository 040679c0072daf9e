//! A VM with a program in it.

use std::sync::Arc;

use conformance::asm::Program;
use vm_memory::GuestAddress;
use vmm_adapter::fdt::{self, GuestTree};
use vmm_adapter::{
    BootContext, Feature, Hypervisor, IrqLine, MemoryRegion, Sharing, Vcpu, Vm, VmConfig, VmKind,
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

impl Rig {
    /// Everything but the tree and the start.
    pub fn new(hypervisor: &dyn Hypervisor, vcpus: u32, lines: &[IrqLine], program: &Program) -> Self {
        let mut config = VmConfig::new(vcpus);
        config.irq_lines = lines.to_vec();
        let vm = create_vm(hypervisor, config);
        let ram = give_ram(&*vm);
        ram.write(GuestAddress(RAM), &program.bytes()).unwrap();
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

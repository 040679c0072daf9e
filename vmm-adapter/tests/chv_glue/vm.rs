//! Memory, ioevents, the start, and `VmOps`.
#![expect(unsafe_code, reason = "the trait takes guest memory as a raw pointer")]

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, OnceLock};

use conformance::asm::{Program, Width};
use fake_gunyah::{Errno, Fake, Flavour, Guest};
use vm_fdt::FdtWriter;
use vm_memory::{Bytes, GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};
use vmm_adapter::{ExitCause, Sharing, VcpuExit};
use vmm_sys_util::eventfd::EventFd;

use super::double::{Access, Paper, details};
use super::{chain, create_vm, description, gunyah, on};
use crate::hypervisor::additions::{BootContext, GuestDescription, Protection, VcpuKicker};
use crate::hypervisor::cpu::VmExit;
use crate::hypervisor::vm::{DataMatch, HypervisorVmError, IoEventAddress, Vm, VmOps};
use crate::vmm::layout::{DMA_POOL, DMA_POOL_SIZE, FDT, RAM, RAM_SIZE};

fn map(addr: u64, size: usize) -> GuestRegionMmap {
    GuestRegionMmap::from_range(GuestAddress(addr), size, None).unwrap()
}

/// Gives memory; the caller keeps it mapped.
fn give(vm: &dyn Vm, slot: u32, region: &GuestRegionMmap) -> Result<(), String> {
    let (addr, size) = (region.start_addr().0, region.len() as usize);
    // SAFETY: every test drops the mapping after the VM, and nothing refers to its bytes.
    unsafe { vm.create_user_memory_region(slot, addr, size, region.as_ptr(), false, false) }.map_err(chain)
}

#[test]
fn the_dma_pool_alone_is_shared_of_a_protected_vm() {
    let pool_end = DMA_POOL + DMA_POOL_SIZE as u64;
    for (addr, size, want) in [
        (RAM, RAM_SIZE, Ok(Sharing::Private)),
        (DMA_POOL, DMA_POOL_SIZE, Ok(Sharing::Shared)),
        (DMA_POOL + 0x1000, 0x1000, Ok(Sharing::Shared)),
        (pool_end, 0x1000, Ok(Sharing::Private)),
        (DMA_POOL - 0x1000, 0x2000, Err("in part in the DMA pool")),
        (pool_end - 0x1000, 0x2000, Err("in part in the DMA pool")),
        (RAM, RAM_SIZE + DMA_POOL_SIZE + 0x1000, Err("make the pool a region of its own")),
    ] {
        let region = map(addr, size);
        let paper = Paper::new();
        let vm = create_vm(&paper.hypervisor().into(), description(Protection::Always));
        assert!(vm.is_protected());
        match (give(&*vm, 0, &region), want) {
            (Ok(()), Ok(sharing)) => assert_eq!(paper.regions(), [(addr, sharing, true)]),
            (Err(error), Err(why)) => assert!(error.contains(why), "{error}"),
            other => panic!("{addr:#x}: {other:?}"),
        }
        drop(vm);
        // Of a VM that is not, all is shared, wherever it lies.
        let paper = Paper::new();
        let vm = create_vm(&paper.hypervisor().into(), description(Protection::Never));
        give(&*vm, 0, &region).unwrap();
        assert_eq!(paper.regions(), [(addr, Sharing::Shared, true)]);
    }
    // Without a pool all of it is lent.
    let paper = Paper::new();
    let mut all = description(Protection::Always);
    all.dma_pool = None;
    let vm = create_vm(&paper.hypervisor().into(), all);
    let region = map(DMA_POOL, DMA_POOL_SIZE);
    give(&*vm, 0, &region).unwrap();
    assert_eq!(paper.regions(), [(DMA_POOL, Sharing::Private, true)]);
}

#[test]
fn memory_that_cannot_be_given_is_refused() {
    let paper = Paper::new();
    let vm = create_vm(&paper.hypervisor().into(), description(Protection::Never));
    let region = map(RAM, 0x2000);
    let odd = region.as_ptr().wrapping_add(8);
    // SAFETY: the range is mapped, and stays so.
    let refused = unsafe { vm.create_user_memory_region(0, RAM, 0x1000, odd, false, false) };
    assert!(chain(refused.unwrap_err()).starts_with("cannot create a region of guest memory: "));
    // SAFETY: as above.
    let refused = unsafe { vm.create_user_memory_region(0, u64::MAX, 0x1000, region.as_ptr(), false, false) };
    assert!(chain(refused.unwrap_err()).contains("goes beyond the last address"));
    // SAFETY: as above.
    let refused = unsafe { vm.create_user_memory_region(0, RAM, 0x1001, region.as_ptr(), false, false) };
    assert!(chain(refused.unwrap_err()).contains("not aligned to the page size"));
    assert_eq!(paper.regions(), []);
    // The slot was not taken by any of them.
    give(&*vm, 0, &region).unwrap();
}

#[test]
fn ioevents_match_as_they_were_made() {
    let paper = Paper::new();
    let vm = create_vm(&paper.hypervisor().into(), description(Protection::Never));
    let (a, b) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap());
    let (first, second) = (a.as_raw_fd(), b.as_raw_fd());
    let at = IoEventAddress::Mmio(0x1000);
    vm.register_ioevent(&a, &at, Some(DataMatch::DataMatch32(7))).unwrap();
    vm.register_ioevent(&a, &at, Some(DataMatch::DataMatch64(1 << 40))).unwrap();
    vm.register_ioevent(&b, &at, None).unwrap();
    let matches = [
        format!("ioevent {first} at 0x1000: Value {{ width: 4, value: 7 }}"),
        format!("ioevent {first} at 0x1000: Value {{ width: 8, value: 1099511627776 }}"),
        format!("ioevent {second} at 0x1000: Any"),
    ];
    assert_eq!(paper.take_said(), matches);
    // The call does not say which: all of that eventfd, at that address.
    vm.unregister_ioevent(&a, &at).unwrap();
    let mut gone = paper.take_said();
    gone.sort();
    assert_eq!(gone, [format!("no {}", matches[0]), format!("no {}", matches[1])]);
    for (fd, addr) in [(&a, 0x1000), (&b, 0x1008)] {
        let error = chain(vm.unregister_ioevent(fd, &IoEventAddress::Mmio(addr)).unwrap_err());
        assert!(error.ends_with(&format!("this eventfd has no ioevent at {addr:#x}")), "{error}");
    }
    vm.unregister_ioevent(&b, &at).unwrap();
}

#[test]
fn the_start_is_where_vcpu_0_was_set_up() {
    let paper = Paper::new();
    let mut two = description(Protection::Never);
    (two.vcpus, two.vgic) = (2, crate::vmm::layout::vgic(2));
    let vm = create_vm(&paper.hypervisor().into(), two);
    let boot = BootContext { entry: 0x100, fdt: 0x2000, fdt_size: 0x1000 };
    let refused = |boot: &BootContext| chain(vm.start(boot).unwrap_err());
    assert!(refused(&boot).ends_with("setup_regs of vCPU 0 was not called"));
    let vcpus = [0, 1].map(|id| vm.create_vcpu(id, None).unwrap());
    vcpus[1].setup_regs(1, 0x100, 0x2000).unwrap();
    assert!(refused(&boot).ends_with("setup_regs of vCPU 0 was not called"));
    assert!(chain(vcpus[1].setup_regs(0, 0, 0).unwrap_err()).ends_with("this is vCPU 1, not 0"));
    vcpus[0].setup_regs(0, 0x200, 0x2000).unwrap();
    let why = refused(&boot);
    assert!(
        why.contains("set up to enter at 0x200 with X0 = 0x2000, and the start is to be at 0x100"),
        "{why}"
    );
    vcpus[0].setup_regs(0, 0x100, 0x2000).unwrap();
    assert_eq!(paper.take_said(), [""; 0]);
    vm.start(&boot).unwrap();
    let mut fdt = FdtWriter::new().unwrap();
    vm.describe(&mut fdt, 77).unwrap();
    assert_eq!(paper.take_said(), ["start 100 2000 1000", "describe 77"]);
    assert_eq!(vm.fdt_slack(5), 15);
}

#[test]
fn every_exit_has_its_word() {
    let paper = Paper::new();
    let vm = create_vm(&paper.hypervisor().into(), description(Protection::Never));
    let mut vcpu = vm.create_vcpu(0, None).unwrap();
    paper.will([
        Access::Exit(VcpuExit::Interrupted),
        Access::Exit(VcpuExit::PowerOff(details(ExitCause::SystemOff))),
        Access::Exit(VcpuExit::Reset(details(ExitCause::SystemReset))),
        Access::Exit(VcpuExit::Crashed(details(ExitCause::Watchdog))),
    ]);
    assert_eq!(vcpu.run().unwrap(), VmExit::Ignore);
    assert_eq!(vcpu.run().unwrap(), VmExit::Shutdown);
    assert_eq!(vcpu.run().unwrap(), VmExit::Reset);
    let crash = chain(vcpu.run().unwrap_err());
    let want =
        "cannot run the vCPU: the guest crashed: the guest's watchdog bit (exit type 8, 0 bytes of reason:)";
    assert_eq!(crash, want);
}

/// Answers loads with their address, and fails at one.
#[derive(Default)]
struct Ops {
    stores: Mutex<Vec<(u64, Vec<u8>)>>,
}

/// Where the VMM cannot go on.
const BROKEN: u64 = 0x0900_0800;

impl VmOps for Ops {
    fn guest_mem_write(&self, _gpa: u64, _buf: &[u8]) -> crate::hypervisor::vm::Result<usize> {
        panic!("nobody emulates instructions")
    }

    fn guest_mem_read(&self, _gpa: u64, _buf: &mut [u8]) -> crate::hypervisor::vm::Result<usize> {
        panic!("nobody emulates instructions")
    }

    fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> crate::hypervisor::vm::Result<()> {
        if gpa == BROKEN {
            return Err(HypervisorVmError::Mmio(anyhow::anyhow!("the disk is full")));
        }
        data.copy_from_slice(&gpa.to_le_bytes()[..data.len()]);
        Ok(())
    }

    fn mmio_write(&self, gpa: u64, data: &[u8]) -> crate::hypervisor::vm::Result<()> {
        self.stores.lock().unwrap().push((gpa, data.to_vec()));
        Ok(())
    }
}

/// A VM with this program and a tree, up to its start.
pub(crate) struct Rig {
    pub(crate) vm: Arc<dyn Vm>,
    vcpu: Box<dyn crate::hypervisor::cpu::Vcpu>,
    pub(crate) tree: Vec<u8>,
    // The guest uses it until the rest is gone.
    ram: GuestRegionMmap,
    _pool: GuestRegionMmap,
}

impl Rig {
    fn new(program: &Program, ops: Option<Arc<dyn VmOps>>) -> Self {
        Self::described(description(Protection::Auto), program, ops)
    }

    pub(crate) fn described(
        description: GuestDescription,
        program: &Program,
        ops: Option<Arc<dyn VmOps>>,
    ) -> Self {
        let vm = create_vm(&gunyah(), description);
        let (ram, pool) = (map(RAM, RAM_SIZE), map(DMA_POOL, DMA_POOL_SIZE));
        give(&*vm, 0, &ram).unwrap();
        give(&*vm, 1, &pool).unwrap();
        let vcpu = vm.create_vcpu(0, ops).unwrap();
        vcpu.setup_regs(0, RAM, FDT).unwrap();
        ram.write_slice(&program.bytes(), MemoryRegionAddress(0)).unwrap();
        let gic = vm.create_vgic(&crate::vmm::layout::vgic(1)).unwrap();
        let vcpus = [vcpu];
        let tree = crate::vmm::boot::tree(&*vm, &*gic.lock().unwrap(), &vcpus).unwrap();
        let [vcpu] = vcpus;
        Self { vm, vcpu, tree, ram, _pool: pool }
    }

    fn start(&self) -> Result<(), String> {
        self.ram.write_slice(&self.tree, MemoryRegionAddress(FDT - RAM)).unwrap();
        self.vm.start(&BootContext { entry: RAM, fdt: FDT, fdt_size: 0x4000 }).map_err(chain)
    }
}

#[test]
fn accesses_go_to_vm_ops_and_its_failure_ends_the_run() {
    for flavour in [Flavour::V11, Flavour::Android15] {
        on(flavour, |_| {
            let mut program = Program::new();
            program.mov(0, 0x0900_0104).load(Width::Half, 1, 0).add(0, 0, 4).store(Width::Half, 1, 0);
            // The guest goes on after its load, for ever: but for the failure this run had no end.
            program.mov(0, BROKEN).load(Width::Word, 1, 0);
            let again = program.here();
            program.branch(again);
            let ops = Arc::new(Ops::default());
            let mut rig = Rig::new(&program, Some(Arc::clone(&ops) as Arc<dyn VmOps>));
            rig.start().unwrap();
            let error = chain(rig.vcpu.run().unwrap_err());
            assert_eq!(error, "cannot run the vCPU: cannot emulate an access of the guest: the disk is full");
            assert_eq!(*ops.stores.lock().unwrap(), [(0x0900_0108, vec![0x04, 0x01])]);
        });
    }
}

#[test]
fn a_kick_ends_a_run_of_another_thread() {
    on(Flavour::Android16, |_| {
        let mut program = Program::new();
        let again = program.here();
        program.branch(again);
        let mut rig = Rig::new(&program, None);
        rig.start().unwrap();
        let kicker = rig.vcpu.kicker().unwrap();
        // Before the run, and in it.
        kicker.kick();
        assert_eq!(rig.vcpu.run().unwrap(), VmExit::Ignore);
        std::thread::scope(|scope| {
            let run = scope.spawn(|| rig.vcpu.run().unwrap());
            std::thread::sleep(std::time::Duration::from_millis(20));
            kicker.kick();
            assert_eq!(run.join().unwrap(), VmExit::Ignore);
        });
    });
}

/// Counts loads, and kicks the vCPU in each.
#[derive(Default)]
struct KickingOps {
    loads: Mutex<u32>,
    stores: Mutex<Vec<u32>>,
    kicker: OnceLock<Arc<dyn VcpuKicker>>,
}

impl VmOps for KickingOps {
    fn guest_mem_write(&self, _gpa: u64, _buf: &[u8]) -> crate::hypervisor::vm::Result<usize> {
        panic!("nobody emulates instructions")
    }

    fn guest_mem_read(&self, _gpa: u64, _buf: &mut [u8]) -> crate::hypervisor::vm::Result<usize> {
        panic!("nobody emulates instructions")
    }

    fn mmio_read(&self, _gpa: u64, data: &mut [u8]) -> crate::hypervisor::vm::Result<()> {
        let mut loads = self.loads.lock().unwrap();
        *loads += 1;
        data.copy_from_slice(&loads.to_le_bytes());
        self.kicker.get().unwrap().kick();
        Ok(())
    }

    fn mmio_write(&self, _gpa: u64, data: &[u8]) -> crate::hypervisor::vm::Result<()> {
        self.stores.lock().unwrap().push(u32::from_le_bytes(data.try_into().unwrap()));
        Ok(())
    }
}

/// Runs end while the guest waits for the answer to its load, and the VMM asks for an immediate exit before each, as it does on KVM:
/// the guest must get every answer all the same.
#[test]
fn set_immediate_exit_costs_no_answer() {
    const LOADS: u32 = 200;
    for flavour in [Flavour::V11, Flavour::Android16] {
        on(flavour, |handle| {
            let mut program = Program::new();
            program.mov(0, 0x0900_0000).mov(2, LOADS.into());
            let again = program.here();
            program.load(Width::Word, 1, 0).add(3, 0, 4).store(Width::Word, 1, 3);
            program.sub(2, 2, 1).branch_if(2, again).power_off();
            let ops = Arc::new(KickingOps::default());
            let mut rig = Rig::new(&program, Some(Arc::clone(&ops) as Arc<dyn VmOps>));
            assert!(ops.kicker.set(rig.vcpu.kicker().unwrap()).is_ok());
            rig.start().unwrap();
            let mut ignored = 0;
            loop {
                rig.vcpu.set_immediate_exit(true);
                match rig.vcpu.run().unwrap() {
                    VmExit::Ignore => ignored += 1,
                    exit => break assert_eq!(exit, VmExit::Shutdown),
                }
                rig.vcpu.set_immediate_exit(false);
            }
            assert_eq!(ignored, LOADS, "{flavour}: one for each kick, and none for immediate_exit");
            assert!(ops.stores.lock().unwrap().iter().copied().eq(1..=LOADS), "{flavour}");
            assert_eq!(handle.answers_lost(), 0, "{flavour}");
        });
    }
}

#[test]
fn a_refused_start_tells_what_is_wrong_with_the_tree() {
    on(Flavour::Android14, |_| {
        let mut program = Program::new();
        program.power_off();
        let mut rig = Rig::new(&program, None);
        // The name of a property, and so the property.
        let name = b"image-name\0";
        let at = rig.tree.windows(name.len()).position(|bytes| bytes == name).unwrap();
        rig.tree[at] = b'I';
        let error = rig.start().unwrap_err();
        assert!(error.starts_with("cannot start the VM: the devicetree has 1 errors:\nerror["), "{error}");
        assert!(error.contains("/gunyah-vm-config image-name"), "{error}");
        assert!(error.contains("start failed"), "{error}");
    });
}

#[test]
fn a_refused_start_of_a_good_tree_keeps_the_errno() {
    let fake = Fake::builder().flavour(Flavour::Android14).guest(Guest::code());
    let fake = fake.start_fails(Errno::ENODEV).build().unwrap();
    fake.run(|_| {
        let mut program = Program::new();
        program.power_off();
        let rig = Rig::new(&program, None);
        rig.ram.write_slice(&rig.tree, MemoryRegionAddress(FDT - RAM)).unwrap();
        let boot = BootContext { entry: RAM, fdt: FDT, fdt_size: 0x4000 };
        let HypervisorVmError::Start(why) = rig.vm.start(&boot).unwrap_err() else { panic!() };
        assert!(why.to_string().starts_with("nothing is known to be wrong with the devicetree"), "{why}");
        let inner: &vmm_adapter::Error = why.downcast_ref().unwrap();
        assert_eq!(inner.errno(), Some(libc::ENODEV));
    })
    .unwrap();
}

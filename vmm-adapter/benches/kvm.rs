//! What the adapter adds to an exit of a real guest on KVM, beside a loop over kvm-ioctls. `cargo bench -p vmm-adapter --features kvm
//! --bench kvm`.
//!
//! The guest stores to a device for ever. Both sides run the same one, in turn; what counts is the ratio. A host whose `/dev/kvm` does
//! not open has nothing to measure, and the bench says so.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;
use vm_memory::GuestAddress;
use vmm_adapter::fdt;
use vmm_adapter::kvm::Kvm;
use vmm_adapter::{
    BootContext, Bus, Hypervisor, IoOutcome, Kicker, MmioDevice, Sharing, Vcpu, VcpuExit, VmConfig,
};

const RAM: u64 = 0x8000_0000;
const SIZE: u64 = 2 << 20;
const DEVICE: u64 = 0x1000_0000;

/// Stores to the device for ever.
#[cfg(target_arch = "x86_64")]
fn guest() -> Vec<u8> {
    // 32-bit protected mode: mov [DEVICE], eax; jmp to it
    let mut code = vec![0xa3];
    code.extend_from_slice(&(DEVICE as u32).to_le_bytes());
    code.extend_from_slice(&[0xeb, 0xf9]);
    code
}

#[cfg(target_arch = "aarch64")]
fn guest() -> Vec<u8> {
    // mov x1, #DEVICE; str w0, [x1]; b .-4
    [0xd2a2_0001_u32, 0xb900_0020, 0x17ff_ffff].into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Kicks its vCPU after so many stores.
struct Counter {
    left: AtomicU64,
    kicker: Arc<dyn Kicker>,
}

impl MmioDevice for Counter {
    fn read(&self, _offset: u64, _data: &mut [u8]) -> IoOutcome {
        IoOutcome::Handled
    }

    fn write(&self, _offset: u64, data: &[u8]) -> IoOutcome {
        black_box(data);
        // Only this thread counts.
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left - 1, Ordering::Relaxed);
        if left == 1 {
            self.kicker.kick();
        }
        IoOutcome::Handled
    }
}

fn adapter(hypervisor: &Kvm) -> Box<dyn Vcpu> {
    let vm = hypervisor.create_vm(&VmConfig::new(1)).unwrap();
    let ram = vm.allocate(GuestAddress(RAM), SIZE, Sharing::Shared).unwrap();
    ram.write(GuestAddress(RAM), &guest()).unwrap();
    let tree = GuestAddress(RAM + 0x10_0000);
    ram.write(tree, &fdt::write(&*vm, &Default::default()).unwrap()).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    vm.start(&BootContext { entry: GuestAddress(RAM), fdt: tree, fdt_size: 0x4000 }).unwrap();
    vcpu
}

/// The same VM by kvm-ioctls alone. The memory stays mapped for good.
fn direct() -> (kvm_ioctls::VmFd, kvm_ioctls::VcpuFd) {
    let kvm = kvm_ioctls::Kvm::new().unwrap();
    let vm = kvm.create_vm().unwrap();
    // SAFETY: a new mapping, which nothing else uses and nobody unmaps.
    unsafe {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let memory = libc::mmap(std::ptr::null_mut(), SIZE as usize, prot, flags, -1, 0);
        assert_ne!(memory, libc::MAP_FAILED);
        let code = guest();
        std::ptr::copy_nonoverlapping(code.as_ptr(), memory.cast(), code.len());
        vm.set_user_memory_region(kvm_bindings::kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: RAM,
            memory_size: SIZE,
            userspace_addr: memory as u64,
        })
        .unwrap();
    }
    let vcpu = start(&vm);
    (vm, vcpu)
}

#[cfg(target_arch = "x86_64")]
fn start(vm: &kvm_ioctls::VmFd) -> kvm_ioctls::VcpuFd {
    vm.set_tss_address(0xfffb_d000).unwrap();
    vm.create_irq_chip().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut sregs = vcpu.get_sregs().unwrap();
    for (segment, kind) in [(&mut sregs.cs, 0b1011), (&mut sregs.ds, 0b0011), (&mut sregs.ss, 0b0011)] {
        segment.base = 0;
        segment.limit = 0xffff_ffff;
        segment.selector = 8;
        segment.type_ = kind;
        (segment.db, segment.g) = (1, 1);
    }
    sregs.cr0 |= 1;
    vcpu.set_sregs(&sregs).unwrap();
    let regs = kvm_bindings::kvm_regs { rip: RAM, rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).unwrap();
    vcpu
}

#[cfg(target_arch = "aarch64")]
fn start(vm: &kvm_ioctls::VmFd) -> kvm_ioctls::VcpuFd {
    let vcpu = vm.create_vcpu(0).unwrap();
    let mut init = kvm_bindings::kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init).unwrap();
    vcpu.vcpu_init(&init).unwrap();
    vcpu.set_one_reg(vmm_adapter::kvm::registers::ARM64_PC, &RAM.to_le_bytes()).unwrap();
    vcpu
}

/// A round of either side.
type Side<'a> = (&'static str, Box<dyn FnMut(u64) -> Duration + 'a>);

fn main() {
    let hypervisor = match Kvm::open() {
        Ok(hypervisor) => hypervisor,
        Err(error) => {
            println!("nothing to measure: {}", error.chain());
            return;
        }
    };
    let mut vcpu = adapter(&hypervisor);
    let counter = Counter { left: AtomicU64::new(0), kicker: vcpu.kicker() };
    let mut bus = Bus::new();
    bus.add(GuestAddress(DEVICE), 0x1000, &counter).unwrap();
    let by_adapter = |exits| {
        counter.left.store(exits, Ordering::Relaxed);
        let began = Instant::now();
        assert_eq!(vcpu.run(&bus).unwrap(), VcpuExit::Interrupted);
        began.elapsed()
    };
    let (_vm, mut fd) = direct();
    let by_hand = |exits| {
        let began = Instant::now();
        for _ in 0..exits {
            match fd.run().unwrap() {
                kvm_ioctls::VcpuExit::MmioWrite(DEVICE, data) => drop(black_box(data[0])),
                other => panic!("{other:?}"),
            }
        }
        began.elapsed()
    };
    let mut sides: [Side<'_>; 2] =
        [("kvm-ioctls", Box::new(by_hand)), ("adapter, bus and device", Box::new(by_adapter))];

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("a store of a guest on KVM");
    for (name, round) in &mut sides {
        group.bench_function(*name, |bencher| bencher.iter_custom(&mut **round));
    }
    group.finish();
    criterion.final_summary();

    // Turn about, so that a machine whose speed drifts does not favour one of them.
    const ROUNDS: usize = 41;
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let [(_, direct), (_, adapter)] = &mut sides;
            let base = direct(2000);
            adapter(2000).as_secs_f64() / base.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let [low, middle, high] = [ROUNDS / 4, ROUNDS / 2, ROUNDS * 3 / 4].map(|at| ratios[at]);
    println!(
        "adapter / kvm-ioctls, {ROUNDS} pairs in turn: median {middle:.3}, quartiles {low:.3} and {high:.3}"
    );
}

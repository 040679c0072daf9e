//! A thread for each vCPU: pausing, stopping, ends of every kind.
#![cfg(feature = "gunyah")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use fake_gunyah::hyp::state;
use fake_gunyah::{Answer, Fake, Guest, Handle, Script};
use vm_memory::GuestAddress;
use vmm_adapter::fdt::{self, GuestTree};
use vmm_adapter::gunyah::Gunyah;
use vmm_adapter::{
    BootContext, ExitKind, ExitStats, Hypervisor, IoHandler, IoOutcome, Sharing, Vcpu, VcpuEnd, VcpuExit,
    VcpuThread, Vm, VmConfig,
};

const RAM: GuestAddress = GuestAddress(0x8000_0000);
const TREE: GuestAddress = GuestAddress(0x8010_0000);

/// Counts stores, and panics if it is told to.
#[derive(Default)]
struct Devices {
    stores: AtomicU64,
    panics: AtomicBool,
}

impl Devices {
    fn stores(&self) -> u64 {
        self.stores.load(Ordering::SeqCst)
    }
}

impl IoHandler for Devices {
    fn mmio_read(&self, _addr: GuestAddress, _data: &mut [u8]) -> IoOutcome {
        IoOutcome::Handled
    }

    fn mmio_write(&self, _addr: GuestAddress, _data: &[u8]) -> IoOutcome {
        assert!(!self.panics.load(Ordering::SeqCst), "the device gives up");
        self.stores.fetch_add(1, Ordering::SeqCst);
        IoOutcome::Handled
    }
}

fn vm(start: bool) -> (Arc<dyn Vm>, Box<dyn Vcpu>) {
    let vm = Gunyah::open().unwrap().create_vm(&VmConfig::new(1)).unwrap();
    let ram = vm.allocate(RAM, 2 << 20, Sharing::Shared).unwrap();
    ram.write(TREE, &fdt::write(&*vm, &GuestTree::default()).unwrap()).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    if start {
        vm.start(&BootContext { entry: RAM, fdt: TREE, fdt_size: 0x4000 }).unwrap();
    }
    (vm, vcpu)
}

fn on(script: Script, body: impl FnOnce(&Handle) + Send) {
    let fake = Fake::builder().guest(Guest::scripts([script])).build().unwrap();
    let handle = fake
        .run(|handle| {
            body(handle);
            handle.clone()
        })
        .unwrap();
    assert_eq!(handle.leftovers(), []);
}

/// A guest that stores for ever.
fn busy() -> Script {
    Script::from_fn(|_| Answer::mmio_write(0x1000, 4, 1))
}

/// A guest that sleeps for ever.
fn asleep() -> Script {
    Script::from_fn(|_| Answer::state(state::EXPECTS_WAKEUP, [0; 3]))
}

fn eventually(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "it never came true");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_paused_vcpu_does_not_run() {
    on(busy(), |_| {
        let (_vm, vcpu) = vm(true);
        let devices = Arc::new(Devices::default());
        let thread = VcpuThread::spawn(vcpu, Arc::clone(&devices) as _, |_, _| ()).unwrap();
        for _ in 0..20 {
            let before = devices.stores();
            eventually(|| devices.stores() > before);
            thread.pause();
            let paused = devices.stores();
            std::thread::sleep(Duration::from_millis(2));
            assert_eq!(devices.stores(), paused);
            // Twice is once.
            thread.pause();
            thread.resume();
        }
        thread.kick();
        thread.stop();
        assert!(matches!(thread.join(), VcpuEnd::Stopped));
    });
}

#[test]
fn a_sleeping_vcpu_is_paused_and_stopped() {
    on(asleep(), |handle| {
        let (_vm, vcpu) = vm(true);
        let (tell, told) = mpsc::channel();
        let on_end = move |id, end: &VcpuEnd| tell.send((id, format!("{end:?}"))).unwrap();
        let thread = VcpuThread::spawn(vcpu, Arc::new(Devices::default()), on_end).unwrap();
        eventually(|| handle.runs() > 0);
        thread.pause();
        thread.stop();
        // A stop is not taken back.
        thread.resume();
        thread.pause();
        assert!(matches!(thread.join(), VcpuEnd::Stopped));
        assert_eq!(told.recv().unwrap(), (0, "Stopped".to_owned()));
    });
}

#[test]
fn dropping_it_ends_the_thread() {
    on(asleep(), |_| {
        let (_vm, vcpu) = vm(true);
        drop(VcpuThread::spawn(vcpu, Arc::new(Devices::default()), |_, _| ()).unwrap());
    });
}

#[test]
fn the_vms_end_is_told() {
    on(Script::new().mmio_write(0x1000, 1, 1).exit(2, &[0; 4]), |_| {
        let (_vm, vcpu) = vm(true);
        let thread = VcpuThread::spawn(vcpu, Arc::new(Devices::default()), |_, _| ()).unwrap();
        let end = thread.join();
        assert!(matches!(end, VcpuEnd::Exited(VcpuExit::Reset(_))), "{end:?}");
    });
}

#[test]
fn a_vm_that_has_not_started_is_an_error() {
    on(busy(), |_| {
        let (_vm, vcpu) = vm(false);
        let thread = VcpuThread::spawn(vcpu, Arc::new(Devices::default()), |_, _| ()).unwrap();
        // Whoever pauses it then is not kept waiting.
        thread.pause();
        thread.resume();
        let end = thread.join();
        assert!(matches!(end, VcpuEnd::Failed(vmm_adapter::Error::WrongState { .. })), "{end:?}");
    });
}

#[test]
fn a_devices_panic_ends_one_vcpu_and_is_told() {
    on(busy(), |_| {
        let (_vm, vcpu) = vm(true);
        let devices = Arc::new(Devices::default());
        let thread = VcpuThread::spawn(vcpu, Arc::clone(&devices) as _, |_, _| ()).unwrap();
        eventually(|| devices.stores() > 10);
        devices.panics.store(true, Ordering::SeqCst);
        let end = thread.join();
        assert!(matches!(&end, VcpuEnd::Panicked(why) if why == "the device gives up"), "{end:?}");
    });
}

/// Every exit that the devices saw is in the numbers, and every pass.
#[test]
fn a_measured_thread_counts_its_exits() {
    const STORES: u64 = 500;
    let script =
        (0..STORES).fold(Script::new(), |script, _| script.mmio_write(0x1000, 4, 1).mmio_read(0x2000, 4));
    on(script.exit(1, &[0; 4]), |_| {
        let (_vm, vcpu) = vm(true);
        let (devices, stats) = (Arc::new(Devices::default()), Arc::new(ExitStats::new()));
        let thread =
            VcpuThread::spawn_measured(vcpu, devices.clone(), Arc::clone(&stats), |_, _| ()).unwrap();
        assert!(matches!(thread.join(), VcpuEnd::Exited(VcpuExit::PowerOff(_))));
        let report = stats.report();
        assert_eq!(devices.stores(), STORES);
        for kind in [ExitKind::MmioRead, ExitKind::MmioWrite] {
            assert_eq!(report.of(kind).count, STORES);
            assert_eq!(report.of(kind).handling.count(), STORES);
        }
        assert_eq!(report.of(ExitKind::Return).count, 1);
        assert_eq!((report.away.count(), report.unclaimed), (2 * STORES + 1, 0));
    });
}

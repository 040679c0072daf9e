//! The machine: memory, payload, devicetree, devices and vCPUs, put together and run.

use std::io;
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};

use vm_memory::GuestAddress;
use vmm_adapter::fdt::{self, GuestTree, Value};
use vmm_adapter::{
    BootContext, Bus, Hypervisor, IoHandler, MemoryRegion, Sharing, Vcpu, Vm, VmConfig, VmKind,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::cli::Options;
use crate::error::{Error, Result};
use crate::input::Input;
use crate::layout;
use crate::outcome::Outcome;
use crate::payload::{self, Kernel};
use crate::rtc::Clock;
use crate::serial::Console;
use crate::stop::Stop;
use crate::terminal::RawMode;
use crate::test_device::TestDevice;
use crate::vcpus;

/// What the RAM disk's address and the tree's are aligned to: the largest page of arm64, and the smallest.
const INITRD_ALIGNMENT: u64 = 0x1_0000;
const TREE_PAGE: u64 = 4096;
/// A tree with its room beyond this was seen to make a Resource Manager fail.
const LARGEST_GOOD_TREE: u64 = 16 << 10;

/// Builds the machine, runs it and says how it ended.
pub(crate) fn run(hypervisor: &dyn Hypervisor, options: &Options) -> Result<Outcome> {
    let kernel = match &options.kernel {
        Some(path) => Kernel::from_file(path)?,
        None => Kernel::built_in(),
    };
    let initrd = options.initrd.as_deref().map(payload::read).transpose()?;
    let size = options.memory.unwrap_or(if options.kernel.is_some() { 256 << 20 } else { 2 << 20 });
    // Before the memory is taken: no image that is too big should cost more than a look at it.
    kernel.end(size)?;

    let vm = create_vm(hypervisor, options)?;
    let sharing = if vm.config().kind.is_protected() { Sharing::Private } else { Sharing::Shared };
    let ram = vm.allocate(GuestAddress(layout::RAM), size, sharing)?;
    let boot = load(&*vm, &ram, &kernel, initrd.as_deref(), options)?;

    let irq = event()?;
    vm.register_irqfd(&irq, layout::SERIAL_IRQ)?;
    let room = event()?;
    let console = Arc::new(Console::new(irq, clone(&room)?, io::stdout()));
    let clock = Clock::new();
    let test_device = options.kernel.is_none().then(TestDevice::default);
    let mut bus = Bus::new();
    bus.add(GuestAddress(layout::SERIAL), layout::SERIAL_SIZE, &*console)?;
    bus.add(GuestAddress(layout::RTC), layout::RTC_SIZE, &clock)?;
    if let Some(device) = &test_device {
        bus.add(GuestAddress(layout::TEST_DEVICE), layout::TEST_DEVICE_SIZE, device)?;
    }

    let vcpus: Vec<_> = (0..options.cpus).map(|id| vm.create_vcpu(id)).collect::<vmm_adapter::Result<_>>()?;
    vm.start(&boot)?;
    let outcome = run_vcpus(vcpus, &bus, &console, room)?;
    drop(bus);
    match (outcome, test_device.map(|device| device.verdict())) {
        (Outcome::PowerOff(_), Some(Err(why))) => Err(Error::new(why)),
        _ => Ok(outcome),
    }
}

/// The kind of VM that was asked for, or what the host is most sure to run.
fn create_vm(hypervisor: &dyn Hypervisor, options: &Options) -> Result<Arc<dyn Vm>> {
    let kind = match (options.protected, options.plain) {
        (true, _) => VmKind::Protected,
        (_, true) => VmKind::Plain,
        _ => VmKind::Any,
    };
    let config = VmConfig::new(options.cpus).with_irq_line(layout::SERIAL_IRQ).with_kind(kind);
    Ok(hypervisor.create_vm(&config)?)
}

/// Puts kernel, RAM disk and tree into memory.
fn load(
    vm: &dyn Vm,
    ram: &MemoryRegion,
    kernel: &Kernel,
    initrd: Option<&[u8]>,
    options: &Options,
) -> Result<BootContext> {
    let kernel_end = kernel.end(ram.size())?;
    let entry = GuestAddress(layout::RAM.saturating_add(kernel.offset));
    ram.write(entry, &kernel.image)?;

    let initrd = initrd.map(|data| (GuestAddress(kernel_end.next_multiple_of(INITRD_ALIGNMENT)), data));
    let initrd_end = match initrd {
        None => kernel_end,
        Some((addr, data)) if ram.contains(addr, data.len() as u64) => {
            ram.write(addr, data)?;
            addr.0.saturating_add(data.len() as u64)
        }
        Some((addr, data)) => {
            return Err(Error::new(format!(
                "the initrd is too big: {} KiB at {:#x} do not fit in {} KiB of memory (--memory)",
                data.len().div_ceil(1024),
                addr.0,
                ram.size() / 1024
            )));
        }
    };

    let tree = fdt::write(vm, &describe(options, initrd.map(|(addr, data)| (addr, data.len() as u64))))?;
    if let Some(path) = &options.dtb {
        std::fs::write(path, &tree).map_err(|error| {
            Error::new(format!("cannot write the devicetree to {}: {error}", path.display()))
        })?;
    }
    let blob = tree.len() as u64;
    let fdt_size = blob.saturating_add(vm.tree_slack(blob)).next_multiple_of(TREE_PAGE);
    if fdt_size > LARGEST_GOOD_TREE {
        eprintln!(
            "microvm: the devicetree takes {fdt_size} bytes; beyond {LARGEST_GOOD_TREE} some hosts fail to start"
        );
    }
    let ram_end = layout::RAM.saturating_add(ram.size());
    let fdt = GuestAddress(ram_end.saturating_sub(fdt_size) & !(TREE_PAGE - 1));
    if fdt.0 < initrd_end {
        return Err(Error::new(format!(
            "the devicetree needs {fdt_size} bytes behind kernel and initrd: give the guest more than {} KiB (--memory)",
            ram.size() / 1024
        )));
    }
    ram.write(fdt, &tree)?;
    Ok(BootContext { entry, fdt, fdt_size })
}

fn describe(options: &Options, initrd: Option<(GuestAddress, u64)>) -> GuestTree {
    let serial = fdt::Device::new("serial", GuestAddress(layout::SERIAL), layout::SERIAL_SIZE, &["ns16550a"])
        .irq(layout::SERIAL_IRQ)
        .with("clock-frequency", Value::U32(1_843_200))
        .with("current-speed", Value::U32(115_200));
    let rtc =
        fdt::Device::new("rtc", GuestAddress(layout::RTC), layout::RTC_SIZE, &["arm,pl031", "arm,primecell"])
            .clocked();
    GuestTree {
        model: "microvm".to_owned(),
        compatible: "rust-vmm,microvm".to_owned(),
        cmdline: options.cmdline.clone(),
        initrd,
        stdout: Some(serial.path()),
        devices: vec![serial, rtc],
        ..GuestTree::default()
    }
}

/// Runs each vCPU on a thread of its own, and the console, until the first reason to end.
fn run_vcpus<W: io::Write + Send>(
    vcpus: Vec<Box<dyn Vcpu>>,
    devices: &dyn IoHandler,
    console: &Arc<Console<W>>,
    room: EventFd,
) -> Result<Outcome> {
    let stop = Stop::new(vcpus.iter().map(|vcpu| vcpu.kicker()).collect(), event()?);
    let terminal =
        RawMode::enter().map_err(|error| Error::new(format!("cannot set up the terminal: {error}")))?;
    let input = Input::new(room, terminal.is_raw())?;
    std::thread::scope(|scope| {
        let stop = &stop;
        let mut threads = vec![spawn(scope, stop, "input".to_owned(), move || input.run(console, stop))];
        for vcpu in vcpus {
            let name = format!("vcpu{}", vcpu.id());
            threads.push(spawn(scope, stop, name, move || vcpus::run(vcpu, devices, stop)));
        }
        for thread in threads.into_iter().flatten() {
            // A thread that panicked has ended the run with that as its reason.
            drop(thread.join());
        }
    });
    drop(terminal);
    stop.take()
}

/// Makes a thread. Where there can be none the run ends.
fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    stop: &Stop,
    name: String,
    body: impl FnOnce() + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, ()>> {
    let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, body);
    thread.inspect_err(|error| stop.end(Err(Error::new(format!("cannot make a thread: {error}"))))).ok()
}

fn event() -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
        .map_err(|error| Error::new(format!("cannot make an eventfd: {error}")))
}

fn clone(fd: &EventFd) -> Result<EventFd> {
    fd.try_clone().map_err(|error| Error::new(format!("cannot duplicate an eventfd: {error}")))
}

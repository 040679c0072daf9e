//! The machine: memory, payload, devicetree, devices and vCPUs, put together and run.

use std::io;
use std::sync::Arc;

use vm_memory::GuestAddress;
use vmm_adapter::fdt::{self, GuestTree, Value};
use vmm_adapter::{
    Bus, ExitStats, Hypervisor, Sharing, Vcpu, VcpuEnd, VcpuExit, VcpuThread, Vm, VmConfig, VmKind,
};
use vmm_sys_util::eventfd::EventFd;

use crate::cli::Options;
use crate::devices::{self, Running, Slot, event};
use crate::error::{Error, Result};
use crate::input::{Input, Sink};
use crate::kernel_config;
use crate::layout;
use crate::loader;
use crate::memory;
use crate::outcome::Outcome;
use crate::output::Output;
use crate::payload::{Blob, Kernel};
use crate::rtc::Clock;
use crate::serial::Uart;
use crate::spec::Console;
use crate::stop::Stop;
use crate::terminal::RawMode;
use crate::test_device::TestDevice;
use crate::virtio::console::Typed;
use crate::virtio::dma::Dma;

/// Builds the machine, runs it and says how it ended.
pub(crate) fn run(hypervisor: &dyn Hypervisor, options: &Options) -> Result<Outcome> {
    let config = &options.vm;
    // Everything that can be found to be wrong without a VM, before memory is taken.
    let kernel = match &config.kernel {
        Some(path) => Kernel::from_file(path)?,
        None => Kernel::built_in(),
    };
    kernel.end(config.memory_size())?;
    let initrd = config.initrd.as_deref().map(Blob::open).transpose()?;
    let (room, ended) = (event()?, event()?);
    let typed = match config.console.unwrap_or_default() {
        Console::Serial => None,
        Console::Virtio => Some(Arc::new(Typed::new(clone(&room)?).map_err(no_eventfd)?)),
    };
    let console = match &typed {
        Some(typed) => Some((Arc::clone(typed), Output::new(clone(&ended)?))),
        None => None,
    };
    let slots = devices::open(config, console)?;

    let vm = create_vm(hypervisor, options, &slots)?;
    let protected = vm.config().kind.is_protected();
    let sharing = if protected { Sharing::Private } else { Sharing::Shared };
    let prepare = config.prepare.unwrap_or_default();
    let ram = memory::give(&*vm, config.memory_size(), sharing, prepare)?;
    let pool = if protected && (!slots.is_empty() || config.dma_pool.is_some()) {
        warn_of_kernel(&kernel, options)?;
        Some(allocate_pool(&*vm, options)?)
    } else {
        None
    };
    let tree = describe(options, &slots, pool)?;
    let boot = loader::load(&*vm, &ram, &kernel, initrd.as_ref(), tree, options)?;

    let irq = event()?;
    vm.register_irqfd(&irq, layout::SERIAL_IRQ)?;
    let uart = Arc::new(Uart::new(irq, clone(&room)?, Output::new(clone(&ended)?)));
    let test_device = config.kernel.is_none().then(|| Arc::new(TestDevice::default()));
    let mut bus = Bus::new();
    bus.add(GuestAddress(layout::SERIAL), layout::SERIAL_SIZE, Arc::clone(&uart))?;
    bus.add(GuestAddress(layout::RTC), layout::RTC_SIZE, Clock::new())?;
    if let Some(device) = &test_device {
        bus.add(GuestAddress(layout::TEST_DEVICE), layout::TEST_DEVICE_SIZE, Arc::clone(device))?;
    }
    let ioeventfds = config.ioeventfd.unwrap_or(true);
    let devices = Running::start(&*vm, slots, &Dma::of(&*vm)?, ioeventfds, &mut bus)?;

    let vcpus: Vec<_> =
        (0..config.vcpus()).map(|id| vm.create_vcpu(id)).collect::<vmm_adapter::Result<_>>()?;
    vm.start(&boot)?;
    let console: &dyn Sink = match &typed {
        Some(typed) => &**typed,
        None => &*uart,
    };
    let outcome = run_vcpus(vcpus, bus, console, room, Stop::new(ended), options)?;
    if options.stats {
        devices.stats().for_each(|line| eprintln!("microvm: {line}"));
    }
    drop(devices);
    match (outcome, test_device.map(|device| device.verdict())) {
        (Outcome::PowerOff(_), Some(Err(why))) => Err(Error::new(why)),
        _ => Ok(outcome),
    }
}

/// The kind of VM that was asked for, or what the host is most sure to run.
fn create_vm(hypervisor: &dyn Hypervisor, options: &Options, slots: &[Slot]) -> Result<Arc<dyn Vm>> {
    let kind = match options.vm.protected {
        Some(true) => VmKind::Protected,
        Some(false) => VmKind::Plain,
        None => VmKind::Any,
    };
    let config = VmConfig::new(options.vm.vcpus()).with_irq_line(layout::SERIAL_IRQ).with_kind(kind);
    let config = slots.iter().fold(config, |config, slot| config.with_irq_line(slot.line));
    Ok(hypervisor.create_vm(&config)?)
}

/// The memory that a protected guest's devices use, behind its own.
fn allocate_pool(vm: &dyn Vm, options: &Options) -> Result<(GuestAddress, u64)> {
    let ram_end = layout::RAM.saturating_add(options.vm.memory_size());
    let addr = GuestAddress(ram_end.next_multiple_of(layout::DMA_POOL_ALIGNMENT));
    let size = options.vm.dma_pool_size();
    vm.allocate(addr, size, Sharing::Shared)?;
    Ok((addr, size))
}

/// Says before the boot what the kernel lacks for devices in a protected VM, if it tells.
fn warn_of_kernel(kernel: &Kernel, options: &Options) -> Result<()> {
    let Some(path) = &options.vm.kernel else { return Ok(()) };
    let missing = kernel_config::missing(kernel.image.reader()?)
        .map_err(|error| Error::new(format!("cannot read {}: {error}", path.display())))?;
    for option in missing.unwrap_or_default() {
        eprintln!(
            "microvm: {} was built without {option}: virtio devices will not work in this protected VM",
            path.display()
        );
    }
    Ok(())
}

fn describe(options: &Options, slots: &[Slot], dma_pool: Option<(GuestAddress, u64)>) -> Result<GuestTree> {
    let serial = fdt::Device::new("serial", GuestAddress(layout::SERIAL), layout::SERIAL_SIZE, &["ns16550a"])
        .irq(layout::SERIAL_IRQ)
        .with("clock-frequency", Value::U32(1_843_200))
        .with("current-speed", Value::U32(115_200));
    let rtc =
        fdt::Device::new("rtc", GuestAddress(layout::RTC), layout::RTC_SIZE, &["arm,pl031", "arm,primecell"])
            .clocked();
    let stdout = Some(serial.path());
    let mut devices = vec![serial, rtc];
    devices.extend(slots.iter().map(|slot| slot.node(dma_pool.is_some())));
    let mut rng_seed = Vec::new();
    if options.vm.kernel.is_some() {
        // So that the guest's generator need not wait for entropy.
        rng_seed = vec![0; 32];
        getrandom::fill(&mut rng_seed).map_err(|error| Error::new(format!("no random bytes: {error}")))?;
    }
    Ok(GuestTree {
        model: "microvm".to_owned(),
        compatible: "rust-vmm,microvm".to_owned(),
        cmdline: options.vm.kernel_cmdline(),
        stdout,
        rng_seed,
        dma_pool,
        devices,
        ..GuestTree::default()
    })
}

/// Runs each vCPU on a thread of its own, and the input on this one, until the first reason to end.
fn run_vcpus(
    vcpus: Vec<Box<dyn Vcpu>>,
    bus: Bus<'static>,
    console: &dyn Sink,
    room: EventFd,
    stop: Stop,
    options: &Options,
) -> Result<Outcome> {
    let stop = Arc::new(stop);
    let terminal =
        RawMode::enter().map_err(|error| Error::new(format!("cannot set up the terminal: {error}")))?;
    let input = Input::new(room, terminal.is_raw())?;
    let bus = Arc::new(bus);
    let (mut threads, mut exits) = (Vec::new(), Vec::new());
    for vcpu in vcpus {
        let (io, theirs) = (Arc::clone(&bus), Arc::clone(&stop));
        let on_end = move |id, end: &VcpuEnd| {
            if let Some(reason) = reason(id, end) {
                theirs.end(reason);
            }
        };
        let thread = if options.stats {
            let stats = Arc::new(ExitStats::new());
            exits.push((vcpu.id(), Arc::clone(&stats)));
            VcpuThread::spawn_measured(vcpu, io, stats, on_end)
        } else {
            VcpuThread::spawn(vcpu, io, on_end)
        };
        threads.push(thread.map_err(|error| Error::new(format!("cannot make a thread: {error}")))?);
    }
    input.run(console, &stop);
    threads.iter().for_each(VcpuThread::stop);
    drop(threads);
    drop(terminal);
    for (id, stats) in exits {
        eprintln!("microvm: vcpu{id}:\n{}", stats.report());
    }
    stop.take()
}

/// What the end of a vCPU means for the run.
fn reason(id: u32, end: &VcpuEnd) -> Option<Result<Outcome>> {
    Some(match end {
        VcpuEnd::Stopped => return None,
        VcpuEnd::Exited(VcpuExit::PowerOff(details)) => Ok(Outcome::PowerOff(*details)),
        VcpuEnd::Exited(VcpuExit::Reset(details)) => Ok(Outcome::Reset(*details)),
        VcpuEnd::Exited(VcpuExit::Crashed(details)) => Ok(Outcome::Crash(*details)),
        VcpuEnd::Exited(other) => Err(Error::new(format!("vCPU {id} stopped: {other:?}"))),
        VcpuEnd::Failed(error) => Err(Error::new(format!("vCPU {id}: {}", error.chain()))),
        VcpuEnd::Panicked(message) => Err(Error::new(format!("vCPU {id}: a device panicked: {message}"))),
    })
}

fn clone(fd: &EventFd) -> Result<EventFd> {
    fd.try_clone().map_err(no_eventfd)
}

fn no_eventfd(error: io::Error) -> Error {
    Error::new(format!("cannot make an eventfd: {error}"))
}

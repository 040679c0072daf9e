//! The virtio devices of a machine: from its configuration to threads that serve them.

use std::sync::Arc;

use vm_memory::GuestAddress;
use vmm_adapter::fdt::{self, Value};
use vmm_adapter::{Bus, IoEventMatch, IrqLine, Vm};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::layout;
use crate::output::Output;
use crate::spec::{self, Mac};
use crate::virtio::Device;
use crate::virtio::block::{Block, Image};
use crate::virtio::console::{Console, Typed};
use crate::virtio::dma::Dma;
use crate::virtio::engine::Engine;
use crate::virtio::entropy::Entropy;
use crate::virtio::mmio::{self, Mmio};
use crate::virtio::net::passt::Passt;
use crate::virtio::net::stream::Stream;
use crate::virtio::net::tap::Tap;
use crate::virtio::net::{Link, Net};
use crate::virtio::vsock::{Host, Vsock};
use crate::virtio::worker::Worker;

/// A device that is open, and has its place.
pub(crate) struct Slot {
    name: String,
    device: Box<dyn Device>,
    addr: u64,
    pub(crate) line: IrqLine,
}

/// Opens what the configuration names. Nothing of the VM is needed for that, so mistakes are found before it is made.
/// `console` is the input and the output of a virtio console.
pub(crate) fn open(config: &Config, console: Option<(Arc<Typed>, Output)>) -> Result<Vec<Slot>> {
    let mut slots = Slots(Vec::new());
    for (index, disk) in config.disk.iter().enumerate() {
        let name = format!("disk{index}");
        let image = Image::open(&disk.path, disk.read_only, disk.serial.as_deref().unwrap_or(&name))?;
        slots.add(name, Box::new(Block::new(image)))?;
    }
    for (index, net) in config.net.iter().enumerate() {
        let name = format!("net{index}");
        let mac = match net.mac {
            Some(mac) => mac,
            None => made_up_mac()?,
        };
        let link: Box<dyn Link> = match &net.link {
            spec::Link::Tap(name) => Box::new(Tap::open(name)?),
            spec::Link::User => Box::new(Passt::start()?),
            spec::Link::Socket(path) => Box::new(Stream::connect(path)?),
        };
        slots.add(name.clone(), Box::new(Net::new(name, mac, link)))?;
    }
    if let Some((typed, output)) = console {
        slots.add("console".to_owned(), Box::new(Console::new(typed, output)))?;
    }
    if let Some(vsock) = &config.vsock {
        slots.add("vsock".to_owned(), Box::new(Vsock::new(vsock.cid, Host::listen(&vsock.uds)?)))?;
    }
    if config.rng == Some(true) {
        slots.add("rng".to_owned(), Box::new(Entropy))?;
    }
    Ok(slots.0)
}

/// An address of nobody's: local, and a single card's.
fn made_up_mac() -> Result<Mac> {
    let mut mac = [0; 6];
    getrandom::fill(&mut mac).map_err(|error| Error::new(format!("no random bytes: {error}")))?;
    let [first, ..] = &mut mac;
    *first = *first & !1 | 2;
    Ok(Mac(mac))
}

struct Slots(Vec<Slot>);

impl Slots {
    fn add(&mut self, name: String, device: Box<dyn Device>) -> Result<()> {
        let index = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if index >= layout::VIRTIO_MOST {
            return Err(Error::new(format!("there is room for {} virtio devices", layout::VIRTIO_MOST)));
        }
        let (addr, line) = layout::virtio(index);
        self.0.push(Slot { name, device, addr, line });
        Ok(())
    }
}

impl Slot {
    /// The device's node in the tree.
    pub(crate) fn node(&self, pool: bool) -> fdt::Device {
        let node = fdt::Device::new("virtio_mmio", GuestAddress(self.addr), mmio::SIZE, &["virtio,mmio"])
            .irq(self.line)
            // Devices see what the guest's CPUs see in their caches.
            .with("dma-coherent", Value::Empty);
        if pool { node.behind_dma_pool() } else { node }
    }
}

/// The devices at work. Dropping it ends their threads.
pub(crate) struct Running {
    workers: Vec<Worker>,
    engines: Vec<Arc<Engine>>,
}

impl Running {
    /// Puts the devices on the bus, binds their interrupts and notifications, and starts their threads.
    pub(crate) fn start(
        vm: &dyn Vm,
        slots: Vec<Slot>,
        dma: &Dma,
        ioeventfds: bool,
        bus: &mut Bus<'static>,
    ) -> Result<Self> {
        let mut running = Self { workers: Vec::new(), engines: Vec::new() };
        let mut refused = None;
        for Slot { name, device, addr, line } in slots {
            let (irqfd, kick) = (event()?, event()?);
            vm.register_irqfd(&irqfd, line)?;
            if ioeventfds {
                let register = GuestAddress(addr.saturating_add(mmio::QUEUE_NOTIFY));
                // Any value: one event serves all queues of a device. Old kernels of Gunyah compare values wrongly.
                if let Err(error) = vm.register_ioevent(&kick, register, IoEventMatch::Any) {
                    refused.get_or_insert(error);
                }
            }
            let make = |device| Engine::new(name, device, dma.clone(), irqfd, kick);
            let registers = Mmio::new(device, dma, make);
            let engine = Arc::clone(registers.engine());
            bus.add(GuestAddress(addr), mmio::SIZE, registers)?;
            let worker = Worker::spawn(Arc::clone(&engine))
                .map_err(|error| Error::new(format!("cannot make a thread: {error}")))?;
            running.workers.push(worker);
            running.engines.push(engine);
        }
        if let Some(error) = refused {
            eprintln!("microvm: no ioeventfds, so notifications of devices are exits: {}", error.chain());
        }
        Ok(running)
    }

    /// What the devices did.
    pub(crate) fn stats(&self) -> impl Iterator<Item = String> + '_ {
        self.engines.iter().map(|engine| format!("{}: {}", engine.name, engine.counters))
    }
}

/// An eventfd that does not block.
pub(crate) fn event() -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
        .map_err(|error| Error::new(format!("cannot make an eventfd: {error}")))
}

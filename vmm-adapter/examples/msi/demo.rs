//! The machine: a GICv2m frame, a card that signals by messages, and a guest with a driver for it.

use std::error::Error;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use conformance::asm::{Program, Width};
use conformance::interrupts::{self, Gic, SPECIAL, mailbox};
use vm_memory::GuestAddress;
use vmm_adapter::fdt::{self, GuestTree};
use vmm_adapter::{
    BootContext, Bus, Hypervisor, IoOutcome, IrqLine, MmioDevice, MsiFrame, MsiPool, Sharing, VcpuExit,
    VmConfig, VmKind,
};

const RAM: GuestAddress = GuestAddress(0x8000_0000);
const RAM_SIZE: u64 = 2 << 20;
const TREE: GuestAddress = GuestAddress(RAM.0 + 0x10_0000);
const TREE_SIZE: u64 = 0x4000;
const POOL: MsiPool = MsiPool { base: 64, count: 8, frame: GuestAddress(0x1100_0000) };
const CARD: GuestAddress = GuestAddress(0x1200_0000);
const MAILBOX: GuestAddress = GuestAddress(0x1000_3000);
/// How many of the pool's vectors the card has.
const VECTORS: u32 = 4;

/// Of the frame: the first number in bits 31 to 16.
const FRAME_TYPER: u64 = 0x8;
/// Of the frame: where messages are stored.
const FRAME_SETSPI: u64 = 0x40;

/// A card with a table of messages, as MSI-X has it, filled in by the driver.
struct Card<'a> {
    table: Mutex<[(u64, u32); VECTORS as usize]>,
    work: Sender<(u64, u32)>,
    say: &'a (dyn Fn(String) + Sync),
}

impl Card<'_> {
    /// Of each table entry: the address (8 bytes), then the data (4).
    const ENTRY: u64 = 16;
    /// A store of a vector's number makes the card signal it.
    const START: u64 = 0x100;
    const SIZE: u64 = 0x1000;
}

impl MmioDevice for Card<'_> {
    fn read(&self, _offset: u64, _data: &mut [u8]) -> IoOutcome {
        IoOutcome::Handled
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome {
        let value = data.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let vector = if offset == Self::START { value } else { offset / Self::ENTRY };
        let Some(message) = usize::try_from(vector).ok().and_then(|n| table.get_mut(n)) else {
            return IoOutcome::Handled;
        };
        match offset {
            Self::START => {
                (self.say)(format!("card: vector {vector} stores {} to {:#x}", message.1, message.0));
                // The card has a thread of its own. It ends after the guest.
                let _ = self.work.send(*message);
            }
            _ if offset % Self::ENTRY == 0 => message.0 = value,
            _ => message.1 = value as u32,
        }
        IoOutcome::Handled
    }
}

/// Where the guest tells what it took.
struct Mailbox<'a> {
    taken: Mutex<Vec<u32>>,
    say: &'a (dyn Fn(String) + Sync),
}

impl MmioDevice for Mailbox<'_> {
    fn read(&self, _offset: u64, data: &mut [u8]) -> IoOutcome {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner).len();
        data.fill(u8::from(taken == VECTORS as usize));
        IoOutcome::Handled
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome {
        match (offset, data.try_into().map(u32::from_le_bytes)) {
            (mailbox::TAKEN, Ok(intid)) if intid < SPECIAL => {
                (self.say)(format!("guest: took interrupt {intid}"));
                self.taken.lock().unwrap_or_else(PoisonError::into_inner).push(intid);
            }
            (mailbox::TAKEN, _) => {}
            _ => (self.say)(format!("guest: stored {data:x?} at {offset:#x} of its mailbox")),
        }
        IoOutcome::Handled
    }
}

/// The guest: finds out which numbers the frame has, gives the card a message for each vector, and starts them all.
fn driver(gic: Gic) -> Program {
    let mut program = Program::new();
    let start = program.label();
    program.branch(start);
    let vectors = interrupts::vectors(&mut program, |_| ());
    program.place(start);
    interrupts::enter(&mut program, vectors, MAILBOX.0);
    gic.set_up_distributor(&mut program);
    gic.set_up_cpu(&mut program, 0);
    for line in (POOL.base..POOL.base + VECTORS).map(IrqLine::edge) {
        gic.enable(&mut program, interrupts::SPI + line.spi, true);
    }
    program.mov(0, POOL.frame.0 + FRAME_TYPER).load(Width::Word, 5, 0).shift_right(5, 5, 16);
    for vector in 0..u64::from(VECTORS) {
        program.mov(0, CARD.0 + Card::ENTRY * vector).mov(1, POOL.frame.0 + FRAME_SETSPI);
        program.store(Width::Double, 1, 0).add(0, 0, 8).store(Width::Word, 5, 0).add(5, 5, 1);
    }
    program.unmask_irq();
    for vector in 0..u64::from(VECTORS) {
        program.store_at(Width::Word, CARD.0 + Card::START, vector);
    }
    interrupts::serve(&mut program);
    program
}

/// Runs it all; gives the interrupts that the guest took, in their order.
pub(crate) fn run(
    hypervisor: &dyn Hypervisor,
    say: &(dyn Fn(String) + Sync),
) -> Result<Vec<u32>, Box<dyn Error>> {
    let config = VmConfig::new(1).with_kind(VmKind::Any).with_msi(POOL);
    let gic = Gic { distributor: config.gic.distributor.0, redistributors: config.gic.redistributors.0 };
    let vm = hypervisor.create_vm(&config)?;
    let sharing = if vm.config().kind.is_protected() { Sharing::Private } else { Sharing::Shared };
    let ram = vm.allocate(RAM, RAM_SIZE, sharing)?;
    ram.write(RAM, &driver(gic).bytes())?;
    ram.write(TREE, &fdt::write(&*vm, &GuestTree::default())?)?;
    let mut vcpu = vm.create_vcpu(0)?;
    let frame = MsiFrame::new(&vm)?;

    let (work, messages) = channel();
    let card = Card { table: Mutex::default(), work, say };
    let mailbox = Mailbox { taken: Mutex::default(), say };
    let mut bus = Bus::new();
    bus.add(POOL.frame, MsiFrame::SIZE, &frame)?;
    bus.add(CARD, Card::SIZE, card)?;
    bus.add(MAILBOX, 0x1000, &mailbox)?;
    vm.start(&BootContext { entry: RAM, fdt: TREE, fdt_size: TREE_SIZE })?;
    let exit = std::thread::scope(|scope| {
        // The card's stores. They could go through the bus; there is only the frame that they can mean.
        scope.spawn(|| {
            for (addr, data) in messages {
                let stored = addr.checked_sub(POOL.frame.0).map(|to| frame.write(to, &data.to_le_bytes()));
                if stored != Some(IoOutcome::Handled) {
                    say(format!("card: nothing is at {addr:#x}"));
                }
            }
        });
        let exit = vcpu.run(&bus);
        // With the card goes its thread.
        drop(bus);
        exit
    })?;
    match exit {
        VcpuExit::PowerOff(_) => Ok(mailbox.taken.into_inner().unwrap_or_else(PoisonError::into_inner)),
        other => Err(format!("the guest ended with {other:?}").into()),
    }
}

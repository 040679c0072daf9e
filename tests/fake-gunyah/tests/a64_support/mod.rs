//! What the tests of code guests share: RAM in a vector, and a VM driven without any driver.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::sync::{Arc, Mutex};

use fake_gunyah::hyp::gic::GicLayout;
use fake_gunyah::hyp::machine::{GuestRam, Machine, RamAccess};
use fake_gunyah::hyp::{VcpuEngine, VcpuRunResp, VmEvents, state};

pub const RAM_BASE: u64 = 0x8000_0000;
pub const GICD: u64 = 0x3fff_0000;
pub const GICR: u64 = 0x2000_0000;

/// A place for the interrupt controller of so many vCPUs.
pub fn gic(vcpus: u32) -> GicLayout {
    GicLayout { distributor: GICD, redistributors: GICR, redistributors_size: u64::from(vcpus) * 0x2_0000 }
}

/// RAM behind a lock: every access is one access.
pub struct VecRam {
    base: u64,
    bytes: Mutex<Vec<u8>>,
}

impl VecRam {
    pub fn new(base: u64, size: usize, image: &[u8]) -> Arc<Self> {
        let mut bytes = vec![0; size];
        bytes[..image.len()].copy_from_slice(image);
        Arc::new(Self { base, bytes: Mutex::new(bytes) })
    }

    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let at = (addr - self.base) as usize;
        self.bytes.lock().unwrap()[at..at + len].to_vec()
    }

    fn with<T>(&self, addr: u64, len: usize, use_it: impl FnOnce(&mut [u8]) -> T) -> Option<T> {
        let at = usize::try_from(addr.checked_sub(self.base)?).ok()?;
        self.bytes.lock().unwrap().get_mut(at..at.checked_add(len)?).map(use_it)
    }
}

impl GuestRam for VecRam {
    fn load(&self, ipa: u64, buf: &mut [u8]) -> RamAccess {
        match self.with(ipa, buf.len(), |bytes| buf.copy_from_slice(bytes)) {
            Some(()) => RamAccess::Done,
            None => RamAccess::NotRam,
        }
    }

    fn store(&self, ipa: u64, data: &[u8]) -> RamAccess {
        match self.with(ipa, data.len(), |bytes| bytes.copy_from_slice(data)) {
            Some(()) => RamAccess::Done,
            None => RamAccess::NotRam,
        }
    }

    fn compare_exchange(&self, ipa: u64, len: u8, current: u128, new: u128) -> Result<u128, RamAccess> {
        let len = usize::from(len);
        self.with(ipa, len, |bytes| {
            let mut old = [0; 16];
            old[..len].copy_from_slice(bytes);
            let old = u128::from_le_bytes(old);
            if old == current {
                bytes.copy_from_slice(&new.to_le_bytes()[..len]);
            }
            old
        })
        .ok_or(RamAccess::NotRam)
    }
}

/// What the machine told the driver.
#[derive(Default)]
pub struct Log {
    pub woken: Mutex<Vec<u32>>,
    pub exits: Mutex<Vec<(u16, Vec<u8>)>>,
}

impl VmEvents for Log {
    fn wake(&self, id: u32) {
        self.woken.lock().unwrap().push(id);
    }

    fn vm_exited(&self, exit_type: u16, reason: &[u8]) {
        self.exits.lock().unwrap().push((exit_type, reason.to_vec()));
    }
}

/// A machine, its engines, and what it said.
pub struct Vm {
    pub ram: Arc<VecRam>,
    pub log: Arc<Log>,
    pub machine: Arc<Machine>,
    pub engines: Vec<Box<dyn VcpuEngine>>,
}

impl Vm {
    /// A VM with 1 MiB of RAM, an interrupt controller and the image at its start, where vCPU 0 will start.
    pub fn new(image: &[u8], vcpus: u32) -> Self {
        let ram = VecRam::new(RAM_BASE, 1 << 20, image);
        let log = Arc::new(Log::default());
        let machine = Machine::with_gic(ram.clone(), log.clone(), vcpus, Some(gic(vcpus)));
        let engines = (0..vcpus).map(|id| machine.engine(id)).collect();
        machine.start(RAM_BASE, 0);
        Self { ram, log, machine, engines }
    }

    /// The same, from instruction words.
    pub fn of_words(words: &[u32], vcpus: u32) -> Self {
        let image: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Self::new(&image, vcpus)
    }

    /// One `vcpu_run`, with this answer to an MMIO read, and never preempted.
    pub fn run(&mut self, id: usize, answer: u64) -> VcpuRunResp {
        self.engines[id].vcpu_run([answer, 0, 0], &|| false).unwrap()
    }

    /// Runs all vCPUs in turn until the VM ends, as a VMM with these devices would; reads get what the handler answers.
    pub fn run_to_end(&mut self, mut device: impl FnMut(usize, Access) -> u64) {
        let mut answers = vec![0; self.engines.len()];
        let mut rounds = 0;
        while self.log.exits.lock().unwrap().is_empty() {
            rounds += 1;
            assert!(rounds < 1_000_000, "the guest does not end");
            for (id, answer) in answers.iter_mut().enumerate() {
                let slices = std::cell::Cell::new(0);
                let preempt = || slices.replace(slices.get() + 1) > 16;
                let response = self.engines[id].vcpu_run([*answer, 0, 0], &preempt).unwrap();
                let [addr, len, value] = response.data;
                *answer = 0;
                match response.state {
                    state::MMIO_READ => *answer = device(id, Access::Read { addr, len }),
                    state::MMIO_WRITE => {
                        device(id, Access::Write { addr, len, value });
                    }
                    _ => {}
                }
            }
        }
    }

    pub fn exits(&self) -> Vec<(u16, Vec<u8>)> {
        self.log.exits.lock().unwrap().clone()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read { addr: u64, len: u64 },
    Write { addr: u64, len: u64, value: u64 },
}

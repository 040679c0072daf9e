//! A device and its queues behind one lock, and what happens when either is broken.
//!
//! The device's thread holds the lock while the device works, and a vCPU's thread while the driver starts or resets it.
//! So a reset is done when the driver's store to the status register is: from then on it may use the memory for other things.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::{EventOps, Events};
use vmm_sys_util::eventfd::EventFd;

use super::counters::Counters;
use super::dma::Dma;
use super::interrupt::Interrupt;
use super::queues::{Queues, Ring};
use super::{Broken, Device, Progress};

/// What a vCPU's thread and a device's thread share.
pub(crate) struct Engine {
    /// The device's name in messages.
    pub(crate) name: String,
    pub(crate) interrupt: Interrupt,
    pub(crate) counters: Arc<Counters>,
    pub(crate) dma: Dma,
    /// Signalled by the driver's notifications, and to start the device.
    pub(crate) kick: EventFd,
    running: Mutex<Running>,
    /// How many vCPU threads wait for the lock: the device's thread lets them go first.
    waiting: AtomicU32,
    needs_reset: AtomicBool,
    complained: AtomicBool,
}

struct Running {
    device: Box<dyn Device>,
    /// Empty while there is no driver.
    rings: Vec<Ring>,
    /// The device panicked: nobody knows what state it is in.
    dead: bool,
}

impl Engine {
    pub(crate) fn new(
        name: String,
        device: Box<dyn Device>,
        dma: Dma,
        irqfd: EventFd,
        kick: EventFd,
    ) -> Self {
        let counters = Arc::<Counters>::default();
        Self {
            name,
            interrupt: Interrupt::new(irqfd, Arc::clone(&counters)),
            counters,
            dma,
            kick,
            running: Mutex::new(Running { device, rings: Vec::new(), dead: false }),
            waiting: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            complained: AtomicBool::new(false),
        }
    }

    /// The driver is ready: gives the device its queues.
    pub(crate) fn start(&self, rings: Vec<Ring>, features: u64) {
        let dead = self.with_priority(|running| {
            if !running.dead {
                running.device.activate(features);
                running.rings = rings;
            }
            running.dead
        });
        if dead {
            self.fail("it failed before and stays off");
        }
        // What the driver put into the queues before it said that it is ready is looked at now. The counter cannot be full.
        let _ = self.kick.write(1);
    }

    /// The driver resets the device, or a new one comes.
    pub(crate) fn reset(&self) {
        self.with_priority(|running| {
            running.rings.clear();
            if !running.dead {
                running.device.reset();
            }
        });
        self.needs_reset.store(false, Ordering::SeqCst);
        self.interrupt.acknowledge(u32::MAX);
    }

    /// Whether the device cannot go on before a reset.
    pub(crate) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// Takes the device away from its driver, and says so: to the driver each time, to the user once.
    pub(crate) fn fail(&self, why: &str) {
        self.needs_reset.store(true, Ordering::SeqCst);
        if !self.complained.swap(true, Ordering::SeqCst) {
            eprintln!("microvm: {} stops until the guest resets it: {why}", self.name);
        }
        // If it cannot be signalled the driver finds out by the status register.
        let _ = self.interrupt.config();
    }

    /// The device's thread: tells the device to name its files.
    pub(crate) fn watch(&self, watch: &mut EventOps<'_>) {
        let result = self.lock().device.watch(watch);
        if let Err(broken) = result {
            self.fail(&broken.0);
        }
    }

    /// The device's thread: lets the device work until there is nothing to do.
    pub(crate) fn process(&self, mut ready: Option<Events>, watch: &mut EventOps<'_>) {
        loop {
            while self.waiting.load(Ordering::SeqCst) > 0 {
                std::thread::yield_now();
            }
            match self.pass(ready.take(), watch) {
                Ok(Progress::More) => {}
                Ok(Progress::Idle) => return,
                Err(broken) => return self.fail(&broken.0),
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn has_panicked(&self) -> bool {
        self.with_priority(|running| running.dead)
    }

    fn pass(&self, ready: Option<Events>, watch: &mut EventOps<'_>) -> Result<Progress, Broken> {
        let mut running = self.lock();
        let Running { device, rings, dead } = &mut *running;
        if rings.is_empty() {
            return Ok(Progress::Idle);
        }
        let result = catch_unwind(AssertUnwindSafe(|| {
            let (dma, interrupt, counters) = (&self.dma, &self.interrupt, &self.counters);
            let mut queues = Queues { dma, rings, interrupt, counters };
            let progress = device.process(&mut queues, ready, watch)?;
            queues.signal_all()?;
            Ok(progress)
        }));
        match result {
            Ok(Ok(progress)) => Ok(progress),
            Ok(Err(broken)) => {
                rings.clear();
                device.reset();
                Err(broken)
            }
            Err(_) => {
                rings.clear();
                *dead = true;
                Err(Broken::new("its thread panicked"))
            }
        }
    }

    fn with_priority<R>(&self, body: impl FnOnce(&mut Running) -> R) -> R {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut running = self.lock();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        body(&mut running)
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        // A device's panic is caught below the lock.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! A thread that runs a vCPU.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::io::IoHandler;
use crate::stats::ExitStats;
use crate::vcpu::{Kicker, Vcpu, VcpuExit};

/// How a vCPU's thread ended.
#[derive(Debug)]
pub enum VcpuEnd {
    /// The VM has ended: `PowerOff`, `Reset` or `Crashed`.
    Exited(VcpuExit),
    /// [`Vcpu::run`] failed.
    Failed(Error),
    /// [`VcpuThread::stop`] was called.
    Stopped,
    /// A device panicked, with this message.
    Panicked(String),
}

/// A thread that runs a vCPU, and can be paused and stopped. Nobody has to use it: a loop around [`Vcpu::run`] will do.
///
/// Dropping it stops the thread and waits for it.
///
/// ```
/// # #[cfg(feature = "gunyah")]
/// # fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # use fake_gunyah::{Fake, Guest, Script};
/// # use vmm_adapter::{BootContext, Hypervisor, Sharing, VmConfig};
/// # use vm_memory::GuestAddress;
/// # let fake = Fake::builder().guest(Guest::scripts([Script::new().exit(1, &[0; 4])])).build()?;
/// # fake.run(|_| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let vm = vmm_adapter::gunyah::Gunyah::open()?.create_vm(&VmConfig::new(1))?;
/// # let ram = vm.allocate(GuestAddress(0x8000_0000), 2 << 20, Sharing::Shared)?;
/// # let tree = vmm_adapter::fdt::write(&*vm, &Default::default())?;
/// # ram.write(GuestAddress(0x8010_0000), &tree)?;
/// # let boot = BootContext { entry: ram.addr(), fdt: GuestAddress(0x8010_0000), fdt_size: 0x4000 };
/// use std::sync::Arc;
/// use vmm_adapter::{Bus, VcpuEnd, VcpuExit, VcpuThread};
///
/// let vcpu = vm.create_vcpu(0)?;
/// vm.start(&boot)?;
/// let thread = VcpuThread::spawn(vcpu, Arc::new(Bus::new()), |id, end| println!("vCPU {id}: {end:?}"))?;
/// thread.pause(); // the guest does not run, until
/// thread.resume();
/// assert!(matches!(thread.join(), VcpuEnd::Exited(VcpuExit::PowerOff(_))));
/// # Ok(())
/// # })??;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "gunyah"))]
/// # fn main() {}
/// ```
pub struct VcpuThread {
    kicker: Arc<dyn Kicker>,
    control: Arc<Control>,
    thread: Option<JoinHandle<VcpuEnd>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Run,
    Pause,
    Stop,
}

#[derive(Clone, Copy, Debug)]
struct State {
    wish: Wish,
    /// The vCPU is in, or about to enter, `run`.
    inside: bool,
}

#[derive(Debug)]
struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wish(&self, wish: Wish) {
        let mut state = self.lock();
        // Nothing comes after a stop.
        if state.wish != Wish::Stop {
            state.wish = wish;
        }
        self.changed.notify_all();
    }

    /// The vCPU's thread: waits until it may run. `false`: it is to end.
    fn enter(&self) -> bool {
        let mut state = self.lock();
        state.inside = false;
        self.changed.notify_all();
        while state.wish == Wish::Pause {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.inside = state.wish == Wish::Run;
        state.inside
    }

    fn wait_until_outside(&self) {
        let mut state = self.lock();
        while state.inside {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl VcpuThread {
    /// Runs `vcpu` on a new thread, with `io` for its devices. `on_end` is called on that thread, with the vCPU's number, when
    /// it ends, whatever the reason: to stop the other vCPUs, say.
    ///
    /// The VM must have started, or the thread ends at once with [`VcpuEnd::Failed`].
    ///
    /// # Errors
    /// The host has no more threads.
    pub fn spawn(
        vcpu: Box<dyn Vcpu>,
        io: Arc<dyn IoHandler + Send + Sync>,
        on_end: impl FnOnce(u32, &VcpuEnd) + Send + 'static,
    ) -> io::Result<Self> {
        Self::spawn_with(vcpu, on_end, move |vcpu| vcpu.run(&*io))
    }

    /// As [`VcpuThread::spawn`], and counts the exits in `stats`.
    ///
    /// # Errors
    /// The host has no more threads.
    pub fn spawn_measured(
        vcpu: Box<dyn Vcpu>,
        io: Arc<dyn IoHandler + Send + Sync>,
        stats: Arc<ExitStats>,
        on_end: impl FnOnce(u32, &VcpuEnd) + Send + 'static,
    ) -> io::Result<Self> {
        Self::spawn_with(vcpu, on_end, move |vcpu| stats.run(vcpu, &*io))
    }

    fn spawn_with(
        mut vcpu: Box<dyn Vcpu>,
        on_end: impl FnOnce(u32, &VcpuEnd) + Send + 'static,
        pass: impl Fn(&mut dyn Vcpu) -> Result<VcpuExit> + Send + 'static,
    ) -> io::Result<Self> {
        let kicker = vcpu.kicker();
        let state = State { wish: Wish::Run, inside: false };
        let control = Arc::new(Control { state: Mutex::new(state), changed: Condvar::new() });
        let theirs = Arc::clone(&control);
        let thread = std::thread::Builder::new().name(format!("vcpu{}", vcpu.id())).spawn(move || {
            // A device that panicked may be in any state; it is the VMM's to decide whether it goes on.
            let ran = catch_unwind(AssertUnwindSafe(|| run(&mut *vcpu, &pass, &theirs)));
            let end = ran.unwrap_or_else(|panic| VcpuEnd::Panicked(message(&*panic)));
            theirs.wish(Wish::Stop);
            theirs.enter();
            on_end(vcpu.id(), &end);
            end
        })?;
        Ok(Self { kicker, control, thread: Some(thread) })
    }

    /// Keeps the guest from running on this vCPU. When it returns, the vCPU is not in [`Vcpu::run`] and no device is called
    /// from its thread. Not from a device: it would wait for itself.
    pub fn pause(&self) {
        self.control.wish(Wish::Pause);
        // It counts also when the thread has only just decided to run.
        self.kicker.kick();
        self.control.wait_until_outside();
    }

    /// Lets the guest run again.
    pub fn resume(&self) {
        self.control.wish(Wish::Run);
    }

    /// Ends the thread soon, for good. May be called from anywhere, devices included.
    pub fn stop(&self) {
        self.control.wish(Wish::Stop);
        self.kicker.kick();
    }

    /// Makes a pass of [`Vcpu::run`] end and begin again: a device's way to have the vCPU's thread look at something.
    pub fn kick(&self) {
        self.kicker.kick();
    }

    /// Waits for the thread's end, which something else brings about: the guest, or [`VcpuThread::stop`].
    pub fn join(mut self) -> VcpuEnd {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(end)) => end,
            // Only `on_end` can panic where nothing catches it.
            Some(Err(panic)) => VcpuEnd::Panicked(message(&*panic)),
            None => VcpuEnd::Stopped,
        }
    }
}

fn run(vcpu: &mut dyn Vcpu, pass: &dyn Fn(&mut dyn Vcpu) -> Result<VcpuExit>, control: &Control) -> VcpuEnd {
    while control.enter() {
        match pass(vcpu) {
            Ok(VcpuExit::Interrupted) => {}
            Ok(exit) => return VcpuEnd::Exited(exit),
            Err(error) => return VcpuEnd::Failed(error),
        }
    }
    VcpuEnd::Stopped
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop();
            // Its panic, if any, has been told to `on_end`.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for VcpuThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuThread").field("state", &*self.control.lock()).finish_non_exhaustive()
    }
}

//! A vCPU of Gunyah.

use std::sync::Arc;
use std::time::Duration;

use gunyah_ioctls::{KickHandle, VcpuExit as Exit, VcpuFd};
use vm_memory::GuestAddress;

use super::vm::Shared;
use super::{error, exit};
use crate::caps::Backend;
use crate::error::{Error, Result};
use crate::io::{IoHandler, IoOutcome};
use crate::phase::Phase;
use crate::vcpu::{Kicker, Registers, Vcpu, VcpuExit};

const OP: &str = "run";
/// How often, and in what steps, to look for the end of a VM whose vCPU cannot go on: a second.
const END_TRIES: u32 = 200;
const END_PAUSE: Duration = Duration::from_millis(5);

/// A vCPU of Gunyah.
#[derive(Debug)]
pub(super) struct GunyahVcpu {
    // Closed before the VM that it belongs to.
    fd: VcpuFd,
    vm: Arc<Shared>,
}

impl GunyahVcpu {
    pub(super) fn new(fd: VcpuFd, vm: Arc<Shared>) -> Self {
        Self { fd, vm }
    }

    fn check_phase(&self) -> Result<()> {
        match self.vm.phase() {
            Phase::Running => Ok(()),
            // A VM that ran gives its end again.
            Phase::Stopped if self.vm.has_ended() => Ok(()),
            phase => Err(Error::WrongState { op: OP, phase }),
        }
    }

    /// Waits for the word of the VM's end.
    ///
    /// A vCPU that took a fault it cannot get over is EINVAL to late android15 kernels and android16; that the VM has
    /// ended, and why, comes a moment later from the Resource Manager. Earlier kernels wait for it themselves.
    #[cold]
    fn find_end(&mut self, refused: gunyah_ioctls::Error) -> gunyah_ioctls::Result<Exit> {
        for _ in 0..END_TRIES {
            match self.fd.run() {
                Err(error) if error.errno() == Some(libc::EINVAL) => std::thread::sleep(END_PAUSE),
                other => return other,
            }
        }
        Err(refused)
    }

    fn mmio_read(&mut self, io: &dyn IoHandler, addr: u64, len: usize) -> Result<()> {
        let mut data = [0; 8];
        let Some(slot) = data.get_mut(..len) else {
            return Err(Error::invalid(OP, format!("a read of {len} bytes")));
        };
        match io.mmio_read(GuestAddress(addr), slot) {
            IoOutcome::Handled => self.fd.complete_mmio_read(slot),
            IoOutcome::Unclaimed if self.vm.mmio_fault() => self.fd.fail_mmio(),
            IoOutcome::Unclaimed => {
                slot.fill(0xff);
                self.fd.complete_mmio_read(slot)
            }
        }
        .map_err(error::backend(OP))
    }

    fn mmio_write(&mut self, io: &dyn IoHandler, addr: u64, data: &[u8]) -> Result<()> {
        match io.mmio_write(GuestAddress(addr), data) {
            IoOutcome::Unclaimed if self.vm.mmio_fault() => self.fd.fail_mmio().map_err(error::backend(OP)),
            IoOutcome::Handled | IoOutcome::Unclaimed => Ok(()),
        }
    }
}

impl Vcpu for GunyahVcpu {
    fn id(&self) -> u32 {
        self.fd.id()
    }

    fn run(&mut self, io: &dyn IoHandler) -> Result<VcpuExit> {
        self.check_phase()?;
        loop {
            let exit = match self.fd.run() {
                Err(error) if error.errno() == Some(libc::EINVAL) => self.find_end(error),
                other => other,
            };
            match exit.map_err(error::backend(OP))? {
                Exit::MmioRead { addr, len } => self.mmio_read(io, addr, len)?,
                Exit::MmioWrite { addr, data, len } => {
                    self.mmio_write(io, addr, data.get(..len).unwrap_or(&data))?;
                }
                // Running again executes the instruction again; `VcpuFd::run` ends it when that leads nowhere.
                Exit::PageFault { .. } => {}
                Exit::Interrupted => return Ok(VcpuExit::Interrupted),
                Exit::Status(status) => {
                    self.vm.enter(Phase::Stopped);
                    return Ok(exit::vcpu_exit(status));
                }
                Exit::Unknown(reason) => {
                    return Err(Error::UnknownExit { backend: Backend::Gunyah, vcpu: self.fd.id(), reason });
                }
                other => {
                    return Err(Error::invalid(OP, format!("an exit that is not understood: {other:?}")));
                }
            }
        }
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        Arc::new(GunyahKicker(self.fd.kick_handle()))
    }

    fn answers_possibly_lost(&self) -> u64 {
        self.fd.answers_possibly_lost()
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        None
    }
}

impl Drop for GunyahVcpu {
    fn drop(&mut self) {
        self.vm.forget_vcpu(self.fd.id());
    }
}

#[derive(Debug)]
struct GunyahKicker(KickHandle);

impl Kicker for GunyahKicker {
    fn kick(&self) {
        self.0.kick();
    }
}

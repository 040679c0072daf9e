//! A vCPU of KVM.

use std::sync::Arc;

use kvm_ioctls::{VcpuExit as Exit, VcpuFd};
use vm_memory::GuestAddress;

use super::kick::Kick;
use super::vm::Shared;
use super::{arch, error, signal, sys};
use crate::caps::{Backend, Feature};
use crate::error::{Error, Result};
use crate::io::{IoHandler, IoOutcome};
use crate::phase::Phase;
use crate::vcpu::{ExitCause, ExitDetails, Kicker, Registers, Vcpu, VcpuExit};

const OP: &str = "run";

/// Numbers of exits, which [`ExitDetails::raw_type`] shows.
mod exit_reason {
    pub(super) const SHUTDOWN: u16 = 8;
    pub(super) const FAIL_ENTRY: u16 = 9;
    pub(super) const INTERNAL_ERROR: u16 = 17;
    pub(super) const SYSTEM_EVENT: u16 = 24;
    /// "No instruction syndrome valid": the exit that KVM makes of it where a VMM wants one. Here it is an errno.
    pub(super) const ARM_NISV: u16 = 28;
}

/// Types of system events.
mod system_event {
    pub(super) const SHUTDOWN: u32 = 1;
    pub(super) const RESET: u32 = 2;
    pub(super) const CRASH: u32 = 3;
}

/// A vCPU of KVM.
#[derive(Debug)]
pub(super) struct KvmVcpu {
    // Closed before the VM that it belongs to.
    fd: VcpuFd,
    id: u32,
    kick: Arc<Kick>,
    /// Its first registers are set.
    prepared: bool,
    vm: Arc<Shared>,
}

/// What is to be done after an exit, once the run page is no longer borrowed.
enum Next {
    Run,
    /// The access that nobody claimed becomes a fault.
    Fault,
    PortIo,
    Leave(VcpuExit),
    End(VcpuExit),
    InternalError,
    /// The guest did what nobody can carry out for it.
    Undescribed,
}

impl KvmVcpu {
    pub(super) fn create(op: &'static str, vm: &Arc<Shared>, id: u32) -> Result<Self> {
        let fd = vm.open_vcpu(op, id)?;
        let ready = vm.platform.init_vcpu(op, &vm.fd, &fd, id);
        let kick = ready.and_then(|()| Kick::new(&fd, vm.fd.run_size()).map_err(error::os(op)));
        let kick = Arc::new(kick.inspect_err(|_| vm.park_vcpu(id, &fd))?);
        vm.add_kick(&kick);
        Ok(Self { fd, id, kick, prepared: false, vm: Arc::clone(vm) })
    }

    /// Sets the registers with which the guest starts, once that is known.
    fn prepare(&mut self, op: &'static str) -> Result<()> {
        if let (false, Some(boot)) = (self.prepared, self.vm.boot()) {
            if self.id == 0 {
                arch::set_boot_registers(op, &self.fd, &boot)?;
            }
            self.prepared = true;
        }
        Ok(())
    }

    fn check_phase(&self) -> Result<()> {
        match self.vm.phase().get() {
            Phase::Running => Ok(()),
            // A VM that ran gives its end again.
            Phase::Stopped if self.vm.end().is_some() => Ok(()),
            phase => Err(Error::WrongState { op: OP, phase }),
        }
    }

    /// Runs the guest until the VMM must decide something.
    fn run_inside(&mut self, io: &dyn IoHandler) -> Result<VcpuExit> {
        let fault = self.vm.has(Feature::MmioFault);
        loop {
            if let Some(end) = self.vm.end() {
                return Ok(end);
            }
            if self.kick.take() {
                return Ok(VcpuExit::Interrupted);
            }
            let next = match self.fd.run() {
                Ok(exit) => self::next(exit, io, fault, self.id)?,
                Err(refused) => match refused.errno() {
                    // Whose signal was it? The end of the VM and a kick have left a note.
                    libc::EINTR if self.vm.end().is_some() || self.kick.take() => {
                        Next::Leave(VcpuExit::Interrupted)
                    }
                    libc::EINTR => {
                        self.kick.settle();
                        Next::Leave(VcpuExit::Interrupted)
                    }
                    // x86_64: an application processor has been told where to start.
                    libc::EAGAIN => Next::Run,
                    _ if arch::is_undescribed(&refused) => Next::Undescribed,
                    _ => return Err(error::ioctl(OP, "KVM_RUN")(refused)),
                },
            };
            match next {
                Next::Run => {}
                Next::Fault => arch::inject_fault(OP, &self.fd)?,
                Next::PortIo => self.port_io(io)?,
                Next::Leave(exit) => return Ok(self.vm.end().unwrap_or(exit)),
                Next::End(exit) => return Ok(self.vm.ended(exit)),
                Next::InternalError => {
                    let suberror = sys::internal_error(&mut self.fd);
                    let crash = crashed(exit_reason::INTERNAL_ERROR, u64::from(suberror), 4);
                    return Ok(self.vm.ended(crash));
                }
                Next::Undescribed => {
                    let pc = arch::program_counter(OP, &self.fd)?;
                    return Ok(self.vm.ended(crashed(exit_reason::ARM_NISV, pc, 8)));
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn port_io(&mut self, io: &dyn IoHandler) -> Result<()> {
        let Some(access) = sys::port_access(&mut self.fd, self.vm.fd.run_size()) else {
            return Err(Error::invalid(OP, "KVM's run page says nonsense of a port access"));
        };
        for data in access.data.chunks_mut(access.width) {
            if access.write {
                // Nobody there: dropped.
                io.pio_write(access.port, data);
            } else {
                data.fill(0);
                if io.pio_read(access.port, data) == IoOutcome::Unclaimed {
                    data.fill(0xff);
                }
            }
        }
        Ok(())
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn port_io(&mut self, _io: &dyn IoHandler) -> Result<()> {
        Err(Error::invalid(OP, "a port access on a machine that has none"))
    }
}

/// What an exit asks for.
fn next(exit: Exit<'_>, io: &dyn IoHandler, fault: bool, vcpu: u32) -> Result<Next> {
    Ok(match exit {
        Exit::MmioRead(addr, data) => {
            data.fill(0);
            match io.mmio_read(GuestAddress(addr), data) {
                IoOutcome::Handled => Next::Run,
                IoOutcome::Unclaimed if fault => Next::Fault,
                IoOutcome::Unclaimed => {
                    data.fill(0xff);
                    Next::Run
                }
            }
        }
        Exit::MmioWrite(addr, data) => match io.mmio_write(GuestAddress(addr), data) {
            IoOutcome::Unclaimed if fault => Next::Fault,
            IoOutcome::Handled | IoOutcome::Unclaimed => Next::Run,
        },
        Exit::IoIn(..) | Exit::IoOut(..) => Next::PortIo,
        Exit::SystemEvent(kind, data) => Next::End(system_event(kind, data)),
        Exit::Shutdown => Next::End(crashed(exit_reason::SHUTDOWN, 0, 0)),
        Exit::FailEntry(reason, _) => Next::End(crashed(exit_reason::FAIL_ENTRY, reason, 8)),
        Exit::InternalError => Next::InternalError,
        Exit::Intr => Next::Run,
        Exit::Unsupported(reason) => {
            return Err(Error::UnknownExit { backend: Backend::Kvm, vcpu, reason });
        }
        other => return Err(Error::invalid(OP, format!("an exit that is not understood: {other:?}"))),
    })
}

/// A system event, which PSCI's calls are.
fn system_event(kind: u32, data: &[u64]) -> VcpuExit {
    let details = |cause| ExitDetails {
        cause,
        raw_type: Some(exit_reason::SYSTEM_EVENT),
        reason_size: 8,
        reason: {
            // The event's type, and the low half of its flags.
            let flags = data.first().copied().unwrap_or(0);
            (u64::from(kind) | flags << 32).to_le_bytes()
        },
    };
    match kind {
        system_event::SHUTDOWN => VcpuExit::PowerOff(details(ExitCause::SystemOff)),
        system_event::RESET => VcpuExit::Reset(details(ExitCause::SystemReset)),
        system_event::CRASH => VcpuExit::Crashed(details(ExitCause::Fault)),
        _ => VcpuExit::Crashed(details(ExitCause::Unknown)),
    }
}

fn crashed(raw: u16, reason: u64, reason_size: u32) -> VcpuExit {
    VcpuExit::Crashed(ExitDetails {
        cause: ExitCause::Fault,
        raw_type: Some(raw),
        reason_size,
        reason: reason.to_le_bytes(),
    })
}

impl Vcpu for KvmVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn run(&mut self, io: &dyn IoHandler) -> Result<VcpuExit> {
        self.check_phase()?;
        self.prepare(OP)?;
        signal::unblock(OP)?;
        self.kick.enter();
        let exit = self.run_inside(io);
        self.kick.leave();
        exit
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        Arc::clone(&self.kick) as Arc<dyn Kicker>
    }

    /// None: KVM completes an access before it looks at signals.
    fn answers_possibly_lost(&self) -> u64 {
        0
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        self.vm.has(Feature::Registers).then_some(self as &mut dyn Registers)
    }
}

impl Registers for KvmVcpu {
    fn get(&mut self, id: u64) -> Result<u64> {
        const OP: &str = "Registers::get";
        self.prepare(OP)?;
        arch::get_register(OP, &self.fd, id)
    }

    fn set(&mut self, id: u64, value: u64) -> Result<()> {
        const OP: &str = "Registers::set";
        self.prepare(OP)?;
        arch::set_register(OP, &self.fd, id, value)
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.vm.forget_vcpu(self.id, &self.fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_events_keep_what_arrived() {
        let VcpuExit::Reset(details) = system_event(2, &[1]) else { panic!() };
        assert_eq!((details.cause, details.raw_type), (ExitCause::SystemReset, Some(24)));
        assert_eq!(details.reason(), [2, 0, 0, 0, 1, 0, 0, 0]);
        assert!(matches!(system_event(1, &[]), VcpuExit::PowerOff(_)));
        assert!(matches!(system_event(3, &[]), VcpuExit::Crashed(_)));
        let VcpuExit::Crashed(details) = system_event(77, &[]) else { panic!() };
        assert_eq!(details.cause, ExitCause::Unknown);
    }
}

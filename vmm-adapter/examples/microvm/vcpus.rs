//! A vCPU's thread.

use vmm_adapter::{IoHandler, Vcpu, VcpuExit};

use crate::error::Error;
use crate::outcome::Outcome;
use crate::stop::{EndOnPanic, Stop};

/// Runs a vCPU until the run ends.
pub(crate) fn run(mut vcpu: Box<dyn Vcpu>, devices: &dyn IoHandler, stop: &Stop) {
    let _guard = EndOnPanic(stop, "vCPU");
    while !stop.is_set() {
        let reason = match vcpu.run(devices) {
            Ok(VcpuExit::Interrupted) => continue,
            Ok(VcpuExit::PowerOff(details)) => Ok(Outcome::PowerOff(details)),
            Ok(VcpuExit::Reset(details)) => Ok(Outcome::Reset(details)),
            Ok(VcpuExit::Crashed(details)) => Ok(Outcome::Crash(details)),
            Ok(other) => Err(Error::new(format!("vCPU {} stopped: {other:?}", vcpu.id()))),
            Err(error) => Err(Error::new(format!("vCPU {}: {}", vcpu.id(), error.chain()))),
        };
        stop.end(reason);
    }
}

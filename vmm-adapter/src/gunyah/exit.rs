//! How a VM ended, in this crate's terms.

use gunyah_ioctls::{ExitInfo, ExitType, VmStatus};

use crate::vcpu::{ExitCause, ExitDetails, VcpuExit};

/// The guest's flag that says it wants to start again.
const RESTART: u16 = 1;

pub(super) fn vcpu_exit(status: VmStatus) -> VcpuExit {
    match status {
        VmStatus::Exited(info) => exited(&info),
        VmStatus::Crashed(info) => {
            // A driver that has no exit type leaves zeros, and type 0 would read as a guest that asked for its end.
            let cause = if info.raw == 0 { ExitCause::Unknown } else { cause(&info) };
            VcpuExit::Crashed(details(&info, cause))
        }
        VmStatus::LoadFailed => VcpuExit::Crashed(ExitDetails {
            cause: ExitCause::LoadFailed,
            raw_type: None,
            reason_size: 0,
            reason: [0; 8],
        }),
    }
}

fn exited(info: &ExitInfo) -> VcpuExit {
    let details = details(info, cause(info));
    match info.kind {
        ExitType::SystemReset | ExitType::SystemReset2 => VcpuExit::Reset(details),
        ExitType::VmExit if info.guest_code().is_some_and(|code| code.flags & RESTART != 0) => {
            VcpuExit::Reset(details)
        }
        ExitType::VmExit | ExitType::SystemOff | ExitType::ForceStopped => VcpuExit::PowerOff(details),
        _ => VcpuExit::Crashed(details),
    }
}

fn cause(info: &ExitInfo) -> ExitCause {
    match info.kind {
        ExitType::VmExit => ExitCause::GuestAsked(info.guest_code().map_or(0, |code| code.code)),
        ExitType::SystemOff => ExitCause::SystemOff,
        ExitType::SystemReset | ExitType::SystemReset2 => ExitCause::SystemReset,
        ExitType::WatchdogBite => ExitCause::Watchdog,
        ExitType::HypervisorError => ExitCause::Fault,
        ExitType::HardwareError => ExitCause::Hardware,
        ExitType::ForceStopped => ExitCause::StoppedByHost,
        _ => ExitCause::Unknown,
    }
}

fn details(info: &ExitInfo, cause: ExitCause) -> ExitDetails {
    ExitDetails { cause, raw_type: Some(info.raw), reason_size: info.reason_size, reason: info.reason_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(raw: u16, reason: u32) -> ExitInfo {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&reason.to_le_bytes());
        ExitInfo { kind: ExitType::from(raw), raw, reason_size: 4, reason_bytes: bytes }
    }

    #[test]
    fn every_exit_type_has_its_exit() {
        let name = |raw, reason| match vcpu_exit(VmStatus::Exited(info(raw, reason))) {
            VcpuExit::PowerOff(_) => "off",
            VcpuExit::Reset(_) => "reset",
            VcpuExit::Crashed(_) => "crash",
            other => panic!("{other:?}"),
        };
        let table =
            [(0, "off"), (1, "off"), (2, "reset"), (3, "reset"), (4, "crash"), (5, "crash"), (6, "crash")];
        for (raw, want) in table.into_iter().chain([(7, "off"), (8, "crash"), (0xffff, "crash")]) {
            assert_eq!(name(raw, 0), want, "type {raw}");
        }
        assert_eq!(name(0, 1), "reset", "a guest that asks for a restart");
        assert_eq!(name(0, 1 << 16), "off", "a guest that ends with code 1");
    }

    #[test]
    fn the_raw_words_are_kept() {
        let VcpuExit::Crashed(details) = vcpu_exit(VmStatus::Exited(info(77, 0xdead_beef))) else { panic!() };
        assert_eq!((details.raw_type, details.cause), (Some(77), ExitCause::Unknown));
        assert_eq!(details.reason(), 0xdead_beef_u32.to_le_bytes());
        let VcpuExit::PowerOff(details) = vcpu_exit(VmStatus::Exited(info(0, 4 << 16))) else { panic!() };
        assert_eq!(details.cause, ExitCause::GuestAsked(4));
    }

    #[test]
    fn a_crash_without_a_type_is_of_unknown_cause() {
        let VcpuExit::Crashed(details) = vcpu_exit(VmStatus::Crashed(info(0, 0))) else { panic!() };
        assert_eq!(details.cause, ExitCause::Unknown);
        let VcpuExit::Crashed(details) = vcpu_exit(VmStatus::LoadFailed) else { panic!() };
        assert_eq!((details.cause, details.raw_type), (ExitCause::LoadFailed, None));
    }
}

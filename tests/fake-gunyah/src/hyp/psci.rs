//! PSCI 1.1 and what it needs of SMCCC 1.1, called by HVC #0.
//!
//! | function | what it does here |
//! |---|---|
//! | VERSION, FEATURES, MIGRATE_INFO_TYPE, SMCCC_VERSION | answer |
//! | CPU_ON, CPU_OFF, AFFINITY_INFO | by MPIDR affinity; a vCPU's is its id |
//! | CPU_SUSPEND | standby only: as WFI; power-down states are INVALID_PARAMETERS |
//! | SYSTEM_OFF, SYSTEM_RESET, SYSTEM_RESET2 | end the VM; a VMM learns it by the exit type |
//! | others | NOT_SUPPORTED |

use super::machine::{Machine, Power, RamAccess, exit_type};
use super::machine_engine::affinity_of;
use crate::a64::Cpu;

/// What becomes of the vCPU that called.
pub(super) enum Outcome {
    /// It goes on with this in x0.
    Return(u64),
    /// It goes on with success in x0 when it is woken.
    Suspend,
    /// It is off, or the VM has ended.
    Off,
}

pub(super) const SUCCESS: u64 = 0;
const NOT_SUPPORTED: i32 = -1;
const INVALID_PARAMETERS: i32 = -2;
const ALREADY_ON: i32 = -4;
const ON_PENDING: i32 = -5;
const INVALID_ADDRESS: i32 = -9;

const SMCCC_VERSION: u32 = 0x8000_0000;
const PSCI: u32 = 0x8400_0000;
/// Set in a function number that takes 64-bit arguments.
const CALL_64: u32 = 1 << 30;

const VERSION: u32 = 0x00;
const CPU_SUSPEND: u32 = 0x01;
const CPU_OFF: u32 = 0x02;
const CPU_ON: u32 = 0x03;
const AFFINITY_INFO: u32 = 0x04;
const MIGRATE_INFO_TYPE: u32 = 0x06;
const SYSTEM_OFF: u32 = 0x08;
const SYSTEM_RESET: u32 = 0x09;
const FEATURES: u32 = 0x0a;
const SYSTEM_RESET2: u32 = 0x12;

const VERSION_1_1: u64 = 0x0001_0001;
/// MIGRATE_INFO_TYPE: there is no trusted OS to migrate.
const NO_TRUSTED_OS: u64 = 2;
/// CPU_SUSPEND's power state: a power-down, not a standby.
const POWER_DOWN: u64 = 1 << 16;
/// SYSTEM_RESET2's reset type: the vendor's own.
const VENDOR_RESET: u64 = 1 << 31;

/// The functions, and whether each has a form with 64-bit arguments.
const FUNCTIONS: [(u32, bool); 10] = [
    (VERSION, false),
    (CPU_SUSPEND, true),
    (CPU_OFF, false),
    (CPU_ON, true),
    (AFFINITY_INFO, true),
    (MIGRATE_INFO_TYPE, false),
    (SYSTEM_OFF, false),
    (SYSTEM_RESET, false),
    (FEATURES, false),
    (SYSTEM_RESET2, true),
];

/// The PSCI function that a function identifier names, if it is one of ours.
fn function_of(id: u32) -> Option<u32> {
    let wide = id & CALL_64 != 0;
    let number = (id & !CALL_64).checked_sub(PSCI)?;
    FUNCTIONS
        .iter()
        .find(|(known, has_wide)| *known == number && (*has_wide || !wide))
        .map(|(known, _)| *known)
}

/// Acts on a call of vCPU `id`.
pub(super) fn call(machine: &Machine, id: u32, cpu: &Cpu) -> Outcome {
    let function_id = cpu.x(0) as u32;
    let wide = function_id & CALL_64 != 0;
    let argument = |n| if wide { cpu.x(n) } else { cpu.x(n) & 0xffff_ffff };
    // A 32-bit result leaves the upper half of x0 clear, also where it is negative.
    let result =
        |value: i32| Outcome::Return(if wide { i64::from(value) as u64 } else { u64::from(value as u32) });
    if function_id == SMCCC_VERSION {
        return Outcome::Return(VERSION_1_1);
    }
    match function_of(function_id) {
        Some(VERSION) => Outcome::Return(VERSION_1_1),
        Some(FEATURES) => result(features(argument(1) as u32)),
        Some(MIGRATE_INFO_TYPE) => Outcome::Return(NO_TRUSTED_OS),
        Some(CPU_SUSPEND) if argument(1) & POWER_DOWN == 0 => Outcome::Suspend,
        Some(CPU_SUSPEND) => result(INVALID_PARAMETERS),
        Some(CPU_ON) => result(cpu_on(machine, argument(1), argument(2), argument(3))),
        Some(CPU_OFF) => {
            machine.turn_off(id);
            Outcome::Off
        }
        Some(AFFINITY_INFO) => result(affinity_info(machine, argument(1), argument(2))),
        Some(SYSTEM_OFF) => {
            machine.end(exit_type::SYSTEM_OFF, &[0; 4]);
            Outcome::Off
        }
        Some(SYSTEM_RESET) => {
            machine.end(exit_type::SYSTEM_RESET, &[0; 4]);
            Outcome::Off
        }
        Some(SYSTEM_RESET2) => {
            let reset_type = cpu.x(1) & 0xffff_ffff;
            if reset_type != 0 && reset_type & VENDOR_RESET == 0 {
                return result(INVALID_PARAMETERS);
            }
            let mut reason = [0; 16];
            let words = reset_type.to_le_bytes().into_iter().take(4).chain(argument(2).to_le_bytes());
            for (to, from) in reason.iter_mut().zip(words) {
                *to = from;
            }
            machine.end(exit_type::SYSTEM_RESET2, &reason);
            Outcome::Off
        }
        _ => result(NOT_SUPPORTED),
    }
}

fn features(function_id: u32) -> i32 {
    if function_id == SMCCC_VERSION || function_of(function_id).is_some() { 0 } else { NOT_SUPPORTED }
}

/// The vCPU with an affinity.
fn find(machine: &Machine, affinity: u64) -> Option<(u32, Power)> {
    let id = u32::try_from(affinity).ok().filter(|id| affinity_of(*id) == affinity)?;
    machine.power(id).map(|power| (id, power))
}

fn cpu_on(machine: &Machine, target: u64, entry: u64, context: u64) -> i32 {
    let Some((id, _)) = find(machine, target) else { return INVALID_PARAMETERS };
    let in_ram = machine.ram.load(entry, &mut [0; 4]) != RamAccess::NotRam;
    if entry & 3 != 0 || !in_ram {
        return INVALID_ADDRESS;
    }
    match machine.turn_on(id, entry, context) {
        Some(Power::Off) => 0,
        Some(Power::OnPending { .. }) => ON_PENDING,
        Some(Power::On) => ALREADY_ON,
        None => INVALID_PARAMETERS,
    }
}

/// Only affinity level 0 exists since PSCI 1.0: 0 on, 1 off, 2 on its way.
fn affinity_info(machine: &Machine, target: u64, level: u64) -> i32 {
    match find(machine, target) {
        Some((_, power)) if level == 0 => match power {
            Power::On => 0,
            Power::Off => 1,
            Power::OnPending { .. } => 2,
        },
        _ => INVALID_PARAMETERS,
    }
}

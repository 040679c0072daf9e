//! Why the interpreter stopped.

use std::fmt;

/// Something that the interpreter leaves to its caller.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A load outside RAM. The CPU waits for [`super::Cpu::complete_mmio`], [`super::Cpu::retry_mmio`] or
    /// [`super::Cpu::abort_mmio`].
    MmioRead {
        /// The guest physical address.
        addr: u64,
        /// The length: 1, 2, 4 or 8 bytes.
        len: u8,
    },
    /// A store outside RAM. The CPU waits, as after a read.
    MmioWrite {
        /// The guest physical address.
        addr: u64,
        /// The length: 1, 2, 4 or 8 bytes.
        len: u8,
        /// The value, zero-extended.
        value: u64,
    },
    /// The guest touched RAM that is not mapped yet. Running again tries the same instruction again.
    PageFault {
        /// The guest physical address.
        addr: u64,
        /// Whether it was a write.
        write: bool,
    },
    /// `HVC`, with its immediate. The program counter is past it.
    Hvc(u16),
    /// `SMC`, with its immediate. The program counter is past it.
    Smc(u16),
    /// `WFI`. The program counter is past it.
    Wfi,
    /// `YIELD` or `WFE`: nothing to wait for, but a good moment to let others run. The program counter is past it.
    Yield,
    /// The guest did what this CPU cannot do. The program counter is still there.
    Fault(Fault),
}

/// An instruction that could not be executed.
///
/// It is never skipped and never guessed at: a result that might be wrong is worse than none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address of the instruction.
    pub pc: u64,
    /// The instruction; 0 if it could not even be fetched.
    pub word: u32,
    /// What is wrong with it.
    pub kind: FaultKind,
}

/// The kinds of [`Fault`].
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An unallocated encoding, or one outside the interpreted subset (floating point, SIMD, pointer authentication …).
    UnknownInstruction,
    /// An encoding that the architecture leaves CONSTRAINED UNPREDICTABLE, such as a load pair into one register.
    Unpredictable,
    /// Something that the architecture has and this CPU has not.
    Unsupported(&'static str),
    /// An access outside RAM by an instruction for which the CPU gives the hypervisor no valid syndrome (pair, write-back,
    /// exclusive, atomic …). No hypervisor can report it as MMIO.
    NoSyndrome {
        /// The guest physical address.
        addr: u64,
    },
    /// An exception for the guest, which never set `VBAR_EL1`.
    NoVectors {
        /// The syndrome, as `ESR_EL1` would show it.
        esr: u64,
        /// The faulting address; 0 where the exception has none.
        far: u64,
    },
    /// An interrupt that is not masked, for a guest that never set `VBAR_EL1`.
    InterruptWithoutVectors,
}

impl FaultKind {
    /// A small number for each kind, for exit reasons: 1 unknown instruction, 2 unpredictable, 3 unsupported, 4 no
    /// syndrome, 5 no vectors, 6 an interrupt without vectors.
    pub fn code(&self) -> u32 {
        match self {
            Self::UnknownInstruction => 1,
            Self::Unpredictable => 2,
            Self::Unsupported(_) => 3,
            Self::NoSyndrome { .. } => 4,
            Self::NoVectors { .. } => 5,
            Self::InterruptWithoutVectors => 6,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pc, word, kind } = self;
        match kind {
            FaultKind::UnknownInstruction => write!(f, "unknown instruction {word:#010x} at {pc:#x}"),
            FaultKind::Unpredictable => write!(f, "unpredictable instruction {word:#010x} at {pc:#x}"),
            FaultKind::Unsupported(what) => {
                write!(f, "unsupported: {what} (instruction {word:#010x} at {pc:#x})")
            }
            FaultKind::NoSyndrome { addr } => write!(
                f,
                "access to {addr:#x}, which is not RAM, by an instruction that no hypervisor can report as MMIO \
                 (instruction {word:#010x} at {pc:#x})"
            ),
            FaultKind::NoVectors { esr, far } => write!(
                f,
                "exception with no vectors set: {}, ESR {esr:#x}, FAR {far:#x} (instruction {word:#010x} at {pc:#x})",
                exception_class(*esr)
            ),
            FaultKind::InterruptWithoutVectors => write!(f, "interrupt with no vectors set at {pc:#x}"),
        }
    }
}

/// The exception class in words.
fn exception_class(esr: u64) -> &'static str {
    match (esr >> 26) & 0x3f {
        0x00 => "undefined instruction",
        0x15 => "SVC",
        0x21 => "instruction abort",
        0x22 => "unaligned program counter",
        0x25 if esr & 0x3f == 0x21 => "unaligned data access",
        0x25 => "data abort",
        0x26 => "unaligned stack pointer",
        0x3c => "BRK",
        _ => "exception",
    }
}

/// How an instruction ends when it does not simply end.
#[derive(Debug)]
pub(super) enum Trap {
    /// Stop before the instruction takes effect; the program counter stays.
    At(Stop),
    /// Stop after it.
    After(Stop),
    /// The instruction is done, and may have let an interrupt in: look for one before the next.
    Look,
    /// A fault of this kind.
    Fault(FaultKind),
    /// An exception to EL1 at this instruction; `next` says that the return address is the next one.
    Exception { esr: u64, far: Option<u64>, next: bool },
}

/// The result of executing one instruction.
pub(super) type Exec = Result<(), Trap>;

/// Shorthand for the most frequent fault.
pub(super) const UNKNOWN: Trap = Trap::Fault(FaultKind::UnknownInstruction);
/// Shorthand.
pub(super) const UNPREDICTABLE: Trap = Trap::Fault(FaultKind::Unpredictable);

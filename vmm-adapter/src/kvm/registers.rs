//! The numbers of registers that [`Registers`](crate::Registers) of this backend takes.
//!
//! On arm64 they are KVM's own (`KVM_REG_ARM64 | ...`), of 32 and 64 bits. On x86_64, where KVM has none, they are those here.

/// arm64: the program counter.
pub const ARM64_PC: u64 = 0x6030_0000_0010_0040;
/// arm64: the processor state.
pub const ARM64_PSTATE: u64 = 0x6030_0000_0010_0042;

/// arm64: X0 to X30.
pub const fn arm64_x(n: u8) -> u64 {
    0x6030_0000_0010_0000 + 2 * n as u64
}

/// x86_64: RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8 to R15, in this order from this number on.
pub const X86_GENERAL: u64 = 0;
/// x86_64: RAX.
pub const X86_RAX: u64 = 0;
/// x86_64: RBX.
pub const X86_RBX: u64 = 1;
/// x86_64: RSP.
pub const X86_RSP: u64 = 6;
/// x86_64: the instruction pointer.
pub const X86_RIP: u64 = 16;
/// x86_64: the flags.
pub const X86_RFLAGS: u64 = 17;
/// x86_64: CR0.
pub const X86_CR0: u64 = 32;
/// x86_64: CR2.
pub const X86_CR2: u64 = 34;
/// x86_64: CR3.
pub const X86_CR3: u64 = 35;
/// x86_64: CR4.
pub const X86_CR4: u64 = 36;
/// x86_64: EFER.
pub const X86_EFER: u64 = 48;
/// x86_64: the first of 2^32 model-specific registers, by their numbers.
pub const X86_MSR: u64 = 1 << 32;

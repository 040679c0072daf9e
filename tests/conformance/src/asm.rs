//! An assembler for guests of a dozen instructions, so that the same program runs on every backend.
//!
//! Registers are numbers: 0 is X0, 31 is XZR on arm64. On x86_64 there are 0 to 9, and what the methods say of arm64's instructions
//! is done by those of [`x86`].

use vmm_adapter::GuestArch;

use crate::x86;

/// The width of an access in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 1.
    Byte,
    /// 2.
    Half,
    /// 4.
    Word,
    /// 8.
    Double,
}

impl Width {
    /// All of them, the smallest first.
    pub const ALL: [Self; 4] = [Self::Byte, Self::Half, Self::Word, Self::Double];

    /// In bytes.
    pub fn bytes(self) -> usize {
        1 << self as usize
    }
}

/// PSCI's function numbers, for [`Program::psci`].
pub mod psci {
    /// Turns the calling CPU off.
    pub const CPU_OFF: u64 = 0x8400_0002;
    /// Turns on the CPU X1 at the address X2 with X3 in its X0.
    pub const CPU_ON: u64 = 0xc400_0003;
    /// Turns the machine off.
    pub const SYSTEM_OFF: u64 = 0x8400_0008;
    /// Resets the machine.
    pub const SYSTEM_RESET: u64 = 0x8400_0009;
}

/// Where a branch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// A system register, by op0, op1, CRn, CRm and op2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemRegister(u32);

impl SystemRegister {
    /// The affinity of this CPU.
    pub const MPIDR_EL1: Self = Self::new(3, 0, 0, 0, 5);
    /// Where an exception returns to.
    pub const ELR_EL1: Self = Self::new(3, 0, 4, 0, 1);
    /// What an exception was.
    pub const ESR_EL1: Self = Self::new(3, 0, 5, 2, 0);
    /// The vectors.
    pub const VBAR_EL1: Self = Self::new(3, 0, 12, 0, 0);
    /// For the guest's own use.
    pub const TPIDR_EL1: Self = Self::new(3, 0, 13, 0, 4);
    /// Counts per second.
    pub const CNTFRQ_EL0: Self = Self::new(3, 3, 14, 0, 0);
    /// The virtual counter.
    pub const CNTVCT_EL0: Self = Self::new(3, 3, 14, 0, 2);
    /// The virtual timer's distance, control and target.
    pub const CNTV_TVAL_EL0: Self = Self::new(3, 3, 14, 3, 0);
    /// See above.
    pub const CNTV_CTL_EL0: Self = Self::new(3, 3, 14, 3, 1);
    /// See above.
    pub const CNTV_CVAL_EL0: Self = Self::new(3, 3, 14, 3, 2);

    /// A register by its encoding.
    pub const fn new(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Self {
        Self(op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)
    }
}

/// A program that is being written, from its first instruction on.
#[derive(Clone, Debug, Default)]
pub struct Program {
    words: Vec<u32>,
    /// Instead of the words.
    x86: Option<x86::Code>,
    /// Where each label is, in words, once it is known.
    labels: Vec<Option<usize>>,
    /// Instructions that name a label whose place is not known yet.
    open: Vec<(usize, Label)>,
}

impl Program {
    /// An empty program for arm64.
    pub fn new() -> Self {
        Self::default()
    }

    /// A program for guests of this kind, which lies at the guest physical address `base`.
    pub fn on(arch: GuestArch, base: u64) -> Self {
        let x86 = (arch == GuestArch::X86_64).then(|| x86::Code::new(base));
        Self { x86, ..Self::default() }
    }

    /// The next instruction's place, to branch back to.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.place(label);
        label
    }

    /// A place further on, to branch to before it is [placed](Program::place).
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label is the next instruction's place.
    pub fn place(&mut self, label: Label) -> &mut Self {
        let here = self.position();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(here);
        }
        let (known, open) = self.open.drain(..).partition(|(_, wanted)| *wanted == label);
        self.open = open;
        let known: Vec<_> = known;
        for (at, _) in known {
            self.aim(at, here);
        }
        self
    }

    /// The next instruction's place as labels keep it: in words, or in bytes on x86_64.
    fn position(&self) -> usize {
        self.x86.as_ref().map_or(self.words.len(), |code| code.offset() as usize)
    }

    /// Where a label is that was placed. x86_64 programs only branch back.
    fn back(&self, label: Label) -> usize {
        match self.labels.get(label.0) {
            Some(Some(place)) => *place,
            _ => panic!("a branch forward in an x86_64 program"),
        }
    }

    /// An instruction that names a place.
    fn to(&mut self, word: u32, label: Label) -> &mut Self {
        let at = self.words.len();
        self.word(word);
        match self.labels.get(label.0).copied().flatten() {
            Some(to) => self.aim(at, to),
            None => self.open.push((at, label)),
        }
        self
    }

    /// Puts the distance into the instruction at `at`.
    fn aim(&mut self, at: usize, to: usize) {
        let distance = (to as u32).wrapping_sub(at as u32);
        if let Some(word) = self.words.get_mut(at) {
            *word |= match *word >> 24 {
                0x14 => distance & 0x03ff_ffff,
                // ADR counts bytes; the lowest two bits, which stand elsewhere, are zero.
                _ => (distance & 0x7_ffff) << 5,
            };
        }
    }

    /// The next instruction's offset from the program's start in bytes.
    pub fn offset(&self) -> u64 {
        self.x86.as_ref().map_or(self.words.len() as u64 * 4, x86::Code::offset)
    }

    /// Any instruction.
    pub fn word(&mut self, word: u32) -> &mut Self {
        assert!(self.x86.is_none(), "an arm64 instruction in an x86_64 program");
        self.words.push(word);
        self
    }

    /// An instruction that does not exist.
    pub fn undefined(&mut self) -> &mut Self {
        match &mut self.x86 {
            Some(code) => code.triple_fault(),
            None => self.words.push(0),
        }
        self
    }

    /// Fills up with instructions that do not exist, until the offset is a multiple of `bytes`.
    pub fn align(&mut self, bytes: u64) -> &mut Self {
        if let Some(code) = &mut self.x86 {
            code.align(bytes);
            return self;
        }
        while self.offset() % bytes != 0 {
            self.word(0);
        }
        self
    }

    /// MOVZ and as many MOVK as it takes.
    pub fn mov(&mut self, rd: u32, value: u64) -> &mut Self {
        if let Some(code) = &mut self.x86 {
            code.mov(rd, value);
            return self;
        }
        self.word(0xd280_0000 | (value as u32 & 0xffff) << 5 | rd);
        for shift in 1..4 {
            let part = (value >> (16 * shift)) as u32 & 0xffff;
            if part != 0 {
                self.word(0xf280_0000 | (shift as u32) << 21 | part << 5 | rd);
            }
        }
        self
    }

    /// LDRB, LDRH, LDR W or LDR X from the address in `rn`.
    pub fn load(&mut self, width: Width, rt: u32, rn: u32) -> &mut Self {
        if let Some(code) = &mut self.x86 {
            code.load(width, rt, rn);
            return self;
        }
        self.word(0x3940_0000 | (width as u32) << 30 | rn << 5 | rt)
    }

    /// STRB, STRH, STR W or STR X to the address in `rn`.
    pub fn store(&mut self, width: Width, rt: u32, rn: u32) -> &mut Self {
        if let Some(code) = &mut self.x86 {
            code.store(width, rt, rn);
            return self;
        }
        self.word(0x3900_0000 | (width as u32) << 30 | rn << 5 | rt)
    }

    /// Stores a number at an address. Changes X8 and X9.
    pub fn store_at(&mut self, width: Width, addr: u64, value: u64) -> &mut Self {
        self.mov(8, addr).mov(9, value).store(width, 9, 8)
    }

    /// ADD with a number below 4096.
    pub fn add(&mut self, rd: u32, rn: u32, value: u32) -> &mut Self {
        if let Some(code) = &mut self.x86 {
            code.add(rd, rn, value);
            return self;
        }
        self.word(0x9100_0000 | (value & 0xfff) << 10 | rn << 5 | rd)
    }

    /// SUB with a number below 4096.
    pub fn sub(&mut self, rd: u32, rn: u32, value: u32) -> &mut Self {
        if let Some(code) = &mut self.x86 {
            code.sub(rd, rn, value);
            return self;
        }
        self.word(0xd100_0000 | (value & 0xfff) << 10 | rn << 5 | rd)
    }

    /// SUB of two registers.
    pub fn sub_register(&mut self, rd: u32, rn: u32, rm: u32) -> &mut Self {
        if let Some(code) = &mut self.x86 {
            code.sub_register(rd, rn, rm);
            return self;
        }
        self.word(0xcb00_0000 | rm << 16 | rn << 5 | rd)
    }

    /// The number of the CPU: the lowest affinity field of MPIDR_EL1.
    pub fn cpu_number(&mut self, rd: u32) -> &mut Self {
        if let Some(code) = &mut self.x86 {
            code.cpu_number(rd);
            return self;
        }
        self.word(0xd538_00a0 | rd).word(0x9240_1c00 | rd << 5 | rd)
    }

    /// ADR: the address of a place.
    pub fn address(&mut self, rd: u32, label: Label) -> &mut Self {
        self.to(0x1000_0000 | rd, label)
    }

    /// ADD of two registers.
    pub fn add_register(&mut self, rd: u32, rn: u32, rm: u32) -> &mut Self {
        self.word(0x8b00_0000 | rm << 16 | rn << 5 | rd)
    }

    /// ORR of two registers.
    pub fn or(&mut self, rd: u32, rn: u32, rm: u32) -> &mut Self {
        self.word(0xaa00_0000 | rm << 16 | rn << 5 | rd)
    }

    /// AND of two registers.
    pub fn and(&mut self, rd: u32, rn: u32, rm: u32) -> &mut Self {
        self.word(0x8a00_0000 | rm << 16 | rn << 5 | rd)
    }

    /// BIC: the first register without the bits of the second.
    pub fn clear(&mut self, rd: u32, rn: u32, rm: u32) -> &mut Self {
        self.word(0x8a20_0000 | rm << 16 | rn << 5 | rd)
    }

    /// LSL by a number from 1 to 63.
    pub fn shift_left(&mut self, rd: u32, rn: u32, by: u32) -> &mut Self {
        self.word(0xd340_0000 | ((64 - by) & 63) << 16 | (63 - by) << 10 | rn << 5 | rd)
    }

    /// LSR by a number from 1 to 63.
    pub fn shift_right(&mut self, rd: u32, rn: u32, by: u32) -> &mut Self {
        self.word(0xd340_fc00 | by << 16 | rn << 5 | rd)
    }

    /// MRS.
    pub fn read_register(&mut self, rt: u32, register: SystemRegister) -> &mut Self {
        self.word(0xd520_0000 | register.0 << 5 | rt)
    }

    /// MSR.
    pub fn write_register(&mut self, register: SystemRegister, rt: u32) -> &mut Self {
        self.word(0xd500_0000 | register.0 << 5 | rt)
    }

    /// ISB.
    pub fn isb(&mut self) -> &mut Self {
        self.word(0xd503_3fdf)
    }

    /// DSB SY.
    pub fn dsb(&mut self) -> &mut Self {
        self.word(0xd503_3f9f)
    }

    /// ERET.
    pub fn exception_return(&mut self) -> &mut Self {
        self.word(0xd69f_03e0)
    }

    /// Lets IRQs in: MSR DAIFClr, #2.
    pub fn unmask_irq(&mut self) -> &mut Self {
        self.word(0xd503_42ff)
    }

    /// Keeps IRQs out: MSR DAIFSet, #2.
    pub fn mask_irq(&mut self) -> &mut Self {
        self.word(0xd503_42df)
    }

    /// Sets VBAR_EL1.
    pub fn set_vectors(&mut self, rt: u32) -> &mut Self {
        if self.x86.is_some() {
            // No test has a fault there that it survives.
            return self;
        }
        self.write_register(SystemRegister::VBAR_EL1, rt).isb()
    }

    /// WFI.
    pub fn wfi(&mut self) -> &mut Self {
        if let Some(code) = &mut self.x86 {
            code.halt();
            return self;
        }
        self.word(0xd503_207f)
    }

    /// Branches to `to`.
    pub fn branch(&mut self, to: Label) -> &mut Self {
        let back = self.x86.as_ref().map(|_| self.back(to));
        if let (Some(to), Some(code)) = (back, self.x86()) {
            code.branch(to);
            return self;
        }
        self.to(0x1400_0000, to)
    }

    /// Branches to `to` if the register is not zero.
    pub fn branch_if(&mut self, rt: u32, to: Label) -> &mut Self {
        let back = self.x86.as_ref().map(|_| self.back(to));
        if let (Some(to), Some(code)) = (back, self.x86()) {
            code.branch_if(rt, false, to);
            return self;
        }
        self.to(0xb500_0000 | rt, to)
    }

    /// Branches to `to` if the register is zero.
    pub fn branch_unless(&mut self, rt: u32, to: Label) -> &mut Self {
        let back = self.x86.as_ref().map(|_| self.back(to));
        if let (Some(to), Some(code)) = (back, self.x86()) {
            code.branch_if(rt, true, to);
            return self;
        }
        self.to(0xb400_0000 | rt, to)
    }

    /// Calls PSCI by HVC. X1 to X3 are the arguments; X0 is the answer.
    pub fn psci(&mut self, function: u64) -> &mut Self {
        self.mov(0, function).word(0xd400_0002)
    }

    /// Turns the CPU with the number in `X1` on, at the address in `X2`. Changes X0 and X3.
    pub fn cpu_on(&mut self) -> &mut Self {
        match &mut self.x86 {
            Some(code) => {
                code.cpu_on(1, 2);
                code.mov(0, 0);
                self
            }
            None => self.mov(3, 0).psci(psci::CPU_ON),
        }
    }

    /// Turns this CPU off.
    pub fn cpu_off(&mut self) -> &mut Self {
        if self.x86.is_none() {
            return self.psci(psci::CPU_OFF);
        }
        let again = self.here();
        self.wfi().branch(again)
    }

    /// The x86_64 program, for what only that has.
    pub fn x86(&mut self) -> Option<&mut x86::Code> {
        self.x86.as_mut()
    }

    /// Turns the machine off; and spins in case that takes a while. On x86_64, where only devices could do that, it crashes.
    pub fn power_off(&mut self) -> &mut Self {
        if let Some(code) = &mut self.x86 {
            code.triple_fault();
            return self;
        }
        self.psci(psci::SYSTEM_OFF);
        let hang = self.here();
        self.branch(hang)
    }

    /// The program's bytes. Every label must have been placed.
    pub fn bytes(&self) -> Vec<u8> {
        assert!(self.open.is_empty(), "a branch goes to a label that has no place");
        if let Some(code) = &self.x86 {
            return code.bytes();
        }
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an assembler makes of the same instructions.
    #[test]
    fn the_words_are_those_of_an_assembler() {
        let mut program = Program::new();
        let start = program.here();
        program.mov(1, 0x1000_3000).load(Width::Byte, 2, 1).store(Width::Double, 2, 1);
        program.load(Width::Half, 3, 1).load(Width::Word, 3, 1).add(4, 4, 1).sub(4, 4, 1);
        program.branch_if(2, start).branch_unless(2, start).branch(start).cpu_number(5).wfi();
        let want: [u32; 14] = [
            0xd286_0001, // mov x1, #0x3000
            0xf2a2_0001, // movk x1, #0x1000, lsl #16
            0x3940_0022, // ldrb w2, [x1]
            0xf900_0022, // str x2, [x1]
            0x7940_0023, // ldrh w3, [x1]
            0xb940_0023, // ldr w3, [x1]
            0x9100_0484, // add x4, x4, #1
            0xd100_0484, // sub x4, x4, #1
            0xb5ff_ff02, // cbnz x2, .-32
            0xb4ff_fee2, // cbz x2, .-36
            0x17ff_fff6, // b .-40
            0xd538_00a5, // mrs x5, mpidr_el1
            0x9240_1ca5, // and x5, x5, #0xff
            0xd503_207f, // wfi
        ];
        assert_eq!(program.words, want);
    }

    #[test]
    fn so_are_those_with_labels_and_system_registers() {
        let mut program = Program::new();
        let (start, later) = (program.here(), program.label());
        program.address(3, later).add_register(1, 2, 3).sub_register(1, 2, 3);
        program.or(1, 2, 3).and(1, 2, 3).clear(1, 2, 3).shift_left(1, 2, 5).shift_right(1, 2, 32);
        program.read_register(4, SystemRegister::TPIDR_EL1);
        program.write_register(SystemRegister::CNTV_CVAL_EL0, 31);
        program.read_register(5, SystemRegister::new(3, 0, 12, 12, 0));
        program.isb().dsb().unmask_irq().mask_irq().set_vectors(0);
        program.branch_unless(6, later).branch(later).exception_return();
        program.place(later).branch_if(6, start).address(3, start);
        let want: [u32; 22] = [
            0x1000_0283, // adr x3, .+80
            0x8b03_0041, // add x1, x2, x3
            0xcb03_0041, // sub x1, x2, x3
            0xaa03_0041, // orr x1, x2, x3
            0x8a03_0041, // and x1, x2, x3
            0x8a23_0041, // bic x1, x2, x3
            0xd37b_e841, // lsl x1, x2, #5
            0xd360_fc41, // lsr x1, x2, #32
            0xd538_d084, // mrs x4, tpidr_el1
            0xd51b_e35f, // msr cntv_cval_el0, xzr
            0xd538_cc05, // mrs x5, icc_iar1_el1
            0xd503_3fdf, // isb
            0xd503_3f9f, // dsb sy
            0xd503_42ff, // msr daifclr, #2
            0xd503_42df, // msr daifset, #2
            0xd518_c000, // msr vbar_el1, x0
            0xd503_3fdf, // isb
            0xb400_0066, // cbz x6, .+12
            0x1400_0002, // b .+8
            0xd69f_03e0, // eret
            0xb5ff_fd86, // cbnz x6, .-80
            0x10ff_fd63, // adr x3, .-84
        ];
        assert_eq!(program.words, want);
        assert_eq!(program.bytes().len(), 88);
    }

    #[test]
    #[should_panic(expected = "no place")]
    fn a_label_without_a_place_is_a_mistake() {
        let mut program = Program::new();
        let nowhere = program.label();
        program.branch(nowhere).bytes();
    }
}

//! The interpreter beyond arithmetic: MMIO, exceptions, system registers, and what it refuses.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use fake_gunyah::a64::{Bus, Cpu, FaultKind, IccRegister, Interrupts, RamAccess, Stop, Timer};

const RAM: u64 = 0x8000_0000;
const DEVICE: u64 = 0x1000_0000;
/// RAM that answers differently.
const READ_ONLY: u64 = 0x9000_0000;
const NOT_YET: u64 = 0xa000_0000;

/// 64 KiB of RAM, and addresses that refuse.
struct Board {
    ram: Vec<u8>,
    ticks: u64,
    forgotten: u32,
    /// What the interrupt controller signals, if there is one.
    gic: Option<Interrupts>,
    /// What was written to its registers, and how the timers were set.
    written: Vec<(IccRegister, u64)>,
    timers: Vec<(Timer, Option<u64>)>,
}

impl Board {
    fn at(&mut self, addr: u64, len: usize) -> Result<&mut [u8], RamAccess> {
        match addr & 0xf000_0000 {
            READ_ONLY => return Err(RamAccess::Denied),
            NOT_YET => return Err(RamAccess::NotMapped),
            _ => {}
        }
        let at = addr.checked_sub(RAM).and_then(|at| usize::try_from(at).ok()).ok_or(RamAccess::NotRam)?;
        self.ram.get_mut(at..at.saturating_add(len)).ok_or(RamAccess::NotRam)
    }
}

impl Bus for Board {
    fn fetch(&mut self, addr: u64) -> Result<u32, RamAccess> {
        Ok(u32::from_le_bytes(self.at(addr, 4)?.try_into().unwrap()))
    }

    fn load(&mut self, addr: u64, buf: &mut [u8]) -> RamAccess {
        match self.at(addr, buf.len()) {
            Ok(bytes) => buf.copy_from_slice(bytes),
            Err(refused) => return refused,
        }
        RamAccess::Done
    }

    fn store(&mut self, addr: u64, data: &[u8]) -> RamAccess {
        match self.at(addr, data.len()) {
            Ok(bytes) => bytes.copy_from_slice(data),
            Err(refused) => return refused,
        }
        RamAccess::Done
    }

    fn compare_exchange(&mut self, addr: u64, len: u8, current: u128, new: u128) -> Result<u128, RamAccess> {
        let bytes = self.at(addr, usize::from(len))?;
        let mut old = [0; 16];
        old[..bytes.len()].copy_from_slice(bytes);
        let old = u128::from_le_bytes(old);
        if old == current {
            bytes.copy_from_slice(&new.to_le_bytes()[..usize::from(len)]);
        }
        Ok(old)
    }

    fn counter(&mut self) -> u64 {
        self.ticks += 100;
        self.ticks
    }

    fn forget_instructions(&mut self) {
        self.forgotten += 1;
    }

    fn interrupts(&mut self) -> Interrupts {
        self.gic.unwrap_or_default()
    }

    fn icc_read(&mut self, register: IccRegister) -> Option<u64> {
        self.gic.map(|_| register as u64 + 100)
    }

    fn icc_write(&mut self, register: IccRegister, value: u64) -> Option<()> {
        self.gic.map(|_| self.written.push((register, value)))
    }

    fn set_timer(&mut self, timer: Timer, from: Option<u64>) -> bool {
        self.timers.push((timer, from));
        self.gic.is_some() || from.is_none()
    }
}

fn board(words: &[u32]) -> (Cpu, Board) {
    let mut ram = vec![0; 0x10000];
    for (at, word) in ram.chunks_exact_mut(4).zip(words) {
        at.copy_from_slice(&word.to_le_bytes());
    }
    let mut cpu = Cpu::new(0x0102);
    cpu.set_pc(RAM);
    (cpu, Board { ram, ticks: 0, forgotten: 0, gic: None, written: Vec::new(), timers: Vec::new() })
}

/// Runs one instruction with this in x0.
fn one(word: u32, x0: u64) -> (Cpu, Option<Stop>) {
    let (mut cpu, mut board) = board(&[word]);
    cpu.set_x(0, x0);
    cpu.set_x(1, 0x1122_3344_5566_7788);
    let stop = cpu.run(&mut board, 1);
    (cpu, stop)
}

fn fault_of(word: u32, x0: u64) -> FaultKind {
    match one(word, x0) {
        (cpu, Some(Stop::Fault(fault))) => {
            assert_eq!((fault.pc, fault.word, cpu.pc()), (RAM, word, RAM));
            fault.kind
        }
        (_, other) => panic!("{word:08x}: {other:x?}"),
    }
}

/// Reads a system register into x1.
fn read_register(mrs: u32) -> u64 {
    let (cpu, stop) = one(mrs, 0);
    assert_eq!(stop, None, "{mrs:08x}");
    cpu.x(1)
}

#[test]
fn loads_outside_ram_are_mmio_and_extend_as_their_instruction_says() {
    let value = 0xf1f2_f3f4_f5f6_f7f8;
    for (word, len, result) in [
        (0xf940_0001, 8, value),                 // ldr x1, [x0]
        (0xb940_0001, 4, 0xf5f6_f7f8),           // ldr w1, [x0]
        (0xb980_0001, 4, 0xffff_ffff_f5f6_f7f8), // ldrsw x1, [x0]
        (0x7940_0001, 2, 0xf7f8),                // ldrh w1, [x0]
        (0x79c0_0001, 2, 0xffff_f7f8),           // ldrsh w1, [x0]
        (0x7980_0001, 2, 0xffff_ffff_ffff_f7f8), // ldrsh x1, [x0]
        (0x3940_0001, 1, 0xf8),                  // ldrb w1, [x0]
        (0x39c0_0001, 1, 0xffff_fff8),           // ldrsb w1, [x0]
        (0x3980_0001, 1, 0xffff_ffff_ffff_fff8), // ldrsb x1, [x0]
        (0x88df_fc01, 4, 0xf5f6_f7f8),           // ldar w1, [x0]
        (0xb8bf_c001, 4, 0xf5f6_f7f8),           // ldapr w1, [x0]
        (0xb840_0801, 4, 0xf5f6_f7f8),           // ldtr w1, [x0]
    ] {
        let (mut cpu, stop) = one(word, DEVICE);
        assert_eq!(stop, Some(Stop::MmioRead { addr: DEVICE, len }), "{word:08x}");
        assert!(cpu.mmio_pending());
        assert_eq!(cpu.pc(), RAM);
        cpu.complete_mmio(value);
        assert_eq!((cpu.x(1), cpu.pc()), (result, RAM + 4), "{word:08x}");
        cpu.complete_mmio(7);
        assert_eq!((cpu.x(1), cpu.pc()), (result, RAM + 4), "an answer that nobody asked for");
    }
    // ldr xzr, [x0]: the access happens, the value goes nowhere.
    let (mut cpu, stop) = one(0xf940_001f, DEVICE);
    assert_eq!(stop, Some(Stop::MmioRead { addr: DEVICE, len: 8 }));
    cpu.complete_mmio(value);
    assert_eq!((cpu.x(31), cpu.sp(), cpu.pc()), (0, 0, RAM + 4));
}

#[test]
fn stores_outside_ram_are_mmio_with_the_low_bytes() {
    for (word, len, value) in [
        (0xf900_0001, 8, 0x1122_3344_5566_7788), // str x1, [x0]
        (0xb900_0001, 4, 0x5566_7788),           // str w1, [x0]
        (0x7900_0001, 2, 0x7788),                // strh w1, [x0]
        (0x3900_0001, 1, 0x88),                  // strb w1, [x0]
        (0x889f_fc01, 4, 0x5566_7788),           // stlr w1, [x0]
        (0xb800_0801, 4, 0x5566_7788),           // sttr w1, [x0]
    ] {
        let (mut cpu, stop) = one(word, DEVICE);
        assert_eq!(stop, Some(Stop::MmioWrite { addr: DEVICE, len, value }), "{word:08x}");
        assert_eq!(cpu.pc(), RAM);
        cpu.complete_mmio(0xdead);
        assert_eq!((cpu.x(1), cpu.pc()), (0x1122_3344_5566_7788, RAM + 4));
    }
}

#[test]
fn mmio_without_a_syndrome_is_a_fault() {
    for word in [
        0xb840_4401, // ldr w1, [x0], #4
        0xb840_4c01, // ldr w1, [x0, #4]!
        0xb800_4401, // str w1, [x0], #4
        0x2940_0801, // ldp w1, w2, [x0]
        0x2900_0801, // stp w1, w2, [x0]
        0x885f_7c01, // ldxr w1, [x0]
        0xc87f_0801, // ldxp x1, x2, [x0]
        0x88a1_7c02, // cas w1, w2, [x0]
        0x4822_7c04, // casp x2, x3, x4, x5, [x0]
        0xb821_0002, // ldadd w1, w2, [x0]
        0xb821_8002, // swp w1, w2, [x0]
    ] {
        let addr = if word == 0xb840_4c01 { DEVICE + 4 } else { DEVICE };
        assert_eq!(fault_of(word, DEVICE), FaultKind::NoSyndrome { addr }, "{word:08x}");
    }
    // stxr w3, w1, [x0] without a mark fails, and does not even look at memory.
    let (cpu, stop) = one(0x8803_7c01, DEVICE);
    assert_eq!((stop, cpu.x(3)), (None, 1));
    // A pair that begins in RAM and ends outside.
    assert_eq!(fault_of(0x2940_0801, RAM + 0xfffc), FaultKind::NoSyndrome { addr: RAM + 0x10000 });
    // prfm [x0]: a prefetch from a device is nothing at all.
    assert_eq!(one(0xf980_0000, DEVICE).1, None);
}

#[test]
fn an_unanswered_access_is_tried_again() {
    let (mut cpu, mut board) = board(&[0xb940_0001]); // ldr w1, [x0]
    cpu.set_x(0, DEVICE);
    let read = Some(Stop::MmioRead { addr: DEVICE, len: 4 });
    assert_eq!(cpu.run(&mut board, 10), read);
    cpu.retry_mmio();
    assert!(!cpu.mmio_pending());
    assert_eq!(cpu.run(&mut board, 10), read);
    assert_eq!(cpu.run(&mut board, 10), read);
}

/// A board whose vectors are at RAM + 0x1000, and which begins with these words.
fn with_vectors(words: &[u32]) -> (Cpu, Board) {
    let mut program = vec![0xd518_c000]; // msr vbar_el1, x0
    program.extend(words);
    let (mut cpu, mut board) = board(&program);
    cpu.set_x(0, RAM + 0x1000);
    assert_eq!(cpu.run(&mut board, 1), None);
    cpu.set_nzcv(0b1010);
    (cpu, board)
}

/// ESR, FAR, ELR, SPSR, read by instructions placed at the vector.
fn report(cpu: &mut Cpu, board: &mut Board) -> [u64; 4] {
    let at = cpu.pc();
    [0xd538_5201_u32, 0xd538_6001, 0xd538_4021, 0xd538_4001].map(|mrs| {
        let offset = (at - RAM) as usize;
        board.ram[offset..offset + 4].copy_from_slice(&mrs.to_le_bytes());
        cpu.set_pc(at);
        assert_eq!(cpu.run(board, 1), None);
        cpu.x(1)
    })
}

/// EL1h with all interrupts masked, and the flags that `with_vectors` sets.
const SPSR: u64 = 0xa000_03c5;

#[test]
fn exceptions_go_to_the_vectors_with_their_syndrome() {
    let here = RAM + 4;
    for (word, x0, esr, far, elr) in [
        (0xd400_2461, 0, 0x5600_0123, 0, here + 4),             // svc #0x123
        (0xd420_0840, 0, 0xf200_0042, 0, here),                 // brk #0x42
        (0x0000_0007, 0, 0x0200_0000, 0, here),                 // udf #7
        (0xb940_0001, RAM + 2, 0x9600_0021, RAM + 2, here),     // ldr w1, [x0], unaligned
        (0xb900_0001, RAM + 1, 0x9600_0061, RAM + 1, here),     // str w1, [x0], unaligned
        (0xb940_0001, READ_ONLY, 0x9600_0010, READ_ONLY, here), // ldr w1, [x0], denied
        (0xb900_0001, READ_ONLY + 4, 0x9600_0050, READ_ONLY + 4, here), // str w1, [x0], denied
        (0xb821_0002, READ_ONLY + 4, 0x9600_0050, READ_ONLY + 4, here), // ldadd w1, w2, [x0], denied
        (0xd61f_0000, DEVICE, 0x8600_0010, DEVICE, DEVICE),     // br x0, to no memory
        (0xd61f_0000, RAM + 0x1002, 0x8a00_0000, RAM + 0x1002, RAM + 0x1002), // br x0, unaligned
    ] {
        let (mut cpu, mut board) = with_vectors(&[word]);
        cpu.set_x(0, x0);
        let steps = if word == 0xd61f_0000 { 2 } else { 1 };
        assert_eq!(cpu.run(&mut board, steps), None, "{word:08x}");
        assert_eq!(cpu.pc(), RAM + 0x1200, "{word:08x}");
        assert_eq!(report(&mut cpu, &mut board), [esr, far, elr, SPSR], "{word:08x}");
    }
}

#[test]
fn an_aborted_access_is_an_exception() {
    for (word, esr) in [(0xb940_0001_u32, 0x9600_0010), (0xb900_0001, 0x9600_0050)] {
        let (mut cpu, mut board) = with_vectors(&[word]);
        cpu.set_x(0, DEVICE + 8);
        assert!(cpu.run(&mut board, 1).is_some());
        assert_eq!(cpu.abort_mmio(DEVICE + 8), None);
        assert!(!cpu.mmio_pending());
        assert_eq!(report(&mut cpu, &mut board), [esr, DEVICE + 8, RAM + 4, SPSR]);
    }
    // Without vectors it ends the guest.
    let (mut cpu, _) = one(0xb940_0001, DEVICE);
    let Some(Stop::Fault(fault)) = cpu.abort_mmio(DEVICE) else { panic!() };
    assert_eq!(fault.kind, FaultKind::NoVectors { esr: 0x9600_0010, far: DEVICE });
    // Nothing waits: nothing happens.
    assert_eq!(cpu.abort_mmio(DEVICE), None);
}

#[test]
fn a_return_restores_what_the_exception_saved() {
    let (mut cpu, mut board) = with_vectors(&[
        0xd503_43ff, // msr daifclr, #3
        0xd500_40bf, // msr spsel, #0
        0xd400_2461, // svc #0x123
        0xd53b_4221, // mrs x1, daif
        0xd538_4202, // mrs x2, spsel
    ]);
    board.ram[0x1000..0x1004].copy_from_slice(&0xd69f_03e0_u32.to_le_bytes()); // eret
    assert_eq!(cpu.run(&mut board, 3), None);
    assert_eq!(cpu.pc(), RAM + 0x1000, "from SP_EL0 it is the first vector");
    cpu.set_nzcv(0b0101);
    assert_eq!(cpu.run(&mut board, 3), None);
    assert_eq!((cpu.pc(), cpu.nzcv(), cpu.x(1), cpu.x(2)), (RAM + 24, 0b1010, 0x300, 0));
}

#[test]
fn exceptions_without_vectors_are_faults() {
    assert_eq!(fault_of(0xd400_2461, 0), FaultKind::NoVectors { esr: 0x5600_0123, far: 0 });
    assert_eq!(fault_of(0xb940_0001, RAM + 2), FaultKind::NoVectors { esr: 0x9600_0021, far: RAM + 2 });
    let (mut cpu, mut board) = board(&[]);
    cpu.set_pc(DEVICE);
    let Some(Stop::Fault(fault)) = cpu.run(&mut board, 1) else { panic!() };
    assert_eq!(fault.pc, DEVICE);
    assert!(fault.to_string().contains("instruction abort"), "{fault}");
}

#[test]
fn memory_that_is_not_there_yet_stops_and_is_tried_again() {
    let read = Some(Stop::PageFault { addr: NOT_YET, write: false });
    assert_eq!(one(0xb940_0001, NOT_YET).1, read); // ldr w1, [x0]
    assert_eq!(one(0x2940_0801, NOT_YET).1, read); // ldp w1, w2, [x0]
    let (mut cpu, stop) = one(0xb900_0001, NOT_YET); // str w1, [x0]
    assert_eq!(stop, Some(Stop::PageFault { addr: NOT_YET, write: true }));
    assert_eq!(cpu.pc(), RAM);
    assert!(!cpu.mmio_pending());
    let mut board = board(&[]).1;
    cpu.set_pc(NOT_YET + 0x40);
    assert_eq!(cpu.run(&mut board, 1), Some(Stop::PageFault { addr: NOT_YET + 0x40, write: false }));
}

#[test]
fn calls_and_hints_stop_behind_the_instruction() {
    for (word, stop) in [
        (0xd400_0002, Stop::Hvc(0)),
        (0xd400_0022, Stop::Hvc(1)),
        (0xd400_0003, Stop::Smc(0)),
        (0xd503_207f, Stop::Wfi),
        (0xd503_205f, Stop::Yield), // wfe
        (0xd503_203f, Stop::Yield),
    ] {
        let (cpu, stopped) = one(word, 0);
        assert_eq!((stopped, cpu.pc()), (Some(stop), RAM + 4));
    }
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    for word in [
        0x9e67_0000, // fmov d0, x0
        0x4ea2_8420, // add v0.4s, v1.4s, v2.4s
        0x3dc0_0000, // ldr q0, [x0]
        0xdac1_0020, // pacia x0, x1
        0xd538_cc01, // mrs x1, icc_iar1_el1
        0xd53b_9d01, // mrs x1, pmccntr_el0
        0xd518_0000, // msr midr_el1, x0
        0xffff_ffff,
    ] {
        assert_eq!(fault_of(word, RAM), FaultKind::UnknownInstruction, "{word:08x}");
    }
    for word in [
        0xd440_0000, // hlt #0
        0xd50b_7420, // dc zva, x0
        0xd508_7800, // at s1e1r, x0
        0xd69f_03e0, // eret, to a mode that SPSR_EL1 does not name
    ] {
        assert!(matches!(fault_of(word, RAM), FaultKind::Unsupported(_)), "{word:08x}");
    }
    // msr sctlr_el1, x0: the MMU, big-endian data; caches alone are fine.
    assert_eq!(fault_of(0xd518_1000, 1), FaultKind::Unsupported("turning the MMU on"));
    assert_eq!(fault_of(0xd518_1000, 1 << 25), FaultKind::Unsupported("big-endian data"));
    assert_eq!(one(0xd518_1000, 0x1004).1, None);
    for word in [
        0xf840_8400, // ldr x0, [x0], #8
        0xf800_8400, // str x0, [x0], #8
        0xa940_0421, // ldp x1, x1, [x1]
        0xa8c1_0001, // ldp x1, x0, [x0], #16
        0x8801_7c01, // stxr w1, w1, [x0]
        0x8800_7c01, // stxr w0, w1, [x0]
    ] {
        assert_eq!(fault_of(word, RAM), FaultKind::Unpredictable, "{word:08x}");
    }
}

#[test]
fn system_registers_hold_or_tell() {
    assert_eq!(read_register(0xd538_00a1), 0x8000_0102, "mpidr_el1");
    assert_eq!(read_register(0xd538_4241), 4, "currentel");
    assert_eq!(read_register(0xd538_4201), 1, "spsel");
    assert_eq!(read_register(0xd53b_4221), 0x3c0, "daif");
    assert_eq!(read_register(0xd538_0401), 0x00ff_0011, "id_aa64pfr0_el1");
    assert_eq!(read_register(0xd538_0741), 0, "id_aa64mmfr2_el1");
    assert_eq!(read_register(0xd53b_00e1) & 0x10, 0x10, "dczid_el0");
    assert_eq!(read_register(0xd53b_e001), 1_000_000_000, "cntfrq_el0");
    assert_eq!(read_register(0xd538_1001) & 1, 0, "sctlr_el1");

    let (mut cpu, mut board) = board(&[
        0xd518_d080, // msr tpidr_el1, x0
        0xd538_d081, // mrs x1, tpidr_el1
        0xd518_4100, // msr sp_el0, x0
        0xd500_40bf, // msr spsel, #0
        0x9100_03e2, // mov x2, sp
        0xd508_751f, // ic iallu
        0xd50b_7520, // ic ivau, x0
    ]);
    cpu.set_x(0, 0xfeed);
    cpu.set_sp(0x40);
    assert_eq!(cpu.run(&mut board, 7), None);
    assert_eq!((cpu.x(1), cpu.x(2), cpu.sp(), board.forgotten), (0xfeed, 0xfeed, 0xfeed, 2));
}

#[test]
fn the_timer_can_be_polled_and_interrupts_nobody_without_a_gic() {
    let (mut cpu, mut board) = board(&[
        0xd51b_e300, // msr cntv_tval_el0, x0
        0xd51b_e323, // msr cntv_ctl_el0, x3
        0xd53b_e321, // mrs x1, cntv_ctl_el0
        0xd53b_e302, // mrs x2, cntv_tval_el0
        0xd53b_e324, // mrs x4, cntv_ctl_el0
    ]);
    cpu.set_x(0, 250);
    cpu.set_x(3, 3); // enabled, masked
    // The counter goes up by 100 each time that somebody looks: 100 + 250 is reached with the fourth look.
    assert_eq!(cpu.run(&mut board, 4), None);
    assert_eq!((cpu.x(1), cpu.x(2)), (3, 50));
    assert_eq!(cpu.run(&mut board, 1), None);
    assert_eq!(cpu.x(4), 7);
    let (mut cpu, mut board) = self::board(&[0xd51b_e323]);
    cpu.set_x(3, 1);
    assert!(
        matches!(cpu.run(&mut board, 1), Some(Stop::Fault(f)) if matches!(f.kind, FaultKind::Unsupported(_)))
    );
}

#[test]
fn a_crooked_stack_pointer_is_an_exception_while_it_is_checked() {
    let (mut cpu, mut board) = with_vectors(&[0xf940_03e1, 0xd518_1000, 0xf940_03e1]); // ldr x1, [sp]
    cpu.set_sp(RAM + 8);
    assert_eq!(cpu.run(&mut board, 1), None);
    let [esr, _, elr, _] = report(&mut cpu, &mut board);
    assert_eq!((esr, elr), (0x9a00_0000, RAM + 4));
    // msr sctlr_el1, x0 without SA: no longer checked.
    cpu.set_pc(RAM + 8);
    cpu.set_x(0, 0);
    assert_eq!(cpu.run(&mut board, 2), None);
    assert_eq!(cpu.pc(), RAM + 16);
}

#[test]
fn an_exclusive_store_needs_its_mark() {
    let (mut cpu, mut board) = board(&[
        0x885f_7c01, // ldxr w1, [x0]
        0xd503_3f5f, // clrex
        0x8803_7c01, // stxr w3, w1, [x0]
        0x885f_7c01, // ldxr w1, [x0]
        0x8803_7c02, // stxr w3, w2, [x0]
        0x8804_7c02, // stxr w4, w2, [x0]
    ]);
    cpu.set_x(0, RAM + 0x100);
    cpu.set_x(2, 0x77);
    assert_eq!(cpu.run(&mut board, 3), None);
    assert_eq!(cpu.x(3), 1);
    assert_eq!(cpu.run(&mut board, 1), None);
    let mut changed = board.ram.clone();
    assert_eq!(cpu.run(&mut board, 2), None);
    changed[0x100] = 0x77;
    assert_eq!((cpu.x(3), cpu.x(4)), (0, 1), "the second store has no mark any more");
    assert!(board.ram == changed);
}

#[test]
fn an_exclusive_store_fails_when_somebody_else_wrote() {
    let (mut cpu, mut board) = board(&[0x885f_7c01, 0x8803_7c02]);
    cpu.set_x(0, RAM + 0x100);
    assert_eq!(cpu.run(&mut board, 1), None);
    board.ram[0x101] = 9;
    assert_eq!(cpu.run(&mut board, 1), None);
    assert_eq!((cpu.x(3), &board.ram[0x100..0x104]), (1, &[0, 9, 0, 0][..]));
}

const NOP: u32 = 0xd503_201f;
const IRQ: Interrupts = Interrupts { irq: true, fiq: false };
const FIQ: Interrupts = Interrupts { irq: false, fiq: true };

/// The same with vectors that do nothing.
fn with_handlers(words: &[u32]) -> (Cpu, Board) {
    let (cpu, mut board) = with_vectors(words);
    for at in (0x1000..0x1800).step_by(4) {
        board.ram[at..at + 4].copy_from_slice(&NOP.to_le_bytes());
    }
    (cpu, board)
}

#[test]
fn interrupts_go_to_their_vectors() {
    const BOTH: Interrupts = Interrupts { irq: true, fiq: true };
    for (signals, daif, spsel, vector) in [
        (IRQ, 0b1101, true, Some(0x280)),
        (IRQ, 0b0000, true, Some(0x280)),
        (IRQ, 0b1101, false, Some(0x80)),
        (FIQ, 0b1110, true, Some(0x300)),
        (FIQ, 0b1110, false, Some(0x100)),
        (BOTH, 0b1100, true, Some(0x300)),
        (BOTH, 0b1101, true, Some(0x280)),
        (IRQ, 0b1110, true, None),
        (FIQ, 0b1101, true, None),
        (BOTH, 0b1111, true, None),
        (Interrupts::default(), 0, true, None),
    ] {
        // msr spsel, x1; msr daif, x2; nop
        let (mut cpu, mut board) = with_handlers(&[0xd518_4201, 0xd51b_4222, NOP]);
        cpu.set_x(1, spsel.into());
        cpu.set_x(2, daif << 6);
        assert_eq!(cpu.run(&mut board, 2), None);
        board.gic = Some(signals);
        assert_eq!(cpu.run(&mut board, 0), None, "without an instruction nothing happens");
        let here = cpu.pc();
        assert_eq!(cpu.run(&mut board, 1), None);
        let Some(vector) = vector else {
            assert_eq!(cpu.pc(), here + 4, "{signals:?} {daif:#b}");
            continue;
        };
        // The interrupt is no instruction: the first one of the handler has been executed.
        assert_eq!((cpu.pc(), cpu.daif()), (RAM + 0x1000 + vector + 4, 0xf));
    }
}

#[test]
fn an_interrupt_saves_where_it_was_and_leaves_the_syndrome_alone() {
    let (mut cpu, mut board) = with_handlers(&[0xd518_5200, 0xd503_42ff, NOP]); // msr esr_el1, x0; msr daifclr, #2
    assert_eq!(cpu.run(&mut board, 2), None);
    board.gic = Some(IRQ);
    assert_eq!(cpu.run(&mut board, 1), None);
    assert_eq!(cpu.pc(), RAM + 0x1284);
    let [esr, far, elr, spsr] = report(&mut cpu, &mut board);
    assert_eq!((esr, far, elr, spsr), (RAM + 0x1000, 0, RAM + 12, SPSR & !(1 << 7)));
}

/// The line is looked at before the instruction behind the one that opened the mask, in the middle of a run.
#[test]
fn what_opens_the_mask_lets_an_interrupt_in_at_once() {
    for (words, opened) in [
        (&[0xd503_42ff, 0xd503_42df][..], 1), // msr daifclr, #2; msr daifset, #2
        (&[0xd51b_4223, 0xd503_42df], 1),     // msr daif, x3; msr daifset, #2
        (&[0xd518_4003, 0xd518_4021, 0xd69f_03e0, 0xd503_42df], 3), // msr spsr_el1, x3; msr elr_el1, x1; eret
    ] {
        let (mut cpu, mut board) = with_handlers(words);
        board.gic = Some(IRQ);
        cpu.set_x(3, 0b0101);
        cpu.set_x(1, RAM + 16);
        // One more than it takes to open the mask: it is the handler's first.
        assert_eq!(cpu.run(&mut board, opened + 1), None);
        assert_eq!(cpu.pc(), RAM + 0x1284, "{words:x?}");
        assert_eq!(report(&mut cpu, &mut board)[2], RAM + 4 + 4 * u64::from(opened));
    }
}

#[test]
fn the_registers_of_the_interrupt_controller_are_those_of_the_bus() {
    for (register, crn, crm, op2) in [
        (IccRegister::Pmr, 4, 6, 0),
        (IccRegister::Eoir0, 12, 8, 1),
        (IccRegister::Ap0r0, 12, 8, 4),
        (IccRegister::Ap1r0, 12, 9, 0),
        (IccRegister::Dir, 12, 11, 1),
        (IccRegister::Sgi1r, 12, 11, 5),
        (IccRegister::Iar1, 12, 12, 0),
        (IccRegister::Eoir1, 12, 12, 1),
        (IccRegister::Hppir1, 12, 12, 2),
        (IccRegister::Bpr1, 12, 12, 3),
        (IccRegister::Ctlr, 12, 12, 4),
        (IccRegister::Sre, 12, 12, 5),
        (IccRegister::Igrpen1, 12, 12, 7),
    ] {
        let name = 3 << 19 | crn << 12 | crm << 8 | op2 << 5;
        let (mut cpu, mut board) = board(&[0xd520_0001 | name, 0xd500_0002 | name]);
        board.gic = Some(Interrupts::default());
        cpu.set_x(2, 7);
        assert_eq!(cpu.run(&mut board, 2), None, "{register:?}");
        assert_eq!(cpu.x(1), register as u64 + 100);
        assert_eq!(board.written, [(register, 7)]);
        assert!(matches!(fault_of(0xd520_0001 | name, 0), FaultKind::UnknownInstruction), "without a GIC");
        assert!(matches!(fault_of(0xd500_0001 | name, 0), FaultKind::UnknownInstruction));
    }
    // ID_AA64PFR0_EL1 says whether they are there, ISR_EL1 what is signalled.
    for (gic, pfr0, isr) in [(None, 0, 0), (Some(IRQ), 1, 0x80), (Some(FIQ), 1, 0x40)] {
        let (mut cpu, mut board) = board(&[0xd538_0401, 0xd538_c102]);
        board.gic = gic;
        assert_eq!(cpu.run(&mut board, 2), None);
        assert_eq!((cpu.x(1) >> 24 & 0xf, cpu.x(2)), (pfr0, isr));
    }
}

#[test]
fn the_bus_is_told_when_timers_interrupt() {
    let (mut cpu, mut board) = board(&[
        0xd51b_e340, // msr cntv_cval_el0, x0
        0xd51b_e321, // msr cntv_ctl_el0, x1
        0xd51b_e221, // msr cntp_ctl_el0, x1
        0xd51b_e200, // msr cntp_tval_el0, x0
        0xd51b_e322, // msr cntv_ctl_el0, x2
    ]);
    board.gic = Some(Interrupts::default());
    cpu.set_x(0, 5000);
    cpu.set_x(1, 1);
    cpu.set_x(2, 3);
    assert_eq!(cpu.run(&mut board, 5), None);
    let virtual_timer = |from| (Timer::Virtual, from);
    let physical_timer = |from| (Timer::Physical, from);
    assert_eq!(
        board.timers,
        [
            virtual_timer(None),
            virtual_timer(Some(5000)),
            physical_timer(Some(0)),
            physical_timer(Some(5100)),
            virtual_timer(None),
        ]
    );
}

//! The x86_64 side of the assembler: 64-bit code, with a way into it from 32-bit protected mode.
//!
//! The numbered registers of [`asm`](crate::asm) are R8 to R15, RSI and RDI here; the others are scratch.

use crate::asm::Width;
use crate::interrupts;

/// Where guests keep their page tables: above the program, in the main region.
pub const TABLES: u64 = 0x10_0000;
/// Bytes of the page tables.
pub const TABLES_SIZE: usize = 6 * PAGE;
/// Low memory that guests with more than one CPU need: a CPU starts below 1 MiB.
pub const LOW_SIZE: u64 = 0x1_0000;
/// Where a further CPU starts, in low memory; a multiple of 4096 below 1 MiB.
pub const TRAMPOLINE: u64 = 0x1000;
/// Where the trampoline finds the 64-bit address to go on at.
const TRAMPOLINE_ENTRY: u32 = 0x2000;

const PAGE: usize = 4096;
const LOCAL_APIC: u64 = 0xfee0_0000;
const SELECTOR_64: u16 = 0x18;

/// Page tables that map the first 4 GiB as they are, in pages of 2 MiB. They lie at `at`.
pub fn page_tables(at: u64) -> Vec<u8> {
    const TABLE: u64 = 0b11;
    const LARGE: u64 = 0b1000_0011;
    let mut words = vec![0_u64; TABLES_SIZE / 8];
    words[0] = (at + PAGE as u64) | TABLE;
    for gib in 0..4 {
        words[PAGE / 8 + gib] = (at + ((2 + gib) * PAGE) as u64) | TABLE;
        for part in 0..512 {
            words[(2 + gib) * PAGE / 8 + part] = ((gib as u64) << 30 | (part as u64) << 21) | LARGE;
        }
    }
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// The code of a program.
#[derive(Clone, Debug, Default)]
pub struct Code {
    bytes: Vec<u8>,
    base: u64,
}

/// What a numbered register is called: the extension bit, and the low three bits.
fn register(number: u32) -> (u8, u8) {
    match number {
        0..8 => (1, number as u8),
        8 => (0, 6),
        9 => (0, 7),
        _ => panic!("register {number} does not exist here"),
    }
}

impl Code {
    /// A program at the guest physical address `base`, beginning with the way from 32-bit protected mode into 64-bit mode.
    pub fn new(base: u64) -> Self {
        let mut code = Self { bytes: Vec::new(), base };
        code.enter_long_mode(base + TABLES);
        code
    }

    /// A further CPU's way from where it starts to the address that [`Code::cpu_on`] has left, for [`TRAMPOLINE`].
    pub fn trampoline(tables: u64) -> Vec<u8> {
        let mut code = Self { bytes: Vec::new(), base: TRAMPOLINE };
        // 16 bits: cli; lgdt cs:[0x100]; mov eax, cr0; or al, 1; mov cr0, eax; jmp 0x08:0x1020
        code.emit(&[0xfa, 0x66, 0x2e, 0x0f, 0x01, 0x16, 0x00, 0x01]);
        code.emit(&[0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0]);
        code.emit(&[0x66, 0xea, 0x20, 0x10, 0x00, 0x00, 0x08, 0x00]);
        code.fill_to(0x20);
        // 32 bits: flat data segments.
        code.emit(&[0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0]);
        code.enter_long_mode(tables);
        // jmp [TRAMPOLINE_ENTRY]
        code.emit(&[0xff, 0x24, 0x25]);
        code.emit(&TRAMPOLINE_ENTRY.to_le_bytes());
        code.fill_to(0x100);
        code.emit(&23_u16.to_le_bytes());
        code.emit(&(TRAMPOLINE as u32 + 0x108).to_le_bytes());
        code.fill_to(0x108);
        for descriptor in [0, 0x00cf_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff] {
            code.emit(&descriptor.to_le_bytes());
        }
        code.bytes
    }

    fn emit(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn fill_to(&mut self, offset: usize) {
        assert!(self.bytes.len() <= offset);
        // int3
        self.bytes.resize(offset, 0xcc);
    }

    /// The next instruction's offset from the program's start.
    pub fn offset(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The program's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// Fills up until the offset is a multiple of `bytes`.
    pub fn align(&mut self, bytes: u64) {
        self.fill_to(self.offset().next_multiple_of(bytes) as usize);
    }

    fn enter_long_mode(&mut self, tables: u64) {
        // mov eax, tables; mov cr3, eax
        self.emit(&[0xb8]);
        self.emit(&(tables as u32).to_le_bytes());
        self.emit(&[0x0f, 0x22, 0xd8]);
        // mov eax, cr4; or eax, PAE | OSFXSR; mov cr4, eax
        self.emit(&[0x0f, 0x20, 0xe0, 0x0d, 0x20, 0x02, 0x00, 0x00, 0x0f, 0x22, 0xe0]);
        // mov ecx, EFER; rdmsr; or eax, LME; wrmsr
        self.emit(&[0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x0d, 0x00, 0x01, 0x00, 0x00, 0x0f, 0x30]);
        // mov eax, cr0; or eax, PG; mov cr0, eax
        self.emit(&[0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0]);
        // lgdt [pointer]; jmp SELECTOR_64:over; pointer: ...; descriptors; over:
        let pointer = (self.base + self.offset()) as u32 + 7 + 7;
        let over = pointer + 6 + 32;
        self.emit(&[0x0f, 0x01, 0x15]);
        self.emit(&pointer.to_le_bytes());
        self.emit(&[0xea]);
        self.emit(&over.to_le_bytes());
        self.emit(&SELECTOR_64.to_le_bytes());
        self.emit(&31_u16.to_le_bytes());
        self.emit(&(pointer + 6).to_le_bytes());
        let descriptors = [0, 0x00cf_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff];
        for descriptor in descriptors {
            self.emit(&descriptor.to_le_bytes());
        }
    }

    /// MOV of a number of 64 bits.
    pub fn mov(&mut self, rd: u32, value: u64) {
        let (extension, low) = register(rd);
        self.emit(&[0x48 | extension, 0xb8 | low]);
        self.emit(&value.to_le_bytes());
    }

    /// An instruction with a register and memory at the address in another one.
    fn memory(&mut self, wide: bool, half: bool, opcode: &[u8], reg: u32, addr: u32) {
        let ((reg_extension, reg), (addr_extension, addr)) = (register(reg), register(addr));
        if half {
            self.emit(&[0x66]);
        }
        self.emit(&[0x40 | u8::from(wide) << 3 | reg_extension << 2 | addr_extension]);
        self.emit(opcode);
        match addr {
            // The low bits of RSP and RBP mean something else: a SIB byte, a displacement.
            4 => self.emit(&[reg << 3 | 4, 0x24]),
            5 => self.emit(&[0x40 | reg << 3 | 5, 0]),
            _ => self.emit(&[reg << 3 | addr]),
        }
    }

    /// Loads from the address in `rn`; the upper bytes become zero.
    pub fn load(&mut self, width: Width, rt: u32, rn: u32) {
        match width {
            Width::Byte => self.memory(true, false, &[0x0f, 0xb6], rt, rn),
            Width::Half => self.memory(true, false, &[0x0f, 0xb7], rt, rn),
            Width::Word => self.memory(false, false, &[0x8b], rt, rn),
            Width::Double => self.memory(true, false, &[0x8b], rt, rn),
        }
    }

    /// Stores to the address in `rn`.
    pub fn store(&mut self, width: Width, rt: u32, rn: u32) {
        match width {
            Width::Byte => self.memory(false, false, &[0x88], rt, rn),
            Width::Half => self.memory(false, true, &[0x89], rt, rn),
            Width::Word => self.memory(false, false, &[0x89], rt, rn),
            Width::Double => self.memory(true, false, &[0x89], rt, rn),
        }
    }

    /// MOV between registers.
    fn copy(&mut self, rd: u32, rn: u32) {
        let ((to_extension, to), (from_extension, from)) = (register(rd), register(rn));
        self.emit(&[0x48 | from_extension << 2 | to_extension, 0x89, 0xc0 | from << 3 | to]);
    }

    fn arithmetic(&mut self, operation: u8, rd: u32, rn: u32, value: u32) {
        if rd != rn {
            self.copy(rd, rn);
        }
        let (extension, low) = register(rd);
        self.emit(&[0x48 | extension, 0x81, 0xc0 | operation << 3 | low]);
        self.emit(&value.to_le_bytes());
    }

    /// ADD of a number below 4096.
    pub fn add(&mut self, rd: u32, rn: u32, value: u32) {
        self.arithmetic(0, rd, rn, value);
    }

    /// SUB of a number below 4096.
    pub fn sub(&mut self, rd: u32, rn: u32, value: u32) {
        self.arithmetic(5, rd, rn, value);
    }

    /// SUB of two registers. `rd` is not `rm`.
    pub fn sub_register(&mut self, rd: u32, rn: u32, rm: u32) {
        if rd != rn {
            self.copy(rd, rn);
        }
        let ((to_extension, to), (from_extension, from)) = (register(rd), register(rm));
        self.emit(&[0x48 | from_extension << 2 | to_extension, 0x29, 0xc0 | from << 3 | to]);
    }

    /// The number of the CPU: its initial APIC id.
    pub fn cpu_number(&mut self, rd: u32) {
        // mov eax, 1; cpuid; shr ebx, 24
        self.emit(&[0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0xc1, 0xeb, 24]);
        // mov rd, rbx
        let (extension, low) = register(rd);
        self.emit(&[0x48 | extension, 0x89, 0xd8 | low]);
    }

    /// HLT.
    pub fn halt(&mut self) {
        self.emit(&[0xf4]);
    }

    /// JMP to an offset.
    pub fn branch(&mut self, to: usize) {
        self.emit(&[0xe9]);
        self.relative(to);
    }

    /// Branches to an offset if the register is (not) zero.
    pub fn branch_if(&mut self, rt: u32, zero: bool, to: usize) {
        let (extension, low) = register(rt);
        // test rt, rt
        self.emit(&[0x48 | extension << 2 | extension, 0x85, 0xc0 | low << 3 | low]);
        self.emit(&[0x0f, if zero { 0x84 } else { 0x85 }]);
        self.relative(to);
    }

    fn relative(&mut self, to: usize) {
        let from = self.bytes.len() + 4;
        self.emit(&(to as i32 - from as i32).to_le_bytes());
    }

    /// UD2.
    pub fn undefined(&mut self) {
        self.emit(&[0x0f, 0x0b]);
    }

    /// Ends the machine the only way that needs no device: by a fault while there is a handler for none.
    pub fn triple_fault(&mut self) {
        // Zeros, which say: a table of interrupt handlers with no bytes.
        let zeros = self.base + TABLES + TABLES_SIZE as u64;
        // mov rax, zeros; lidt [rax]; ud2
        self.emit(&[0x48, 0xb8]);
        self.emit(&zeros.to_le_bytes());
        self.emit(&[0x0f, 0x01, 0x18]);
        self.undefined();
    }

    /// OUT of the low bytes of a register to a port, or IN into all of it.
    pub fn port(&mut self, write: bool, width: Width, reg: u32, port: u16) {
        let (extension, low) = register(reg);
        if write {
            // mov rax, reg
            self.emit(&[0x48 | extension << 2, 0x89, 0xc0 | low << 3]);
        } else {
            // xor eax, eax
            self.emit(&[0x31, 0xc0]);
        }
        // mov dx, port
        self.emit(&[0x66, 0xba]);
        self.emit(&port.to_le_bytes());
        if width == Width::Half {
            self.emit(&[0x66]);
        }
        let wide = u8::from(width != Width::Byte);
        self.emit(&[if write { 0xee } else { 0xec } | wide]);
        if !write {
            // mov reg, rax
            self.emit(&[0x48 | extension, 0x89, 0xc0 | low]);
        }
    }

    /// REP OUTSB: the `count` bytes at `addr` to a port.
    pub fn port_string(&mut self, addr: u64, count: u32, port: u16) {
        // mov rsi, addr; mov ecx, count; mov dx, port; cld; rep outsb
        self.emit(&[0x48, 0xbe]);
        self.emit(&addr.to_le_bytes());
        self.emit(&[0xb9]);
        self.emit(&count.to_le_bytes());
        self.emit(&[0x66, 0xba]);
        self.emit(&port.to_le_bytes());
        self.emit(&[0xfc, 0xf3, 0x6e]);
    }

    /// A guest that takes interrupts of these pins of the I/O APIC (with whether by an edge), and tells the mailbox as
    /// [`interrupts`] does: the number of pin n is [`SPI`](crate::interrupts::SPI) + n.
    ///
    /// With `software` it also interrupts itself with the first of them, by INT.
    pub fn listen(&mut self, pins: &[(u32, bool)], mailbox: u64, software: bool) {
        const IO_APIC: u64 = 0xfec0_0000;
        const FIRST_VECTOR: u32 = 0x20;
        const VECTORS: u32 = FIRST_VECTOR + 24;
        const STACK: u64 = 0x8_0000;
        // jmp over
        self.emit(&[0xe9]);
        let jump = self.bytes.len();
        self.emit(&[0; 4]);

        let mut handlers = Vec::new();
        for (pin, _) in pins {
            handlers.push((FIRST_VECTOR + pin, self.base + self.offset()));
            // mov rax, mailbox; mov dword [rax + TAKEN], number
            self.emit(&[0x48, 0xb8]);
            self.emit(&(mailbox + interrupts::mailbox::TAKEN).to_le_bytes());
            self.emit(&[0xc7, 0x00]);
            self.emit(&(interrupts::SPI + pin).to_le_bytes());
            // mov rbx, end of interrupt; mov dword [rbx], 0
            self.emit(&[0x48, 0xbb]);
            self.emit(&(LOCAL_APIC + 0xb0).to_le_bytes());
            self.emit(&[0xc7, 0x03, 0, 0, 0, 0]);
            // mov ecx, [rax + END - TAKEN]; test ecx, ecx; jz to iretq
            let end = interrupts::mailbox::END - interrupts::mailbox::TAKEN;
            self.emit(&[0x8b, 0x48, end as u8, 0x85, 0xc9, 0x74, 15]);
            self.triple_fault();
            // iretq
            self.emit(&[0x48, 0xcf]);
        }

        self.align(16);
        let table = self.base + self.offset();
        for vector in 0..VECTORS {
            let handler = handlers.iter().find(|(number, _)| *number == vector).map(|(_, addr)| *addr);
            // An interrupt gate to 64-bit code; the others are not present.
            let (addr, kind) = handler.map_or((0, 0), |addr| (addr, 0x8e00_u64));
            let low = addr & 0xffff | u64::from(SELECTOR_64) << 16 | kind << 32 | (addr >> 16 & 0xffff) << 48;
            self.emit(&low.to_le_bytes());
            self.emit(&(addr >> 32).to_le_bytes());
        }
        let pointer = self.base + self.offset();
        self.emit(&(VECTORS as u16 * 16 - 1).to_le_bytes());
        self.emit(&table.to_le_bytes());
        let over = self.bytes.len() - (jump + 4);
        self.bytes[jump..jump + 4].copy_from_slice(&(over as u32).to_le_bytes());

        // mov rsp, stack; mov rax, pointer; lidt [rax]
        self.emit(&[0x48, 0xbc]);
        self.emit(&(self.base + STACK).to_le_bytes());
        self.emit(&[0x48, 0xb8]);
        self.emit(&pointer.to_le_bytes());
        self.emit(&[0x0f, 0x01, 0x18]);
        // The old interrupt controllers, which have the lower lines too, are masked: mov al, 0xff; out 0x21, al; out 0xa1, al
        self.emit(&[0xb0, 0xff, 0xe6, 0x21, 0xe6, 0xa1]);
        // The local APIC on, with the spurious vector 0xff.
        self.store_word(LOCAL_APIC + 0xf0, 0x1ff);
        for (pin, edge) in pins {
            let entry = (FIRST_VECTOR + pin) | if *edge { 0 } else { 1 << 15 };
            for (register, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, entry)] {
                self.store_word(IO_APIC, register);
                self.store_word(IO_APIC + 0x10, value);
            }
        }
        self.store_word(mailbox + interrupts::mailbox::READY, 1);
        if software {
            self.emit(&[0xcd, (FIRST_VECTOR + pins[0].0) as u8]);
        }
        // sti; hlt; jmp to hlt
        self.emit(&[0xfb, 0xf4, 0xeb, 0xfd]);
    }

    /// `mov rax, addr; mov dword [rax], value`
    fn store_word(&mut self, addr: u64, value: u32) {
        self.emit(&[0x48, 0xb8]);
        self.emit(&addr.to_le_bytes());
        self.emit(&[0xc7, 0x00]);
        self.emit(&value.to_le_bytes());
    }

    /// Starts the CPU whose number is in `cpu` at the address in `entry`. Changes RAX and RBX.
    pub fn cpu_on(&mut self, cpu: u32, entry: u32) {
        // mov [TRAMPOLINE_ENTRY], entry
        let (extension, low) = register(entry);
        self.emit(&[0x48 | extension << 2, 0x89, low << 3 | 4, 0x25]);
        self.emit(&TRAMPOLINE_ENTRY.to_le_bytes());
        // mov rbx, LOCAL_APIC; bts of the enabling bit: mov eax, [rbx + 0xf0]; or eax, 0x1ff; mov [rbx + 0xf0], eax
        self.emit(&[0x48, 0xbb]);
        self.emit(&LOCAL_APIC.to_le_bytes());
        self.emit(&[0x8b, 0x83, 0xf0, 0, 0, 0, 0x0d, 0xff, 0x01, 0, 0, 0x89, 0x83, 0xf0, 0, 0, 0]);
        // INIT, then SIPI at the trampoline's page.
        for command in [0x0000_4500_u32, 0x0000_4600 | (TRAMPOLINE >> 12) as u32] {
            // mov rax, cpu; shl eax, 24; mov [rbx + 0x310], eax
            let (extension, low) = register(cpu);
            self.emit(&[0x48 | extension << 2, 0x89, 0xc0 | low << 3, 0xc1, 0xe0, 24]);
            self.emit(&[0x89, 0x83, 0x10, 0x03, 0, 0]);
            // mov dword [rbx + 0x300], command
            self.emit(&[0xc7, 0x83, 0x00, 0x03, 0, 0]);
            self.emit(&command.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an assembler makes of the same instructions.
    #[test]
    fn the_bytes_are_those_of_an_assembler() {
        let made = |body: fn(&mut Code)| {
            let mut code = Code::default();
            body(&mut code);
            code.bytes
        };
        // mov r9, 0x10003000
        assert_eq!(made(|c| c.mov(1, 0x1000_3000)), [0x49, 0xb9, 0, 0x30, 0, 0x10, 0, 0, 0, 0]);
        // movzx r10, byte [r9]; mov [r9], r10; mov [r12], r10d; mov [r13], r10w
        assert_eq!(made(|c| c.load(Width::Byte, 2, 1)), [0x4d, 0x0f, 0xb6, 0x11]);
        assert_eq!(made(|c| c.store(Width::Double, 2, 1)), [0x4d, 0x89, 0x11]);
        assert_eq!(made(|c| c.store(Width::Word, 2, 4)), [0x45, 0x89, 0x14, 0x24]);
        assert_eq!(made(|c| c.store(Width::Half, 2, 5)), [0x66, 0x45, 0x89, 0x55, 0]);
        // mov sil, [rdi] stored: mov [rdi], sil
        assert_eq!(made(|c| c.store(Width::Byte, 8, 9)), [0x40, 0x88, 0x37]);
        // add r12, 1; mov r10, r9; sub r10, 2
        assert_eq!(made(|c| c.add(4, 4, 1)), [0x49, 0x81, 0xc4, 1, 0, 0, 0]);
        assert_eq!(made(|c| c.sub(2, 1, 2)), [0x4d, 0x89, 0xca, 0x49, 0x81, 0xea, 2, 0, 0, 0]);
        // jmp $; test r12, r12; jnz 0
        assert_eq!(made(|c| c.branch(0)), [0xe9, 0xfb, 0xff, 0xff, 0xff]);
        assert_eq!(
            made(|c| c.branch_if(4, false, 0)),
            [0x4d, 0x85, 0xe4, 0x0f, 0x85, 0xf7, 0xff, 0xff, 0xff]
        );
    }
}

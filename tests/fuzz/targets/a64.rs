//! The interpreter: any words, any registers, any answers. It never panics, and it does the same twice.
#![no_main]

use fake_gunyah::a64::{Bus, Cpu, RamAccess, Stop};
use libfuzzer_sys::fuzz_target;

const RAM: u64 = 0x8000_0000;
const SIZE: usize = 0x2000;

#[derive(Clone, PartialEq, Debug)]
struct Memory {
    bytes: Vec<u8>,
    ticks: u64,
}

impl Memory {
    fn place(&self, addr: u64, len: usize) -> Result<usize, RamAccess> {
        // A hole at 0x4000_0000 that may not be touched, and memory above that is not there yet.
        match addr {
            0x4000_0000..0x4000_1000 => return Err(RamAccess::Denied),
            0x9000_0000..0x9000_1000 => return Err(RamAccess::NotMapped),
            _ => {}
        }
        let offset = addr.checked_sub(RAM).ok_or(RamAccess::NotRam)?;
        let offset = usize::try_from(offset).map_err(|_| RamAccess::NotRam)?;
        match offset.checked_add(len) {
            Some(end) if end <= SIZE => Ok(offset),
            _ => Err(RamAccess::NotRam),
        }
    }
}

impl Bus for Memory {
    fn fetch(&mut self, addr: u64) -> Result<u32, RamAccess> {
        let mut word = [0; 4];
        match self.load(addr, &mut word) {
            RamAccess::Done => Ok(u32::from_le_bytes(word)),
            other => Err(other),
        }
    }

    fn load(&mut self, addr: u64, buf: &mut [u8]) -> RamAccess {
        assert!(matches!(buf.len(), 1 | 2 | 4 | 8 | 16) && addr % buf.len() as u64 == 0);
        match self.place(addr, buf.len()) {
            Ok(at) => {
                buf.copy_from_slice(&self.bytes[at..at + buf.len()]);
                RamAccess::Done
            }
            Err(why) => why,
        }
    }

    fn store(&mut self, addr: u64, data: &[u8]) -> RamAccess {
        assert!(matches!(data.len(), 1 | 2 | 4 | 8 | 16) && addr % data.len() as u64 == 0);
        match self.place(addr, data.len()) {
            Ok(at) => {
                self.bytes[at..at + data.len()].copy_from_slice(data);
                RamAccess::Done
            }
            Err(why) => why,
        }
    }

    fn compare_exchange(&mut self, addr: u64, len: u8, current: u128, new: u128) -> Result<u128, RamAccess> {
        let len = usize::from(len);
        let at = self.place(addr, len)?;
        let mut bytes = [0; 16];
        bytes[..len].copy_from_slice(&self.bytes[at..at + len]);
        let seen = u128::from_le_bytes(bytes);
        if seen == current {
            self.bytes[at..at + len].copy_from_slice(&new.to_le_bytes()[..len]);
        }
        Ok(seen)
    }

    fn counter(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }
}

/// What can be seen of a CPU from outside, and the memory.
#[derive(PartialEq, Debug)]
struct End {
    registers: Vec<u64>,
    pc: u64,
    sp: u64,
    nzcv: u8,
    stops: Vec<Stop>,
    memory: Memory,
}

fn play(registers: &[u8], answers: &[u8], code: &[u8]) -> End {
    let mut cpu = Cpu::new(0);
    for (n, bytes) in registers.chunks_exact(8).enumerate() {
        let value = u64::from_le_bytes(bytes.try_into().unwrap());
        // Half of them point into memory, or nothing would ever be loaded.
        cpu.set_x(n as u32, if n % 2 == 0 { RAM + value % (2 * SIZE as u64) } else { value });
    }
    cpu.set_pc(RAM);
    cpu.set_sp(RAM + SIZE as u64 / 2);
    let mut memory = Memory { bytes: vec![0; SIZE], ticks: 0 };
    let len = code.len().min(SIZE);
    memory.bytes[..len].copy_from_slice(&code[..len]);

    let mut stops = Vec::new();
    let mut answers = answers.iter().copied().cycle();
    for _ in 0..32 {
        let Some(stop) = cpu.run(&mut memory, 128) else { break };
        let answer = answers.next().unwrap_or(0);
        stops.push(stop.clone());
        match stop {
            Stop::MmioRead { addr, len } | Stop::MmioWrite { addr, len, .. } => {
                assert!(matches!(len, 1 | 2 | 4 | 8));
                assert!(cpu.mmio_pending());
                match answer & 3 {
                    0 => cpu.retry_mmio(),
                    1 => drop(cpu.abort_mmio(addr)),
                    _ => cpu.complete_mmio(u64::from(answer) * 0x0101_0101_0101_0101),
                }
                assert!(!cpu.mmio_pending());
            }
            Stop::Fault(_) => break,
            Stop::PageFault { .. } if answer & 1 == 0 => break,
            _ => {}
        }
    }
    End {
        registers: (0..31).map(|n| cpu.x(n)).collect(),
        pc: cpu.pc(),
        sp: cpu.sp(),
        nzcv: cpu.nzcv(),
        stops,
        memory,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((registers, rest)) = input.split_at_checked(64) else { return };
    let Some((answers, code)) = rest.split_at_checked(8) else { return };
    assert_eq!(play(registers, answers, code), play(registers, answers, code));
});

//! The interpreter: any words, any registers, any answers, with an interrupt controller. It never panics, and it does the
//! same twice.
#![no_main]

use fake_gunyah::a64::{Bus, Cpu, IccRegister, Interrupts, RamAccess, Stop, Timer};
use fake_gunyah::hyp::gic::{Gic, GicLayout};
use libfuzzer_sys::fuzz_target;

const RAM: u64 = 0x8000_0000;
const SIZE: usize = 0x2000;
/// The registers that hold values beside addresses can reach the frames, which lie behind RAM.
const GIC: GicLayout =
    GicLayout { distributor: RAM + 0x1_0000, redistributors: RAM + 0x2_0000, redistributors_size: 0x2_0000 };

struct Memory {
    bytes: Vec<u8>,
    ticks: u64,
    gic: Gic,
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

    fn interrupts(&mut self) -> Interrupts {
        let now = self.counter();
        drop(self.gic.look_at_clock(now));
        self.gic.lines(0)
    }

    fn icc_read(&mut self, register: IccRegister) -> Option<u64> {
        self.gic.icc_read(0, register, self.ticks)
    }

    fn icc_write(&mut self, register: IccRegister, value: u64) -> Option<()> {
        self.gic.icc_write(0, register, value, self.ticks).map(|_| ())
    }

    fn set_timer(&mut self, timer: Timer, from: Option<u64>) -> bool {
        drop(self.gic.set_timer(0, timer, from, self.ticks));
        true
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
    bytes: Vec<u8>,
    interrupts: Interrupts,
}

fn play(registers: &[u8], answers: &[u8], code: &[u8]) -> End {
    let mut cpu = Cpu::new(0);
    for (n, bytes) in registers.chunks_exact(8).enumerate() {
        let value = u64::from_le_bytes(bytes.try_into().unwrap());
        // Half of them point into memory or the frames, or nothing would ever be loaded.
        let near = if value >> 63 == 0 {
            RAM + value % (2 * SIZE as u64)
        } else {
            RAM + 0x1_0000 + value % 0x3_0000
        };
        cpu.set_x(n as u32, if n % 2 == 0 { near } else { value });
    }
    cpu.set_pc(RAM);
    cpu.set_sp(RAM + SIZE as u64 / 2);
    let mut memory = Memory { bytes: vec![0; SIZE], ticks: 0, gic: Gic::new(GIC, &[0]) };
    let len = code.len().min(SIZE);
    memory.bytes[..len].copy_from_slice(&code[..len]);

    let mut stops = Vec::new();
    let mut answers = answers.iter().copied().cycle();
    for _ in 0..96 {
        let Some(stop) = cpu.run(&mut memory, 128) else { break };
        let answer = answers.next().unwrap_or(0);
        stops.push(stop.clone());
        // The host signals something now and then.
        drop(memory.gic.raise(32 + u32::from(answer), memory.ticks));
        match stop {
            Stop::MmioRead { addr, len } if memory.gic.read(addr, len, 0).is_some() => {
                cpu.complete_mmio(memory.gic.read(addr, len, memory.ticks).unwrap_or(0));
            }
            Stop::MmioWrite { addr, len, value }
                if memory.gic.write(addr, len, value, memory.ticks).is_some() =>
            {
                cpu.complete_mmio(0);
            }
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
        interrupts: memory.gic.lines(0),
        bytes: memory.bytes,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((registers, rest)) = input.split_at_checked(64) else { return };
    let Some((answers, code)) = rest.split_at_checked(8) else { return };
    assert_eq!(play(registers, answers, code), play(registers, answers, code));
});

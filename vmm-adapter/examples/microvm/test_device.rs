//! The test device of the built-in guest: checks reads and writes of every width.
//!
//! Reading n bytes at 0x00 gives the low n bytes of a pattern; writing n bytes at 0x10 must carry them inverted. Every
//! other access is a failed check, but for reading the counts at 0x20: passed, and failed << 16.

use std::sync::{Mutex, PoisonError};

use vmm_adapter::{IoOutcome, MmioDevice};

const PATTERN: u64 = 0x8877_6655_4433_2211;
const READ: u64 = 0x00;
const WRITE: u64 = 0x10;
const COUNTS: u64 = 0x20;
/// A read and a write of each of four widths.
const CHECKS: u16 = 8;

#[derive(Debug, Default)]
pub(crate) struct TestDevice(Mutex<Counts>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u16,
    failed: u16,
}

impl TestDevice {
    /// Nothing when all checks were made and passed, else what is wrong.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        let counts = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts == (Counts { passed: CHECKS, failed: 0 }) {
            return Ok(());
        }
        Err(format!(
            "the test device counts {} checks passed and {} failed, {CHECKS} and 0 were expected",
            counts.passed, counts.failed
        ))
    }

    fn count(&self, passed: bool) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = if passed { &mut counts.passed } else { &mut counts.failed };
        *count = count.saturating_add(1);
    }
}

impl MmioDevice for TestDevice {
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
        match (offset, data.len()) {
            (READ, 1 | 2 | 4 | 8) => {
                for (slot, byte) in data.iter_mut().zip(PATTERN.to_le_bytes()) {
                    *slot = byte;
                }
                self.count(true);
            }
            (COUNTS, 4) => {
                let counts = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let word = u32::from(counts.passed) | u32::from(counts.failed) << 16;
                data.copy_from_slice(&word.to_le_bytes());
            }
            _ => self.count(false),
        }
        IoOutcome::Handled
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome {
        let inverted = (!PATTERN).to_le_bytes();
        self.count(offset == WRITE && matches!(data.len(), 1 | 2 | 4 | 8) && inverted.starts_with(data));
        IoOutcome::Handled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_checks_pass() {
        let device = TestDevice::default();
        for len in [1, 2, 4, 8] {
            let mut data = [0; 8];
            device.read(READ, &mut data[..len]);
            assert!(device.verdict().is_err());
            let back: Vec<u8> = data[..len].iter().map(|byte| !byte).collect();
            device.write(WRITE, &back);
        }
        device.verdict().unwrap();
        let mut counts = [0; 4];
        device.read(COUNTS, &mut counts);
        assert_eq!(counts, [8, 0, 0, 0]);
        device.verdict().unwrap();
    }

    #[test]
    fn whatever_else_fails() {
        for wrong in [(WRITE, &[0x11][..]), (WRITE, &[0xee, 0xdd, 0xcc]), (READ, &[0xee]), (8, &[0xee])] {
            let device = TestDevice::default();
            device.write(wrong.0, wrong.1);
            assert!(device.verdict().unwrap_err().contains("0 checks passed and 1 failed"));
        }
        let device = TestDevice::default();
        device.read(4, &mut [0; 4]);
        device.read(READ, &mut [0; 3]);
        device.read(COUNTS, &mut [0; 2]);
        assert!(device.verdict().unwrap_err().contains("and 3 failed"));
    }
}

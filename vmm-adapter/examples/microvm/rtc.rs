//! The real-time clock: a PL031 with 32-bit registers.

use std::sync::{Mutex, PoisonError};

use vm_superio::Rtc;
use vm_superio::rtc_pl031::NoEvents;
use vmm_adapter::{IoOutcome, MmioDevice};

pub(crate) struct Clock(Mutex<Rtc<NoEvents>>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Rtc::new()))
    }
}

impl MmioDevice for Clock {
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
        match (u16::try_from(offset), <&mut [u8; 4]>::try_from(data)) {
            (Ok(offset), Ok(word)) => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).read(offset, word);
                IoOutcome::Handled
            }
            _ => IoOutcome::Unclaimed,
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome {
        match (u16::try_from(offset), <&[u8; 4]>::try_from(data)) {
            (Ok(offset), Ok(word)) => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).write(offset, word);
                IoOutcome::Handled
            }
            _ => IoOutcome::Unclaimed,
        }
    }
}

//! The UART: a 16550 with byte registers, on standard output.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_adapter::{IoOutcome, MmioDevice};
use vmm_sys_util::eventfd::EventFd;

use crate::input::Sink;

/// How often the input looks for the UART while a vCPU is at it, before it comes again later.
const TRIES: u32 = 100;

/// The UART's interrupt: a signal on the irqfd of its line.
struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the input thread that there is room for more.
struct Room(EventFd);

impl SerialEvents for Room {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        // A full counter wakes the thread as well.
        let _ = self.0.write(1);
    }
}

pub(crate) struct Uart<W: Write> {
    uart: Mutex<Serial<Interrupt, Room, W>>,
    complained: Mutex<bool>,
}

impl<W: Write> Uart<W> {
    /// A UART that writes to `out`, raises interrupts on `irq` and signals `room` when its input is used up.
    pub(crate) fn new(irq: EventFd, room: EventFd, out: W) -> Self {
        Self {
            uart: Mutex::new(Serial::with_events(Interrupt(irq), Room(room), out)),
            complained: Mutex::new(false),
        }
    }

    fn uart(&self) -> MutexGuard<'_, Serial<Interrupt, Room, W>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The UART, unless a vCPU is at it for longer: one whose output nobody reads stays there until the run ends.
    fn uart_soon(&self) -> Option<MutexGuard<'_, Serial<Interrupt, Room, W>>> {
        for _ in 0..TRIES {
            match self.uart.try_lock() {
                Ok(uart) => return Some(uart),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => thread::yield_now(),
            }
        }
        None
    }
}

impl<W: Write + Send> Sink for Uart<W> {
    fn enqueue(&self, input: &[u8]) -> usize {
        self.uart_soon().map_or(0, |mut uart| uart.enqueue_raw_bytes(input).unwrap_or_default())
    }

    fn may_have_room(&self) -> bool {
        self.uart_soon().is_none_or(|uart| uart.fifo_capacity() > 0)
    }
}

impl<W: Write + Send> MmioDevice for Uart<W> {
    fn read(&self, offset: u64, data: &mut [u8]) -> IoOutcome {
        match (u8::try_from(offset), data) {
            (Ok(offset), [byte]) => {
                *byte = self.uart().read(offset);
                IoOutcome::Handled
            }
            _ => IoOutcome::Unclaimed,
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoOutcome {
        let (Ok(offset), [byte]) = (u8::try_from(offset), data) else { return IoOutcome::Unclaimed };
        let written = self.uart().write(offset, *byte);
        if let Err(error) = written {
            // The guest goes on without its console; say it once.
            let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::replace(&mut *complained, true) {
                eprintln!("microvm: the guest's output is lost: {error}");
            }
        }
        IoOutcome::Handled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_out_and_come_in() {
        let [irq, room] = [(); 2].map(|()| EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let uart = Uart::new(irq.try_clone().unwrap(), room.try_clone().unwrap(), Vec::new());
        for byte in b"hi" {
            assert_eq!(uart.write(0, &[*byte]), IoOutcome::Handled);
        }
        assert_eq!(uart.uart().writer(), b"hi");

        uart.write(1, &[1]);
        assert_eq!(uart.enqueue(b"x"), 1);
        assert_eq!(irq.read().unwrap(), 1, "an interrupt for the input");
        let mut byte = [0];
        uart.read(0, &mut byte);
        assert_eq!(byte, *b"x");
        assert_eq!(room.read().unwrap(), 1, "and word that it was read");
    }

    #[test]
    fn input_waits_for_room() {
        let fd = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let uart = Uart::new(fd(), fd(), Vec::new());
        assert!(uart.enqueue(&[0; 1000]) < 1000);
        assert!(!uart.may_have_room());
        assert_eq!(uart.enqueue(b"x"), 0);
    }

    /// Takes a byte when the other end of the channel is gone.
    struct Stuck(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(()).unwrap();
            let _ = self.1.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn input_does_not_wait_for_output() {
        let fd = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let ((stuck, is_stuck), (go, wait)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let uart = Uart::new(fd(), fd(), Stuck(stuck, wait));
        thread::scope(|scope| {
            scope.spawn(|| uart.write(0, b"x"));
            is_stuck.recv().unwrap();
            assert_eq!(uart.enqueue(b"x"), 0);
            assert!(uart.may_have_room(), "so it is offered again");
            drop(go);
        });
        assert_eq!(uart.enqueue(b"x"), 1);
    }

    #[test]
    fn registers_are_bytes() {
        let fd = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let uart = Uart::new(fd(), fd(), Vec::new());
        assert_eq!(uart.write(0, &[1, 2]), IoOutcome::Unclaimed);
        assert_eq!(uart.read(0, &mut [0; 4]), IoOutcome::Unclaimed);
    }
}

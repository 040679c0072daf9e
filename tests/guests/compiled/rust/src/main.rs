//! Rust on bare metal: does [`work`], prints its results on the UART.
#![no_std]
#![no_main]

use core::fmt::{self, Write};
use core::panic::PanicInfo;

mod work;

core::arch::global_asm!(include_str!("../../start.S"));

struct Uart;

impl Write for Uart {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            // SAFETY: the guest runs where the UART's data register is at this address, and nothing else is.
            unsafe { core::ptr::write_volatile(0x1000_0000 as *mut u8, byte) };
        }
        Ok(())
    }
}

#[unsafe(no_mangle)]
extern "C" fn guest_main(_cpu: u64) -> i32 {
    match work::work(&mut Uart) {
        Ok(()) => 0,
        Err(fmt::Error) => 1,
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Uart, "{info}");
    loop {
        // SAFETY: a breakpoint with no vectors set ends this guest.
        unsafe { core::arch::asm!("brk #2") };
    }
}

//! A kernel that is out to get us: whatever it leaves in the run page and answers to `VCPU_RUN`, the crate says something
//! sensible, never panics, and keeps its promises.
//!
//! `ioctl` is interposed in this program. The input is what it does: first the features that the host shows, then for each
//! `run` an answer, 40 bytes for the page, and what the VMM does next.
#![no_main]

use std::cell::RefCell;
use std::ffi::{c_int, c_ulong};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::OnceLock;

use gunyah_ioctls::{Error, Gunyah, KickHandle, VcpuExit};
use libfuzzer_sys::fuzz_target;

const PAGE: usize = 4096;
/// The run structure.
const RUN: usize = 40;
const TIMES: usize = 64;

/// The one file behind every descriptor, and its memory.
struct File {
    fd: c_int,
    memory: usize,
}

fn file() -> &'static File {
    static FILE: OnceLock<File> = OnceLock::new();
    // SAFETY: a new file, mapped for good.
    FILE.get_or_init(|| unsafe {
        let fd = libc::memfd_create(c"run-page".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0 && libc::ftruncate(fd, PAGE as libc::off_t) == 0);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let memory = libc::mmap(std::ptr::null_mut(), PAGE, prot, libc::MAP_SHARED, fd, 0);
        assert_ne!(memory, libc::MAP_FAILED);
        File { fd, memory: memory as usize }
    })
}

/// What the kernel does, taken from the input.
#[derive(Default)]
struct Kernel {
    input: Vec<u8>,
    at: usize,
    features: u8,
    mmap_size: c_int,
    busy: u8,
    kick: Option<KickHandle>,
}

thread_local! {
    static KERNEL: RefCell<Kernel> = RefCell::default();
}

impl Kernel {
    fn byte(&mut self) -> u8 {
        self.at += 1;
        self.input.get(self.at - 1).copied().unwrap_or(0)
    }

    /// Fills the page and answers `VCPU_RUN`.
    fn run(&mut self) -> c_int {
        let answer = self.byte();
        for offset in 0..RUN {
            let byte = self.byte();
            // SAFETY: inside the page.
            unsafe { (file().memory as *mut u8).add(offset).write_volatile(byte) };
        }
        if answer & 0x40 != 0 {
            if let Some(kick) = &self.kick {
                kick.kick();
            }
        }
        match answer & 0xf {
            0..8 => 0,
            8 | 9 => fail(libc::EINTR),
            10 => fail(libc::EAGAIN),
            // Each costs a pause of a millisecond, up to 200 in a row: not too many.
            11 if self.busy < 2 => {
                self.busy += 1;
                fail(libc::EBUSY)
            }
            12 => fail(libc::ENODEV),
            13 => fail(libc::EPERM),
            14 => fail(libc::EINVAL),
            _ => 7,
        }
    }

    fn ioctl(&mut self, request: u32) -> c_int {
        let has = |bit: u8| if self.features & bit != 0 { fail(libc::EFAULT) } else { fail(libc::ENOTTY) };
        match request {
            0x4700 | 0x4010_4704 => dup(),
            0x4705 => self.run(),
            0x4706 => self.mmap_size,
            0x4703 | 0x4010_4707 => 0,
            // Guest memory, boot registers, user memory, and the rest of the questions that a host is asked.
            0x4040_4708 | 0x4020_4709 => has(1),
            0x4010_470a => has(2),
            0x4020_4701 => has(4),
            _ => has(8),
        }
    }
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: this thread's errno.
    unsafe { *libc::__errno_location() = errno };
    -1
}

fn dup() -> c_int {
    // SAFETY: numbers only.
    unsafe { libc::fcntl(file().fd, libc::F_DUPFD_CLOEXEC, 0) }
}

/// Found by the linker before the C library's.
#[unsafe(no_mangle)]
extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: c_ulong) -> c_int {
    if matches!(request as u32 >> 8 & 0xff, 0x41 | 0x47) {
        KERNEL.with_borrow_mut(|kernel| kernel.ioctl(request as u32))
    } else {
        // SAFETY: handed on as it came.
        unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) as c_int }
    }
}

/// The next byte of the input, for the VMM.
fn byte() -> u8 {
    KERNEL.with_borrow_mut(Kernel::byte)
}

fn play(input: &[u8]) {
    let mut kernel = Kernel { input: input.to_vec(), ..Kernel::default() };
    kernel.features = kernel.byte();
    kernel.mmap_size = match kernel.byte() {
        0 => 39,
        1 => 40,
        2 => -1,
        3 => c_int::MAX,
        _ => PAGE as c_int,
    };
    KERNEL.with_borrow_mut(|slot| *slot = kernel);

    // SAFETY: a fresh descriptor.
    let device = Gunyah::from(unsafe { OwnedFd::from_raw_fd(dup()) });
    let Ok(vm) = device.create_vm() else { return };
    let mut vcpu = match vm.add_vcpu(0) {
        Ok(vcpu) => vcpu,
        Err(Error::ShortRunPage { have, need: RUN }) if have < RUN => return,
        Err(Error::Ioctl { .. }) => return,
        Err(other) => panic!("{other:?}"),
    };
    let kick = vcpu.kick_handle();
    KERNEL.with_borrow_mut(|kernel| kernel.kick = Some(kick.clone()));

    let mut end = None;
    for _ in 0..TIMES {
        let exit = vcpu.run();
        match exit {
            Ok(VcpuExit::MmioRead { len, .. }) => {
                assert!(matches!(len, 1 | 2 | 4 | 8));
                assert!(matches!(vcpu.run(), Err(Error::UnansweredRead)));
                let how = byte();
                let data = [byte(); 9];
                let given = usize::from(how & 0xf).min(9);
                let answer = vcpu.complete_mmio_read(&data[..given]);
                assert_eq!(answer.is_ok(), given == len, "{given} bytes for {len}: {answer:?}");
                if given != len {
                    let other = if how & 0x10 != 0 { vcpu.fail_mmio() } else { vcpu.retry_mmio() };
                    if other.is_err() {
                        vcpu.complete_mmio_read(&data[..len]).unwrap();
                    }
                }
            }
            Ok(VcpuExit::MmioWrite { len, data, .. }) => {
                assert!(matches!(len, 1 | 2 | 4 | 8));
                assert!(data[len..].iter().all(|byte| *byte == 0));
                assert!(vcpu.complete_mmio_read(&data[..len]).is_err());
                if byte() & 1 != 0 {
                    let _ = vcpu.fail_mmio();
                }
            }
            Ok(VcpuExit::Status(status)) => {
                assert_eq!(*end.get_or_insert(status), status, "a VM ends once");
                assert_eq!(vm.exit_status(), Some(status));
                let _ = format!("{status} {status:?}");
            }
            Ok(VcpuExit::PageFault { .. } | VcpuExit::Interrupted | VcpuExit::Unknown(_)) => {
                assert!(end.is_none(), "a VM that has ended does not run");
            }
            Ok(_) => {}
            Err(Error::InvalidRunPage { field, value }) => {
                if field.starts_with("mmio") {
                    let again = vcpu.run();
                    assert!(
                        matches!(again, Err(Error::InvalidRunPage { field: f, value: v }) if (f, v) == (field, value))
                    );
                    break;
                }
            }
            Err(error) => {
                assert!(end.is_none());
                let _ = error.to_string();
            }
        }
        if byte() & 0x1f == 7 {
            kick.kick();
            if end.is_none() {
                assert!(matches!(vcpu.run(), Ok(VcpuExit::Interrupted) | Err(Error::UnansweredRead)));
            }
        }
    }
    KERNEL.with_borrow_mut(|kernel| kernel.kick = None);
}

fuzz_target!(|input: &[u8]| play(input));

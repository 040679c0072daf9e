//! A kick that comes when `run` is about to enter the kernel, at exactly that moment: `ioctl` is interposed in this program, and the
//! kick is made there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs, unsafe_code)]

use std::ffi::{c_int, c_ulong};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use gunyah_ioctls::{Gunyah, KickHandle, VcpuExit, VcpuFd, VmFd};

const GH_VCPU_RUN: u32 = 0x4705;
const MMIO_READ: [(usize, &[u8]); 4] =
    [(16, &[0, 0x10, 0, 0, 0, 0, 0, 0]), (32, &[4, 0, 0, 0]), (36, &[0]), (8, &[1, 0, 0, 0])];

static PAGE: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
/// The kick to make at the next entry.
static KICK: Mutex<Option<KickHandle>> = Mutex::new(None);
/// What was there after it: `immediate_exit`, and whether the signal was pending at once, and 100 ms later.
static SEEN: Mutex<Option<(u8, bool, bool)>> = Mutex::new(None);

/// Found by the linker before the C library's.
#[unsafe(no_mangle)]
extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: c_ulong) -> c_int {
    match request as u32 {
        GH_VCPU_RUN => enter(),
        0x4700 => memfd(),
        0x4010_4704 => {
            let fd = memfd();
            // SAFETY: a new mapping of a file of three pages.
            let page = unsafe {
                let prot = libc::PROT_READ | libc::PROT_WRITE;
                libc::mmap(std::ptr::null_mut(), 4096, prot, libc::MAP_SHARED, fd, 0)
            };
            PAGE.store(page.cast(), Ordering::Relaxed);
            fd
        }
        0x4706 => 4096,
        0x4010_4707 => 0,
        // SAFETY: handed on as it came, to files that are no Gunyah's.
        _ => unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) as c_int },
    }
}

/// `VCPU_RUN`: a guest that loads; before it, the kick. The kernel drops an answer, or ends, as the real one does.
fn enter() -> c_int {
    let page = PAGE.load(Ordering::Relaxed);
    // SAFETY: inside the page.
    let immediate_exit = || unsafe { page.read_volatile() };
    let kick = KICK.lock().unwrap().take();
    if let Some(kick) = kick {
        let signal = libc::SIGRTMIN();
        block(libc::SIG_BLOCK, signal);
        std::thread::spawn(move || kick.kick()).join().unwrap();
        let (flag, at_once) = (immediate_exit(), pending(signal));
        std::thread::sleep(Duration::from_millis(100));
        *SEEN.lock().unwrap() = Some((flag, at_once, pending(signal)));
        // The handler runs here: the signal came before the entry, and the kernel never sees it.
        block(libc::SIG_UNBLOCK, signal);
    }
    if immediate_exit() != 0 {
        // SAFETY: this thread's errno.
        unsafe { *libc::__errno_location() = libc::EINTR };
        return -1;
    }
    for (offset, bytes) in MMIO_READ {
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the page.
            unsafe { page.add(offset + i).write_volatile(*byte) };
        }
    }
    0
}

fn block(how: c_int, signal: c_int) {
    // SAFETY: plain data in, for this thread.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, signal);
        assert_eq!(libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()), 0);
    }
}

fn pending(signal: c_int) -> bool {
    // SAFETY: plain data out.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        assert_eq!(libc::sigpending(&raw mut set), 0);
        libc::sigismember(&raw const set, signal) == 1
    }
}

fn memfd() -> c_int {
    // SAFETY: a new file.
    unsafe {
        let fd = libc::memfd_create(c"interposed".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0 && libc::ftruncate(fd, 3 * 4096) == 0);
        fd
    }
}

fn vcpu() -> (VmFd, VcpuFd) {
    // SAFETY: a fresh descriptor.
    let device = unsafe { OwnedFd::from_raw_fd(memfd()) };
    let vm = Gunyah::from(device).create_vm().unwrap();
    let vcpu = vm.add_vcpu(0).unwrap();
    (vm, vcpu)
}

const LOAD: VcpuExit = VcpuExit::MmioRead { addr: 0x1000, len: 4 };

#[test]
fn a_kick_at_the_entry_is_seen_by_the_kernel_and_keeps_away_from_an_answer() {
    let (_vm, mut vcpu) = vcpu();
    // Nothing is outstanding: the flag catches what the signal would miss.
    *KICK.lock().unwrap() = Some(vcpu.kick_handle());
    assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
    assert_eq!(SEEN.lock().unwrap().take(), Some((1, true, true)));

    // An answer is outstanding: neither, until the entry is long over.
    assert_eq!(vcpu.run().unwrap(), LOAD);
    vcpu.complete_mmio_read(&[1; 4]).unwrap();
    *KICK.lock().unwrap() = Some(vcpu.kick_handle());
    assert_eq!(vcpu.run().unwrap(), LOAD, "the guest has its answer, and goes on");
    assert_eq!(SEEN.lock().unwrap().take(), Some((0, false, true)));
    vcpu.complete_mmio_read(&[1; 4]).unwrap();
    assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted, "the kick that met the exit");
    assert_eq!(vcpu.run().unwrap(), LOAD);
    assert_eq!(vcpu.answers_possibly_lost(), 0);
}

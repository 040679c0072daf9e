//! A kernel of one function: `ioctl`, interposed in this binary, fills the run page with an MMIO exit and returns 0.
//!
//! So a bench sees the cost of a wrapper and nothing else. File descriptors are memfds, mapped for real.
#![allow(dead_code, reason = "each bench takes what it needs")]

use std::ffi::{c_int, c_ulong};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use gunyah_ioctls::{Gunyah, VcpuFd, VmFd};

/// The guest's next accesses are loads; else stores.
pub(crate) static LOADS: AtomicU32 = AtomicU32::new(0);

/// The memory behind each file descriptor.
static PAGES: [AtomicPtr<u8>; 1024] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 1024];

/// How many devices the guest accesses, one after the other in an order that no branch learns by heart: 4 KiB each.
pub(crate) static DEVICES: AtomicU64 = AtomicU64::new(1);

/// So many exits are left before one call is interrupted by a signal, which only benches of whole VMMs use.
pub(crate) static LEFT: AtomicU64 = AtomicU64::new(u64::MAX);

const GH_CREATE_VM: u32 = 0x4700;
const GH_SET_USER_MEM_REGION: u32 = 0x4020_4701;
const GH_SET_DTB_CONFIG: u32 = 0x4010_4702;
const GH_START: u32 = 0x4703;
const GH_ADD_FUNCTION: u32 = 0x4010_4704;
pub(crate) const GH_VCPU_RUN: u32 = 0x4705;
const GH_VCPU_MMAP_SIZE: u32 = 0x4706;
const GH_REMOVE_FUNCTION: u32 = 0x4010_4707;
const KVM_GET_API_VERSION: u32 = 0xae00;
const KVM_CREATE_VM: u32 = 0xae01;
const KVM_CHECK_EXTENSION: u32 = 0xae03;
const KVM_GET_VCPU_MMAP_SIZE: u32 = 0xae04;
const KVM_CREATE_VCPU: u32 = 0xae41;
const KVM_RUN: u32 = 0xae80;
const KVM_EXIT_MMIO: u32 = 6;

const SIZE: usize = 3 * 4096;

/// Found by the linker before the C library's.
#[unsafe(no_mangle)]
extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: c_ulong) -> c_int {
    match request as u32 {
        GH_VCPU_RUN => gunyah_exit(PAGES[fd as usize].load(Ordering::Relaxed)),
        KVM_RUN => kvm_exit(PAGES[fd as usize].load(Ordering::Relaxed)),
        GH_CREATE_VM | KVM_CREATE_VM | GH_ADD_FUNCTION | KVM_CREATE_VCPU => memfd(),
        GH_VCPU_MMAP_SIZE => 4096,
        KVM_GET_VCPU_MMAP_SIZE => SIZE as c_int,
        KVM_GET_API_VERSION => 12,
        GH_REMOVE_FUNCTION | GH_SET_DTB_CONFIG | GH_START | KVM_CHECK_EXTENSION => 0,
        GH_SET_USER_MEM_REGION if argument == 0 => fail(libc::EFAULT),
        GH_SET_USER_MEM_REGION => 0,
        other if matches!(other >> 8 & 0xff, 0x41 | 0x47 | 0xae) => fail(libc::ENOTTY),
        // Of the standard library, say.
        // SAFETY: handed on as it came.
        _ => unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) as c_int },
    }
}

fn fail(errno: c_int) -> c_int {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// A new file descriptor with memory behind it.
fn memfd() -> c_int {
    // SAFETY: a new file, sized, mapped where the kernel likes. The mapping stays for good.
    unsafe {
        let fd = libc::memfd_create(c"interposed".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0 && libc::ftruncate(fd, SIZE as libc::off_t) == 0);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let start = libc::mmap(std::ptr::null_mut(), SIZE, prot, libc::MAP_SHARED, fd, 0);
        assert_ne!(start, libc::MAP_FAILED);
        PAGES[fd as usize].store(start.cast(), Ordering::Relaxed);
        fd
    }
}

fn put<T>(page: *mut u8, offset: usize, value: T) {
    // SAFETY: in the page, aligned.
    unsafe { page.add(offset).cast::<T>().write_volatile(value) };
}

fn gunyah_exit(page: *mut u8) -> c_int {
    let left = LEFT.load(Ordering::Relaxed);
    if left == 0 {
        return fail(libc::EINTR);
    }
    LEFT.store(left - 1, Ordering::Relaxed);
    let device = left.wrapping_mul(5).wrapping_add(3) % DEVICES.load(Ordering::Relaxed);
    put(page, 16, 0x1000_0000 + 0x1000 * device);
    put(page, 24, 0x5a_u64);
    put(page, 32, 4_u32);
    put(page, 36, u8::from(LOADS.load(Ordering::Relaxed) == 0));
    put(page, 8, 1_u32);
    0
}

fn kvm_exit(page: *mut u8) -> c_int {
    put(page, 32, 0x1000_0000_u64);
    put(page, 40, 0x5a_u64);
    put(page, 48, 4_u32);
    put(page, 52, u8::from(LOADS.load(Ordering::Relaxed) == 0));
    put(page, 8, KVM_EXIT_MMIO);
    0
}

/// A device node.
pub(crate) fn device() -> OwnedFd {
    // SAFETY: a fresh descriptor.
    unsafe { OwnedFd::from_raw_fd(memfd()) }
}

/// A VM with so many vCPUs.
pub(crate) fn gunyah_vcpus(count: usize) -> (VmFd, Vec<VcpuFd>) {
    let vm = Gunyah::from(device()).create_vm().unwrap();
    let vcpus = (0..count).map(|id| vm.add_vcpu(id as u32).unwrap()).collect();
    (vm, vcpus)
}

/// The same of kvm-ioctls.
pub(crate) fn kvm_vcpus(count: usize) -> (kvm_ioctls::VmFd, Vec<kvm_ioctls::VcpuFd>) {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is ours to give.
    let kvm = unsafe { kvm_ioctls::Kvm::from_raw_fd(device().into_raw_fd()) };
    let vm = kvm.create_vm().unwrap();
    let vcpus = (0..count).map(|id| vm.create_vcpu(id as u64).unwrap()).collect();
    (vm, vcpus)
}

/// The least that any VMM has to do: the call, and a look at what came.
#[derive(Debug)]
pub(crate) struct Bare {
    fd: c_int,
    page: *mut u8,
}

impl Bare {
    pub(crate) fn new() -> Self {
        let fd = memfd();
        Self { fd, page: PAGES[fd as usize].load(Ordering::Relaxed) }
    }

    fn get<T>(&self, offset: usize) -> T {
        // SAFETY: in the page, aligned, a plain integer.
        unsafe { self.page.add(offset).cast::<T>().read_volatile() }
    }

    pub(crate) fn run(&mut self) -> (u64, u64, u32, u8) {
        // SAFETY: the interposed call.
        let answer = unsafe { libc::ioctl(self.fd, GH_VCPU_RUN as libc::Ioctl, 0 as c_ulong) };
        assert!(answer == 0 && self.get::<u32>(8) == 1);
        (self.get(16), self.get(24), self.get(32), self.get(36))
    }

    pub(crate) fn answer(&mut self, value: u32) {
        put(self.page, 24, u64::from(value));
    }
}

pub(crate) fn gunyah_step(vcpu: &mut VcpuFd) -> u64 {
    match vcpu.run() {
        Ok(gunyah_ioctls::VcpuExit::MmioWrite { addr, data, len }) => {
            addr.wrapping_add(u64::from_le_bytes(data)).wrapping_add(len as u64)
        }
        Ok(gunyah_ioctls::VcpuExit::MmioRead { addr, .. }) => {
            vcpu.complete_mmio_read(&0x1234_5678_u32.to_le_bytes()).unwrap();
            addr
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn kvm_step(vcpu: &mut kvm_ioctls::VcpuFd) -> u64 {
    match vcpu.run() {
        Ok(kvm_ioctls::VcpuExit::MmioWrite(addr, data)) => {
            let mut bytes = [0; 8];
            bytes[..data.len()].copy_from_slice(data);
            addr.wrapping_add(u64::from_le_bytes(bytes)).wrapping_add(data.len() as u64)
        }
        Ok(kvm_ioctls::VcpuExit::MmioRead(addr, data)) => {
            data.copy_from_slice(&0x1234_5678_u32.to_le_bytes());
            addr
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn bare_step(bare: &mut Bare) -> u64 {
    let (addr, data, len, is_write) = bare.run();
    if is_write == 0 {
        bare.answer(0x1234_5678);
        return addr;
    }
    addr.wrapping_add(data & 0xffff_ffff).wrapping_add(u64::from(len))
}

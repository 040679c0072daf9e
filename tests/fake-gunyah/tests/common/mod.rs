//! Raw system calls for the tests: no ioctl code of this workspace, so that nothing can be wrong in the same way twice.
#![allow(
    dead_code,
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used
)]
#![allow(clippy::panic, clippy::indexing_slicing, missing_docs, unreachable_pub)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use fake_gunyah::{Errno, Fake, Guest, Handle, Script};

pub const CREATE_VM: u32 = 0x4700;
pub const SET_USER_MEM_REGION: u32 = 0x4020_4701;
pub const SET_DTB_CONFIG: u32 = 0x4010_4702;
pub const VM_START: u32 = 0x4703;
pub const ADD_FUNCTION: u32 = 0x4010_4704;
pub const VCPU_RUN: u32 = 0x4705;
pub const VCPU_MMAP_SIZE: u32 = 0x4706;
pub const REMOVE_FUNCTION: u32 = 0x4010_4707;
pub const CREATE_GUEST_MEM: u32 = 0x4040_4708;
pub const MAP_MEM: u32 = 0x4020_4709;
pub const SET_BOOT_CONTEXT: u32 = 0x4010_470a;
pub const TENTATIVE: u32 = 0x4110;
pub const LEND_USER_MEM: u32 = 0x4020_4111;
pub const SET_FW_CONFIG: u32 = 0x4010_4112;
pub const RECLAIM_REGION: u32 = 0x4010_4113;
pub const MAP_CMA_MEM: u32 = 0x4028_4115;
pub const SET_AUTH_TYPE: u32 = 0x4010_4116;
pub const CHECK_EXTENSION: u32 = 0x4117;

pub const FN_VCPU: u32 = 1;
pub const FN_IRQFD: u32 = 2;
pub const FN_IOEVENTFD: u32 = 3;

pub const EXIT_MMIO: u32 = 1;
pub const EXIT_STATUS: u32 = 2;
pub const EXIT_PAGE_FAULT: u32 = 3;

pub type Result<T> = std::result::Result<T, Errno>;

pub fn errno() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap())
}

pub fn ioctl(fd: RawFd, request: u32, arg: u64) -> Result<i64> {
    let ret = unsafe { libc::syscall(libc::SYS_ioctl, fd, request as libc::c_ulong, arg) };
    if ret < 0 { Err(errno()) } else { Ok(ret) }
}

pub fn page_size() -> usize {
    (unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) as usize
}

pub fn open() -> Result<OwnedFd> {
    open_path(c"/dev/gunyah")
}

pub fn open_path(path: &std::ffi::CStr) -> Result<OwnedFd> {
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if fd < 0 { Err(errno()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

pub fn eventfd(initial: u32) -> OwnedFd {
    let fd = unsafe { libc::eventfd(initial, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    assert!(fd >= 0);
    unsafe { OwnedFd::from_raw_fd(fd) }
}

pub fn eventfd_write(fd: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    assert_eq!(unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), 8) }, 8);
}

/// The counter, which is then 0.
pub fn eventfd_read(fd: &OwnedFd) -> u64 {
    let mut count = [0u8; 8];
    let n = unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    if n == 8 { u64::from_ne_bytes(count) } else { 0 }
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Region {
    pub label: u32,
    pub flags: u32,
    pub guest_phys_addr: u64,
    pub memory_size: u64,
    pub userspace_addr: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FnDesc {
    pub kind: u32,
    pub arg_size: u32,
    pub arg: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct IrqfdArg {
    pub fd: u32,
    pub label: u32,
    pub flags: u32,
    pub padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct IoeventfdArg {
    pub datamatch: u64,
    pub addr: u64,
    pub len: u32,
    pub fd: i32,
    pub flags: u32,
    pub padding: u32,
}

/// Anonymous memory of the caller.
pub struct Ram {
    pub addr: *mut u8,
    pub len: usize,
}

unsafe impl Send for Ram {}
unsafe impl Sync for Ram {}

impl Ram {
    pub fn new(len: usize) -> Self {
        let addr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(addr, libc::MAP_FAILED);
        Self { addr: addr.cast(), len }
    }

    pub fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.len);
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.addr.add(offset), data.len()) };
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        unsafe { libc::munmap(self.addr.cast(), self.len) };
    }
}

pub struct Vm {
    pub fd: OwnedFd,
}

impl Vm {
    /// Opens the device and makes a VM. The device is closed again: the VM does not need it.
    pub fn new() -> Self {
        let device = open().unwrap();
        let fd = ioctl(device.as_raw_fd(), CREATE_VM, 0).unwrap() as RawFd;
        Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } }
    }

    pub fn ioctl(&self, request: u32, arg: u64) -> Result<i64> {
        ioctl(self.fd.as_raw_fd(), request, arg)
    }

    pub fn ioctl_with<T>(&self, request: u32, arg: &T) -> Result<i64> {
        self.ioctl(request, std::ptr::from_ref(arg) as u64)
    }

    pub fn region(&self, region: &Region) -> Result<i64> {
        self.ioctl_with(SET_USER_MEM_REGION, region)
    }

    pub fn dtb(&self, addr: u64, size: u64) -> Result<i64> {
        self.ioctl_with(SET_DTB_CONFIG, &[addr, size])
    }

    pub fn start(&self) -> Result<i64> {
        self.ioctl(VM_START, 0)
    }

    pub fn add<T>(&self, kind: u32, arg: &T) -> Result<i64> {
        let desc = FnDesc { kind, arg_size: size_of::<T>() as u32, arg: std::ptr::from_ref(arg) as u64 };
        self.ioctl_with(ADD_FUNCTION, &desc)
    }

    pub fn remove<T>(&self, kind: u32, arg: &T) -> Result<i64> {
        let desc = FnDesc { kind, arg_size: size_of::<T>() as u32, arg: std::ptr::from_ref(arg) as u64 };
        self.ioctl_with(REMOVE_FUNCTION, &desc)
    }

    pub fn vcpu(&self, id: u32) -> Result<Vcpu> {
        self.add(FN_VCPU, &id).map(|fd| Vcpu::new(fd as RawFd))
    }

    pub fn irqfd(&self, eventfd: &OwnedFd, label: u32) -> Result<i64> {
        self.add(FN_IRQFD, &IrqfdArg { fd: eventfd.as_raw_fd() as u32, label, ..IrqfdArg::default() })
    }

    pub fn ioeventfd(&self, eventfd: &OwnedFd, addr: u64, len: u32, datamatch: Option<u64>) -> Result<i64> {
        self.add(
            FN_IOEVENTFD,
            &IoeventfdArg {
                datamatch: datamatch.unwrap_or(0),
                addr,
                len,
                fd: eventfd.as_raw_fd(),
                flags: u32::from(datamatch.is_some()),
                padding: 0,
            },
        )
    }
}

/// A vCPU with its page.
pub struct Vcpu {
    pub fd: OwnedFd,
    pub page: *mut u8,
}

unsafe impl Send for Vcpu {}
unsafe impl Sync for Vcpu {}

impl Vcpu {
    pub fn new(fd: RawFd) -> Self {
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page_size(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
        Self { fd, page: page.cast() }
    }

    pub fn run(&self) -> Result<i64> {
        ioctl(self.fd.as_raw_fd(), VCPU_RUN, 0)
    }

    pub fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|i| unsafe { self.page.add(offset + i).read_volatile() })
    }

    pub fn set(&self, offset: usize, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            unsafe { self.page.add(offset + i).write_volatile(*byte) };
        }
    }

    pub fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.get(offset))
    }
    pub fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.get(offset))
    }
    pub fn set_immediate_exit(&self, on: bool) {
        self.set(0, &[u8::from(on)]);
    }
    pub fn immediate_exit(&self) -> u8 {
        self.get::<1>(0)[0]
    }
    pub fn reason(&self) -> u32 {
        self.u32(8)
    }
    pub fn clear_reason(&self) {
        self.set(8, &[0; 4]);
    }
    /// Address, length, is_write, data.
    pub fn mmio(&self) -> (u64, u32, u8, u64) {
        (self.u64(16), self.u32(32), self.get::<1>(36)[0], self.u64(24))
    }
    pub fn answer(&self, value: u64) {
        self.set(24, &value.to_le_bytes());
    }
    /// Status, exit type, reason size, reason.
    pub fn status(&self) -> (u32, u16, u32, [u8; 8]) {
        (self.u32(16), u16::from_ne_bytes(self.get(20)), self.u32(24), self.get(28))
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        unsafe { libc::munmap(self.page.cast(), page_size()) };
    }
}

/// v11 with scripts.
pub fn with_scripts<T: Send>(
    scripts: impl IntoIterator<Item = Script>,
    body: impl FnOnce(&Handle) -> T + Send,
) -> T {
    let fake = Fake::builder().guest(Guest::scripts(scripts)).build().unwrap();
    let mut handle = None;
    let value = fake
        .run(|h| {
            handle = Some(h.clone());
            body(h)
        })
        .unwrap();
    assert_eq!(handle.unwrap().leftovers(), [], "left open");
    value
}

/// A started VM with one vCPU that runs a script.
pub fn with_vcpu<T: Send>(script: Script, body: impl FnOnce(&Handle, &Vm, &Vcpu) -> T + Send) -> T {
    with_scripts([script], |handle| {
        let vm = Vm::new();
        let vcpu = vm.vcpu(0).unwrap();
        vm.start().unwrap();
        body(handle, &vm, &vcpu)
    })
}

/// Waits for something that happens a little later.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "{what}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

pub fn gone(handle: &Handle) {
    eventually("objects are still open", || handle.objects().is_empty());
}

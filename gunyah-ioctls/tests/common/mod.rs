//! What the tests on the fake kernel share.
#![allow(dead_code, unsafe_code)]

use std::ptr::NonNull;

use fake_gunyah::{Builder, Fake, Flavour, Guest, Handle, Host, Script};
use gunyah_ioctls::{
    Access, Feature, GuestMemory, GuestMemoryMapping, Gunyah, Sharing, UserMemoryRegion, VcpuFd, VmFd,
};

/// What a test runs on: a kernel of a flavour, or a host that mixes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    Of(Flavour),
    Mixed(Host),
}

/// Every flavour that runs guests, and the host that was seen to mix.
pub(crate) const KERNELS: [Kernel; 7] = [
    Kernel::Of(Flavour::V11),
    Kernel::Of(Flavour::Android14Early),
    Kernel::Of(Flavour::Android14),
    Kernel::Of(Flavour::Android15),
    Kernel::Of(Flavour::Android16),
    Kernel::Of(Flavour::V17),
    Kernel::Mixed(Host::Open2023),
];

impl Kernel {
    pub(crate) fn builder(self) -> Builder {
        match self {
            Self::Of(flavour) => Fake::builder().flavour(flavour),
            Self::Mixed(host) => Fake::builder().host(host),
        }
    }
}

impl From<Flavour> for Kernel {
    fn from(flavour: Flavour) -> Self {
        Self::Of(flavour)
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Of(flavour) => flavour.name(),
            Self::Mixed(host) => host.name(),
        })
    }
}

pub(crate) const RAM: u64 = 0x8000_0000;
const PAGES: usize = 4;

/// Runs `body` with a fake kernel, which must have everything back at the end.
pub(crate) fn on<T: Send>(
    kernel: impl Into<Kernel>,
    scripts: impl IntoIterator<Item = Script>,
    body: impl FnOnce(&Handle) -> T + Send,
) -> T {
    let _watchdog = Watchdog::new();
    let kernel = kernel.into();
    let fake = kernel.builder().guest(Guest::scripts(scripts)).build().unwrap();
    let mut kept = None;
    let answer = fake
        .run(|handle| {
            kept = Some(handle.clone());
            body(handle)
        })
        .unwrap();
    assert_eq!(kept.unwrap().leftovers(), [], "{kernel}: left open");
    answer
}

/// Ends the process if it is not dropped within minutes: a test that waits for a lost exit must fail, not hang.
pub(crate) struct Watchdog(Option<std::sync::mpsc::Sender<()>>, Option<std::thread::JoinHandle<()>>);

impl Watchdog {
    pub(crate) fn new() -> Self {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let (done, wait) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let minutes = std::time::Duration::from_secs(300);
            if wait.recv_timeout(minutes) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs");
                std::process::abort();
            }
        });
        Self(Some(done), Some(thread))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.0.take());
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

/// Memory for a guest.
pub(crate) struct Ram {
    start: NonNull<u8>,
    len: usize,
}

impl Ram {
    pub(crate) fn new(pages: usize) -> Self {
        let len = pages * page_size();
        // SAFETY: a new anonymous mapping.
        let start = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start: NonNull::new(start.cast()).unwrap(), len }
    }

    pub(crate) fn page(&self) -> u64 {
        page_size() as u64
    }

    pub(crate) fn region(&self, label: u32, guest_phys_addr: u64) -> UserMemoryRegion {
        UserMemoryRegion {
            label,
            guest_phys_addr,
            memory_size: self.len as u64,
            userspace_addr: self.start.as_ptr() as u64,
            access: Access::RWX,
        }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and whoever keeps it drops it after the VM.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

pub(crate) fn page_size() -> usize {
    // SAFETY: no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap()
}

pub(crate) struct Vm {
    pub(crate) fd: VmFd,
    pub(crate) vcpus: Vec<VcpuFd>,
    memory: Option<GuestMemory>,
}

/// A VM with memory, a place for the devicetree and vCPUs, not started.
pub(crate) fn configured_vm(vcpus: u32) -> (Vm, Ram) {
    let gunyah = Gunyah::new().unwrap();
    let fd = gunyah.create_vm().unwrap();
    let ram = Ram::new(PAGES);
    let mut memory = None;
    if fd.features().has(Feature::UserMemory) {
        // SAFETY: the caller gets the memory with the VM, and drops it last.
        unsafe { fd.set_user_memory_region(&ram.region(0, RAM)) }.unwrap();
    } else {
        let size = (PAGES * page_size()) as u64;
        let guest = gunyah.create_guest_memory(size, false).unwrap();
        let (access, sharing) = (Access::RWX, Sharing::Lend);
        let mapping = GuestMemoryMapping { guest_addr: RAM, offset: 0, size, access, sharing };
        fd.map_guest_memory(&guest, &mapping).unwrap();
        memory = Some(guest);
    }
    let vcpus = (0..vcpus).map(|id| fd.add_vcpu(id).unwrap()).collect();
    fd.set_dtb_config(RAM, 4096).unwrap();
    (Vm { fd, vcpus, memory }, ram)
}

/// The same, started.
pub(crate) fn started_vm(vcpus: u32) -> (Vm, Ram) {
    let (vm, ram) = configured_vm(vcpus);
    vm.fd.start().unwrap();
    (vm, ram)
}

/// An eventfd that does not block.
pub(crate) struct Event(std::fs::File);

impl Event {
    pub(crate) fn new() -> Self {
        use std::os::fd::{FromRawFd, OwnedFd};
        // SAFETY: a fresh descriptor that nothing else owns.
        let fd = unsafe {
            let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
            assert!(fd >= 0);
            OwnedFd::from_raw_fd(fd)
        };
        Self(fd.into())
    }

    pub(crate) fn signal(&self) {
        use std::io::Write;
        (&self.0).write_all(&1_u64.to_ne_bytes()).unwrap();
    }

    /// How often it was signalled since the last call.
    pub(crate) fn take(&self) -> u64 {
        use std::io::Read;
        let mut count = [0; 8];
        if (&self.0).read_exact(&mut count).is_ok() { u64::from_ne_bytes(count) } else { 0 }
    }
}

impl std::os::fd::AsFd for Event {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for something that happens soon.
pub(crate) fn eventually(condition: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < std::time::Duration::from_secs(30), "it never came true");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// How many calls of the code under test the fake has answered. `fd` is any Gunyah file.
///
/// The fake writes its log after it answers, so the last call may be missing yet: one more pushes it in.
pub(crate) fn calls(handle: &Handle, fd: impl std::os::fd::AsFd) -> usize {
    const MARK: u32 = 0x47fe;
    // SAFETY: an ioctl that no Gunyah has.
    unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd()), MARK as libc::Ioctl, 0) };
    handle.calls().iter().filter(|call| call.request != MARK).count()
}

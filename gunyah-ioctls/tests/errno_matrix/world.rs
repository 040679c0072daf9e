//! What the rows of the matrix do to a host: raw system calls with numbers of their own, and the crate.
#![allow(unsafe_code, dead_code)]

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use fake_gunyah::{Flavour, Handle};
use gunyah_ioctls::{CmaMemory, CmaRegion, Gunyah, VcpuFd, VmFd};

use super::common::{self, Event, Ram};

/// What a raw call answered: its value or its errno.
pub(crate) type Raw = Result<i64, i32>;
/// What the crate answered.
pub(crate) type Answer = Result<(), gunyah_ioctls::Error>;

pub(crate) const CREATE_VM: u32 = 0x4700;
pub(crate) const SET_USER_MEM: u32 = 0x4020_4701;
pub(crate) const SET_DTB: u32 = 0x4010_4702;
pub(crate) const START: u32 = 0x4703;
pub(crate) const ADD: u32 = 0x4010_4704;
pub(crate) const RUN: u32 = 0x4705;
pub(crate) const MMAP_SIZE: u32 = 0x4706;
pub(crate) const REMOVE: u32 = 0x4010_4707;
pub(crate) const CREATE_GUEST_MEM: u32 = 0x4040_4708;
pub(crate) const MAP_MEM: u32 = 0x4020_4709;
pub(crate) const BOOT_CONTEXT: u32 = 0x4010_470a;
pub(crate) const LEND: u32 = 0x4020_4111;
pub(crate) const SET_FW: u32 = 0x4010_4112;
pub(crate) const RECLAIM: u32 = 0x4010_4113;
pub(crate) const CREATE_CMA: u32 = 0x4114;
pub(crate) const MAP_CMA: u32 = 0x4028_4115;
pub(crate) const SET_AUTH: u32 = 0x4010_4116;
pub(crate) const CHECK_EXTENSION: u32 = 0x4117;
/// No kernel has it.
pub(crate) const NO_IOCTL: u32 = 0x47fe;

pub(crate) const VCPU: u64 = 1;
pub(crate) const IRQFD: u64 = 2;
pub(crate) const IOEVENTFD: u64 = 3;

/// Where guests have their memory.
pub(crate) const RAM: u64 = 0x8000_0000;
/// Where they have none.
pub(crate) const NOWHERE: u64 = 0x4000_0000;
/// The node of a reserved region.
pub(crate) const CMA_NODE: &str = "/dev/gunyah-test-region";

pub(crate) fn page() -> u64 {
    common::page_size() as u64
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

/// Two 32-bit fields of a structure, side by side.
pub(crate) fn pair(low: u64, high: u64) -> u64 {
    (low & 0xffff_ffff) | high << 32
}

pub(crate) fn region(label: u64, flags: u64, gpa: u64, size: u64, user: u64) -> [u64; 4] {
    [pair(label, flags), gpa, size, user]
}

pub(crate) fn irqfd(fd: RawFd, label: u64, flags: u64) -> [u64; 2] {
    [pair(fd as u64, label), flags]
}

pub(crate) fn ioeventfd(fd: RawFd, addr: u64, len: u64, flags: u64, datamatch: u64) -> [u64; 4] {
    [datamatch, addr, pair(len, fd as u32 as u64), flags]
}

/// A file descriptor for raw calls.
pub(crate) struct Fd(pub(crate) OwnedFd);

impl Fd {
    pub(crate) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// An ioctl with a number, or a pointer that the kernel will not like.
    pub(crate) fn ioctl(&self, request: u32, arg: u64) -> Raw {
        raw_ioctl(self.number(), request, arg)
    }

    /// An ioctl with a structure.
    pub(crate) fn with<const N: usize>(&self, request: u32, arg: &[u64; N]) -> Raw {
        self.ioctl(request, arg.as_ptr() as u64)
    }

    fn function<const N: usize>(&self, request: u32, kind: u64, size: u64, arg: &[u64; N]) -> Raw {
        assert!(size <= 8 * N as u64);
        self.with(request, &[pair(kind, size), arg.as_ptr() as u64])
    }

    /// Adds a function with an argument of `size` bytes.
    pub(crate) fn add<const N: usize>(&self, kind: u64, size: u64, arg: &[u64; N]) -> Raw {
        self.function(ADD, kind, size, arg)
    }

    pub(crate) fn remove<const N: usize>(&self, kind: u64, size: u64, arg: &[u64; N]) -> Raw {
        self.function(REMOVE, kind, size, arg)
    }

    pub(crate) fn add_vcpu(&self, id: u64) -> Raw {
        self.add(VCPU, 4, &[id])
    }

    pub(crate) fn vcpu(&self, id: u64) -> Fd {
        own(self.add_vcpu(id).unwrap())
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(crate) fn raw_ioctl(fd: RawFd, request: u32, arg: u64) -> Raw {
    // SAFETY: pointers are to live structures or bad on purpose; a bad one is the kernel's to refuse.
    let answer = unsafe { libc::syscall(libc::SYS_ioctl, fd, request as libc::c_ulong, arg) };
    if answer < 0 { Err(errno()) } else { Ok(answer) }
}

pub(crate) fn own(fd: i64) -> Fd {
    // SAFETY: a descriptor that a call has just made.
    Fd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

pub(crate) fn open(path: &str) -> Raw {
    let path = std::ffi::CString::new(path).unwrap();
    // SAFETY: a string that lives.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if fd < 0 { Err(errno()) } else { Ok(fd.into()) }
}

/// The page of a vCPU, for raw reads and writes.
pub(crate) struct Page(*mut u8);

impl Page {
    pub(crate) fn of(vcpu: &impl AsFd) -> Self {
        // SAFETY: a new mapping.
        let start = unsafe {
            let (prot, len) = (libc::PROT_READ | libc::PROT_WRITE, common::page_size());
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, vcpu.as_fd().as_raw_fd(), 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        Self(start.cast())
    }

    pub(crate) fn byte(&self, offset: usize) -> u8 {
        // SAFETY: inside the page.
        unsafe { self.0.add(offset).read_volatile() }
    }

    pub(crate) fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(std::array::from_fn(|i| self.byte(offset + i)))
    }

    pub(crate) fn set_byte(&self, offset: usize, value: u8) {
        // SAFETY: inside the page.
        unsafe { self.0.add(offset).write_volatile(value) };
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`.
        unsafe { libc::munmap(self.0.cast(), common::page_size()) };
    }
}

/// One host, and what a row has made on it.
pub(crate) struct World {
    pub(crate) flavour: Flavour,
    handle: Handle,
    rams: RefCell<Vec<Ram>>,
    kept: RefCell<Vec<Box<dyn std::any::Any>>>,
    marked: Cell<Option<usize>>,
}

impl World {
    pub(crate) fn new(flavour: Flavour, handle: &Handle) -> Self {
        Self {
            flavour,
            handle: handle.clone(),
            rams: RefCell::default(),
            kept: RefCell::default(),
            marked: Cell::new(None),
        }
    }

    /// Keeps a thing until the row is over.
    pub(crate) fn keep(&self, thing: impl std::any::Any) {
        self.kept.borrow_mut().push(Box::new(thing));
    }

    /// The address of new memory of this process, kept until the row is over.
    pub(crate) fn ram(&self, pages: usize) -> u64 {
        let ram = Ram::new(pages);
        let address = ram.region(0, RAM).userspace_addr;
        self.rams.borrow_mut().push(ram);
        address
    }

    pub(crate) fn device(&self) -> Fd {
        own(open(Gunyah::DEFAULT_PATH).unwrap())
    }

    pub(crate) fn vm(&self) -> Fd {
        own(self.device().ioctl(CREATE_VM, 0).unwrap())
    }

    /// Gives a VM four pages at [`RAM`] in the way of the flavour.
    pub(crate) fn give_memory(&self, vm: &Fd) {
        let size = 4 * page();
        if self.flavour == Flavour::V17 {
            let memory = self.guest_memory(size);
            vm.with(MAP_MEM, &map_mem(RAM, 0x70, &memory, 0, size)).unwrap();
        } else {
            vm.with(SET_USER_MEM, &region(0, 7, RAM, size, self.ram(4))).unwrap();
        }
    }

    pub(crate) fn guest_memory(&self, size: u64) -> Fd {
        own(self.device().with(CREATE_GUEST_MEM, &[1, size, 0, 0, 0, 0, 0, 0]).unwrap())
    }

    pub(crate) fn vm_with_memory(&self) -> Fd {
        let vm = self.vm();
        self.give_memory(&vm);
        vm
    }

    /// A VM with memory and vCPU 0, started.
    pub(crate) fn started(&self) -> (Fd, Fd) {
        let vm = self.vm_with_memory();
        let vcpu = vm.vcpu(0);
        vm.with(SET_DTB, &[RAM, 4096]).unwrap();
        vm.ioctl(START, 0).unwrap();
        (vm, vcpu)
    }

    pub(crate) fn event(&self) -> RawFd {
        let event = Event::new();
        let fd = event.as_fd().as_raw_fd();
        self.keep(event);
        fd
    }

    /// A file that is no eventfd.
    pub(crate) fn file(&self) -> RawFd {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd();
        self.keep(file);
        fd
    }

    pub(crate) fn our_device(&self) -> Gunyah {
        Gunyah::new().unwrap()
    }

    pub(crate) fn our_vm(&self) -> VmFd {
        self.our_device().create_vm().unwrap()
    }

    /// A VM with memory, a devicetree's place and vCPU 0.
    pub(crate) fn our_configured(&self) -> (VmFd, VcpuFd) {
        let (mut vm, ram) = common::configured_vm(1);
        self.rams.borrow_mut().push(ram);
        let vcpu = vm.vcpus.remove(0);
        (vm.fd, vcpu)
    }

    pub(crate) fn our_started(&self) -> (VmFd, VcpuFd) {
        let (vm, vcpu) = self.our_configured();
        vm.start().unwrap();
        (vm, vcpu)
    }

    pub(crate) fn our_region(&self, label: u32, gpa: u64) -> gunyah_ioctls::UserMemoryRegion {
        let ram = Ram::new(4);
        let region = ram.region(label, gpa);
        self.rams.borrow_mut().push(ram);
        region
    }

    pub(crate) fn our_cma(&self) -> CmaMemory {
        CmaRegion::open(CMA_NODE).unwrap().create_memory().unwrap()
    }

    /// From here on the kernel must not be asked.
    pub(crate) fn mark(&self) {
        self.marked.set(Some(self.calls()));
    }

    /// How many calls came after [`World::mark`], if it was called.
    pub(crate) fn calls_since_mark(&self) -> Option<usize> {
        self.marked.get().map(|before| self.calls() - before)
    }

    /// The ioctls that the fake has noted, without those by which handles clean up when they are dropped. One that is noted
    /// late is waited for by asking something else.
    fn calls(&self) -> usize {
        let device = self.device();
        let _ = device.ioctl(NO_IOCTL, 0);
        let counts = |request: u32| !matches!(request, 0 | NO_IOCTL | REMOVE);
        self.handle.calls().iter().filter(|call| counts(call.request)).count()
    }
}

pub(crate) fn map_mem(gpa: u64, flags: u64, memory: &Fd, offset: u64, size: u64) -> [u64; 4] {
    [gpa, pair(flags, memory.number() as u64), offset, size]
}

/// Makes a call that nothing but a signal ends.
pub(crate) fn signalled(call: impl FnOnce() -> Raw) -> Raw {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a handler that does nothing, without SA_RESTART; a signal for this thread.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut());
        let tid = libc::gettid();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // One may come before the call.
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR2);
                }
            });
            let answer = call();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            answer
        })
    }
}

/// Runs `body` in a forked child, and answers what it answered.
pub(crate) fn in_child(body: impl FnOnce() -> Raw) -> Raw {
    // SAFETY: the child makes system calls and ends; the C library's allocator works in children of threaded programs.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = body().err().unwrap_or(0);
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(code) };
    }
    assert!(child > 0);
    let mut status = 0;
    // SAFETY: writes an int.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    assert!(libc::WIFEXITED(status), "the child ended with status {status:#x}");
    match libc::WEXITSTATUS(status) {
        0 => Ok(0),
        code => Err(code),
    }
}

/// The same for the crate: the errno of its error.
pub(crate) fn our_child(body: impl FnOnce() -> Answer) -> Answer {
    let answer = in_child(|| match body() {
        Ok(()) => Ok(0),
        // An error without an errno is none that the kernel gave.
        Err(error) => Err(error.errno().unwrap_or(255)),
    });
    answer.map(drop).map_err(|errno| gunyah_ioctls::Error::Ioctl {
        op: "in a child",
        source: std::io::Error::from_raw_os_error(errno),
        flavour: None,
    })
}

/// What `body` answers in a forked child in which each system call `number` fails with `errno`; of mmap, each of a file.
///
/// An errno of which the crate knows no cause on this flavour becomes another.
pub(crate) fn refused(w: &World, number: i64, errno: i32, body: impl FnOnce() -> Answer) -> Answer {
    const UNEXPLAINED: i32 = 254;
    let mut context = gunyah_ioctls::causes::Context::default();
    context.flavour = Some(super::crates_flavour(w.flavour));
    our_child(|| {
        refuse(number, errno);
        body().map_err(|error| {
            let known = error
                .causes(&context)
                .iter()
                .any(|cause| cause.flavours().contains(super::crates_flavour(w.flavour)));
            let errno = if known { error.errno().unwrap_or(255) } else { UNEXPLAINED };
            let source = std::io::Error::from_raw_os_error(errno);
            gunyah_ioctls::Error::Ioctl { op: "refused", source, flavour: None }
        })
    })
}

/// From here on this thread's system calls `number` fail with `errno`.
fn refuse(number: i64, errno: i32) {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    // Where `seccomp_data` has the low half of the fifth argument, on a little-endian machine.
    const FIFTH: u32 = 16 + 4 * 8;
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    // A mapping of no file passes: the fifth argument is -1. Other calls are not looked at more closely.
    let no_file = if number == libc::SYS_mmap { u32::MAX } else { u32::MAX - 1 };
    let mut steps = [
        step(LOAD, 0, 0, 0),
        step(EQUAL, number as u32, 0, 3),
        step(LOAD, FIFTH, 0, 0),
        step(EQUAL, no_file, 1, 0),
        step(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: a program that lives; both calls change this thread only.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

/// Runs `body` while this process may not have more files than it has.
pub(crate) fn without_files<T>(body: impl FnOnce() -> T) -> T {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain data in and out. No other test of this process runs meanwhile that would open a file.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        // The lowest free number: below it all are taken.
        let free = libc::dup(2);
        assert!(free > 0);
        libc::close(free);
        let low = libc::rlimit { rlim_cur: free as libc::rlim_t, ..limit };
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const low), 0);
    }
    let answer = body();
    // SAFETY: as above.
    unsafe { assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0) };
    answer
}

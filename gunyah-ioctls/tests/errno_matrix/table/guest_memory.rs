//! Guest memory with a file of its own (v17), and memory of reserved regions (android16).

use gunyah_ioctls::causes::Operation::{
    CreateCmaMemory, CreateGuestMemory, MapCmaMemory, MapCmaMemoryHere, MapGuestMemory, MapGuestMemoryHere,
    PunchGuestMemory, ReadCmaMemory,
};
use gunyah_ioctls::{Access, CmaMapping, CmaRegion, Error, GuestMemory, GuestMemoryMapping, Sharing};
use libc::{
    EACCES, EAGAIN, EBADF, EBUSY, EEXIST, EFAULT, EINTR, EINVAL, EMFILE, ENFILE, ENOENT, ENOMEM, ENOTTY,
    EOPNOTSUPP, EOVERFLOW, EPERM,
};

use super::Ours::{self, Absent, Becomes, Inexpressible, Refused, Same};
use super::{A16, DEAD_CHECK, GOOD_POINTER, M, NO_MEMORY, NOT_A16, Row, SYSTEM_FILES, USER, never, row};
use crate::world::{
    Answer, CMA_NODE, CREATE_CMA, CREATE_GUEST_MEM, Fd, MAP_CMA, MAP_MEM, NOWHERE, RAM, Raw, World, in_child,
    map_mem, open, our_child, own, page, pair, refused, without_files,
};

fn create(w: &World, flags: u64, size: u64) -> Raw {
    w.device().with(CREATE_GUEST_MEM, &[flags, size, 0, 0, 0, 0, 0, 0]).map(own).map(|_| 0)
}

fn our_create(w: &World, size: u64, huge: bool) -> Answer {
    let device = w.our_device();
    // The device is asked what it is once.
    let _vm = device.create_vm();
    w.mark();
    device.create_guest_memory(size, huge).map(drop)
}

/// Four pages mapped into a VM: address, flags, offset, size.
fn map(w: &World, gpa: u64, flags: u64, offset: u64, size: u64) -> Raw {
    w.vm().with(MAP_MEM, &map_mem(gpa, flags, &w.guest_memory(4 * page()), offset, size))
}

/// The same after two pages at the beginning were mapped at `RAM`.
fn map_second(w: &World, gpa: u64, flags: u64, offset: u64, size: u64) -> Raw {
    let (vm, memory) = (w.vm(), w.guest_memory(4 * page()));
    vm.with(MAP_MEM, &map_mem(RAM, 0x70, &memory, 0, 2 * page())).unwrap();
    vm.with(MAP_MEM, &map_mem(gpa, flags, &memory, offset, size))
}

fn piece(guest_addr: u64, offset: u64, size: u64) -> GuestMemoryMapping {
    GuestMemoryMapping { guest_addr, offset, size, access: Access::RWX, sharing: Sharing::Default }
}

fn our_memory(w: &World) -> GuestMemory {
    w.our_device().create_guest_memory(4 * page(), false).unwrap()
}

fn our_map(w: &World, mapping: &GuestMemoryMapping) -> Answer {
    let (vm, memory) = (w.our_vm(), our_memory(w));
    w.mark();
    vm.map_guest_memory(&memory, mapping)
}

fn our_second(w: &World, mapping: &GuestMemoryMapping) -> Answer {
    let (vm, memory) = (w.our_vm(), our_memory(w));
    vm.map_guest_memory(&memory, &piece(RAM, 0, 2 * page())).unwrap();
    w.mark();
    vm.map_guest_memory(&memory, mapping)
}

fn fallocate(w: &World, mode: i32, offset: u64, len: u64) -> Raw {
    let memory = w.guest_memory(4 * page());
    // SAFETY: numbers only.
    let answer = unsafe { libc::fallocate(memory.number(), mode, offset as i64, len as i64) };
    if answer < 0 { Err(std::io::Error::last_os_error().raw_os_error().unwrap()) } else { Ok(0) }
}

fn our_punch(w: &World, offset: u64, len: u64) -> Answer {
    let memory = our_memory(w);
    w.mark();
    memory.punch_hole(offset, len)
}

fn no_hole(w: &World, errno: i32) -> Answer {
    let memory = our_memory(w);
    refused(w, libc::SYS_fallocate, errno, || memory.punch_hole(0, page()))
}

fn no_mapping(w: &World, errno: i32) -> Answer {
    let memory = our_memory(w);
    refused(w, libc::SYS_mmap, errno, || memory.map(0, page()).map(drop))
}

fn no_reserved(w: &World, errno: i32) -> Answer {
    let memory = w.our_cma();
    refused(w, libc::SYS_mmap, errno, || memory.map(page() as usize).map(drop))
}

fn cma_node() -> Fd {
    own(open(CMA_NODE).unwrap())
}

fn cma(w: &World, gpa: u64, flags: u64, offset: u64, size: u64) -> Raw {
    let (vm, memory) = (w.vm(), own(cma_node().ioctl(CREATE_CMA, 0).unwrap()));
    vm.with(MAP_CMA, &map_cma(gpa, flags, memory.number() as u64, offset, size))
}

fn map_cma(gpa: u64, flags: u64, fd: u64, offset: u64, size: u64) -> [u64; 5] {
    [3, gpa, pair(flags, fd), offset, size]
}

fn cma_piece(guest_addr: u64, offset: u64, size: u64) -> CmaMapping {
    CmaMapping { label: 3, guest_addr, offset, size, access: Access::RWX, sharing: Sharing::Lend }
}

fn our_cma(w: &World, mapping: &CmaMapping) -> Answer {
    let (vm, memory) = (w.our_vm(), w.our_cma());
    w.mark();
    vm.map_cma_memory(&memory, mapping)
}

const FLAGS: Ours = Inexpressible("Access and Sharing have no such values");
const WHOLE: Ours = Inexpressible("the crate unmaps what it has mapped, whole");
const NO_FILE: Ours = Inexpressible("only the crate's own memory can be passed");
const NOT_INTERCEPTED: &str = "the fake's files are the host's own to mmap and read";
const NEVER_READ: &str = "the crate never reads such a file, and the fake's is the host's own to read";
const TAKES_ALL: &str = "the fake gets every page back, and at once";
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

pub(crate) static ROWS: &[Row] = &[
    row(
        CreateGuestMemory,
        EFAULT,
        M,
        "a null pointer",
        |w| w.device().ioctl(CREATE_GUEST_MEM, 0),
        GOOD_POINTER,
    ),
    row(
        CreateGuestMemory,
        EINVAL,
        M,
        "the size is no multiple of the page",
        |w| create(w, 0, page() + 1),
        Refused(|w| our_create(w, page() + 1, false)),
    ),
    row(CreateGuestMemory, EINVAL, M, "an unknown flag", |w| create(w, 4, page()), FLAGS),
    row(
        CreateGuestMemory,
        EMFILE,
        M,
        "this process has all the files it may have",
        |w| {
            let device = w.device();
            without_files(|| device.with(CREATE_GUEST_MEM, &[0, page(), 0, 0, 0, 0, 0, 0]))
        },
        Same(|w| {
            let device = w.our_device();
            let _vm = device.create_vm().unwrap();
            without_files(|| device.create_guest_memory(page(), false).map(drop))
        }),
    ),
    row(
        CreateGuestMemory,
        ENOTTY,
        USER,
        "no such call",
        |w| w.device().ioctl(CREATE_GUEST_MEM, 0),
        Absent(|w| our_create(w, page(), false)),
    ),
    never(CreateGuestMemory, ENFILE, M, "the host has all the files it may have", SYSTEM_FILES)
        .injected(CREATE_GUEST_MEM, Same(|w| our_create(w, page(), false))),
    never(CreateGuestMemory, ENOMEM, M, "the file's object", NO_MEMORY)
        .injected(CREATE_GUEST_MEM, Same(|w| our_create(w, page(), false))),
    row(MapGuestMemory, EFAULT, M, "a null pointer", |w| w.vm().ioctl(MAP_MEM, 0), GOOD_POINTER),
    row(
        MapGuestMemory,
        EINVAL,
        M,
        "the file is something else",
        |w| w.vm().with(MAP_MEM, &map_mem(RAM, 0x70, &own(open("/dev/null").unwrap()), 0, page())),
        NO_FILE,
    ),
    row(
        MapGuestMemory,
        EINVAL,
        M,
        "no file, which is not EBADF",
        |w| w.vm().with(MAP_MEM, &[RAM, pair(0x70, 999_999), 0, page()]),
        NO_FILE,
    ),
    row(MapGuestMemory, EINVAL, M, "an unknown flag", |w| map(w, RAM, 0x1070, 0, page()), FLAGS),
    row(MapGuestMemory, EINVAL, M, "no right at all", |w| map(w, RAM, 0, 0, page()), FLAGS),
    row(MapGuestMemory, EINVAL, M, "lent and shared at once", |w| map(w, RAM, 0x73, 0, page()), FLAGS),
    row(
        MapGuestMemory,
        EINVAL,
        M,
        "the guest address is not aligned",
        |w| map(w, RAM + 1, 0x70, 0, page()),
        Refused(|w| our_map(w, &piece(RAM + 1, 0, page()))),
    ),
    row(
        MapGuestMemory,
        EINVAL,
        M,
        "the offset is not aligned",
        |w| map(w, RAM, 0x70, 1, page()),
        Refused(|w| our_map(w, &piece(RAM, 1, page()))),
    ),
    row(
        MapGuestMemory,
        EINVAL,
        M,
        "the size is no multiple of the page",
        |w| map(w, RAM, 0x70, 0, page() + 1),
        Refused(|w| our_map(w, &piece(RAM, 0, page() + 1))),
    ),
    row(
        MapGuestMemory,
        0,
        M,
        "beyond the memory's end, and the kernel does not look",
        |w| map(w, RAM, 0x70, 0, 8 * page()),
        Refused(|w| our_map(w, &piece(RAM, 0, 8 * page()))),
    ),
    row(
        MapGuestMemory,
        EEXIST,
        M,
        "the guest addresses are in use",
        |w| map_second(w, RAM + page(), 0x70, 2 * page(), page()),
        Refused(|w| our_second(w, &piece(RAM + page(), 2 * page(), page()))),
    ),
    row(
        MapGuestMemory,
        EEXIST,
        M,
        "the piece of the file is bound",
        |w| map_second(w, NOWHERE, 0x70, page(), page()),
        Refused(|w| our_second(w, &piece(NOWHERE, page(), page()))),
    ),
    row(
        MapGuestMemory,
        ENOENT,
        M,
        "unmapping what is not mapped",
        |w| map(w, RAM, 0x170, 0, page()),
        Refused(|w| {
            let (vm, memory) = (w.our_vm(), our_memory(w));
            w.mark();
            vm.unmap_guest_memory(&memory, RAM)
        }),
    ),
    row(
        MapGuestMemory,
        EINVAL,
        M,
        "unmapping a part from the middle of a piece",
        |w| {
            let (vm, memory) = (w.vm(), w.guest_memory(4 * page()));
            vm.with(MAP_MEM, &map_mem(RAM, 0x70, &memory, 0, 3 * page())).unwrap();
            vm.with(MAP_MEM, &map_mem(RAM + page(), 0x170, &memory, page(), page()))
        },
        WHOLE,
    ),
    row(
        MapGuestMemory,
        0,
        M,
        "unmapping the end of a piece, of which kernels take more than they were told",
        |w| map_second(w, RAM + page(), 0x170, page(), page()),
        WHOLE,
    ),
    row(
        MapGuestMemory,
        ENOENT,
        M,
        "unmapping with other rights than it was mapped with",
        |w| map_second(w, RAM, 0x130, 0, 2 * page()),
        WHOLE,
    ),
    row(
        MapGuestMemory,
        0,
        M,
        "unmapping a whole piece",
        |w| map_second(w, RAM, 0x170, 0, 2 * page()),
        Same(|w| {
            let (vm, memory) = (w.our_vm(), our_memory(w));
            vm.map_guest_memory(&memory, &piece(RAM, 0, 2 * page())).unwrap();
            vm.unmap_guest_memory(&memory, RAM)
        }),
    ),
    row(
        MapGuestMemory,
        ENOTTY,
        USER,
        "no such call",
        |w| w.vm().ioctl(MAP_MEM, 0),
        Absent(|w| our_create(w, page(), false)),
    ),
    never(MapGuestMemory, ENOMEM, M, "the binding's object", NO_MEMORY)
        .injected(MAP_MEM, Same(|w| our_map(w, &piece(RAM, 0, page())))),
    row(
        MapGuestMemoryHere,
        EINVAL,
        M,
        "a range that is not aligned",
        |w| {
            let memory = w.guest_memory(page());
            // SAFETY: the kernel refuses it.
            let at = unsafe {
                let prot = libc::PROT_READ;
                libc::mmap(std::ptr::null_mut(), 4096, prot, libc::MAP_SHARED, memory.number(), 1)
            };
            assert_eq!(at, libc::MAP_FAILED);
            Err(std::io::Error::last_os_error().raw_os_error().unwrap())
        },
        Refused(|w| {
            let memory = our_memory(w);
            w.mark();
            memory.map(1, page()).map(drop)
        }),
    ),
    never(MapGuestMemoryHere, ENOMEM, M, "no room for a mapping", NOT_INTERCEPTED).refused(no_mapping),
    never(MapGuestMemoryHere, EBUSY, M, "lent pages that the guest keeps", NOT_INTERCEPTED)
        .refused(no_mapping),
    never(MapGuestMemoryHere, EPERM, M, "lent pages that the guest keeps", NOT_INTERCEPTED)
        .refused(no_mapping),
    never(MapGuestMemoryHere, EAGAIN, M, "lent pages that change", NOT_INTERCEPTED).refused(no_mapping),
    row(
        PunchGuestMemory,
        EOPNOTSUPP,
        M,
        "without KEEP_SIZE",
        |w| fallocate(w, libc::FALLOC_FL_PUNCH_HOLE, 0, page()),
        Inexpressible("the crate keeps the size"),
    ),
    row(
        PunchGuestMemory,
        EOPNOTSUPP,
        M,
        "another mode",
        |w| fallocate(w, libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_KEEP_SIZE, 0, page()),
        Inexpressible("the crate punches holes only"),
    ),
    row(
        PunchGuestMemory,
        EINVAL,
        M,
        "an empty range",
        |w| fallocate(w, PUNCH, 0, 0),
        Refused(|w| our_punch(w, 0, 0)),
    ),
    row(
        PunchGuestMemory,
        EINVAL,
        M,
        "a range that is not aligned",
        |w| fallocate(w, PUNCH, 512, page()),
        Refused(|w| our_punch(w, 512, page())),
    ),
    row(
        PunchGuestMemory,
        EINVAL,
        M,
        "a range behind the end",
        |w| fallocate(w, PUNCH, 0, 5 * page()),
        Refused(|w| our_punch(w, 0, 1 << 30)),
    ),
    never(PunchGuestMemory, ENOMEM, M, "the range's split", TAKES_ALL).refused(no_hole),
    never(PunchGuestMemory, EINTR, M, "a signal while it waits", TAKES_ALL).refused(no_hole),
    never(PunchGuestMemory, EBUSY, M, "lent pages that the guest keeps", TAKES_ALL).refused(no_hole),
    row(
        CreateCmaMemory,
        ENOTTY,
        NOT_A16,
        "no such call",
        |w| w.device().ioctl(CREATE_CMA, 0),
        Becomes("NotGunyah", |_| {
            match CmaRegion::open(gunyah_ioctls::Gunyah::DEFAULT_PATH).unwrap().create_memory() {
                Err(Error::NotGunyah { .. }) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }),
    ),
    row(
        CreateCmaMemory,
        EMFILE,
        A16,
        "this process has all the files it may have",
        |_| {
            let node = cma_node();
            without_files(|| node.ioctl(CREATE_CMA, 0))
        },
        Same(|_| {
            let region = CmaRegion::open(CMA_NODE).unwrap();
            without_files(|| region.create_memory().map(drop))
        }),
    ),
    never(CreateCmaMemory, ENFILE, A16, "the host has all the files it may have", SYSTEM_FILES)
        .injected(CREATE_CMA, Same(|_| CmaRegion::open(CMA_NODE).unwrap().create_memory().map(drop))),
    never(CreateCmaMemory, ENOMEM, A16, "the file's object", NO_MEMORY)
        .injected(CREATE_CMA, Same(|_| CmaRegion::open(CMA_NODE).unwrap().create_memory().map(drop))),
    row(MapCmaMemory, EFAULT, A16, "a null pointer", |w| w.vm().ioctl(MAP_CMA, 0), GOOD_POINTER),
    row(
        MapCmaMemory,
        EPERM,
        A16,
        "another process made the VM",
        |w| {
            let (vm, memory) = (w.vm(), own(cma_node().ioctl(CREATE_CMA, 0).unwrap()));
            in_child(|| vm.with(MAP_CMA, &map_cma(RAM, 0x17, memory.number() as u64, 0, page())))
        },
        Same(|w| {
            let (vm, memory) = (w.our_vm(), w.our_cma());
            our_child(|| vm.map_cma_memory(&memory, &cma_piece(RAM, 0, page())))
        }),
    ),
    row(
        MapCmaMemory,
        EINVAL,
        A16,
        "the guest address is not aligned",
        |w| cma(w, RAM + 1, 0x17, 0, page()),
        Refused(|w| our_cma(w, &cma_piece(RAM + 1, 0, page()))),
    ),
    row(
        MapCmaMemory,
        EINVAL,
        A16,
        "the size is no multiple of the page",
        |w| cma(w, RAM, 0x17, 0, page() + 1),
        Refused(|w| our_cma(w, &cma_piece(RAM, 0, page() + 1))),
    ),
    row(MapCmaMemory, EINVAL, A16, "an unknown flag", |w| cma(w, RAM, 0x1017, 0, page()), FLAGS),
    row(
        MapCmaMemory,
        EBADF,
        A16,
        "no file",
        |w| w.vm().with(MAP_CMA, &map_cma(RAM, 0x17, 999_999, 0, page())),
        NO_FILE,
    ),
    row(
        MapCmaMemory,
        EEXIST,
        A16,
        "the guest addresses are in use",
        |w| {
            let (vm, memory) = (w.vm_with_memory(), own(cma_node().ioctl(CREATE_CMA, 0).unwrap()));
            vm.with(MAP_CMA, &map_cma(RAM, 0x17, memory.number() as u64, 0, page()))
        },
        Refused(|w| {
            let ((vm, _vcpu), memory) = (w.our_configured(), w.our_cma());
            w.mark();
            vm.map_cma_memory(&memory, &cma_piece(RAM, 0, page()))
        }),
    ),
    row(
        MapCmaMemory,
        ENOTTY,
        NOT_A16,
        "no such call",
        |w| w.vm().ioctl(MAP_CMA, 0),
        Inexpressible("without the call there is no memory to pass"),
    ),
    never(MapCmaMemory, EOVERFLOW, A16, "the guest addresses wrap around", DEAD_CHECK),
    never(MapCmaMemory, ENOMEM, A16, "the binding's object", NO_MEMORY)
        .injected(MAP_CMA, Same(|w| our_cma(w, &cma_piece(RAM, 0, page())))),
    never(MapCmaMemoryHere, EBUSY, A16, "allocated already", NOT_INTERCEPTED).refused(no_reserved),
    never(MapCmaMemoryHere, EINVAL, A16, "mapped already, or larger than the region", NOT_INTERCEPTED)
        .refused(no_reserved),
    never(MapCmaMemoryHere, ENOMEM, A16, "the region is full", NOT_INTERCEPTED).refused(no_reserved),
    never(ReadCmaMemory, EACCES, A16, "memory that is shared, or another process's", NEVER_READ),
];

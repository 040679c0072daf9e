//! Nothing leaks on any error path: descriptors, mappings, threads, timers of this process, and the kernel's objects.
//!
//! A whole life of a VM, with every ioctl that the flavour has, is repeated; each time another call fails, or there is
//! no descriptor left for it. After each life everything is as before. The numbers are the process's, so this program has
//! one test.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::{Event, KERNELS, Kernel, RAM, Ram, page_size};
use fake_gunyah::{Errno, Fake, Fault, Guest, Handle, Script};
use gunyah_ioctls::{
    Access, AuthType, BootRegister, CmaMapping, CmaRegion, Error, Feature, GuestMemoryMapping, Gunyah,
    IoEventMatch, Sharing, Trigger, VcpuExit,
};

const CMA: &str = "/dev/gunyah-leaks-region";

/// What this process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    /// What the descriptors stand for, but for the files of threads' states, which the fake keeps open.
    fds: BTreeMap<String, usize>,
    /// Mappings of files without a name: run pages and guest memory.
    mappings: usize,
    /// Threads, but for the fake's.
    threads: usize,
    timers: usize,
}

fn held() -> Held {
    let mut fds = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        // The directory's own descriptor is gone when its link is read.
        let Ok(target) = std::fs::read_link(entry.unwrap().path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        if !target.starts_with("/proc/") {
            *fds.entry(target).or_default() += 1;
        }
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter(|task| {
        let name = std::fs::read_to_string(task.as_ref().unwrap().path().join("comm")).unwrap_or_default();
        !name.is_empty() && name.trim_end() != "fake-gunyah"
    });
    Held {
        fds,
        mappings: maps.lines().filter(|line| line.ends_with("(deleted)")).count(),
        threads: threads.count(),
        timers: std::fs::read_to_string("/proc/self/timers").unwrap().matches("ID:").count(),
    }
}

/// Waits until the process holds what it held before, and the kernel nothing.
fn nothing_left(handle: &Handle, before: &Held, what: &str) {
    let started = Instant::now();
    loop {
        let (now, objects) = (held(), handle.objects());
        if now == *before && objects.is_empty() {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{what}:\nbefore {before:?}\nnow    {now:?}\nopen   {objects:?}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A VM from its device to its end, with every call that this host has. Ends with the first error.
fn life(bell: &Event, queue: &Event) -> Result<(), Error> {
    let page = page_size() as u64;
    let gunyah = Gunyah::new()?;
    // Dropped after the VM.
    let (ram, lent) = (Ram::new(4), Ram::new(1));
    let (mut memories, mut reserved, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
    let vm = gunyah.create_vm()?;
    let has = |feature| vm.features().has(feature);
    if has(Feature::UserMemory) {
        // SAFETY: nothing else uses the memory, and it outlives the VM.
        unsafe { vm.set_user_memory_region(&ram.region(0, RAM)) }?;
        if has(Feature::Lend) {
            // SAFETY: as above.
            unsafe { vm.lend_user_memory(&lent.region(1, RAM + 0x10_0000)) }?;
        }
    } else {
        let memory = gunyah.create_guest_memory(4 * page, false)?;
        hosts.push(memory.map(0, page)?);
        let mapping = |guest_addr, offset, size| GuestMemoryMapping {
            guest_addr,
            offset,
            size,
            access: Access::RWX,
            sharing: Sharing::Lend,
        };
        vm.map_guest_memory(&memory, &mapping(RAM, 0, 2 * page))?;
        vm.map_guest_memory(&memory, &mapping(RAM + 0x10_0000, 2 * page, page))?;
        vm.unmap_guest_memory(&memory, RAM + 0x10_0000)?;
        memory.punch_hole(3 * page, page)?;
        memories.push(memory);
    }
    if has(Feature::Cma) {
        let memory = CmaRegion::open(CMA)?.create_memory()?;
        hosts.push(memory.map(page_size())?);
        let (access, sharing) = (Access::RWX, Sharing::Share);
        let guest_addr = RAM + 0x20_0000;
        vm.map_cma_memory(
            &memory,
            &CmaMapping { label: 2, guest_addr, offset: 0, size: page, access, sharing },
        )?;
        reserved.push(memory);
    }
    let mut vcpu = vm.add_vcpu(0)?;
    let second = vm.add_vcpu(1)?;
    let kick = vcpu.kick_handle();
    let irqfd = vm.add_irqfd(bell, 3, Trigger::Edge)?;
    let ioeventfd = vm.add_ioeventfd(queue, 0x2000, IoEventMatch::Any)?;
    let _kept = vm.add_irqfd(bell, 4, Trigger::Level)?;
    vm.set_dtb_config(RAM, 4096)?;
    // Where both kinds of memory are, the Resource Manager was seen not to know the boot context.
    if has(Feature::BootContext) && !(has(Feature::UserMemory) && has(Feature::GuestMemory)) {
        vm.set_boot_context(BootRegister::X(1), 7)?;
    }
    if has(Feature::AuthType) {
        vm.set_auth_type(&AuthType::AndroidProtectedVm)?;
    }
    if has(Feature::Firmware) && !has(Feature::AuthType) {
        vm.set_firmware_config(RAM, 4096)?;
    }
    if has(Feature::CheckExtension) {
        vm.check_extension(0)?;
    }
    vm.start()?;
    kick.kick();
    loop {
        match vcpu.run()? {
            VcpuExit::MmioRead { len, .. } => vcpu.complete_mmio_read(&[1; 8][..len])?,
            VcpuExit::Status(_) => break,
            _ => {}
        }
    }
    if has(Feature::Reclaim) {
        vm.reclaim_region(RAM, page)?;
    }
    irqfd.remove()?;
    ioeventfd.remove()?;
    second.remove()?;
    vcpu.remove()
}

fn fake(kernel: Kernel, fault: Option<Fault>) -> Fake {
    let script =
        || Script::new().mmio_write(0x1000, 4, 1).mmio_read(0x1000, 4).expect(0x0101_0101).exit(1, &[0; 4]);
    let builder = kernel
        .builder()
        .cma_region(CMA, 16 * page_size() as u64)
        .guest(Guest::scripts([script(), Script::new()]));
    match fault {
        Some(fault) => builder.fault(fault),
        None => builder,
    }
    .build()
    .unwrap()
}

/// What is held before a life. The fake has served a call by then: its threads are there, and have their names.
fn before(handle: &Handle) -> Held {
    drop(Gunyah::new().unwrap());
    common::eventually(|| handle.objects().is_empty());
    held()
}

/// Lives a life. Gives how it ended, and how often each request was made.
fn live(kernel: Kernel, fault: Option<Fault>, what: &str) -> (Result<(), Error>, BTreeMap<u32, u64>) {
    let mut seen = None;
    let (bell, queue) = (Event::new(), Event::new());
    let run = fake(kernel, fault).run(|handle| {
        let before = before(handle);
        let end = life(&bell, &queue);
        nothing_left(handle, &before, what);
        let mut calls = BTreeMap::new();
        // An open has no request.
        let ioctls = handle.calls().into_iter().filter(|call| call.request != 0);
        ioctls.for_each(|call| *calls.entry(call.request).or_default() += 1);
        seen = Some((end, calls));
    });
    // Scripts that were not played to their end are no matter here.
    let _ = run;
    seen.expect("the life was lived")
}

/// The limit on descriptors with which just so many more can be opened.
fn limit_for(room: usize) -> u64 {
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut used: BTreeSet<u64> =
        numbers.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    // That of the directory itself is closed by now; it stands in for nothing that lives on.
    used.retain(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok());
    (0..).filter(|fd| !used.contains(fd)).nth(room).unwrap()
}

fn limit_fds(limit: Option<u64>) {
    // SAFETY: plain numbers.
    unsafe {
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut now), 0);
        now.rlim_cur = limit.unwrap_or(now.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const now), 0);
    }
}

#[test]
fn no_error_leaves_anything_behind() {
    // The requests of the crate's table. One that it gains must be made in `life`.
    let ops = include_str!("../src/ops.rs");
    let (ops, _) = ops.split_once("#[cfg(test)]").unwrap();
    let known = ops.matches("Op::new(").count();

    let mut requests = BTreeSet::new();
    let (mut lives, mut failed) = (0, 0);
    for kernel in KERNELS {
        let (end, calls) = live(kernel, None, &format!("{kernel}: no fault"));
        assert!(end.is_ok(), "{kernel}: {end:?}");
        requests.extend(calls.keys().copied());

        for (&request, &times) in &calls {
            for nth in 1..=times {
                for errno in [Errno::EINVAL, Errno::ENOMEM, Errno::EINTR] {
                    let what = format!("{kernel}: {request:#x}, call {nth} of {times}, fails with {errno}");
                    let (end, _) = live(kernel, Some(Fault::on(request).nth(nth).fails(errno)), &what);
                    lives += 1;
                    failed += u32::from(end.is_err());
                }
            }
        }

        // No descriptor for whatever needs the next one.
        for room in 0.. {
            let mut end = None;
            let (bell, queue) = (Event::new(), Event::new());
            let run = fake(kernel, None).run(|handle| {
                let before = before(handle);
                limit_fds(Some(limit_for(room)));
                end = Some(life(&bell, &queue));
                limit_fds(None);
                nothing_left(handle, &before, &format!("{kernel}: room for {room} descriptors"));
            });
            let _ = run;
            lives += 1;
            if end.unwrap().is_ok() {
                assert!(room > 3, "{kernel}: a VM, two vCPUs and the device in {room} descriptors");
                break;
            }
            failed += 1;
        }
    }
    assert_eq!(requests.len(), known, "made: {requests:#x?}");
    println!("{lives} lives, {failed} of them cut short by an error; {known} ioctls");
    assert!(failed > lives / 2, "most faults are errors");
}

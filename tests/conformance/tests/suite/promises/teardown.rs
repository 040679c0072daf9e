//! The end of everything.

use std::time::{Duration, Instant};

use conformance::asm::Program;
use vm_memory::GuestAddress;
use vmm_adapter::{Hypervisor, IoEventMatch, IrqLine, VcpuExit};
use vmm_sys_util::eventfd::EventFd;

use crate::mailbox::{MAILBOX, mailbox};
use crate::rig::{Rig, guest};
use crate::target::Probe;

/// What this process holds: file descriptors and mappings, by what they are.
fn held() -> Vec<String> {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut held: Vec<String> = fds
        .filter_map(|fd| Some(std::fs::read_link(fd.unwrap().path()).ok()?.to_string_lossy().into_owned()))
        // This look itself, and those of a fake at its callers, which it keeps open from the first time that it needs them.
        .filter(|link| !link.starts_with("/proc/"))
        .collect();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    held.extend(
        maps.lines().filter(|line| line.contains("gunyah") || line.contains("kvm")).map(str::to_owned),
    );
    held.sort();
    held
}

/// What is held when nothing is on its way out any more: the same for a tenth of a second.
fn held_at_rest(probe: &Probe) -> Vec<String> {
    let (mut last, mut since) = (held(), Instant::now());
    let objects = probe.objects().map(|_| 1);
    while since.elapsed() < Duration::from_millis(100) || probe.objects() != objects {
        let now = held();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    last
}

/// Some kernels release a VM in the background, after its last file is closed.
fn settled(probe: &Probe, objects: Option<usize>, before: &[String]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while probe.objects() != objects || held() != before {
        let now = held();
        assert!(
            Instant::now() < deadline,
            "left: {:?} objects, {now:#?}, before: {before:#?}",
            probe.objects()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn off(hypervisor: &dyn Hypervisor) -> Program {
    let mut program = guest(hypervisor);
    program.power_off();
    program
}

pub fn nothing_is_left(hypervisor: &dyn Hypervisor, probe: &Probe) {
    let run = || {
        let rig = Rig::new(hypervisor, 2, &[IrqLine::edge(1)], &off(hypervisor));
        let fd = EventFd::new(0).unwrap();
        rig.vm.register_irqfd(&fd, IrqLine::edge(1)).unwrap();
        rig.vm.register_ioevent(&fd, GuestAddress(MAILBOX), IoEventMatch::Any).unwrap();
        let mut rig = rig.start();
        rig.run_to_the_end(&mailbox());
    };
    // What is made once per process is not a leak.
    run();
    let objects = probe.objects().map(|_| 1);
    let before = held_at_rest(probe);
    for _ in 0..5 {
        run();
    }
    settled(probe, objects, &before);
}

/// A VM goes with the last of itself and its vCPUs, in any order.
pub fn vcpus_may_outlive_the_vm(hypervisor: &dyn Hypervisor, _: &Probe) {
    let Rig { vm, ram, mut vcpus } = Rig::one(hypervisor, &off(hypervisor));
    drop(vm);
    drop(ram);
    for _ in 0..2 {
        let exit = vcpus[0].run(&mailbox()).unwrap();
        assert!(matches!(exit, VcpuExit::PowerOff(_) | VcpuExit::Crashed(_)), "{exit:?}");
    }
}

pub fn a_vm_that_never_started_goes_too(hypervisor: &dyn Hypervisor, probe: &Probe) {
    let rig = Rig::new(hypervisor, 2, &[], &off(hypervisor));
    drop(rig);
    let before = held_at_rest(probe);
    drop(Rig::new(hypervisor, 2, &[], &off(hypervisor)));
    let objects = probe.objects().map(|_| 1);
    settled(probe, objects, &before);
}

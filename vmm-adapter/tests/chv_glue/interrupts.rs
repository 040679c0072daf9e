//! GSIs, routes and the lines below them.

use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::double::{Access, Paper};
use super::{AdapterHypervisor, chain, create_vm, description};
use crate::hypervisor::additions::{GuestDescription, LegacyLine, MsiLines, Protection};
use crate::hypervisor::cpu::VmExit;
use crate::hypervisor::vm::{InterruptSourceConfig, LegacyIrqSourceConfig, MsiIrqSourceConfig, Vm};
use crate::hypervisor::{Hypervisor, HypervisorVmConfig};
use crate::vmm::layout::vgic;

fn vm() -> (Arc<Paper>, Arc<dyn Vm>) {
    let paper = Paper::new();
    let vm = create_vm(&paper.hypervisor().into(), description(Protection::Never));
    (paper, vm)
}

fn event() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

fn pin(pin: u32) -> InterruptSourceConfig {
    InterruptSourceConfig::LegacyIrq(LegacyIrqSourceConfig { irqchip: 0, pin })
}

fn message_to(addr: u64, data: u32) -> InterruptSourceConfig {
    let (high_addr, low_addr) = ((addr >> 32) as u32, addr as u32);
    InterruptSourceConfig::MsiIrq(MsiIrqSourceConfig { high_addr, low_addr, data, devid: 9 })
}

fn message(data: u32) -> InterruptSourceConfig {
    message_to(vgic(1).msi_addr + 0x40, data)
}

fn route(vm: &dyn Vm, routes: &[(u32, InterruptSourceConfig)]) -> Result<(), String> {
    let entries: Vec<_> = routes.iter().map(|(gsi, to)| vm.make_routing_entry(*gsi, to)).collect();
    vm.set_gsi_routing(&entries).map_err(chain)
}

#[test]
fn an_eventfd_is_bound_when_it_has_a_route_and_a_route_when_it_has_an_eventfd() {
    let (paper, vm) = vm();
    let (early, late) = (event(), event());
    vm.register_irqfd(&early, 0).unwrap();
    assert_eq!(paper.take_said(), [""; 0], "no route yet");
    route(&*vm, &[(0, pin(3)), (1, message(128))]).unwrap();
    assert_eq!(paper.take_said(), ["bind 3"]);
    vm.register_irqfd(&late, 1).unwrap();
    assert_eq!(paper.take_said(), ["bind 96"]);

    // To each its own; the caller's eventfd is the one that counts.
    early.write(1).unwrap();
    assert_eq!((paper.signals(3), paper.signals(96)), (Some(1), Some(0)));
    late.write(2).unwrap();
    assert_eq!((paper.signals(3), paper.signals(96)), (Some(0), Some(2)));

    vm.unregister_irqfd(&early, 0).unwrap();
    assert_eq!((paper.signals(3), paper.take_said()), (None, vec!["unbind 3".to_owned()]));
    // The route is still there.
    vm.register_irqfd(&early, 0).unwrap();
    assert_eq!(paper.take_said(), ["bind 3"]);
    // And now it is not.
    route(&*vm, &[]).unwrap();
    assert_eq!(paper.take_said(), ["unbind 3", "unbind 96"]);
    vm.unregister_irqfd(&early, 0).unwrap();
    assert_eq!(paper.take_said(), [""; 0]);
}

#[test]
fn a_new_route_binds_anew_and_others_stay() {
    let (paper, vm) = vm();
    let (a, b, c) = (event(), event(), event());
    for (gsi, fd) in [&a, &b, &c].into_iter().enumerate() {
        vm.register_irqfd(fd, gsi as u32).unwrap();
    }
    route(&*vm, &[(0, message(128)), (1, message(129)), (2, pin(4))]).unwrap();
    paper.take_said();
    // Two change places.
    route(&*vm, &[(0, message(129)), (1, message(128)), (2, pin(4))]).unwrap();
    assert_eq!(paper.take_said(), ["unbind 96", "unbind 97", "bind 97", "bind 96"]);
    a.write(1).unwrap();
    assert_eq!((paper.signals(97), paper.signals(96), paper.signals(4)), (Some(1), Some(0), Some(0)));
    // The same again.
    route(&*vm, &[(0, message(129)), (1, message(128)), (2, pin(4))]).unwrap();
    assert_eq!(paper.take_said(), [""; 0]);
    // One goes elsewhere, one goes.
    route(&*vm, &[(0, message(131)), (2, pin(4))]).unwrap();
    assert_eq!(paper.take_said(), ["unbind 97", "unbind 96", "bind 99"]);
    drop((b, c));
}

#[test]
fn a_bad_route_is_refused_and_changes_nothing() {
    let (paper, vm) = vm();
    let fd = event();
    vm.register_irqfd(&fd, 0).unwrap();
    route(&*vm, &[(0, message(128))]).unwrap();
    paper.take_said();
    let frame = vgic(1).msi_addr;
    for (to, why) in [
        (message(127), "the message names INTID 127, and the VM's are 128 to 131"),
        (message(132), "INTID 132"),
        (message(0), "INTID 0"),
        (message(u32::MAX), "INTID 4294967295"),
        (message_to(frame, 128), "messages are taken at 0x8fc0040"),
        (message_to(1 << 32 | (frame + 0x40), 128), "the message goes to 0x108fc0040"),
        (message_to(0, 0), "the message goes to 0x0"),
        (pin(5), "pin 5 was not declared"),
        (pin(96), "pin 96 was not declared"),
        (
            InterruptSourceConfig::LegacyIrq(LegacyIrqSourceConfig { irqchip: 1, pin: 3 }),
            "no interrupt controller 1",
        ),
    ] {
        // Behind one that is good.
        let error = route(&*vm, &[(0, message(130)), (7, to)]).unwrap_err();
        assert!(error.starts_with("cannot set the routes of interrupts: the route of GSI 7: "), "{error}");
        assert!(error.contains(why), "{error}");
    }
    let error = route(&*vm, &[(0, pin(3)), (0, pin(4))]).unwrap_err();
    assert!(error.ends_with("GSI 0 has two routes"), "{error}");
    assert_eq!(paper.take_said(), [""; 0]);
    fd.write(1).unwrap();
    assert_eq!(paper.signals(96), Some(1));
}

#[test]
fn a_line_has_one_eventfd() {
    let (paper, vm) = vm();
    let (a, b) = (event(), event());
    // As long as only one is used, two may go to the same line.
    route(&*vm, &[(1, message(128)), (2, message(128))]).unwrap();
    vm.register_irqfd(&a, 1).unwrap();
    let error = chain(vm.register_irqfd(&b, 2).unwrap_err());
    assert!(error.ends_with("GSI 2 is routed to SPI 96, which GSI 1 has already"), "{error}");
    route(&*vm, &[(1, message(128)), (2, message(129))]).unwrap();
    vm.register_irqfd(&b, 2).unwrap();
    let error = route(&*vm, &[(1, message(130)), (2, message(130))]).unwrap_err();
    assert!(error.ends_with("GSI 1 and GSI 2 are both routed to SPI 98, which takes one eventfd"), "{error}");
    assert_eq!(paper.take_said(), ["bind 96", "bind 97"]);

    let error = chain(vm.register_irqfd(&b, 1).unwrap_err());
    assert!(error.ends_with("GSI 1 has an eventfd already"), "{error}");
    for (fd, gsi) in [(&b, 1), (&a, 2), (&a, 3)] {
        let error = chain(vm.unregister_irqfd(fd, gsi).unwrap_err());
        assert!(error.ends_with(&format!("GSI {gsi} does not have this eventfd")), "{error}");
    }
}

#[test]
fn what_the_hypervisor_refuses_is_not_taken_for_bound() {
    let (paper, vm) = vm();
    let (a, b) = (event(), event());
    vm.register_irqfd(&a, 0).unwrap();
    vm.register_irqfd(&b, 1).unwrap();
    route(&*vm, &[(0, pin(3)), (1, message(128))]).unwrap();
    paper.take_said();
    paper.refuse(98);
    assert!(route(&*vm, &[(0, message(130)), (1, message(128))]).is_err());
    assert_eq!((paper.take_said(), paper.signals(96)), (vec!["unbind 3".to_owned()], Some(0)));
    // Nothing to unbind, and the line is free for another.
    vm.unregister_irqfd(&a, 0).unwrap();
    assert_eq!(paper.take_said(), [""; 0]);
    route(&*vm, &[(1, pin(3))]).unwrap();
    assert_eq!(paper.take_said(), ["unbind 96", "bind 3"]);
}

/// The frame is the glue's: `VmOps` does not hear of it.
#[test]
fn the_frame_answers_the_guest() {
    let (paper, vm) = vm();
    let fd = event();
    route(&*vm, &[(0, message(130))]).unwrap();
    vm.register_irqfd(&fd, 0).unwrap();
    let mut vcpu = vm.create_vcpu(0, None).unwrap();
    let frame = vgic(1).msi_addr;
    paper.take_said();
    paper.will([
        Access::Load(frame + 0x8, 4),
        Access::Load(frame + 0xfcc, 8),
        Access::Load(frame - 4, 4),
        Access::Load(frame + 0x1000, 4),
        Access::Store(frame + 0x40, 130),
        Access::Store(frame + 0x40, 131),
        Access::Store(frame + 0x40, 35),
        Access::Store(frame + 0x44, 130),
        Access::Exit(vmm_adapter::VcpuExit::Interrupted),
    ]);
    assert_eq!(vcpu.run().unwrap(), VmExit::Ignore);
    let said = paper.take_said();
    assert_eq!(said[0], "load 0x8fc0008: Handled 800004");
    assert_eq!(said[1], "load 0x8fc0fcc: Handled 0");
    assert!(said[2].contains("Unclaimed") && said[3].contains("Unclaimed"), "{said:?}");
    assert!(said[4..].iter().all(|line| line.ends_with("Handled")), "{said:?}");
    assert_eq!(paper.signals(98), Some(1));
}

#[test]
fn a_description_that_cannot_be_is_refused() {
    let hypervisor = AdapterHypervisor::from(Paper::new().hypervisor());
    let refused = |change: &dyn Fn(&mut GuestDescription)| {
        let mut description = description(Protection::Never);
        change(&mut description);
        let config = HypervisorVmConfig { description: Some(description) };
        chain(hypervisor.create_vm(config).err().unwrap())
    };
    for (change, why) in [
        (
            &(|it: &mut GuestDescription| it.vcpus = 2) as &dyn Fn(&mut GuestDescription),
            "has 0x1 vCPUs, and 0x2 are right",
        ),
        (&|it| (it.vcpus, it.vgic) = (5, vgic(5)), "5 vCPUs were asked for, 1 to 4 are possible"),
        (&|it| it.vgic.redists_size = 0x4_0000, "0x40000 bytes of redistributors, and 0x20000"),
        (&|it| it.vgic.dist_size = 0x1000, "0x1000 bytes of distributor, and 0x10000"),
        (&|it| it.vgic.msi_size = 0x2000, "0x2000 bytes of frame, and 0x1000"),
        (&|it| it.vgic.dist_addr += 8, "not aligned to 64 KiB"),
        (&|it| it.vgic.nr_irqs = 131, "SPI 99 is beyond the controller's 131 interrupts"),
        (&|it| it.msi = Some(MsiLines { first_intid: 31, count: 1 }), "INTID 31 cannot be a message's"),
        (&|it| it.msi = Some(MsiLines { first_intid: 128, count: 0 }), "a pool of no lines"),
        (&|it| it.lines.push(LegacyLine { pin: 97, level: false }), "interrupt line 97 is declared twice"),
        (&|it| it.lines.push(LegacyLine { pin: 988, level: false }), "SPI 988 is beyond"),
    ] {
        let error = refused(change);
        assert!(error.contains(why), "{error}");
    }
    // Without messages no frame is needed, and none is shown.
    let without = GuestDescription { msi: None, ..description(Protection::Never) };
    let vm = create_vm(&hypervisor, without);
    assert!(!vm.create_vgic(&vgic(1)).unwrap().lock().unwrap().msi_compatible());
    let error = route(&*vm, &[(0, message(128))]).unwrap_err();
    assert!(error.ends_with("a message, and the VM has no GuestDescription::msi"), "{error}");
}

//! A host that answers nonsense or refuses: clear errors that name what was asked, and nothing left behind.
#![cfg(feature = "gunyah")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use fake_gunyah::{Answer, Errno, Fake, Fault, Flavour, Guest, Handle, Script};
use vm_memory::GuestAddress;
use vmm_adapter::fdt::{self, GuestTree};
use vmm_adapter::gunyah::Gunyah;
use vmm_adapter::{
    BootContext, Error, Feature, Hypervisor, IoHandler, IoOutcome, Phase, Result, Sharing, Vcpu, VcpuExit,
    Vm, VmConfig, VmKind,
};

const RAM: u64 = 0x8000_0000;
const TREE: u64 = RAM + 0x10_0000;

struct Nobody;

impl IoHandler for Nobody {
    fn mmio_read(&self, _addr: GuestAddress, _data: &mut [u8]) -> IoOutcome {
        IoOutcome::Unclaimed
    }

    fn mmio_write(&self, _addr: GuestAddress, _data: &[u8]) -> IoOutcome {
        IoOutcome::Unclaimed
    }
}

/// A VM with a vCPU, ready to be started.
fn prepared() -> Result<(std::sync::Arc<dyn Vm>, Box<dyn Vcpu>)> {
    let vm = Gunyah::open()?.create_vm(&VmConfig::new(1))?;
    let ram = vm.allocate(GuestAddress(RAM), 0x20_0000, Sharing::Shared)?;
    ram.write(GuestAddress(TREE), &fdt::write(&*vm, &GuestTree::default())?)?;
    let vcpu = vm.create_vcpu(0)?;
    Ok((vm, vcpu))
}

fn boot() -> BootContext {
    BootContext { entry: GuestAddress(RAM), fdt: GuestAddress(TREE), fdt_size: 0x4000 }
}

fn started() -> Result<(std::sync::Arc<dyn Vm>, Box<dyn Vcpu>)> {
    let (vm, vcpu) = prepared()?;
    vm.start(&boot())?;
    Ok((vm, vcpu))
}

/// What running a script's guest once gives, and that nothing is left then.
fn run_once(script: Script) -> Result<VcpuExit> {
    let fake = Fake::builder().guest(Guest::scripts([script])).build().unwrap();
    let mut seen: Option<Handle> = None;
    let answer = fake.run(|handle| {
        seen = Some(handle.clone());
        let (_vm, mut vcpu) = started()?;
        vcpu.run(&Nobody)
    });
    assert_eq!(seen.unwrap().leftovers(), []);
    answer.unwrap()
}

#[test]
fn a_width_that_cannot_be_is_named() {
    for len in [0, 3, 9, 200, u64::from(u32::MAX)] {
        for answer in [Answer::mmio_read(0x1000, len), Answer::mmio_write(0x1000, len, 1)] {
            let error = run_once(Script::new().answer(answer)).unwrap_err();
            assert!(matches!(error, Error::Backend { op: "run", .. }), "{error:?}");
            let text = error.chain();
            assert!(
                text.contains("run") && text.contains("len") && text.contains(&format!("{len:#x}")),
                "{text}"
            );
        }
    }
}

#[test]
fn unknown_exit_types_are_crashes_with_their_number() {
    let exit = run_once(Script::new().exit(77, &[1, 2, 3, 4])).unwrap();
    let VcpuExit::Crashed(details) = exit else { panic!("{exit:?}") };
    assert_eq!((details.raw_type, details.reason()), (Some(77), &[1, 2, 3, 4][..]));
}

#[test]
fn a_refused_start_names_the_ioctl_keeps_the_errno_and_is_final() {
    for errno in [Errno::ENODEV, Errno::ENOMEM, Errno::EPERM] {
        let fake = Fake::builder().guest(Guest::code()).start_fails(errno).build().unwrap();
        fake.run(|_| {
            let (vm, mut vcpu) = prepared().unwrap();
            let error = vm.start(&boot()).unwrap_err();
            assert_eq!(error.errno(), Some(errno.0));
            assert!(error.chain().contains("VM_START"), "{}", error.chain());
            assert_eq!(vm.phase(), Phase::Stopped);
            assert!(matches!(vm.start(&boot()), Err(Error::WrongState { .. })));
            assert!(matches!(vcpu.run(&Nobody), Err(Error::WrongState { op: "run", phase: Phase::Stopped })));
        })
        .unwrap();
    }
}

const SET_DTB_CONFIG: u32 = 0x4010_4702;
const SET_BOOT_CONTEXT: u32 = 0x4010_470a;
const SET_FW_CONFIG: u32 = 0x4010_4112;
const FIRMWARE: u64 = RAM - 0x20_0000;

/// A protected VM of android15 whose firmware, or whose entry in the middle of the image, has to be told to the kernel.
fn start_with_all_steps(fault: Fault, firmware: bool) -> (Result<()>, Phase, Result<()>) {
    let fake = Fake::builder().flavour(Flavour::Android15).guest(Guest::code()).fault(fault).build().unwrap();
    fake.run(|_| {
        let (addr, size) = (GuestAddress(FIRMWARE), 0x1_0000);
        let kind = if firmware { VmKind::ProtectedFirmware { addr, size } } else { VmKind::Protected };
        let vm = Gunyah::open().unwrap().create_vm(&VmConfig::new(1).with_kind(kind)).unwrap();
        let ram = vm.allocate(GuestAddress(RAM), 0x20_0000, Sharing::Private).unwrap();
        if firmware {
            vm.allocate(addr, 0x20_0000, Sharing::Private).unwrap();
        }
        let tree = fdt::write(&*vm, &GuestTree::default()).unwrap();
        ram.write(GuestAddress(TREE), &tree).unwrap();
        let _vcpu = vm.create_vcpu(0).unwrap();
        let entry = GuestAddress(if firmware { RAM } else { RAM + 0x1000 });
        let boot = BootContext { entry, ..boot() };
        let first = vm.start(&boot);
        let phase = vm.phase();
        (first, phase, vm.start(&boot))
    })
    .unwrap()
}

#[test]
fn a_start_is_final_whichever_step_the_kernel_refuses() {
    // The first call of an optional one, with nothing to set, asks whether the kernel has it.
    for (request, n, name, firmware) in [
        (SET_FW_CONFIG, 2, "SET_FW_CONFIG", true),
        (SET_DTB_CONFIG, 1, "SET_DTB_CONFIG", true),
        (SET_DTB_CONFIG, 1, "SET_DTB_CONFIG", false),
        (SET_BOOT_CONTEXT, 2, "SET_BOOT_CONTEXT", false),
        (SET_BOOT_CONTEXT, 3, "SET_BOOT_CONTEXT", false),
    ] {
        let fault = Fault::on(request).nth(n).fails(Errno::ENOMEM);
        let (refused, phase, again) = start_with_all_steps(fault, firmware);
        let refused = refused.unwrap_err();
        assert_eq!(refused.errno(), Some(libc::ENOMEM));
        assert!(refused.chain().contains(name), "{}", refused.chain());
        assert_eq!(phase, Phase::Stopped, "{name}");
        assert!(matches!(again, Err(Error::WrongState { op: "start", phase: Phase::Stopped })), "{again:?}");
    }
}

#[test]
fn a_signal_does_not_end_a_start() {
    for n in 2..4 {
        let fault = Fault::on(SET_BOOT_CONTEXT).nth(n).fails(Errno::EINTR);
        let (started, phase, _) = start_with_all_steps(fault, false);
        started.unwrap();
        assert_eq!(phase, Phase::Running);
    }
}

#[test]
fn hosts_without_gunyah_are_told_apart() {
    let error = Gunyah::open_path("/no/such/device").unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOENT));
    assert!(error.chain().contains("/no/such/device"), "{}", error.chain());

    let error = Gunyah::open_path("/dev/null").unwrap().create_vm(&VmConfig::new(1)).unwrap_err();
    assert!(error.chain().contains("/dev/null is not a Gunyah device"), "{}", error.chain());

    let vendor = Fake::builder().flavour(Flavour::Vendor).build().unwrap();
    vendor
        .run(|_| {
            let error = Gunyah::open().unwrap().create_vm(&VmConfig::new(1)).unwrap_err();
            assert!(error.chain().contains("0xB2"), "{}", error.chain());
        })
        .unwrap();
}

#[test]
fn a_limit_of_locked_memory_is_an_error_with_its_errno() {
    // v11 did not count guest memory yet.
    let fake = Fake::builder().flavour(Flavour::Android14).memlock(64 << 10).build().unwrap();
    fake.run(|_| {
        let vm = Gunyah::open().unwrap().create_vm(&VmConfig::new(1)).unwrap();
        let error = vm.allocate(GuestAddress(RAM), 0x20_0000, Sharing::Shared).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOMEM));
        assert_eq!(vm.memory().len(), 0);
        assert_eq!(vm.phase(), Phase::Configuring);
    })
    .unwrap();
}

#[test]
fn a_kind_that_the_host_lacks_is_refused_before_anything_is_made() {
    for (flavour, missing) in [(Flavour::Android15, Feature::PlainVm), (Flavour::V17, Feature::PlainVm)] {
        let fake = Fake::builder().flavour(flavour).build().unwrap();
        fake.run(|_| {
            let refused = Gunyah::open().unwrap().create_vm(&VmConfig::new(1));
            match refused {
                Err(Error::Unsupported { feature, .. }) => assert_eq!(feature, missing),
                other => panic!("{flavour}: {other:?}"),
            }
        })
        .unwrap();
    }
}

//! VMMs that are processes of their own: this program, started again.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use conformance::asm::Width;
use fake_gunyah::{Engine, Flavour};

use crate::common::*;
use crate::memory;
use crate::rig::*;

/// Tells the program which VMM it is.
pub const ROLE: &str = "ENGINES_TEST_VMM";

/// This program as a VMM.
pub fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role).stdin(Stdio::null());
    command
}

/// Plays a role. The exit status is 0 if all was as it should be.
pub fn play(role: &str) -> ! {
    let (role, flavour) = role.split_once('@').unwrap_or((role, "v11"));
    let flavour: Flavour = flavour.parse().unwrap();
    match role {
        "sees-its-guests-memory" => memory::exchange(SHARE, Ram::new(SIZE)),
        "sees-its-guests-file" => memory::exchange(SHARE, memory::file_memory()),
        "sees-its-guests-shared-memory" => memory::exchange(SHARE, memory::shared_memory()),
        "touches-lent-memory" => memory::touch_after_start(),
        "touches-lent-pages" => memory::touch_pages(),
        "fakes-and-touches-lent-memory" => run(Engine::Kvm, flavour, memory::touch_after_start),
        "fakes-and-touches-lent-pages" => run(Engine::Kvm, flavour, memory::touch_pages),
        "gets-lent-memory-back" => memory::get_back(),
        "gives-memory" => {
            let ram = Ram::new(SIZE);
            let vm = Vm::new();
            let refused = give(&vm, SHARE, 0, RAM, &ram, RWX).unwrap_err();
            std::process::exit(refused.0);
        }
        "spins" => spin(flavour),
        other => panic!("{other}"),
    }
    std::process::exit(0);
}

/// Runs a guest that never ends, after saying so.
fn spin(flavour: Flavour) {
    let image = image(|program| {
        program.store_at(Width::Word, DEVICE, 1);
        let again = program.here();
        program.branch(again);
    });
    let rig = Rig::new(flavour, &image).started();
    assert_eq!(rig.exit(), Exit::Store { addr: DEVICE, len: 4, value: 1 });
    let second = std::thread::scope(|scope| {
        scope.spawn(|| rig.vcpus[1].run());
        println!("running");
        rig.vcpus[0].run()
    });
    // Without a host there is no such call.
    std::process::exit(if second == Err(fake_gunyah::Errno::ENOSYS) { 3 } else { 4 });
}

/// A memory file.
pub fn memfd(len: usize) -> OwnedFd {
    let fd = unsafe { libc::memfd_create(c"ram".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    assert_eq!(unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) }, 0);
    fd
}

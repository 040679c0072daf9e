//! Code guests on every engine of this host: what the interpreter and KVM must both do, and what only KVM can.
//!
//! Each check runs once for each engine. Where KVM cannot be used its checks are shown as ignored, with the reason; with
//! `ARM64_RIG_KVM` set they run and fail. On machines of other architectures there is nothing to ignore: that KVM is refused
//! there with a reason is a check of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "a test that fails panics"
)]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

#[path = "../common/mod.rs"]
mod common;
mod ending;
mod exits;
mod guests;
mod memory;
mod page_by_page;
mod rig;
#[path = "../rm_config/tree.rs"]
#[allow(dead_code)]
mod tree;
mod vmm;
#[path = "../../../guests/compiled/rust/src/work.rs"]
mod work;

use std::panic::catch_unwind;
use std::sync::mpsc;
use std::time::Duration;

use fake_gunyah::Engine;
use libtest_mimic::{Arguments, Trial};

/// A check that takes longer hangs.
const WATCHDOG: Duration = Duration::from_secs(300);

/// Set where KVM must be there.
const REQUIRED: &str = "ARM64_RIG_KVM";

type Check = (&'static str, fn(Engine));

macro_rules! checks {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), $module::$name as fn(Engine))),*]
    };
}

/// What every engine does.
const BOTH: &[Check] = checks![
    guests::hello_on_every_flavour,
    guests::compiled_guests_compute_what_they_should,
    guests::registers_are_those_of_the_boot_context,
    exits::an_access_can_be_made_to_fault,
    exits::an_access_can_be_tried_again,
    exits::a_signal_ends_a_spin_and_a_sleep,
    exits::immediate_exit_ends_a_spin,
    exits::removing_a_vcpu_ends_its_run,
    exits::reset2_brings_its_cookie,
    exits::power_off_without_psci_node_ends_nothing,
    memory::a_program_and_its_guest_see_the_same,
    memory::a_region_that_may_not_be_written,
    page_by_page::what_cannot_be_locked_is_a_page_fault,
    page_by_page::reclaimed_pages_come_again,
    page_by_page::bindings_come_and_go_while_the_guest_runs,
    ending::nothing_is_left_of_many_vms,
    ending::nothing_is_left_of_a_killed_program,
    ending::a_program_outlives_its_host,
];

/// What only hardware does.
const KVM: &[Check] = checks![
    guests::it_has_interrupts_and_a_clock,
    exits::an_access_without_syndrome_is_a_crash,
    memory::lent_memory_is_out_of_reach,
    memory::lent_pages_go_one_by_one,
    memory::memory_of_files_is_shared,
    memory::a_program_that_is_traced_is_refused,
];

fn main() {
    // This program is also the VMMs of its tests.
    if let Some(role) = std::env::var_os(vmm::ROLE) {
        vmm::play(role.to_str().unwrap());
    }
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> =
        BOTH.iter().map(|check| trial("interpreter", Engine::Interpreter, *check)).collect();
    if cfg!(target_arch = "aarch64") {
        let missing = Engine::Kvm.check().err().filter(|_| std::env::var_os(REQUIRED).is_none());
        if let Some(why) = &missing {
            eprintln!("the checks on KVM are ignored: {why}");
        }
        let on_kvm = BOTH.iter().chain(KVM).map(|check| trial("kvm", Engine::Kvm, *check));
        trials.extend(on_kvm.map(|trial| trial.with_ignored_flag(missing.is_some())));
    } else {
        trials.push(trial(
            "kvm",
            Engine::Kvm,
            ("is_refused_with_a_reason", guests::it_is_refused_with_a_reason),
        ));
    }
    // Some count what this process has open.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(prefix: &str, engine: Engine, (name, check): Check) -> Trial {
    let name = format!("{prefix}::{name}");
    Trial::test(name.clone(), move || {
        let (done, wait) = mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if wait.recv_timeout(WATCHDOG) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{name} hangs");
                std::process::abort();
            }
        });
        let outcome = catch_unwind(|| check(engine));
        drop(done);
        watchdog.join().unwrap();
        outcome.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").into()
        })
    })
}

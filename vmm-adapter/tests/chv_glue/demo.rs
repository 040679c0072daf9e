//! The small VMM on the glue, from the VM to its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fake_gunyah::{Fake, Flavour, Guest, Handle, Host};

use super::{chain, gunyah, on};
use crate::guest::{self, Ending};
use crate::hypervisor::additions::Protection;
use crate::vmm::{End, Log, Machine, Settings};

struct Run {
    end: anyhow::Result<End>,
    lines: Vec<String>,
}

fn settings(vcpus: u32, protection: Protection) -> Settings {
    Settings { vcpus, protection }
}

fn log() -> (Log, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&lines);
    (Arc::new(move |line| all.lock().unwrap_or_else(PoisonError::into_inner).push(line)), lines)
}

fn run(settings: Settings, ending: Ending) -> Run {
    let (log, lines) = log();
    let payload = guest::program(settings.vcpus, ending);
    let end = Machine::boot(&gunyah(), &settings, &payload, &log).and_then(Machine::wait);
    let lines = lines.lock().unwrap().clone();
    Run { end, lines }
}

/// What the guest and the devices say, whatever the host. The first interrupts are the panel's and the card's two, then the vector with
/// another message, the vector that had a bad one, and the guest's own store.
fn check(run: &Run, protected: bool, what: &str) {
    let lines = &run.lines;
    assert!(matches!(run.end, Ok(End::Shutdown)), "{what}: {:?} {lines:#?}", run.end);
    let taken: Vec<_> = lines.iter().filter(|line| line.contains("takes interrupt")).collect();
    let want = [35, 128, 129, 135, 130, 130].map(|intid| format!("guest: takes interrupt {intid}"));
    assert!(taken.into_iter().eq(&want), "{what}: {lines:#?}");

    let seen: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("guest: reads ")).collect();
    // The panel's number; three doorbells; the frame: INTID 128 and 8 lines.
    assert_eq!(seen, ["0x1122334455667788", "0x3", "0x800008"], "{what}");
    let exits: Vec<_> = lines.iter().filter(|line| line.ends_with("of the panel, an exit")).collect();
    assert_eq!(
        exits,
        [
            "guest: stores 0x0 to 0x48 of the panel, an exit",
            "guest: stores 0x0 to 0x50 of the panel, an exit"
        ],
        "{what}"
    );
    let lacks = "on this host does not offer";
    let tried: Vec<_> = lines.iter().filter(|line| line.contains(": no, ")).collect();
    assert!(tried.len() >= 2 && tried.iter().all(|line| line.contains(lacks)), "{what}: {lines:#?}");
    let has = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(has("\"hello from shared memory\", from 0x40400000"), 1, "{what}: {lines:#?}");
    assert_eq!(has("devices cannot reach 0x403ff000"), usize::from(protected), "{what}: {lines:#?}");
    assert_eq!(has("GSI 2: the message names INTID 136, and the VM's are 128 to 135"), 1, "{what}");
    assert_eq!(has("makes a protected VM"), usize::from(protected), "{what}");
}

/// Whether hosts of this flavour lend memory.
const FLAVOURS: [(Flavour, bool); 5] = [
    (Flavour::V11, false),
    (Flavour::Android14Early, true),
    (Flavour::Android14, true),
    (Flavour::Android15, true),
    (Flavour::Android16, true),
];

#[test]
fn the_guest_runs_to_its_end_on_every_flavour() {
    for (flavour, lends) in FLAVOURS {
        on(flavour, |handle| {
            let run = run(settings(3, Protection::Auto), Ending::Off);
            check(&run, lends, flavour.name());
            for cpu in [1, 2] {
                assert!(
                    run.lines.contains(&format!("guest: CPU {cpu} is up")),
                    "{flavour}: {:#?}",
                    run.lines
                );
            }
            // INTID 131 to 134 were never used.
            let rang: Vec<_> = (96..104).map(|label| handle.doorbells(label)).collect();
            assert_eq!(rang, [1, 1, 2, 0, 0, 0, 0, 1], "{flavour}");
            assert_eq!(handle.answers_lost(), 0, "{flavour}");
        });
    }
}

#[test]
fn the_guest_runs_on_the_host_that_was_seen() {
    for host in Host::ALL {
        let fake = Fake::builder().host(host).guest(Guest::code()).build().unwrap();
        let run = fake.run(|_| run(settings(2, Protection::Auto), Ending::Off)).unwrap();
        check(&run, true, host.name());
    }
}

#[test]
fn protection_is_as_it_was_asked_for() {
    for (flavour, protection, protected) in [
        (Flavour::Android14, Protection::Never, false),
        (Flavour::Android14, Protection::Always, true),
        (Flavour::Android16, Protection::Never, false),
        (Flavour::V11, Protection::Never, false),
    ] {
        on(flavour, |_| check(&run(settings(1, protection), Ending::Off), protected, flavour.name()));
    }
    for (flavour, protection, why) in [
        (Flavour::V11, Protection::Always, "does not offer memory that the host cannot reach"),
        (Flavour::Android15, Protection::Never, "does not offer VMs whose memory the host sees"),
        (Flavour::V17, Protection::Auto, "does not offer guest memory from the VMM's own mappings"),
    ] {
        on(flavour, |_| {
            let error = run(settings(1, protection), Ending::Off).end.unwrap_err();
            assert!(format!("{error:#}").contains(why), "{flavour}: {error:#}");
        });
    }
}

#[test]
fn every_end_is_told_apart() {
    for flavour in [Flavour::V11, Flavour::Android16] {
        on(flavour, |_| {
            let end = run(settings(2, Protection::Auto), Ending::Reset).end;
            assert!(matches!(end, Ok(End::Reset)), "{flavour}: {end:?}");
            let end = run(settings(2, Protection::Auto), Ending::Crash).end;
            let Ok(End::Failed(error)) = end else { panic!("{flavour}: {end:?}") };
            let error = format!("{error:#}");
            // What the hypervisor said is kept.
            let want = "cannot run the vCPU: the guest crashed: hypervisor or software error (exit type 5, ";
            assert!(error.starts_with(want), "{flavour}: {error}");
        });
    }
}

/// A pause comes back only when no vCPU runs, and nothing is lost by it: the guest's every load must have had its answer.
#[test]
fn pauses_lose_nothing() {
    on(Flavour::Android15, |handle: &Handle| {
        for round in 0..20 {
            let (log, lines) = log();
            let payload = guest::program(2, Ending::Off);
            let machine = Machine::boot(&gunyah(), &settings(2, Protection::Auto), &payload, &log).unwrap();
            for pause in 0..10 {
                machine.pause().unwrap();
                let (runs, said) = (handle.runs(), lines.lock().unwrap().len());
                if pause == round % 10 {
                    std::thread::sleep(Duration::from_millis(20));
                    assert_eq!(handle.runs(), runs, "a vCPU runs in a pause");
                    // The card has a thread of its own, which goes on.
                    let lines = lines.lock().unwrap();
                    let guest = lines[said..].iter().filter(|line| line.starts_with("guest")).count();
                    assert_eq!(guest, 0, "{lines:#?}");
                }
                machine.resume().unwrap();
            }
            let run = Run { end: machine.wait(), lines: lines.lock().unwrap().clone() };
            check(&run, true, "paused");
        }
        assert_eq!(handle.answers_lost(), 0);
    });
}

/// A machine that is dropped while its guest runs goes away, threads and all.
#[test]
fn a_machine_can_be_dropped() {
    on(Flavour::Android14, |handle| {
        let (log, _) = log();
        // b .
        let payload = 0x1400_0000_u32.to_le_bytes().to_vec();
        let machine = Machine::boot(&gunyah(), &settings(2, Protection::Auto), &payload, &log).unwrap();
        drop(machine);
        // The kernel hears of closed descriptors a little later; a watchdog, not a limit.
        let began = std::time::Instant::now();
        while !handle.objects().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(60), "{:?} are still open", handle.objects());
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// A device that panics ends the machine, also when the guest has other vCPUs that go on.
#[test]
fn a_panic_in_a_device_ends_the_machine() {
    on(Flavour::Android16, |_| {
        let log: Log = Arc::new(|line| assert!(!line.starts_with("guest: CPU 2"), "a device's bug"));
        let payload = guest::program(3, Ending::Off);
        let machine = Machine::boot(&gunyah(), &settings(3, Protection::Auto), &payload, &log).unwrap();
        let End::Failed(error) = machine.wait().unwrap() else { panic!() };
        assert!(format!("{error:#}").ends_with("a device of vCPU 2 panicked"), "{error:#}");
    });
}

#[test]
fn a_host_without_a_hypervisor_for_arm64_guests_says_so() {
    use crate::glue::AdapterHypervisor;
    use crate::hypervisor::{Hypervisor, HypervisorError};
    use vmm_adapter::Backend;
    match AdapterHypervisor::new(Backend::Kvm) {
        Err(error) => assert!(matches!(error, HypervisorError::HypervisorCreate(_)), "{error:?}"),
        Ok(kvm) if cfg!(target_arch = "x86_64") => {
            let why = chain(kvm.check_required_extensions().unwrap_err());
            assert!(why.ends_with("KVM runs x86_64 guests on this host, and these are arm64's"), "{why}");
            let why = chain(kvm.create_vm(Default::default()).err().unwrap());
            assert!(why.contains("x86_64 guests"), "{why}");
        }
        Ok(kvm) => kvm.check_required_extensions().unwrap(),
    }
}

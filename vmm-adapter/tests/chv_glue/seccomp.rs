//! The list for the filters is long enough: no run uses another ioctl, and the guide names each.

use std::collections::BTreeSet;
use std::sync::Arc;

use fake_gunyah::{Fake, Flavour, Guest, Target};

use super::gunyah;
use crate::glue::seccomp::{PROBE, SYSTEM_CALLS, VCPU, VMM};
use crate::guest::{self, Ending};
use crate::hypervisor::additions::Protection;
use crate::vmm::{Machine, Settings};

const GUIDE: &str = include_str!("../../docs/cloud-hypervisor.md");

#[test]
fn no_ioctl_is_missing() {
    let listed = |list: &[(&str, u32)], request| list.iter().any(|(_, number)| *number == request);
    let mut used = BTreeSet::new();
    for flavour in Flavour::ALL {
        let fake = Fake::builder().flavour(flavour).guest(Guest::code()).record_calls(true).build().unwrap();
        let handle = fake
            .run(|handle| {
                let settings = Settings { vcpus: 2, protection: Protection::Auto };
                let payload = guest::program(2, Ending::Off);
                let log: crate::vmm::Log = Arc::new(|_| ());
                // Some flavours refuse it, after some calls.
                let _ = Machine::boot(&gunyah(), &settings, &payload, &log).and_then(Machine::wait);
                handle.clone()
            })
            .unwrap();
        for call in handle.calls() {
            // 0 stands for an open.
            if call.request == 0 {
                continue;
            }
            used.insert(call.request);
            let known = match call.target {
                Target::Vcpu(..) => listed(&VCPU, call.request) || listed(&VMM, call.request),
                _ => listed(&VMM, call.request) || call.request == PROBE,
            };
            assert!(known, "{flavour}: {:#x} on {:?}", call.request, call.target);
        }
    }
    // Far from empty.
    assert!(used.len() >= 14, "{used:x?}");
    assert!(used.contains(&PROBE) && VCPU.iter().all(|(_, number)| used.contains(number)), "{used:x?}");
}

#[test]
fn vcpu_threads_use_their_part() {
    let fake = Fake::builder().flavour(Flavour::Android16).guest(Guest::code()).record_calls(true);
    let fake = fake.build().unwrap();
    let handle = fake
        .run(|handle| {
            let settings = Settings { vcpus: 2, protection: Protection::Auto };
            let payload = guest::program(2, Ending::Off);
            let log: crate::vmm::Log = Arc::new(|_| ());
            Machine::boot(&gunyah(), &settings, &payload, &log).and_then(Machine::wait).unwrap();
            handle.clone()
        })
        .unwrap();
    let run = VCPU[0].1;
    let calls = handle.calls();
    let threads: BTreeSet<_> = calls.iter().filter(|call| call.request == run).map(|call| call.tid).collect();
    assert_eq!(threads.len(), 2);
    for call in calls.iter().filter(|call| threads.contains(&call.tid)) {
        assert!(VCPU.iter().any(|(_, number)| *number == call.request), "{:#x}", call.request);
    }
}

#[test]
fn the_guide_has_the_list() {
    for (name, _) in VMM.iter().chain(&VCPU) {
        assert!(GUIDE.contains(&format!("`{name}`")), "{name}");
    }
    for name in SYSTEM_CALLS {
        assert!(GUIDE.contains(&format!("`{name}`")), "{name}");
    }
    assert!(GUIDE.contains(&format!("`{PROBE:#x}`")));
}

//! What the crate says is what the fake kernel saw, whatever the guest does and in whatever order functions come and go.
//!
//! `PROPTEST_CASES` is the number of cases on each flavour.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Event, KERNELS, Kernel};
use fake_gunyah::hyp::state;
use fake_gunyah::{Answer, Flavour, Handle, Script, Target};
use gunyah_ioctls::{Error, IoEventFd, IoEventMatch, IrqFd, Trigger, VcpuExit, VcpuFd, VmStatus};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn check<S: Strategy>(strategy: &S, test: impl Fn(Kernel, S::Value))
where
    S::Value: Clone,
{
    let cases = std::env::var("PROPTEST_CASES").map_or(40, |text| text.parse().unwrap());
    for kernel in KERNELS {
        // The same cases in each run; a failure prints the smallest one.
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(
            config,
            proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
        );
        let ran = runner.run(strategy, |value| {
            test(kernel, value);
            Ok(())
        });
        ran.unwrap_or_else(|error| panic!("{kernel}: {error}"));
    }
}

// --- what the guest does ---

/// How the hypervisor is told to have the guest's access fail.
const FAULT: u64 = 2;

/// One thing that the hypervisor reports, and how the host takes it.
#[derive(Clone, Debug)]
enum Step {
    Read { addr: u64, len: usize, value: u64, fail: bool },
    Write { addr: u64, len: usize, value: u64, fail: bool },
    Ready,
    Blocked,
    Sleep,
    Fault { addr: u64, write: bool },
    Kick,
}

fn width() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), Just(2), Just(4), Just(8)]
}

fn step() -> impl Strategy<Value = Step> {
    let place = 0x1000_u64..0x2000;
    let unmapped = (0_u64..16).prop_map(|page| 0x4000_0000 + page * 0x10000);
    prop_oneof![
        4 => (place.clone(), width(), any::<u64>(), any::<bool>())
            .prop_map(|(addr, len, value, fail)| Step::Read { addr, len, value, fail }),
        4 => (place, width(), any::<u64>(), any::<bool>())
            .prop_map(|(addr, len, value, fail)| Step::Write { addr, len, value, fail }),
        1 => Just(Step::Ready),
        1 => Just(Step::Blocked),
        1 => Just(Step::Sleep),
        1 => (unmapped, any::<bool>()).prop_map(|(addr, write)| Step::Fault { addr, write }),
        3 => Just(Step::Kick),
    ]
}

fn mask(len: usize) -> u64 {
    if len < 8 { (1 << (8 * len)) - 1 } else { u64::MAX }
}

/// The guest's side. Notes with what each of its exits was answered.
fn guest(steps: &[Step], exit_type: u16, answers: Arc<Mutex<Vec<[u64; 3]>>>) -> Script {
    let steps = steps.to_vec();
    let mut todo = steps.into_iter();
    let mut answered = false;
    Script::from_fn(move |resume| {
        if std::mem::take(&mut answered) {
            answers.lock().unwrap().push(resume);
        }
        loop {
            return match todo.next() {
                Some(Step::Kick) => continue,
                Some(Step::Read { addr, len, .. }) => {
                    answered = true;
                    Answer::mmio_read(addr, len as u64)
                }
                Some(Step::Write { addr, len, value, .. }) => {
                    answered = true;
                    Answer::mmio_write(addr, len as u64, value & mask(len))
                }
                Some(Step::Ready) => Answer::state(state::READY, [0; 3]),
                Some(Step::Blocked) => Answer::state(state::BLOCKED, [0; 3]),
                Some(Step::Sleep) => Answer::state(state::EXPECTS_WAKEUP, [0; 3]),
                Some(Step::Fault { addr, write }) => {
                    Answer::state(state::PAGE_FAULT, [addr, u64::from(write), 0])
                }
                None => Answer::exit(exit_type, &[7, 0, 1, 0]),
            };
        }
    })
}

/// Wakes the guest whenever it sleeps, until it is dropped.
struct Waker<'a>(&'a AtomicBool);

impl Drop for Waker<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn wake(handle: &Handle, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let _ = handle.wake(0);
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The host's side: expects what the steps say, in their order.
fn host(vcpu: &mut VcpuFd, steps: &[Step], can_fail: bool, page_faults: bool, exit_type: u16) {
    let kick = vcpu.kick_handle();
    let mut kicked = false;
    let next = |vcpu: &mut VcpuFd, kicked: &mut bool| {
        // However many kicks there were, they are one, and it comes before the guest gets on.
        if std::mem::take(kicked) {
            assert_eq!(vcpu.run().unwrap(), VcpuExit::Interrupted);
        }
        vcpu.run().unwrap()
    };
    for step in steps {
        match *step {
            Step::Kick => {
                kick.kick();
                kicked = true;
            }
            Step::Read { addr, len, value, fail } => {
                assert_eq!(next(vcpu, &mut kicked), VcpuExit::MmioRead { addr, len });
                if fail && can_fail {
                    vcpu.fail_mmio().unwrap();
                } else {
                    vcpu.complete_mmio_read(&value.to_le_bytes()[..len]).unwrap();
                }
            }
            Step::Write { addr, len, value, fail } => {
                let data = (value & mask(len)).to_le_bytes();
                assert_eq!(next(vcpu, &mut kicked), VcpuExit::MmioWrite { addr, data, len });
                if fail && can_fail {
                    vcpu.fail_mmio().unwrap();
                }
            }
            Step::Fault { addr, .. } if page_faults => {
                let exit = next(vcpu, &mut kicked);
                assert!(matches!(exit, VcpuExit::PageFault { addr: at, .. } if at == addr), "{exit:?}");
            }
            Step::Ready | Step::Blocked | Step::Sleep | Step::Fault { .. } => {}
        }
    }
    for _ in 0..2 {
        match next(vcpu, &mut kicked) {
            VcpuExit::Status(VmStatus::Exited(info)) => {
                assert_eq!((info.raw, info.reason()), (exit_type, &[7, 0, 1, 0][..]));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(vcpu.answers_possibly_lost(), 0, "a kick outside of run costs nothing");
}

#[test]
fn every_exit_and_every_answer_arrives_once_and_in_order() {
    let strategy = (prop::collection::vec(step(), 0..40), 0..9_u16);
    check(&strategy, |kernel, (steps, exit_type)| {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let script = guest(&steps, exit_type, Arc::clone(&answers));
        let can_fail = common::on(kernel, [script], |handle| {
            let (mut vm, _ram) = common::started_vm(1);
            let (can_fail, page_faults) = (vm.fd.features().mmio_fault(), vm.fd.features().page_faults());
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| wake(handle, &over));
                let _waker = Waker(&over);
                host(&mut vm.vcpus[0], &steps, can_fail, page_faults, exit_type);
            });
            assert_eq!((handle.answers_lost(), handle.exits_lost()), (0, 0));
            can_fail
        });
        // What the guest got back, access by access.
        let answers = answers.lock().unwrap();
        let mut answers = answers.iter();
        for step in &steps {
            match *step {
                Step::Read { len, value, fail, .. } => {
                    let resume = answers.next().expect("an answer for each access");
                    if fail && can_fail {
                        assert_eq!(resume[1], FAULT, "{step:?}: {resume:?}");
                    } else {
                        assert_eq!((resume[0] & mask(len), resume[1]), (value & mask(len), 0), "{step:?}");
                    }
                }
                Step::Write { fail, .. } => {
                    let resume = answers.next().expect("an answer for each access");
                    let action = if fail && can_fail { FAULT } else { 0 };
                    assert_eq!(resume[1], action, "{step:?}: {resume:?}");
                }
                _ => {}
            }
        }
        assert!(answers.next().is_none());
    });
}

// --- functions that come and go ---

#[derive(Clone, Debug)]
enum Change {
    AddVcpu(u32),
    AddIrqfd(u32, bool),
    AddIoeventfd(u64, Option<u64>),
    /// Takes back the n-th of what is there, silently or not.
    RemoveVcpu(usize, bool),
    RemoveIrqfd(usize, bool),
    RemoveIoeventfd(usize, bool),
    Start,
}

fn change() -> impl Strategy<Value = Change> {
    let addr = prop_oneof![Just(0x1000_u64), Just(0x2000)];
    prop_oneof![
        3 => (1..4_u32).prop_map(Change::AddVcpu),
        3 => (0..3_u32, any::<bool>()).prop_map(|(label, level)| Change::AddIrqfd(label, level)),
        4 => (addr, prop::option::of(1..4_u64)).prop_map(|(addr, value)| Change::AddIoeventfd(addr, value)),
        2 => (0..8_usize, any::<bool>()).prop_map(|(n, silent)| Change::RemoveVcpu(n, silent)),
        2 => (0..8_usize, any::<bool>()).prop_map(|(n, silent)| Change::RemoveIrqfd(n, silent)),
        2 => (0..8_usize, any::<bool>()).prop_map(|(n, silent)| Change::RemoveIoeventfd(n, silent)),
        1 => Just(Change::Start),
    ]
}

/// Takes the n-th entry out, if there is any.
fn take<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, n: usize) -> Option<V> {
    let key = map.keys().nth(n.checked_rem(map.len())?)?.clone();
    map.remove(&key)
}

/// What should be there.
#[derive(Default)]
struct Model {
    vcpus: BTreeMap<u32, VcpuFd>,
    irqfds: BTreeMap<u32, (IrqFd, Event)>,
    ioeventfds: BTreeMap<(u64, Option<u64>), (IoEventFd, Event)>,
    started: bool,
}

impl Model {
    fn apply(&mut self, vm: &gunyah_ioctls::VmFd, change: &Change) {
        match *change {
            Change::AddVcpu(id) => {
                let added = vm.add_vcpu(id);
                if let Some(vcpu) = expect(added, self.vcpus.contains_key(&id)) {
                    self.vcpus.insert(id, vcpu);
                }
            }
            Change::AddIrqfd(label, level) => {
                let event = Event::new();
                let added = vm.add_irqfd(&event, label, if level { Trigger::Level } else { Trigger::Edge });
                if let Some(irqfd) = expect(added, self.irqfds.contains_key(&label)) {
                    self.irqfds.insert(label, (irqfd, event));
                }
            }
            Change::AddIoeventfd(addr, value) => {
                let event = Event::new();
                let matching =
                    value.map_or(IoEventMatch::Any, |value| IoEventMatch::Value { width: 4, value });
                let conflict = self.ioeventfds.keys().any(|(at, other)| {
                    *at == addr && (value.is_none() || other.is_none() || *other == value)
                });
                if let Some(ioeventfd) = expect(vm.add_ioeventfd(&event, addr, matching), conflict) {
                    self.ioeventfds.insert((addr, value), (ioeventfd, event));
                }
            }
            Change::RemoveVcpu(n, silent) => match take(&mut self.vcpus, n) {
                Some(vcpu) if !silent => vcpu.remove().unwrap(),
                gone => drop(gone),
            },
            Change::RemoveIrqfd(n, silent) => match take(&mut self.irqfds, n) {
                Some((irqfd, _)) if !silent => irqfd.remove().unwrap(),
                gone => drop(gone),
            },
            Change::RemoveIoeventfd(n, silent) => match take(&mut self.ioeventfds, n) {
                Some((ioeventfd, _)) if !silent => ioeventfd.remove().unwrap(),
                gone => drop(gone),
            },
            Change::Start => {
                vm.start().unwrap();
                self.started = true;
            }
        }
    }

    /// What a store of the guest signals.
    fn hit(&self, addr: u64, value: u64) -> Option<&Event> {
        let found =
            self.ioeventfds.iter().find(|((at, by), _)| *at == addr && by.is_none_or(|by| by == value));
        found.map(|(_, (_, event))| event)
    }
}

/// What was added; or nothing, if it had to be refused for what is there already.
fn expect<T>(added: Result<T, Error>, refused: bool) -> Option<T> {
    match added {
        Ok(added) => {
            assert!(!refused, "added twice");
            Some(added)
        }
        Err(Error::InvalidArgument { .. }) if refused => None,
        Err(error) => panic!("{error:?}, refused: {refused}"),
    }
}

#[test]
fn functions_are_there_from_their_addition_to_their_removal() {
    let strategy = prop::collection::vec(change(), 0..30);
    check(&strategy, |kernel, changes| {
        // v11 takes the value for a truth value, so it cannot tell two values apart.
        let by_value = kernel != Kernel::Of(Flavour::V11);
        let changes: Vec<_> = changes
            .into_iter()
            .map(|change| match change {
                Change::AddIoeventfd(addr, _) if !by_value => Change::AddIoeventfd(addr, None),
                other => other,
            })
            .collect();
        let stores: Vec<_> = [0x1000, 0x2000].into_iter().flat_map(|a| (1..5).map(move |v| (a, v))).collect();
        let mut script = Script::new();
        for &(addr, value) in &stores {
            script = script.mmio_write(addr, 4, value);
        }
        common::on(kernel, [script.exit(1, &[])], |handle| {
            let (mut vm, _ram) = common::configured_vm(1);
            let mut model = Model::default();
            for change in &changes {
                model.apply(&vm.fd, change);
            }

            let mut expected: Vec<_> = std::iter::once(0).chain(model.vcpus.keys().copied()).collect();
            expected.sort_unstable();
            common::eventually(|| {
                let open = handle.objects().into_iter();
                let open = open.filter_map(|object| match object {
                    Target::Vcpu(_, id) => Some(id),
                    _ => None,
                });
                open.collect::<Vec<_>>() == expected
            });

            if !model.started {
                vm.fd.start().unwrap();
            }
            for label in 0..3 {
                let before = handle.doorbells(label);
                if let Some((_, event)) = model.irqfds.get(&label) {
                    event.signal();
                    common::eventually(|| handle.doorbells(label) > before);
                }
            }
            for &(addr, value) in &stores {
                if let Some(event) = model.hit(addr, value) {
                    assert_eq!(event.take(), 0, "{addr:#x} = {value}: too early");
                }
            }
            let mut exits = Vec::new();
            loop {
                match vm.vcpus[0].run().unwrap() {
                    VcpuExit::MmioWrite { addr, data, .. } => exits.push((addr, u64::from_le_bytes(data))),
                    VcpuExit::Status(_) => break,
                    other => panic!("{other:?}"),
                }
            }
            let unclaimed: Vec<_> =
                stores.iter().copied().filter(|&(addr, value)| model.hit(addr, value).is_none()).collect();
            assert_eq!(exits, unclaimed, "stores that no ioeventfd took");
            for ((addr, by), (_, event)) in &model.ioeventfds {
                let times =
                    stores.iter().filter(|(at, v)| at == addr && by.is_none_or(|by| by == *v)).count();
                assert_eq!(event.take(), times as u64, "{addr:#x}, {by:?}");
            }
        });
    });
}

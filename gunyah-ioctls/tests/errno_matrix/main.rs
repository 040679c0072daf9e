//! The errno matrix: operation, errno, flavour and cause, what the kernel answers and what the crate makes of it.
//!
//! One table ([`table`]) is run row by row on the fake kernel: once with raw system calls and once through the crate. The
//! test fails when a row is not exercised on each of its flavours, when a line of [`known`] (what the kernels are known to
//! answer, written out by hand) has no row, when a row is not in it, and when the crate's own table of causes disagrees.
//! What user space cannot provoke is in the table, too, with the reason: the fake, or a filter on the system call, is told to
//! answer so, and what the crate makes of it is checked. The few rows that remain are listed in [`NOT_EXERCISED`].
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "../common/mod.rs"]
mod common;
mod known;
mod table;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use fake_gunyah::{Builder, Errno, Fake, Fault, Flavour, Guest, Script};
use gunyah_ioctls::causes::{self, Context, Operation};
use gunyah_ioctls::{Error, Gunyah};

use table::{How, Ours, Row};
use world::World;

fn crates_flavour(flavour: Flavour) -> gunyah_ioctls::Flavour {
    match flavour {
        Flavour::V11 => gunyah_ioctls::Flavour::V11,
        Flavour::Android14Early => gunyah_ioctls::Flavour::Android14Early,
        Flavour::Android14 => gunyah_ioctls::Flavour::Android14,
        Flavour::Android15 => gunyah_ioctls::Flavour::Android15,
        Flavour::Android16 => gunyah_ioctls::Flavour::Android16,
        Flavour::V17 => gunyah_ioctls::Flavour::V17,
        Flavour::Vendor => gunyah_ioctls::Flavour::Vendor,
    }
}

fn name(errno: i32) -> String {
    if errno == 0 { "success".to_owned() } else { fake_gunyah::Errno(errno).to_string() }
}

/// Runs `body` on a new host of a row.
fn on<T: Send>(
    flavour: Flavour,
    host: &dyn Fn(Builder) -> Builder,
    body: impl FnOnce(&World) -> T + Send,
) -> T {
    let builder = Fake::builder().flavour(flavour).cma_region(world::CMA_NODE, 1 << 20);
    let fake = host(builder).build().unwrap();
    let mut kept = None;
    let answer = fake
        .run(|handle| {
            kept = Some(handle.clone());
            body(&World::new(flavour, handle))
        })
        .unwrap();
    assert_eq!(kept.unwrap().leftovers(), [], "left open");
    answer
}

/// The crate's side of a row. `Ok` is what the row promises.
fn check_ours(
    row: &Row,
    flavour: Flavour,
    host: &dyn Fn(Builder) -> Builder,
    ours: &Ours,
) -> Result<(), String> {
    let say = |error: &Result<(), Error>| format!("the crate answers {error:?}");
    match ours {
        Ours::Same(act) => {
            let answer = on(flavour, host, act);
            match &answer {
                Ok(()) if row.errno == 0 => return Ok(()),
                Err(Error::Ioctl { .. } | Error::Os { .. } | Error::Open { .. }) => {}
                _ => return Err(say(&answer)),
            }
            let Err(error) = answer else { return Err("no error".to_owned()) };
            if error.errno() != Some(row.errno) {
                return Err(format!("the crate answers {error}"));
            }
            let mut context = Context::default();
            context.flavour = Some(crates_flavour(flavour));
            let causes = error.causes(&context);
            let in_child = error.to_string().starts_with("in a child");
            if !in_child && !causes.iter().any(|c| c.flavours().contains(crates_flavour(flavour))) {
                return Err(format!("the crate knows no cause of `{error}` on this flavour"));
            }
            Ok(())
        }
        Ours::Refused(act) | Ours::Absent(act) => {
            let (answer, calls) = on(flavour, host, |world| (act(world), world.calls_since_mark()));
            let expected = match &answer {
                Err(Error::NotInAbi { .. }) => matches!(ours, Ours::Absent(_)),
                Err(Error::InvalidArgument { .. } | Error::WrongPhase { .. } | Error::VmUnusable { .. }) => {
                    matches!(ours, Ours::Refused(_))
                }
                _ => false,
            };
            if !expected {
                return Err(say(&answer));
            }
            match calls {
                Some(0) => Ok(()),
                Some(calls) => Err(format!("the crate asked the kernel {calls} times")),
                None => Err("the row does not say from where on the kernel must not be asked".to_owned()),
            }
        }
        Ours::Becomes(_, act) => on(flavour, host, act),
        Ours::Inexpressible(_) => Ok(()),
    }
}

/// The rows that are not exercised: operation, errno, and why nobody could see the difference.
const NOT_EXERCISED: [(Operation, i32, &str); 5] = [
    // The kernels' compare adds first, so no kernel of these flavours answers so; that it takes such a range has a row.
    (Operation::SetUserMemory, libc::EOVERFLOW, "the kernel's check can never be true"),
    (Operation::LendUserMemory, libc::EOVERFLOW, "the kernel's check can never be true"),
    (Operation::SetDtbConfig, libc::EOVERFLOW, "the kernel's check can never be true"),
    (Operation::MapCmaMemory, libc::EOVERFLOW, "the kernel's check can never be true"),
    (
        Operation::ReadCmaMemory,
        libc::EACCES,
        "the crate never reads such a file, and the fake's is the host's own to read",
    ),
];

/// Whether anything was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Yes,
    No,
}

fn check(row: &Row, flavour: Flavour) -> Result<Run, String> {
    let (host, raw, ours) = match &row.how {
        How::Provoked { host, raw, ours } => (host, raw, ours),
        How::Injected { request, nth, ours, .. } => {
            let fault = Fault::on(*request).nth(*nth).fails(Errno(row.errno));
            return check_ours(row, flavour, &|host| host.fault(fault.clone()), ours).map(|()| Run::Yes);
        }
        How::Refused { ours, .. } => {
            let answer = on(flavour, &|host| host, |world| ours(world, row.errno));
            return match answer {
                Err(error) if error.errno() == Some(row.errno) => Ok(Run::Yes),
                other => Err(format!("the crate answers {other:?}")),
            };
        }
        How::Attempted { ours, .. } => {
            let attempt = (-row.errno).to_le_bytes();
            let host = |host: Builder| {
                let guest = Guest::scripts([Script::new().page_fault(world::NOWHERE, false)]);
                host.guest(guest).fault(Fault::on(world::RUN).nth(1).writes_page(24, &attempt))
            };
            return on(flavour, &host, |world| ours(world, row.errno)).map(|()| Run::Yes);
        }
        How::Never(_) => return Ok(Run::No),
    };
    let answer = on(flavour, host, raw);
    match answer {
        Ok(_) if row.errno == 0 => {}
        Err(errno) if errno == row.errno => {}
        Ok(value) => return Err(format!("the kernel answers {value}")),
        Err(errno) => return Err(format!("the kernel answers {}", name(errno))),
    }
    check_ours(row, flavour, host, ours).map(|()| Run::Yes)
}

#[test]
fn every_row_holds_on_each_of_its_flavours() {
    let mut failures = Vec::new();
    let mut not_run = BTreeSet::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in table::rows() {
        assert!(!row.flavours.is_empty(), "{:?} {} ({})", row.operation, name(row.errno), row.cause);
        for &flavour in row.flavours {
            let kind = match &row.how {
                How::Provoked { ours: Ours::Same(_), .. } => "provoked, and the crate gives the same errno",
                How::Provoked { ours: Ours::Refused(_), .. } => {
                    "provoked, refused by the crate before the kernel"
                }
                How::Provoked { ours: Ours::Absent(_), .. } => "absent, and the crate says so without asking",
                How::Provoked { ours: Ours::Becomes(..), .. } => {
                    "provoked, and the crate makes something else of it"
                }
                How::Provoked { ours: Ours::Inexpressible(_), .. } => {
                    "provoked, and the crate cannot be made to ask"
                }
                How::Injected { .. } => "the fake was told to answer so, and the crate does what it should",
                How::Refused { .. } => "the system call was refused so, and the crate gives the same errno",
                How::Attempted { .. } => {
                    "the fake was told to write it into the exit, and the crate reports it"
                }
                How::Never(_) => "NOT EXERCISED",
            };
            *counts.entry(kind).or_default() += 1;
            let outcome = std::panic::catch_unwind(|| check(row, flavour));
            let outcome = outcome.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                Err(text.or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned())).unwrap_or_default())
            });
            match outcome {
                Ok(Run::Yes) => {}
                Ok(Run::No) => {
                    let How::Never(why) = row.how else {
                        panic!("not run: {:?} {}", row.operation, row.cause)
                    };
                    not_run.insert((format!("{:?}", row.operation), row.errno, why));
                }
                Err(why) => failures.push(format!(
                    "{:?} {} on {flavour} ({}): {why}",
                    row.operation,
                    name(row.errno),
                    row.cause
                )),
            }
        }
    }
    println!("cells of the matrix:");
    for (kind, count) in &counts {
        println!("{count:6} {kind}");
    }
    for row in table::rows() {
        if let How::Injected { why, .. }
        | How::Refused { why, .. }
        | How::Attempted { why, .. }
        | How::Never(why) = row.how
        {
            let how = if matches!(row.how, How::Never(_)) { "never" } else { "told" };
            println!("  {how}: {:?} {} ({}): {why}", row.operation, name(row.errno), row.cause);
        }
    }
    let allowed: BTreeSet<_> = NOT_EXERCISED
        .iter()
        .map(|(operation, errno, why)| (format!("{operation:?}"), *errno, *why))
        .collect();
    assert_eq!(not_run, allowed, "what was not exercised, and what may be so");
    assert!(failures.is_empty(), "{} cells are wrong:\n{}", failures.len(), failures.join("\n"));
}

type Cell = (String, String, &'static str);

/// What the table has, success left out: operation, errno, flavour.
fn cells() -> BTreeSet<Cell> {
    table::rows()
        .filter(|row| row.errno != 0)
        .flat_map(|row| {
            row.flavours
                .iter()
                .map(|flavour| (format!("{:?}", row.operation), name(row.errno), flavour.name()))
        })
        .collect()
}

#[test]
fn the_table_has_what_is_known_and_nothing_else() {
    let known: BTreeSet<Cell> = known::cells();
    let cells = cells();
    let missing: Vec<_> = known.difference(&cells).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    let unknown: Vec<_> = cells.difference(&known).collect();
    assert!(unknown.is_empty(), "rows for what is not known: {unknown:?}");
}

/// The crate's table of causes was written by another hand; where it claims an errno there must be a row.
#[test]
fn the_table_has_what_the_crate_knows_causes_for() {
    let cells = cells();
    let mut missing = BTreeSet::new();
    for (operation, errno, id, flavours) in causes::table() {
        // Some rows of causes speak of builds between two flavours; that an ioctl may be absent says nothing about
        // the flavour as it is known here.
        let absent = [(Operation::SetBootContext, libc::ENODEV), (Operation::VcpuMmapSize, libc::EINVAL)];
        if errno == libc::ENOTTY || absent.contains(&(operation, errno)) {
            continue;
        }
        for flavour in Flavour::ALL {
            if !flavours.contains(crates_flavour(flavour)) || flavour == Flavour::Vendor {
                continue;
            }
            // One row of causes may stand for both region calls; v11 cannot lend.
            if (operation, flavour) == (Operation::LendUserMemory, Flavour::V11) {
                continue;
            }
            let cell = (format!("{operation:?}"), name(errno), flavour.name());
            if !cells.contains(&cell) {
                missing.insert((cell, id));
            }
        }
    }
    assert!(missing.is_empty(), "no row for {missing:?}");
}

#[test]
fn every_operation_is_in_the_table() {
    for operation in Operation::ALL {
        assert!(table::rows().any(|row| row.operation == operation), "{operation:?}");
    }
}

/// One row is one cause: the same words twice would be one of them unnoticed.
#[test]
fn no_row_stands_twice() {
    let mut seen = BTreeSet::new();
    for row in table::rows() {
        for flavour in row.flavours {
            let key = (format!("{:?}", row.operation), row.errno, row.cause, flavour.name());
            assert!(seen.insert(key.clone()), "{key:?}");
        }
    }
}

#[test]
fn the_node_is_where_the_crate_looks() {
    assert_eq!(Gunyah::DEFAULT_PATH, Fake::DEFAULT_DEVICE);
}

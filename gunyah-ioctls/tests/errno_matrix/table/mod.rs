//! The matrix. A row is an operation, an errno (0: the kernel takes what it should refuse), the flavours and a cause.

mod config;
mod function;
mod guest_memory;
mod memory;
mod open;
mod run;
mod start;

use fake_gunyah::{Builder, Flavour};
use gunyah_ioctls::causes::Operation;

use crate::world::{Answer, Raw, World};

pub(crate) use Flavour::{Android14, Android14Early, Android15, Android16, V11, V17, Vendor};

pub(crate) const DRIVEN: &[Flavour] = &[V11, Android14Early, Android14, Android15, Android16, V17];
pub(crate) const USER: &[Flavour] = &[V11, Android14Early, Android14, Android15, Android16];
/// Pinned when given; the guest sees what was there at the start.
pub(crate) const PINNED: &[Flavour] = &[V11, Android14Early, Android14];
pub(crate) const EARLY: &[Flavour] = &[V11, Android14Early];
pub(crate) const LENDING: &[Flavour] = &[Android14Early, Android14, Android15, Android16];
pub(crate) const OWNED: &[Flavour] = &[Android14, Android15, Android16];
/// User memory on touch.
pub(crate) const TOUCH: &[Flavour] = &[Android15, Android16];
pub(crate) const PAGED: &[Flavour] = &[Android15, Android16, V17];
pub(crate) const LATE: &[Flavour] = &[Android14, Android15, Android16, V17];
pub(crate) const NOT_A16: &[Flavour] = &[V11, Android14Early, Android14, Android15, V17];
pub(crate) const A16: &[Flavour] = &[Android16];
pub(crate) const M: &[Flavour] = &[V17];

/// One row.
pub(crate) struct Row {
    pub(crate) operation: Operation,
    pub(crate) errno: i32,
    pub(crate) flavours: &'static [Flavour],
    pub(crate) cause: &'static str,
    pub(crate) how: How,
}

/// How a row is exercised.
pub(crate) enum How {
    /// On a fake kernel prepared by `host`: by raw calls, and through the crate.
    Provoked { host: fn(Builder) -> Builder, raw: fn(&World) -> Raw, ours: Ours },
    /// The fake is told to fail the `nth` call with `request` so, since nothing makes it do so by itself for the reason
    /// given: what the crate makes of it.
    Injected { why: &'static str, request: u32, nth: u64, ours: Ours },
    /// The system call is made to fail with the errno in a process of its own: what the crate makes of it.
    Refused { why: &'static str, ours: fn(&World, i32) -> Answer },
    /// The fake is told to write the errno into the exit as the kernel's attempt.
    Attempted { why: &'static str, ours: fn(&World, i32) -> Result<(), String> },
    /// Not at all, for this reason. The test has a list of these.
    Never(&'static str),
}

/// What the crate makes of it.
pub(crate) enum Ours {
    /// The kernel is asked, and its errno reported.
    Same(fn(&World) -> Answer),
    /// `InvalidArgument`, `WrongPhase` or `VmUnusable`, and the kernel is not asked.
    Refused(fn(&World) -> Answer),
    /// `NotInAbi`, and the kernel is not asked.
    Absent(fn(&World) -> Answer),
    /// Something better than an error, in words and checked.
    Becomes(#[allow(dead_code)] &'static str, fn(&World) -> Result<(), String>),
    /// The crate's types do not let it happen, in words.
    Inexpressible(#[allow(dead_code)] &'static str),
}

const fn row(
    operation: Operation,
    errno: i32,
    flavours: &'static [Flavour],
    cause: &'static str,
    raw: fn(&World) -> Raw,
    ours: Ours,
) -> Row {
    Row { operation, errno, flavours, cause, how: How::Provoked { host: |builder| builder, raw, ours } }
}

/// A row that nothing here can provoke.
const fn never(
    operation: Operation,
    errno: i32,
    flavours: &'static [Flavour],
    cause: &'static str,
    why: &'static str,
) -> Row {
    Row { operation, errno, flavours, cause, how: How::Never(why) }
}

impl Row {
    /// On a host of a special kind.
    const fn on(mut self, host: fn(Builder) -> Builder) -> Self {
        if let How::Provoked { host: slot, .. } = &mut self.how {
            *slot = host;
        }
        self
    }
}

impl Row {
    /// Has the fake told to fail the first call with `request`, or the second where the crate asks once what there is.
    const fn injected(mut self, request: u32, ours: Ours) -> Self {
        use crate::world::{
            BOOT_CONTEXT, CREATE_GUEST_MEM, LEND, MAP_CMA, MAP_MEM, RECLAIM, SET_AUTH, SET_FW, SET_USER_MEM,
        };
        if let How::Never(why) = self.how {
            let nth = match request {
                BOOT_CONTEXT | CREATE_GUEST_MEM | LEND | MAP_CMA | MAP_MEM | RECLAIM | SET_AUTH | SET_FW
                | SET_USER_MEM => 2,
                _ => 1,
            };
            self.how = How::Injected { why, request, nth, ours };
        }
        self
    }

    /// Has the system call refused in a process of its own.
    const fn refused(mut self, ours: fn(&World, i32) -> Answer) -> Self {
        if let How::Never(why) = self.how {
            self.how = How::Refused { why, ours };
        }
        self
    }

    /// Has the errno written into the page-fault exit.
    const fn attempted(mut self, ours: fn(&World, i32) -> Result<(), String>) -> Self {
        if let How::Never(why) = self.how {
            self.how = How::Attempted { why, ours };
        }
        self
    }

    /// The first call after all.
    const fn first(mut self) -> Self {
        if let How::Injected { nth, .. } = &mut self.how {
            *nth = 1;
        }
        self
    }
}

/// The crate passes structures that live on its stack, so the pointer is good.
const GOOD_POINTER: Ours = Ours::Inexpressible("the argument lives on the crate's stack");
/// Allocations of a few bytes do not fail on a host that runs tests.
const NO_MEMORY: &str = "needs the kernel's own small allocations to fail";
/// A signal that arrives while another thread holds a lock for long.
const LOCK_WAIT: &str = "needs a signal while another call holds the VM's lock; no call holds it for long";
/// Filling the system's table of open files would hit every other program.
const SYSTEM_FILES: &str = "needs the host's whole file table to be full";
/// The compare is there and can never be true.
const DEAD_CHECK: &str = "the kernel's check can never be true";

pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    [open::ROWS, guest_memory::ROWS, config::ROWS, start::ROWS, run::ROWS]
        .into_iter()
        .flatten()
        .chain(memory::rows())
        .chain(function::rows())
}

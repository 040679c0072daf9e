//! In place of the `adopt` module where no guest runs on KVM.

use std::convert::Infallible;
use std::os::fd::BorrowedFd;

use super::sys::Notif;

/// Memory of a program that is mapped here, too. Nobody has any.
#[derive(Debug)]
pub(crate) struct Source(Infallible);

impl Source {
    pub(crate) fn address(&self) -> u64 {
        match self.0 {}
    }
}

/// An answer that nobody gives.
#[derive(Debug)]
pub(crate) struct Again(Infallible);

impl Again {
    pub(crate) fn deliver(self, _: BorrowedFd<'_>, _: &Notif) -> bool {
        match self.0 {}
    }
}

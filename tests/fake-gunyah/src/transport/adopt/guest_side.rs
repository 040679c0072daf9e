//! Memory as the guest has it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::source::Source;
use super::uffd::Uffd;
use super::{sys, window::Window};
use crate::errno::Errno;
use crate::transport::guest_file::GuestFile;
use crate::transport::sys::page_size;

/// What a guest has of a [`Source`]: a range of this process's addresses for KVM.
#[derive(Debug)]
pub(crate) struct GuestSide {
    // Before the source: the guest must not see what the program has again.
    window: Window,
    pages: Pages,
    /// What hears of pages that the guest does not have, when it gets them one by one.
    demand: Option<Arc<Uffd>>,
    source: Arc<Source>,
}

/// Where the guest's pages are.
#[derive(Debug)]
enum Pages {
    /// In the same file as the program's.
    Shared,
    /// In memory of the guest's own.
    Own,
    /// In a file of the guest's own, from this offset on: what is bound anew finds them there again.
    OwnFile(Arc<OwnedFd>, u64),
}

/// How a guest gets memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// The program loses it.
    pub(crate) lent: bool,
    /// The guest may write.
    pub(crate) writable: bool,
    /// One page at a time, when this hears of it; else all at once.
    pub(crate) demand: Option<&'a Arc<Uffd>>,
}

impl GuestSide {
    /// Gives memory to a guest.
    pub(crate) fn new(source: &Arc<Source>, terms: Terms<'_>) -> Result<Self, Errno> {
        Self::with(source, if terms.lent { Pages::Own } else { Pages::Shared }, terms)
    }

    /// The same for a part of a file of guest memory.
    pub(crate) fn of_file(file: &GuestFile, offset: u64, len: u64, terms: Terms<'_>) -> Result<Self, Errno> {
        let source = Arc::new(Source::of_file(file, offset, len)?);
        let pages = match terms.lent {
            true => Pages::OwnFile(file.lent(|size| sys::memory_file(c"gunyah-lent", size))?, offset),
            false => Pages::Shared,
        };
        Self::with(&source, pages, terms)
    }

    fn with(source: &Arc<Source>, pages: Pages, terms: Terms<'_>) -> Result<Self, Errno> {
        let len = source.len();
        let window = match &pages {
            Pages::Own => Window::memory(len)?,
            Pages::OwnFile(file, offset) => {
                let window = Window::reserve(len)?;
                window.map(0, len, file.as_fd(), *offset, true)?;
                window
            }
            Pages::Shared => {
                let window = Window::reserve(len)?;
                source.show_in(&window, terms.writable)?;
                window
            }
        };
        match (&pages, terms.demand) {
            (Pages::Shared, _) => {}
            (_, Some(_)) => {
                // The program may use what the guest has not got yet: all that must be there, before what is not there is
                // out of reach.
                source.put_in(0..len)?;
                source.close()?;
            }
            (_, None) => {
                window.want_huge_pages();
                source.close()?;
                source.copy_to(&window)?;
                source.take_out(0..len)?;
            }
        }
        match (&pages, terms.demand) {
            // What the guest lost in a file of its own is still there when it is bound anew.
            (Pages::Shared | Pages::OwnFile(..), Some(uffd)) => uffd.register(window.address(), len)?,
            (Pages::Own, Some(uffd)) => uffd.register_missing(window.address(), len)?,
            (_, None) => window.want_huge_pages(),
        }
        Ok(Self { window, pages, demand: terms.demand.cloned(), source: Arc::clone(source) })
    }

    /// The first byte's address here.
    pub(crate) fn address(&self) -> u64 {
        self.window.address()
    }

    /// Gives the guest the page at `at`, and lets it go on if it waits for that.
    pub(crate) fn give(&self, at: u64) -> Result<(), Errno> {
        let Some(uffd) = &self.demand else { return Ok(()) };
        let (page, place) = (page_size() as u64, self.window.address() + at);
        let there = |errno| errno == Errno::EEXIST;
        let copy = || uffd.copy(place, self.source.address() + at, page);
        let given = match &self.pages {
            // What nobody has touched the file does not have.
            Pages::Shared => uffd
                .show(place, page)
                .or_else(|errno| if there(errno) { Err(errno) } else { uffd.zero(place, page) }),
            Pages::Own => copy(),
            Pages::OwnFile(..) => {
                copy().or_else(|errno| if there(errno) { uffd.show(place, page) } else { Err(errno) })
            }
        };
        // It may have it already.
        let given = given.or_else(|errno| if there(errno) { Ok(()) } else { Err(errno) });
        if given.is_ok() && !matches!(self.pages, Pages::Shared) {
            self.source.take_out(at..at + page)?;
        }
        uffd.wake(place, page);
        given
    }

    /// Who waits for the page at `at` gets a fault instead.
    pub(crate) fn refuse(&self, at: u64) {
        if let Some(uffd) = &self.demand {
            let page = page_size() as u64;
            self.window.protect(at, page, false);
            uffd.wake(self.window.address() + at, page);
        }
    }

    /// The page at `at` can be asked for again.
    pub(crate) fn end_refusal(&self, at: u64) {
        self.window.protect(at, page_size() as u64, true);
    }

    /// Takes the page at `at` back from the guest. A page that was lent is lost.
    pub(crate) fn take(&self, at: u64) {
        let page = page_size() as u64;
        if let Pages::OwnFile(file, offset) = &self.pages {
            let _ = sys::punch(file.as_fd(), offset + at..offset + at + page);
        } else {
            self.window.unmap_pages(at, page);
        }
        if !matches!(self.pages, Pages::Shared) {
            let _ = self.source.put_in(at..at + page);
        }
    }
}

impl Drop for GuestSide {
    fn drop(&mut self) {
        if !matches!(self.pages, Pages::Shared) {
            self.source.open();
        }
    }
}

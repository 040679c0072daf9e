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
    /// Where lent pages are: the file, and where in it they begin.
    own: Option<(Arc<OwnedFd>, u64)>,
    /// What hears of pages that the guest does not have, when it gets them one by one.
    demand: Option<Arc<Uffd>>,
    source: Arc<Source>,
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
        let own = match terms.lent {
            true => Some((Arc::new(sys::memory_file(c"gunyah-lent", source.len())?), 0)),
            false => None,
        };
        Self::with_own(source, own, terms)
    }

    /// The same for a part of a file of guest memory.
    pub(crate) fn of_file(file: &GuestFile, offset: u64, len: u64, terms: Terms<'_>) -> Result<Self, Errno> {
        let source = Arc::new(Source::of_file(file, offset, len)?);
        let own = if terms.lent {
            Some((file.lent(|size| sys::memory_file(c"gunyah-lent", size))?, offset))
        } else {
            None
        };
        Self::with_own(&source, own, terms)
    }

    fn with_own(
        source: &Arc<Source>,
        own: Option<(Arc<OwnedFd>, u64)>,
        terms: Terms<'_>,
    ) -> Result<Self, Errno> {
        let len = source.len();
        let window = Window::reserve(len)?;
        match &own {
            Some((file, offset)) => window.map(0, len, file.as_fd(), *offset, true)?,
            None => source.show_in(&window, terms.writable)?,
        }
        match (&own, terms.demand) {
            (Some(_), Some(_)) => {
                // The program may use what the guest has not got yet: all that must be there, before what is not there is
                // out of reach.
                source.put_in(0..len)?;
                source.close()?;
            }
            (Some((file, offset)), None) => {
                source.close()?;
                source.copy_to(file.as_fd(), *offset)?;
                source.take_out(0..len)?;
            }
            (None, _) => {}
        }
        if let Some(uffd) = terms.demand {
            uffd.register(window.address(), len)?;
        }
        Ok(Self { window, own, demand: terms.demand.cloned(), source: Arc::clone(source) })
    }

    /// The first byte's address here.
    pub(crate) fn address(&self) -> u64 {
        self.window.address()
    }

    pub(crate) fn len(&self) -> u64 {
        self.source.len()
    }

    /// Gives the guest the page at `at`, and lets it go on if it waits for that.
    pub(crate) fn give(&self, at: u64) -> Result<(), Errno> {
        let Some(uffd) = &self.demand else { return Ok(()) };
        let (page, place) = (page_size() as u64, self.window.address() + at);
        let given = if self.own.is_some() {
            let copied = uffd.copy(place, self.source.address() + at, page);
            copied.or_else(|errno| if errno == Errno::EEXIST { uffd.show(place, page) } else { Err(errno) })
        } else {
            // What nobody has touched the file does not have.
            uffd.show(place, page)
                .or_else(|errno| if errno == Errno::EEXIST { Err(errno) } else { uffd.zero(place, page) })
        };
        if self.own.is_some() && matches!(given, Ok(()) | Err(Errno::EEXIST)) {
            self.source.take_out(at..at + page)?;
        }
        uffd.wake(place, page);
        // It has it already.
        if given == Err(Errno::EEXIST) { Ok(()) } else { given }
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
        match &self.own {
            Some((file, offset)) => {
                let _ = sys::punch(file.as_fd(), offset + at..offset + at + page);
                let _ = self.source.put_in(at..at + page);
            }
            None => self.window.unmap_pages(at, page),
        }
    }
}

impl Drop for GuestSide {
    fn drop(&mut self) {
        if self.own.is_some() {
            self.source.open();
        }
    }
}

//! Pages that the guest gets when it touches them.
//!
//! A vCPU that touches such a page stays in the kernel until somebody has dealt with that, here. Where the driver does not
//! give the page, the vCPU comes out of the guest with nothing but an error, so what it touched is remembered for it.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use super::Refused;
use super::vm::KvmVm;
use crate::errno::Errno;
use crate::transport::adopt::uffd::Uffd;
use crate::transport::sys;

/// What hears of missing pages.
pub(super) struct Demand {
    uffd: Arc<Uffd>,
    stop: std::os::fd::OwnedFd,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Demand {
    pub(super) fn new() -> Result<Self, Refused> {
        let why = "userfaultfd for a guest whose memory comes page by page \
                   (it takes CAP_SYS_PTRACE, vm.unprivileged_userfaultfd=1 or access to /dev/userfaultfd)";
        let uffd = Uffd::for_kvm().map_err(|errno| Refused { what: why, errno })?;
        let stop = sys::eventfd().map_err(|errno| Refused { what: "an eventfd", errno })?;
        Ok(Self { uffd: Arc::new(uffd), stop, thread: Mutex::default() })
    }

    pub(super) fn uffd(&self) -> &Arc<Uffd> {
        &self.uffd
    }

    /// Deals with faults from now on.
    pub(super) fn start(&self, vm: &Arc<KvmVm>) -> Result<(), Refused> {
        let failed = |errno| Refused { what: "a thread", errno };
        let (uffd, vm) = (Arc::clone(&self.uffd), Arc::downgrade(vm));
        let stop = self.stop.try_clone().map_err(|error| failed(error.into()))?;
        let thread = std::thread::Builder::new().name("fake-pages".into()).spawn(move || {
            sys::block_signals();
            loop {
                let mut fds = [uffd.as_fd(), stop.as_fd()].map(|fd| libc::pollfd {
                    fd: std::os::fd::AsRawFd::as_raw_fd(&fd),
                    events: libc::POLLIN,
                    revents: 0,
                });
                sys::poll(&mut fds, -1);
                let [faults, stopped] = fds.map(|fd| fd.revents);
                if stopped != 0 {
                    return;
                }
                if faults != 0 {
                    serve(&uffd, &vm);
                }
            }
        });
        let thread = thread.map_err(|error| failed(error.into()))?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Nobody waits for a page any more.
    pub(super) fn stop(&self) {
        sys::eventfd_signal(self.stop.as_fd());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The VM's end may come on that very thread.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

fn serve(uffd: &Uffd, vm: &Weak<KvmVm>) {
    while let Some(fault) = uffd.next() {
        let Some(vm) = vm.upgrade() else { return };
        let Some(place) = vm.place_of(fault.addr) else { continue };
        let given = if place.closing { Err(Errno::ENOENT) } else { vm.page_in(place.ipa, fault.write) };
        match given {
            Ok(()) => {}
            // Somebody else is about to change it: the vCPU tries again.
            Err(Errno::EAGAIN) => drop(vm.give_page(place.ipa)),
            Err(_) => {
                vm.remember_fault(fault.tid, place.ipa, fault.write);
                place.refuse();
            }
        }
    }
}

impl Drop for Demand {
    fn drop(&mut self) {
        self.stop();
    }
}

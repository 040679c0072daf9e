//! Memory that user space gives to a VM whose guest is to run on KVM.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gunyah_bindings::v11;

use super::guest::{Execution, Guests};
use super::vm_mgr::Vm;
use super::vm_mgr_mm::Transfer;
use crate::errno::Errno;
use crate::hyp::Engine;
use crate::transport::adopt::{Again, Program, Source, Stopped, Wanted};
use crate::transport::call::Call;

/// What becomes of memory that is about to be given.
#[derive(Debug)]
pub(crate) enum Adoption {
    /// It stays as it is: no guest on KVM will have it.
    NotNeeded,
    /// It is here, too.
    Done(Arc<Source>),
    /// Its owner has to do something, and then to ask again.
    StartOver(Again),
}

/// Adoptions that another process has made for a call that it makes again.
#[derive(Debug, Default)]
pub(crate) struct Adoptions {
    made: Mutex<Vec<(Asked, Result<Arc<Source>, Failure>)>>,
    gave_up: AtomicBool,
}

/// Whose call it is, and for which memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    tid: u32,
    addr: u64,
    size: u64,
}

type Failure = (Errno, &'static str);

impl Adoptions {
    /// KVM cannot have this VM's memory.
    pub(crate) fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Acquire)
    }

    fn made(&self) -> MutexGuard<'_, Vec<(Asked, Result<Arc<Source>, Failure>)>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was made for this call.
    fn take(&self, asked: Asked) -> Option<Result<Arc<Source>, Failure>> {
        let mut made = self.made();
        let found = made.iter().position(|(other, _)| *other == asked);
        // A thread makes one call at a time: what else it has here it never came back for.
        let taken = found.map(|at| made.swap_remove(at).1);
        made.retain(|(other, _)| other.tid != asked.tid);
        taken
    }
}

impl Vm {
    /// Makes memory that is about to be given this process's, too, if KVM is to have it.
    pub(crate) fn adopt(
        self: &Arc<Self>,
        call: &Call<'_>,
        region: &v11::gh_userspace_memory_region,
        transfer: Transfer,
        on_demand: bool,
    ) -> Result<Adoption, Errno> {
        let Guests::Code(execution @ Execution { engine: Engine::Kvm, .. }) = &self.kernel().guest else {
            return Ok(Adoption::NotNeeded);
        };
        // In this process KVM can have shared memory as it is, when the guest gets all of it at once.
        let as_it_is = call.caller.local && transfer == Transfer::Share && !on_demand;
        if as_it_is || self.adoptions.gave_up() {
            return Ok(Adoption::NotNeeded);
        }
        // Copying it may take long.
        call.may_sleep();
        let (addr, size) = (region.userspace_addr, region.memory_size);
        let asked = Asked { tid: call.caller.tid, addr, size };
        let made = self.adoptions.take(asked);
        let wanted = Wanted { tgid: call.caller.tgid(), addr, len: size, lent: transfer == Transfer::Lend };
        let failed = match made {
            Some(Ok(source)) => return Ok(Adoption::Done(source)),
            Some(Err(failed)) => failed,
            None => match self.begin(call, asked, wanted) {
                Ok(adoption) => return Ok(adoption),
                Err(failed) => failed,
            },
        };
        let (errno, why) = failed;
        let text = format!("KVM cannot have the memory at {addr:#x}: {why} ({errno})");
        if execution.or_interpreter {
            self.adoptions.gave_up.store(true, Ordering::Release);
            self.kernel().observer.notice(&format!("{text}; an interpreter will run this VM"));
            return Ok(Adoption::NotNeeded);
        }
        self.kernel().observer.notice(&text);
        Err(errno)
    }

    fn begin(self: &Arc<Self>, call: &Call<'_>, asked: Asked, wanted: Wanted) -> Result<Adoption, Failure> {
        let file = Source::new_file(wanted.len).map_err(|errno| (errno, "no file for it"))?;
        if call.caller.local {
            let mut here = Program::Here(file.as_raw_fd());
            return Source::adopt(&mut here, wanted, file).map(Arc::new).map(Adoption::Done);
        }
        if !call.pool().killable {
            return Err((Errno::ENOSYS, "this kernel is older than 5.19"));
        }
        let caller = Stopped::seize(asked.tid)
            .map_err(|errno| (errno, "its owner cannot be stopped: is it being traced or debugged?"))?;
        let vm = Arc::clone(self);
        let work = move |program: Result<&mut Program, Errno>, file: OwnedFd| {
            let made = match program {
                Ok(program) => Source::adopt(program, wanted, file).map(Arc::new),
                Err(errno) => Err((errno, "no descriptor in its owner")),
            };
            vm.adoptions.made().push((asked, made));
        };
        Ok(Adoption::StartOver(Again::new(caller, file, Box::new(work))))
    }
}

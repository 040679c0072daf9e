//! System calls: which one it is, who serves it, and what becomes of the answer.

use std::os::fd::RawFd;
use std::sync::Arc;

use gunyah_bindings::{android, v11, v17, vendor};

use super::object::{Kind, Object};
use super::observer::Target;
use super::vm_mgr::Vm;
use super::vm_mgr_mm::Transfer;
use super::{Answer, Kernel, Undo, device};
use crate::errno::Errno;
use crate::fake::fault::Effect;
use crate::transport::call::{Call, Delivered, Reply};
use crate::transport::sys;

impl Kernel {
    /// Serves one system call.
    pub(crate) fn system_call(self: &Arc<Self>, call: &Call<'_>) {
        let args = call.notif.args;
        let nr = libc::c_long::from(call.notif.nr);
        let open = |dirfd: RawFd, path, flags| {
            let open = device::Open { dirfd, path, flags };
            let answer = self.open(call, &open);
            self.finish(call, Target::Device, answer);
        };
        match nr {
            libc::SYS_ioctl => self.ioctl(call),
            libc::SYS_openat => open(args[0] as RawFd, args[1], args[2]),
            libc::SYS_openat2 => {
                let how = call.caller.read_array::<8>(args[2]).map_or(0, u64::from_le_bytes);
                let mask = (libc::O_ACCMODE | libc::O_PATH | libc::O_DIRECTORY) as u64;
                if how & mask == libc::O_RDWR as u64 {
                    open(args[0] as RawFd, args[1], how);
                } else {
                    call.reply(Reply::Continue);
                }
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => open(libc::AT_FDCWD, args[0], args[1]),
            libc::SYS_fallocate => self.fallocate(call),
            _ => {
                call.reply(Reply::Continue);
            }
        }
    }

    /// The object behind the descriptor that is a call's first argument, with one user for this call.
    fn object_of(&self, call: &Call<'_>) -> Option<Arc<Object>> {
        let fd = call.notif.args[0] as RawFd;
        let object = call.caller.file_id(fd).ok().and_then(|id| self.object(id));
        object.filter(|object| object.get())
    }

    fn fallocate(&self, call: &Call<'_>) {
        let object = self.object_of(call);
        let answer = object.as_ref().and_then(|object| match &object.kind {
            Kind::GuestMem(memory) => self.fallocate_memory(memory, call),
            _ => None,
        });
        call.reply(match answer {
            None => Reply::Continue,
            Some(Ok(())) => Reply::Value(0),
            Some(Err(errno)) => Reply::Error(errno),
        });
        if let Some(object) = object {
            object.put();
        }
    }

    fn ioctl(self: &Arc<Self>, call: &Call<'_>) {
        let Some(object) = self.object_of(call) else {
            call.reply(Reply::Continue);
            return;
        };
        let here = {
            let (kernel, object) = (Arc::clone(self), Arc::clone(&object));
            move |call: &Call<'_>| kernel.serve(&object, call)
        };
        // `RUN` may want a certain thread.
        let request = call.notif.args[1] as u32;
        match &object.kind {
            Kind::Vcpu(vcpu) if request == v11::GH_VCPU_RUN => vcpu.in_lane(call, Box::new(here)),
            _ => here(call),
        }
    }

    /// Serves an ioctl on an object, which has one user for this call.
    fn serve(self: &Arc<Self>, object: &Object, call: &Call<'_>) {
        self.observer.begin(call);
        let faults = self.faults.due(call.notif.args[1] as u32);
        let failure = faults.iter().find_map(|effect| before(object, call, effect));
        let answer = failure.map_or_else(|| self.dispatch(object, call), Err);
        faults.iter().for_each(|effect| after(object, effect));
        self.finish(call, object.target(), Some(answer));
        object.put();
    }

    /// Which call it is. What this kernel does not have is answered as an unknown one.
    fn dispatch(self: &Arc<Self>, object: &Object, call: &Call<'_>) -> Result<Answer, Errno> {
        let [_, request, arg, ..] = call.notif.args;
        let request = request as u32;
        let have = &self.differences;
        match &object.kind {
            Kind::Device => match request {
                v11::GH_CREATE_VM if have.gunyah => self.create_vm(call, arg),
                v17::GUNYAH_CREATE_GUEST_MEM if have.guest_memory => self.create_guest_mem(call, arg),
                android::GUNYAH_ANDROID_TENTATIVE if have.tentative => Ok(Answer::value(0)),
                vendor::GH_VENDOR_CREATE_VM if !have.gunyah => self.create_vendor_vm(),
                _ => Err(have.absent),
            },
            Kind::Vm(vm) => match request {
                v11::GH_VM_SET_USER_MEM_REGION if have.user_memory => {
                    vm.set_user_memory(call, arg, Transfer::Share)
                }
                android::GUNYAH_VM_ANDROID_LEND_USER_MEM if have.lend => {
                    vm.set_user_memory(call, arg, Transfer::Lend)
                }
                android::GUNYAH_VM_ANDROID_SET_FW_CONFIG if have.firmware => vm.set_fw_config(call, arg),
                android::GUNYAH_VM_ANDROID_RECLAIM_REGION if have.reclaim => vm.reclaim(call, arg),
                android::GUNYAH_VM_ANDROID_MAP_CMA_MEM if have.cma => vm.map_cma_mem(call, arg),
                android::GUNYAH_VM_ANDROID_SET_AUTH_TYPE if have.auth_type => vm.set_auth_type(call, arg),
                android::GUNYAH_VM_ANDROID_CHECK_EXTENSION if have.check_extension => {
                    Ok(Vm::check_extension(arg))
                }
                v17::GUNYAH_VM_MAP_MEM if have.guest_memory => vm.map_mem(call, arg),
                v17::GUNYAH_VM_SET_BOOT_CONTEXT if have.boot_context => vm.set_boot_context(call, arg),
                v17::GUNYAH_VM_SET_DTB_CONFIG => vm.set_dtb_config(call, arg),
                v11::GH_VM_START => vm.start(call),
                v11::GH_VM_ADD_FUNCTION => vm.add_function(call, arg),
                v11::GH_VM_REMOVE_FUNCTION => vm.remove_function(call, arg),
                _ => Err(have.absent),
            },
            Kind::Vcpu(vcpu) => match request {
                v11::GH_VCPU_RUN => vcpu.run(call),
                v11::GH_VCPU_MMAP_SIZE => Ok(Answer::value(sys::page_size() as i64)),
                _ => Err(have.absent_on_vcpu),
            },
            Kind::CmaNode(size) => match request {
                android::GUNYAH_ANDROID_CREATE_CMA_MEM_FD => self.create_cma_mem(*size),
                _ => Err(Errno::ENOTTY),
            },
            Kind::GuestMem(_) => Err(Errno::ENOTTY),
            Kind::VendorVm => match request {
                // There is no image of any name here.
                vendor::GH_VM_SET_FW_NAME => call.caller.read_array::<16>(arg).and(Err(Errno::EINVAL)),
                _ => Err(Errno::EINVAL),
            },
        }
    }

    /// Answers a call, and takes back what it did if nobody hears the answer.
    fn finish(&self, call: &Call<'_>, target: Target, answer: Option<Result<Answer, Errno>>) {
        let (reply, undo) = match answer {
            None => (Reply::Continue, Undo::None),
            Some(Ok(answer)) => (answer.reply, answer.undo),
            Some(Err(errno)) => (Reply::Error(errno), Undo::None),
        };
        let ours = !matches!(reply, Reply::Continue);
        let installs = matches!(reply, Reply::Fd { .. });
        let delivered = call.reply(reply);
        if delivered == Delivered::Again {
            self.observer.forget(call);
            self.faults.forget(call.notif.args[1] as u32);
            return;
        }
        let failed = match delivered {
            Delivered::Yes(value) => installs && value < 0,
            Delivered::Again | Delivered::Interrupted | Delivered::Gone => true,
        };
        let exit = match undo {
            Undo::Run(exit) => {
                if failed && exit.is_some() {
                    self.observer.exit_lost();
                }
                exit
            }
            Undo::Do(take_back) => {
                if failed {
                    take_back();
                }
                None
            }
            Undo::None => None,
        };
        if ours {
            self.observer.end(call, target, delivered, exit);
        }
    }
}

/// What a fault does before the driver sees the call: perhaps it never does.
fn before(object: &Object, call: &Call<'_>, effect: &Effect) -> Option<Errno> {
    match effect {
        Effect::Fail(errno) => return Some(*errno),
        Effect::Delay(by) => {
            call.may_sleep();
            std::thread::sleep(*by);
        }
        Effect::VmExit(exit_type, reason) => match &object.kind {
            Kind::Vm(vm) => vm.die(*exit_type, reason),
            Kind::Vcpu(vcpu) => vcpu.vm.die(*exit_type, reason),
            _ => {}
        },
        Effect::Page(..) => {}
    }
    None
}

/// What a fault does when the driver is done.
fn after(object: &Object, effect: &Effect) {
    if let (Kind::Vcpu(vcpu), Effect::Page(offset, bytes)) = (&object.kind, effect) {
        vcpu.scribble(*offset, bytes);
    }
}

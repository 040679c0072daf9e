//! What runs in a VM: a script per vCPU, or code.

use std::sync::Arc;

use gunyah_bindings::v11;

use super::ticket::Resource;
use super::vm_mgr::Vm;
use super::vm_mgr_mm::Region;
use crate::errno::Errno;
use crate::hyp::VmEvents;
use crate::hyp::script::{Script, ScriptVm};
use crate::transport::call::Call;
use crate::transport::sys;

/// What a fake's VMs run.
pub(crate) enum Guests {
    /// A script per vCPU id, from 0.
    Scripts(Vec<Script>),
}

/// What a start brings.
pub(crate) struct Parts {
    pub(crate) running: Running,
    pub(crate) resources: Vec<Resource>,
    /// Irqfds find a doorbell whatever their label.
    pub(crate) all_doorbells: bool,
}

/// The guest of a VM that has started.
pub(crate) enum Running {
    Scripts(Arc<ScriptVm>),
}

impl Guests {
    /// Loads the guest into a VM that starts.
    pub(crate) fn load(&self, vm: &Arc<Vm>, _call: &Call<'_>) -> Result<Parts, Errno> {
        match self {
            Self::Scripts(scripts) => {
                let dtb = vm.dtb();
                if dtb != v11::gh_vm_dtb_config::default() {
                    find_dtb(vm)?;
                }
                let events: Arc<dyn VmEvents> = Arc::clone(vm) as _;
                let failures = Arc::clone(&vm.kernel().observer.failures);
                let shared = ScriptVm::new(Arc::downgrade(&events), failures);
                let resources = scripts
                    .iter()
                    .zip(0..)
                    .map(|(script, label)| Resource::Vcpu { label, engine: shared.engine(label, script) })
                    .collect();
                Ok(Parts { running: Running::Scripts(shared), resources, all_doorbells: true })
            }
        }
    }
}

impl Running {
    /// The host rings a doorbell.
    pub(crate) fn ring(&self, vm: &Vm, label: u32) {
        match self {
            Self::Scripts(scripts) => {
                scripts.ring(label);
                vm.wake_all();
            }
        }
    }

    /// The host stops the VM.
    pub(crate) fn stop(&self) {
        match self {
            Self::Scripts(scripts) => scripts.stop(),
        }
    }
}

/// The region that holds the devicetree.
fn find_dtb(vm: &Vm) -> Result<Region, Errno> {
    let differences = &vm.kernel().differences;
    let dtb = vm.dtb();
    if differences.dtb_whole_pages && dtb.size < sys::page_size() as u64 {
        return Err(Errno::EINVAL);
    }
    vm.region_of(dtb.guest_phys_addr, dtb.size).ok_or(differences.dtb_nowhere)
}

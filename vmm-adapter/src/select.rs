//! Which hypervisor: the best that is here, or the one that was asked for.

use crate::caps::Backend;
use crate::error::{Error, Result};
use crate::hypervisor::Hypervisor;

/// Opens the best hypervisor of this host: the first of [`Backend::ALL`] that is compiled in and opens.
///
/// Gunyah comes before KVM: a host that has both nodes is a guest of Gunyah, whose `/dev/kvm` may be an imitation.
///
/// ```
/// # #[cfg(feature = "gunyah")]
/// # fake_gunyah::Fake::builder().build().unwrap().run(|_| {
/// let hypervisor = vmm_adapter::open()?;
/// println!("{}", hypervisor.capabilities().backend());
/// # assert_eq!(hypervisor.capabilities().backend(), vmm_adapter::Backend::Gunyah);
/// # Ok::<(), vmm_adapter::Error>(())
/// # }).unwrap().unwrap();
/// ```
///
/// # Errors
/// [`NoHypervisor`](crate::Error::NoHypervisor), with what each backend said.
pub fn open() -> Result<Box<dyn Hypervisor>> {
    let mut tried = Vec::new();
    for backend in Backend::ALL {
        match open_backend(backend) {
            Ok(hypervisor) => return Ok(hypervisor),
            Err(error) => tried.push((backend, error)),
        }
    }
    Err(Error::NoHypervisor { tried })
}

/// Opens this hypervisor, at its default path.
///
/// # Errors
/// [`NotCompiled`](crate::Error::NotCompiled): the crate was built without the feature. What the backend's `open` answers.
pub fn open_backend(backend: Backend) -> Result<Box<dyn Hypervisor>> {
    match backend {
        #[cfg(feature = "gunyah")]
        Backend::Gunyah => Ok(Box::new(crate::gunyah::Gunyah::open()?)),
        #[cfg(all(feature = "kvm", any(target_arch = "aarch64", target_arch = "x86_64")))]
        Backend::Kvm => Ok(Box::new(crate::kvm::Kvm::open()?)),
        #[allow(unreachable_patterns, reason = "some backend may not be compiled in")]
        backend => Err(Error::NotCompiled { backend }),
    }
}

/// Chooses the real-time signal that ends [`Vcpu::run`](crate::Vcpu::run) on a kick, for every backend, before the first vCPU is
/// made. The default is SIGRTMIN.
///
/// The handler is installed with the first vCPU and does nothing. A handler of the program's own is kept if it has no SA_RESTART.
///
/// # Errors
/// [`InvalidArgument`](crate::Error::InvalidArgument): no real-time signal, or another one is in use already.
pub fn set_kick_signal(signal: i32) -> Result<()> {
    let _ = signal;
    #[cfg(feature = "gunyah")]
    crate::gunyah::set_kick_signal(signal)?;
    #[cfg(all(feature = "kvm", any(target_arch = "aarch64", target_arch = "x86_64")))]
    crate::kvm::set_kick_signal(signal)?;
    Ok(())
}

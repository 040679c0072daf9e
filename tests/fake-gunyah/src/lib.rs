//! A fake Gunyah kernel in user space: real system calls, real file descriptors, real `mmap`, real signals, no
//! hardware.
//!
//! ```
//! use fake_gunyah::{Fake, Guest, Script};
//!
//! let fake = Fake::builder()
//!     .guest(Guest::scripts([Script::new().mmio_write(0x1000, 1, 0x21).exit(1, &[0; 4])]))
//!     .build()?;
//! let fd = fake.run(|_handle| {
//!     // Any code that opens /dev/gunyah finds one here.
//!     std::fs::OpenOptions::new().read(true).write(true).open("/dev/gunyah").is_ok()
//! })?;
//! assert!(fd);
//! # Ok::<(), fake_gunyah::Error>(())
//! ```
//!
//! # What is faithful
//!
//! The driver's states, its order of checks, its errnos, and its traps: a signal that overrides a finished exit, an
//! answer that is consumed and then dropped, calls that start over under `SA_RESTART`.
//!
//! # What is not
//!
//! * Only `open` for reading and writing finds the device. `stat`, `access` and `ls` don't, nor does `open` for reading.
//! * A descriptor is a regular file to `fstat`; `read` and `write` on it succeed; a VM's can be mapped, to no use.
//! * A second page behind a vCPU's is `SIGBUS`; some real kernels crash there.
//! * `RUN` asks whether a signal is pending on one call in eight, and on every call for 5 ms after one was seen. On the
//!   others a signal counts as arriving just after the call.
//! * Before Linux 5.19 a signal can end any call, not only those that sleep: what the call did is taken back then. No
//!   test has run on such a kernel.
//! * A code guest gets its interrupts by an emulated [GICv3](hyp::gic) where its devicetree says. A signal on a line, edge or
//!   level, is one interrupt; a line for which tree and irqfd name different triggers, a storm of interrupts on hardware, is
//!   no exception. A tree that does not say where the GIC is starts all the same, and its guest gets none.
//! * Nothing is pinned or taken from the host. RAM of code guests must stay mapped while the VM exists.

pub mod a64;
mod errno;
mod fake;
pub mod flavour;
pub mod hyp;
mod kernel;
#[cfg(feature = "record")]
pub mod record;
#[cfg(feature = "record")]
pub mod replay;
pub mod rm;
mod trace;
mod transport;

pub use errno::{Errno, UnknownErrno};
pub use fake::{BadFault, Builder, Child, Error, Fake, Fault, Forwarder, Guest, Handle};
pub use flavour::{Flavour, Host};
pub use hyp::script::{Answer, Script};
pub use hyp::{Engine, HypError, NoEngine};
pub use kernel::observer::{CallRecord, Target};
pub use trace::request_name;

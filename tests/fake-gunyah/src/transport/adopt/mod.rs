//! Memory of the program that a guest on KVM gets: KVM takes only memory of the process that made its VM.
//!
//! # How the memory comes here
//!
//! When the program gives memory to a VM, its mapping is exchanged for one of a file that this process maps too. The content
//! stays. Memory that already is a shared mapping of a file stays as it is. In another process the exchange is done by
//! the program's own thread ([`program`]): it is stopped where its ioctl returns, made to call `mmap`, and sent back
//! into the ioctl.
//!
//! The program keeps what it had: only `fork` shares this memory now with the child, instead of copying it, and what
//! another thread writes while the ioctl is under way can be lost.
//!
//! # Share and lend
//!
//! The guest gets a shared page from the same file. A lent page moves to a file of the guest's own, and the program loses it: a
//! [`Uffd`] on its mapping answers every touch with SIGBUS. At the VM's end, or when the page is reclaimed, the program
//! has its memory back, filled with zeros: what a guest was lent it may not leave to the host.

mod again;
mod copy;
mod guest_side;
mod program;
mod source;
mod sys;
pub(crate) mod uffd;
mod window;

pub(crate) use again::Again;
pub(crate) use guest_side::{GuestSide, Terms};
pub(crate) use program::{Program, Stopped};
pub(crate) use source::{Source, Wanted};

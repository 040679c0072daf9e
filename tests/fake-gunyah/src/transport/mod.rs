//! How the fake hears the system calls of a program and answers them: seccomp user notification.
//!
//! A filter on the caller's thread sends each `ioctl` of a Gunyah type and each `open` for reading and writing to a
//! listener. [`pool`] receives them, a context each, as a kernel gives each system call a context of its own. File
//! descriptors that the fake answers with are real ones: unlinked temporary files ([`files`]), so `mmap`, `dup`,
//! `close`, `fork` and passing over a socket are the kernel's own. inotify tells when the last use is gone.

#[cfg_attr(not(all(feature = "kvm", target_arch = "aarch64")), path = "adopt_absent.rs")]
pub(crate) mod adopt;
pub(crate) mod call;
pub(crate) mod files;
pub(crate) mod filter;
pub(crate) mod guest_file;
pub(crate) mod lane;
pub(crate) mod mapping;
pub(crate) mod memory;
pub(crate) mod page;
pub(crate) mod pending;
pub(crate) mod pool;
pub(crate) mod ram;
pub(crate) mod sys;
pub(crate) mod vma;

//! A fake Gunyah kernel in user space.

pub mod a64;
pub mod flavour;
pub mod hyp;
pub mod rm;

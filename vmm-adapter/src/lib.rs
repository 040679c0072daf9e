//! One hypervisor trait set for VMMs.

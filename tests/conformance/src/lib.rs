//! One test suite for every backend of `vmm-adapter`.

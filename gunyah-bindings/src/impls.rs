//! `Default` and `Debug` where bindgen would need unsafe code or says too little.
//!
//! A union is plain data, but nothing says which of its members counts, so it prints as `..` and has no `PartialEq`.

use core::fmt;

use crate::{android, v11, v17};

/// For one form's run page: all zeros, and what of it can be printed.
macro_rules! run_page {
    ($form:ident: $run:ident, $exit:ident) => {
        impl Default for $form::$exit {
            fn default() -> Self {
                // The MMIO member is as large as the union.
                Self { mmio: Default::default() }
            }
        }

        impl fmt::Debug for $form::$exit {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($exit)).finish_non_exhaustive()
            }
        }

        impl fmt::Debug for $form::$run {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($run))
                    .field("immediate_exit", &self.immediate_exit)
                    .field("exit_reason", &self.exit_reason)
                    .finish_non_exhaustive()
            }
        }

        const _: () = assert!(size_of::<$form::$exit>() == 24);
    };
}

run_page!(v11: gh_vcpu_run, gh_vcpu_run_exit);
run_page!(android: gunyah_vcpu_run, gunyah_vcpu_run_exit);
run_page!(v17: gunyah_vcpu_run, gunyah_vcpu_run_exit);

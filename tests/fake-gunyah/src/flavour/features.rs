//! Single abilities of a host by name, for the command line: hosts mix.

use std::fmt;
use std::str::FromStr;

use super::{Differences, Pinning};

type Set = fn(&mut Differences, bool);

/// Name, what it is, and how it is switched.
const FEATURES: [(&str, &str, Set); 13] = [
    ("user-memory", "SET_USER_MEM_REGION", |host, on| {
        host.user_memory = on;
        // A kernel without user memory says nothing about its pages: as the Android kernels of the time.
        if on && host.pinning == Pinning::None {
            host.pinning = Pinning::AtOnce;
        }
    }),
    ("lend", "LEND_USER_MEM", |host, on| host.lend = on),
    ("guest-memory", "CREATE_GUEST_MEM and VM_MAP_MEM", |host, on| host.guest_memory = on),
    ("firmware", "SET_FW_CONFIG", |host, on| host.firmware = on),
    ("boot-context", "SET_BOOT_CONTEXT", |host, on| host.boot_context = on),
    ("reclaim", "RECLAIM_REGION", |host, on| host.reclaim = on),
    ("cma", "MAP_CMA_MEM", |host, on| host.cma = on),
    ("auth-type", "SET_AUTH_TYPE", |host, on| host.auth_type = on),
    ("check-extension", "CHECK_EXTENSION", |host, on| host.check_extension = on),
    ("tentative", "the early android14 call that only names itself", |host, on| host.tentative = on),
    ("rm-boot-context", "a Resource Manager that knows the boot context", |host, on| {
        host.rm_takes_boot_context = on;
    }),
    ("rm-shared-image", "a Resource Manager that starts a shared image", |host, on| {
        host.rm_takes_shared_image = on;
    }),
    ("busy-at-end", "one EBUSY from RUN when the VM has ended", |host, on| host.busy_at_end = on),
];

/// An ability that a host has or lacks, by its name.
#[derive(Clone, Copy)]
pub struct FeatureName(usize);

impl FeatureName {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..FEATURES.len()).map(Self)
    }

    fn entry(self) -> (&'static str, &'static str, Set) {
        // Only `all` and `from_str` make one, both from the table.
        FEATURES.get(self.0).copied().unwrap_or(("", "", |_, _| {}))
    }

    /// The name, as `--with` and `--without` take it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// What it is.
    #[must_use]
    pub fn what(self) -> &'static str {
        self.entry().1
    }
}

impl Differences {
    /// Gives the host an ability, or takes it away.
    pub fn set(&mut self, feature: FeatureName, on: bool) {
        (feature.entry().2)(self, on);
    }
}

impl fmt::Debug for FeatureName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no ability's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no feature is called {0:?}; there are {1}")]
pub struct UnknownFeature(String, String);

impl FromStr for FeatureName {
    type Err = UnknownFeature;

    fn from_str(name: &str) -> Result<Self, UnknownFeature> {
        Self::all().find(|feature| feature.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::all().map(Self::name).collect();
            UnknownFeature(name.to_owned(), names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flavour::{Flavour, Host};

    #[test]
    fn each_name_switches_one_thing_of_its_own() {
        let with = |feature: FeatureName, on| {
            let mut host = Flavour::V11.differences();
            host.set(feature, on);
            host
        };
        let mut seen = Vec::new();
        for feature in FeatureName::all() {
            assert_eq!(feature.name().parse::<FeatureName>().map(|found| found.0), Ok(feature.0));
            let pair = (with(feature, false), with(feature, true));
            assert_ne!(pair.0, pair.1, "{}", feature.name());
            assert!(!seen.contains(&pair), "{}", feature.name());
            seen.push(pair);
        }
        let unknown = "userfaultfd".parse::<FeatureName>().unwrap_err().to_string();
        assert!(unknown.contains("user-memory, lend, guest-memory"), "{unknown}");
    }

    #[test]
    fn the_host_that_was_seen_can_be_put_together_by_names() {
        let mut built = Flavour::V17.differences();
        for name in ["user-memory", "lend", "busy-at-end"] {
            built.set(name.parse().unwrap(), true);
        }
        for name in ["rm-boot-context", "rm-shared-image"] {
            built.set(name.parse().unwrap(), false);
        }
        let seen = Host::Open2023.differences();
        built.rm_largest_tree = seen.rm_largest_tree;
        built.shared_exec = seen.shared_exec;
        assert_eq!(built, seen);
    }
}

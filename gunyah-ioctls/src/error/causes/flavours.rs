//! Sets of flavours.

use std::fmt;

use crate::features::{Feature, Features, Flavour};

/// A set of flavours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flavours(u8);

const fn bit(flavour: Flavour) -> u8 {
    1 << flavour as u8
}

impl Flavours {
    pub(super) const V11: Self = Self(bit(Flavour::V11));
    pub(super) const ANDROID14_EARLY: Self = Self(bit(Flavour::Android14Early));
    pub(super) const ANDROID14: Self = Self(bit(Flavour::Android14));
    pub(super) const ANDROID15: Self = Self(bit(Flavour::Android15));
    pub(super) const ANDROID16: Self = Self(bit(Flavour::Android16));
    pub(super) const V17: Self = Self(bit(Flavour::V17));
    pub(super) const VENDOR: Self = Self(bit(Flavour::Vendor));

    /// The VM's id is allocated when the VM is created, not when it starts.
    pub(super) const ID_AT_CREATION: Self = Self::V11.and(Self::ANDROID14_EARLY);
    /// Memory is pinned when it is declared.
    pub(super) const PINNED: Self = Self::ID_AT_CREATION.and(Self::ANDROID14);
    /// User memory is pinned when the guest touches it.
    pub(super) const ON_TOUCH: Self = Self::ANDROID15.and(Self::ANDROID16);
    /// Guest memory is provided on touch, from wherever it comes.
    pub(super) const PAGED: Self = Self::ON_TOUCH.and(Self::V17);
    /// User memory instead of guest-memory files.
    pub(super) const USER_MEMORY: Self = Self::PINNED.and(Self::ON_TOUCH);
    /// The kernel remembers which process created the VM.
    pub(super) const OWNED: Self = Self::ANDROID14.and(Self::ON_TOUCH);
    /// Firmware can be declared.
    pub(super) const FIRMWARE: Self = Self::ANDROID14_EARLY.and(Self::OWNED);
    /// Every flavour that this crate drives.
    pub(super) const DRIVEN: Self = Self::USER_MEMORY.and(Self::V17);
    /// Every flavour.
    pub(super) const ALL: Self = Self::DRIVEN.and(Self::VENDOR);

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `flavour` is in the set.
    pub const fn contains(self, flavour: Flavour) -> bool {
        self.0 & bit(flavour) != 0
    }

    pub(super) const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The flavours whose rules a host follows: the one it is named after, and those that its other features come from.
    pub(super) fn of_host(flavour: Option<Flavour>, features: Option<&Features>) -> Self {
        let Some(flavour) = flavour.or(features.map(Features::flavour)) else { return Self::ALL };
        let named = Self(bit(flavour));
        match features {
            // A host was seen that takes both kinds of memory. When it pins user memory is not known.
            Some(features) if features.has(Feature::GuestMemory) && features.has(Feature::UserMemory) => {
                named.and(Self::V17).and(Self::ON_TOUCH).and(Self::ANDROID14)
            }
            _ => named,
        }
    }

    /// Its members, oldest first.
    pub fn iter(self) -> impl Iterator<Item = Flavour> {
        [
            Flavour::Vendor,
            Flavour::V11,
            Flavour::Android14Early,
            Flavour::Android14,
            Flavour::Android15,
            Flavour::Android16,
            Flavour::V17,
        ]
        .into_iter()
        .filter(move |flavour| self.contains(*flavour))
    }
}

impl fmt::Display for Flavours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("every flavour");
        }
        for (index, flavour) in self.iter().enumerate() {
            write!(f, "{}{flavour}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

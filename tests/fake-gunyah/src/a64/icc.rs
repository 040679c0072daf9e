//! The names of the GIC's system registers.

use super::sysreg::Key;

/// A register of the GIC's CPU interface, `ICC_*_EL1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the architecture's")]
pub enum IccRegister {
    Pmr,
    Iar0,
    Eoir0,
    Hppir0,
    Bpr0,
    Ap0r0,
    Ap1r0,
    Dir,
    Rpr,
    Sgi1r,
    Asgi1r,
    Sgi0r,
    Iar1,
    Eoir1,
    Hppir1,
    Bpr1,
    Ctlr,
    Sre,
    Igrpen0,
    Igrpen1,
}

impl IccRegister {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Pmr,
        Self::Iar0,
        Self::Eoir0,
        Self::Hppir0,
        Self::Bpr0,
        Self::Ap0r0,
        Self::Ap1r0,
        Self::Dir,
        Self::Rpr,
        Self::Sgi1r,
        Self::Asgi1r,
        Self::Sgi0r,
        Self::Iar1,
        Self::Eoir1,
        Self::Hppir1,
        Self::Bpr1,
        Self::Ctlr,
        Self::Sre,
        Self::Igrpen0,
        Self::Igrpen1,
    ];

    /// CRn, CRm and op2; op0 is 3 and op1 is 0.
    const fn encoding(self) -> (u16, u16, u16) {
        match self {
            Self::Pmr => (4, 6, 0),
            Self::Iar0 => (12, 8, 0),
            Self::Eoir0 => (12, 8, 1),
            Self::Hppir0 => (12, 8, 2),
            Self::Bpr0 => (12, 8, 3),
            Self::Ap0r0 => (12, 8, 4),
            Self::Ap1r0 => (12, 9, 0),
            Self::Dir => (12, 11, 1),
            Self::Rpr => (12, 11, 3),
            Self::Sgi1r => (12, 11, 5),
            Self::Asgi1r => (12, 11, 6),
            Self::Sgi0r => (12, 11, 7),
            Self::Iar1 => (12, 12, 0),
            Self::Eoir1 => (12, 12, 1),
            Self::Hppir1 => (12, 12, 2),
            Self::Bpr1 => (12, 12, 3),
            Self::Ctlr => (12, 12, 4),
            Self::Sre => (12, 12, 5),
            Self::Igrpen0 => (12, 12, 6),
            Self::Igrpen1 => (12, 12, 7),
        }
    }

    pub(super) fn of(key: Key) -> Option<Self> {
        Self::ALL.into_iter().find(|register| {
            let (crn, crm, op2) = register.encoding();
            Key::new(3, 0, crn, crm, op2) == key
        })
    }
}

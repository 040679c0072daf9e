//! What each kernel is known to answer, written out by hand: operation, errnos, flavours. The matrix must have a row for
//! each cell of this list, and none besides.

use std::collections::BTreeSet;

use fake_gunyah::Flavour;
use gunyah_ioctls::causes::Operation::{self, *};

use super::Cell;
use super::table::{A16, DRIVEN, EARLY, LATE, LENDING, M, NOT_A16, OWNED, PAGED, PINNED, TOUCH, USER};
use super::table::{Android14, Android14Early, Android15, V11, V17};

const ANY: &[Flavour] = &Flavour::ALL;

const KNOWN: &[(Operation, &str, &[Flavour])] = &[
    (Open, "ENOENT EACCES EPERM ENXIO ENODEV EMFILE ENFILE", ANY),
    // The vendor ABI refuses what it does not know with EINVAL; a file that is something else with ENOTTY.
    (CreateVm, "EINVAL ENOTTY", ANY),
    (CreateVm, "ENOMEM EMFILE ENFILE", DRIVEN),
    // The VM's id comes from the Resource Manager at creation there, with its errors.
    (CreateVm, "ENODEV EPERM EBUSY EOPNOTSUPP EBADMSG EIO E2BIG", EARLY),
    (SetUserMemory, "EFAULT EINVAL EOVERFLOW EEXIST ENOMEM EINTR", USER),
    (SetUserMemory, "EPERM", OWNED),
    (SetUserMemory, "EOPNOTSUPP", EARLY),
    (SetUserMemory, "ENOTTY", M),
    (LendUserMemory, "EFAULT EINVAL EOVERFLOW EEXIST ENOMEM EINTR", LENDING),
    (LendUserMemory, "EPERM", OWNED),
    (LendUserMemory, "EOPNOTSUPP", &[Android14Early]),
    (LendUserMemory, "ENOTTY", &[V11, V17]),
    // With what the hypervisor says to unmapping and donating.
    (ReclaimRegion, "EPERM EFAULT EINVAL EAGAIN ENODEV EBUSY EACCES EIO EOPNOTSUPP ENOMEM", TOUCH),
    (ReclaimRegion, "ENOTTY", &[V11, Android14Early, Android14, V17]),
    (SetDtbConfig, "EFAULT EOVERFLOW", DRIVEN),
    (SetFirmwareConfig, "EFAULT", LENDING),
    (SetFirmwareConfig, "ENOTTY", &[V11, V17]),
    (SetBootContext, "EFAULT EINVAL EINTR ENOMEM", PAGED),
    // ENODEV: one vendor's 6.1 kernel was said to answer so.
    (SetBootContext, "ENOTTY ENODEV", PINNED),
    (SetAuthType, "EFAULT EINVAL EOPNOTSUPP ENOENT ENOMEM", A16),
    (SetAuthType, "ENOTTY", NOT_A16),
    (CheckExtension, "ENOTTY", DRIVEN),
    (StartVm, "EINVAL ENODEV EPERM ENOMEM EBUSY EOPNOTSUPP EBADMSG EIO E2BIG EINTR", DRIVEN),
    (StartVm, "ENOENT", PAGED),
    (AddVcpu, "EINVAL EFAULT ENOENT ENODEV EMFILE ENFILE ENOMEM", DRIVEN),
    (AddVcpu, "EOPNOTSUPP", EARLY),
    (AddVcpu, "EEXIST", NOT_A16),
    (AddIrqfd, "EINVAL EFAULT ENOENT EBADF ENOMEM", DRIVEN),
    (AddIrqfd, "EEXIST", NOT_A16),
    (AddIoeventfd, "EINVAL EFAULT ENOENT EBADF EEXIST ENOMEM", DRIVEN),
    (RemoveFunction, "EFAULT ENOMEM EINTR", DRIVEN),
    (RemoveFunction, "ENOENT", LATE),
    // A call that a vCPU does not know.
    (VcpuMmapSize, "EINVAL", PINNED),
    (VcpuMmapSize, "ENOTTY", PAGED),
    (MapRunPage, "ENOMEM EAGAIN", DRIVEN),
    (RunVcpu, "ENODEV EINTR EAGAIN ENOMEM EACCES EBUSY EIO EOPNOTSUPP EINVAL", DRIVEN),
    (RunVcpu, "EPERM", TOUCH),
    // The `attempt` of a page-fault exit.
    (PageFault, "ENOENT EPERM ENOMEM ENODEV EAGAIN EBUSY", PAGED),
    (PageFault, "EFAULT", TOUCH),
    (PageFault, "EIO", &[Android15]),
    (PageFault, "EOPNOTSUPP", A16),
    (CreateGuestMemory, "EFAULT EINVAL EMFILE ENFILE ENOMEM", M),
    (CreateGuestMemory, "ENOTTY", USER),
    (MapGuestMemoryHere, "EINVAL ENOMEM EBUSY EPERM EAGAIN", M),
    (PunchGuestMemory, "EOPNOTSUPP EINVAL ENOMEM EINTR EBUSY", M),
    (MapGuestMemory, "EFAULT EINVAL EEXIST ENOENT ENOMEM", M),
    (MapGuestMemory, "ENOTTY", USER),
    (CreateCmaMemory, "EMFILE ENFILE ENOMEM", A16),
    (CreateCmaMemory, "ENOTTY", NOT_A16),
    (MapCmaMemoryHere, "EBUSY EINVAL ENOMEM", A16),
    (ReadCmaMemory, "EACCES", A16),
    (MapCmaMemory, "EPERM EFAULT EINVAL EOVERFLOW EBADF EEXIST ENOMEM", A16),
    (MapCmaMemory, "ENOTTY", NOT_A16),
];

pub(crate) fn cells() -> BTreeSet<Cell> {
    KNOWN
        .iter()
        .flat_map(|(operation, errnos, flavours)| {
            errnos.split_whitespace().flat_map(move |errno| {
                flavours
                    .iter()
                    .map(move |flavour| (format!("{operation:?}"), errno.to_owned(), flavour.name()))
            })
        })
        .collect()
}

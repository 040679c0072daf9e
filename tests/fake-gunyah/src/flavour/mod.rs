//! The flavours of the Gunyah user ABI, and what differs between them.
//!
//! The driver is written once. Wherever the kernels differ it asks [`Differences`]; each flavour's values stand in a
//! file of their own, so that a reader sees at a glance what a kernel does. Hosts were seen that mix: [`Host`] has them, and
//! for others start from the nearest flavour and change single fields.

use std::fmt;
use std::str::FromStr;

use crate::errno::Errno;

mod android14;
mod android14_early;
mod android15;
mod android16;
mod features;
mod host;
mod v11;
mod v17;
mod vendor;

pub use features::{FeatureName, UnknownFeature};
pub use host::{Host, UnknownHost};

/// A flavour of the Gunyah user ABI, named by where it ships.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Flavour {
    /// The mailing list's v11 (to v13): `gh_*` names, memory is shared at start.
    #[default]
    V11,
    /// Early snapshots of Android's 6.1 kernel: v11 and the first Android ioctls.
    Android14Early,
    /// The 6.1 kernels that ship on phones.
    Android14,
    /// Android's 6.6 kernel: demand paging of user memory, boot context.
    Android15,
    /// Android's 6.12 kernel: unprotected VMs, contiguous memory, extensions.
    Android16,
    /// The mailing list's v15 to v17: memory from guest memory files.
    V17,
    /// The vendors' older interface with ioctl type 0xB2: boots signed images by name. Only recognised.
    Vendor,
}

impl Flavour {
    /// All of them, oldest interface last.
    pub const ALL: [Self; 7] = [
        Self::V11,
        Self::Android14Early,
        Self::Android14,
        Self::Android15,
        Self::Android16,
        Self::V17,
        Self::Vendor,
    ];

    /// The name, as `--flavour` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V11 => "v11",
            Self::Android14Early => "android14-early",
            Self::Android14 => "android14",
            Self::Android15 => "android15",
            Self::Android16 => "android16",
            Self::V17 => "v17",
            Self::Vendor => "vendor",
        }
    }

    /// What this flavour's kernel does where kernels differ.
    #[must_use]
    pub fn differences(self) -> Differences {
        match self {
            Self::V11 => v11::DIFFERENCES,
            Self::Android14Early => android14_early::DIFFERENCES,
            Self::Android14 => android14::DIFFERENCES,
            Self::Android15 => android15::DIFFERENCES,
            Self::Android16 => android16::DIFFERENCES,
            Self::V17 => v17::DIFFERENCES,
            Self::Vendor => vendor::DIFFERENCES,
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no flavour's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no flavour is called {0:?}; there are v11, android14-early, android14, android15, android16, v17 and vendor"
)]
pub struct UnknownFlavour(String);

impl FromStr for Flavour {
    type Err = UnknownFlavour;

    fn from_str(name: &str) -> Result<Self, UnknownFlavour> {
        Self::ALL
            .into_iter()
            .find(|flavour| flavour.name() == name)
            .ok_or_else(|| UnknownFlavour(name.to_owned()))
    }
}

/// What a region ioctl does with the user memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// Nothing is pinned, there is only guest memory.
    None,
    /// All pages at the ioctl, for writing whatever the region's access; not counted as locked.
    AtOnceForWriting,
    /// All pages at the ioctl, counted against `RLIMIT_MEMLOCK`; writable only if the guest may write.
    AtOnce,
    /// A page when the guest touches it, counted then.
    OnDemand,
}

/// Whether a guest may execute from memory that the host shares with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedExec {
    /// As the region's access says.
    AsAsked,
    /// Never, whatever was asked.
    Never,
    /// As the region's access says in a VM whose devicetree lies in shared memory; else never.
    UnprotectedVms,
}

/// How `REMOVE_FUNCTION` finds what it removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The whole argument is byte-equal. Nothing found is no error.
    Bytes,
    /// vCPU by id, irqfd by label, ioeventfd by address alone: all with it. Nothing found is `ENOENT`.
    Key,
    /// As `Key`, but ioeventfds by address, length, flags and, with the flag, the value.
    WholeKey,
}

/// What user space can say about an MMIO exit besides the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeActions {
    /// Nothing: the byte does not exist.
    None,
    /// Handled or fault; retry is `EINVAL`.
    Fault,
    /// Handled, fault or retry.
    FaultAndRetry,
}

/// What `RUN` does about a vCPU state that it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownState {
    /// Calls the hypervisor again, and again: `RUN` burns time until a signal comes.
    RetryForever,
    /// `EINVAL`.
    Invalid,
}

/// When the last close of a VM takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teardown {
    /// Some time after the close, in a work item.
    Later,
    /// Within the close.
    AtOnce,
}

/// What differs between the kernels. The fields are in the order in which a VMM meets them.
#[allow(clippy::struct_excessive_bools, reason = "a table of facts")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Differences {
    /// What an ioctl that does not exist answers on the device and on a VM.
    pub absent: Errno,
    /// The same on a vCPU.
    pub absent_on_vcpu: Errno,
    /// The whole `'G'` interface exists. If not, every `'G'` ioctl is an absent one.
    pub gunyah: bool,
    /// Android's tentative device ioctl `'A'` 0x10 answers 0.
    pub tentative: bool,
    /// `SET_USER_MEM_REGION` exists.
    pub user_memory: bool,
    /// `LEND_USER_MEM` exists.
    pub lend: bool,
    /// `SET_FW_CONFIG` exists.
    pub firmware: bool,
    /// `RECLAIM_REGION` exists.
    pub reclaim: bool,
    /// `CREATE_GUEST_MEM` and `VM_MAP_MEM` exist.
    pub guest_memory: bool,
    /// `SET_BOOT_CONTEXT` exists.
    pub boot_context: bool,
    /// `MAP_CMA_MEM` exists.
    pub cma: bool,
    /// `SET_AUTH_TYPE` exists.
    pub auth_type: bool,
    /// `CHECK_EXTENSION` exists.
    pub check_extension: bool,

    /// The Resource Manager gives the VM its id at `CREATE_VM`, else at `VM_START`.
    pub vmid_at_create: bool,
    /// Memory calls from another process than the one that made the VM are `EPERM`, before anything is copied. So is
    /// `RUN` with demand paging, after the answer has been taken.
    pub owner_check: bool,
    /// A hypervisor without memory extents makes region calls fail with `EOPNOTSUPP`, before anything is copied.
    pub memory_feature_check: bool,
    /// A region whose end wraps around is `EOVERFLOW`. Later kernels test it in a way that can never be true.
    pub region_wrap_check: bool,
    /// Two regions must not have the same label.
    pub unique_labels: bool,
    /// What a region call does with the pages.
    pub pinning: Pinning,
    /// Whether the guest may execute from shared user memory. Guest memory files that are shared are never executable.
    pub shared_exec: SharedExec,
    /// `SET_DTB_CONFIG` finds a range that wraps around: `EOVERFLOW`.
    pub dtb_wrap_check: bool,
    /// A firmware configuration counts only as long as no authentication type was chosen.
    pub firmware_needs_no_auth: bool,
    /// The boot context refuses register words with bits above 15.
    pub boot_context_strict: bool,
    /// Boot context values are stored so that some bit patterns look like internal entries: `EINVAL`.
    pub boot_context_in_entry: bool,
    /// The Resource Manager takes the boot context. That of December 2023 does not know the call: the start fails with
    /// `EOPNOTSUPP` then, though `SET_BOOT_CONTEXT` was 0.
    pub rm_takes_boot_context: bool,
    /// The Resource Manager starts a VM whose image (the parcel with the devicetree) is shared. A production build of that of
    /// December 2023 does not: `ENODEV`.
    pub rm_takes_shared_image: bool,
    /// The Resource Manager fails at a devicetree of more bytes than this, with what it has added.
    pub rm_largest_tree: Option<usize>,

    /// `ADD_FUNCTION` of a vCPU asks the hypervisor whether it has vCPUs: `EOPNOTSUPP`.
    pub vcpu_feature_check: bool,
    /// A vCPU id or an irqfd label that is taken is `EEXIST`; else the call "succeeds" and binds to nothing.
    pub duplicates_refused: bool,
    /// A failed `ADD_FUNCTION` keeps the lock: every later one hangs.
    pub failed_add_wedges: bool,
    /// An ioeventfd whose end wraps around is `EINVAL`.
    pub ioeventfd_wrap_check: bool,
    /// An ioeventfd's value is compared as a truth value: any but 0 matches, 0 never does.
    pub datamatch_is_bool: bool,
    /// How functions are removed.
    pub removal: Removal,

    /// No region holds the DTB: this. (`EINVAL`, or `ENOENT` where bindings are looked up.)
    pub dtb_nowhere: Errno,
    /// A DTB shorter than a page counts as no page at all: `EINVAL`.
    pub dtb_whole_pages: bool,
    /// A devicetree in a binding that is forced to be shared: the start fails with `ENOMEM`, always.
    pub shared_dtb_fails: bool,
    /// A start that failed releases the lock of the VM's status once too often: who wants to read the status still can, who
    /// wants to write it waits for ever. If it failed at giving the memory, the lock of the memory stays held, too.
    pub failed_start_wedges: bool,
    /// A start that failed leaves a status that a vCPU reports as "load failed"; else as "crashed".
    pub failed_start_is_load_failed: bool,

    /// The answer to a read is cut to 8 bytes, and cleared after the first hypercall.
    pub answer_clamped: bool,
    /// What user space can answer an MMIO exit with.
    pub resume_actions: ResumeActions,
    /// Guest memory is mapped when the guest touches it; what cannot be mapped is a page-fault exit. User memory only
    /// with [`Pinning::OnDemand`]: else it becomes the guest's at the start, whole, and what is added later never does.
    pub demand_paging: bool,
    /// What happens at a vCPU state that is unknown.
    pub unknown_state: UnknownState,

    /// When the VM has ended, a vCPU's next `RUN` is `EBUSY`, once, and only the one after it reports the end. Seen now and
    /// then on a real host; here it happens each time.
    pub busy_at_end: bool,

    /// When the last close takes effect.
    pub teardown: Teardown,
    /// Closing a VM that never started gives nothing back.
    pub never_started_leaks: bool,
}

//! What can fail.

use std::fmt;

/// Something that user space asks of a Gunyah host, and that can be refused.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opening the device node.
    Open,
    /// Creating a VM.
    CreateVm,
    /// Sharing a region of user memory with the guest.
    SetUserMemory,
    /// Lending a region of user memory to the guest.
    LendUserMemory,
    /// Taking pages back from a running guest.
    ReclaimRegion,
    /// Saying where the devicetree is.
    SetDtbConfig,
    /// Saying where the firmware is.
    SetFirmwareConfig,
    /// Setting an initial register.
    SetBootContext,
    /// Choosing who vouches for the VM.
    SetAuthType,
    /// Asking for an extension.
    CheckExtension,
    /// Starting the VM.
    StartVm,
    /// Adding a vCPU.
    AddVcpu,
    /// Adding an irqfd.
    AddIrqfd,
    /// Adding an ioeventfd.
    AddIoeventfd,
    /// Removing a vCPU, an irqfd or an ioeventfd.
    RemoveFunction,
    /// Asking for the size of a vCPU's run page.
    VcpuMmapSize,
    /// Mapping a vCPU's run page.
    MapRunPage,
    /// Running a vCPU.
    RunVcpu,
    /// The kernel's own attempt to provide a page that the guest touched: the `attempt` of a page-fault exit.
    PageFault,
    /// Creating guest memory.
    CreateGuestMemory,
    /// Mapping guest memory into this process.
    MapGuestMemoryHere,
    /// Taking pages out of guest memory.
    PunchGuestMemory,
    /// Mapping guest memory into a VM, or unmapping it.
    MapGuestMemory,
    /// Creating memory of a reserved region.
    CreateCmaMemory,
    /// Mapping memory of a reserved region into this process.
    MapCmaMemoryHere,
    /// Reading memory of a reserved region by its file descriptor.
    ReadCmaMemory,
    /// Mapping memory of a reserved region into a VM.
    MapCmaMemory,
}

impl Operation {
    /// Every operation, in the order in which a VMM meets them.
    pub const ALL: [Self; 27] = [
        Self::Open,
        Self::CreateVm,
        Self::SetUserMemory,
        Self::LendUserMemory,
        Self::ReclaimRegion,
        Self::SetDtbConfig,
        Self::SetFirmwareConfig,
        Self::SetBootContext,
        Self::SetAuthType,
        Self::CheckExtension,
        Self::StartVm,
        Self::AddVcpu,
        Self::AddIrqfd,
        Self::AddIoeventfd,
        Self::RemoveFunction,
        Self::VcpuMmapSize,
        Self::MapRunPage,
        Self::RunVcpu,
        Self::PageFault,
        Self::CreateGuestMemory,
        Self::MapGuestMemoryHere,
        Self::PunchGuestMemory,
        Self::MapGuestMemory,
        Self::CreateCmaMemory,
        Self::MapCmaMemoryHere,
        Self::ReadCmaMemory,
        Self::MapCmaMemory,
    ];

    /// The operations behind an ioctl, by its name in any of the kernel's headers.
    ///
    /// Adding a function is one ioctl for three kinds, hence a slice. Empty for a name that is not known.
    pub fn by_ioctl(name: &str) -> &'static [Self] {
        let bare = ["GH_", "GUNYAH_"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let bare = bare.strip_prefix("VM_").unwrap_or(bare);
        let bare = bare.strip_prefix("ANDROID_").unwrap_or(bare);
        match bare {
            "CREATE_VM" => &[Self::CreateVm],
            "SET_USER_MEM_REGION" => &[Self::SetUserMemory],
            "LEND_USER_MEM" => &[Self::LendUserMemory],
            "RECLAIM_REGION" => &[Self::ReclaimRegion],
            "SET_DTB_CONFIG" => &[Self::SetDtbConfig],
            "SET_FW_CONFIG" => &[Self::SetFirmwareConfig],
            "SET_BOOT_CONTEXT" => &[Self::SetBootContext],
            "SET_AUTH_TYPE" => &[Self::SetAuthType],
            "CHECK_EXTENSION" => &[Self::CheckExtension],
            "START" => &[Self::StartVm],
            "ADD_FUNCTION" => &[Self::AddVcpu, Self::AddIrqfd, Self::AddIoeventfd],
            "REMOVE_FUNCTION" => &[Self::RemoveFunction],
            "VCPU_MMAP_SIZE" => &[Self::VcpuMmapSize],
            "VCPU_RUN" => &[Self::RunVcpu],
            "CREATE_GUEST_MEM" => &[Self::CreateGuestMemory],
            "MAP_MEM" => &[Self::MapGuestMemory],
            "CREATE_CMA_MEM_FD" => &[Self::CreateCmaMemory],
            "MAP_CMA_MEM" => &[Self::MapCmaMemory],
            _ => &[],
        }
    }

    /// The operation behind another system call of this crate, by the call's name and what it was for.
    pub(super) fn by_call(call: &str, doing: &str) -> &'static [Self] {
        match call {
            "mmap" if doing.contains("run page") => &[Self::MapRunPage],
            "mmap" if doing.contains("guest memory") => &[Self::MapGuestMemoryHere],
            "mmap" if doing.contains("reserved") => &[Self::MapCmaMemoryHere],
            "fallocate" => &[Self::PunchGuestMemory],
            _ => &[],
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Open => "opening the device",
            Self::CreateVm => "creating a VM",
            Self::SetUserMemory => "sharing user memory",
            Self::LendUserMemory => "lending user memory",
            Self::ReclaimRegion => "reclaiming memory",
            Self::SetDtbConfig => "setting the devicetree's place",
            Self::SetFirmwareConfig => "setting the firmware's place",
            Self::SetBootContext => "setting a boot register",
            Self::SetAuthType => "choosing who vouches for the VM",
            Self::CheckExtension => "asking for an extension",
            Self::StartVm => "starting the VM",
            Self::AddVcpu => "adding a vCPU",
            Self::AddIrqfd => "adding an irqfd",
            Self::AddIoeventfd => "adding an ioeventfd",
            Self::RemoveFunction => "removing a function",
            Self::VcpuMmapSize => "asking for the run page's size",
            Self::MapRunPage => "mapping the run page",
            Self::RunVcpu => "running a vCPU",
            Self::PageFault => "providing a page that the guest touched",
            Self::CreateGuestMemory => "creating guest memory",
            Self::MapGuestMemoryHere => "mapping guest memory into this process",
            Self::PunchGuestMemory => "taking pages out of guest memory",
            Self::MapGuestMemory => "mapping guest memory into the VM",
            Self::CreateCmaMemory => "creating reserved memory",
            Self::MapCmaMemoryHere => "mapping reserved memory into this process",
            Self::ReadCmaMemory => "reading reserved memory",
            Self::MapCmaMemory => "mapping reserved memory into the VM",
        })
    }
}

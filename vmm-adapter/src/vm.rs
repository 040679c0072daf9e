//! A virtual machine.

use std::fmt::Debug;

use vm_fdt::FdtWriter;
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use crate::boot::BootContext;
use crate::caps::Capabilities;
use crate::config::{IrqLine, VmConfig};
use crate::error::Result;
use crate::memory::{MemoryRegion, Sharing};
use crate::phase::Phase;
use crate::vcpu::Vcpu;

/// What a guest's store must look like to fire an ioevent. The address is always the exact one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoEventMatch {
    /// Any width, any value.
    Any,
    /// This value, stored with this width of 1, 2, 4 or 8 bytes.
    ///
    /// Gunyah's kernels of the time of v11 compare with a truth value: any value but 0 fires there, and 0 never does.
    Value {
        /// The width in bytes.
        width: u8,
        /// The value.
        value: u64,
    },
}

/// A virtual machine.
///
/// It walks through the [phases](Phase) configuring, running and stopped; each method says where it may be called. The
/// hypervisor's VM goes away with the last of this and its vCPUs.
///
/// Gunyah v11 to android14 take the memory back after the last one is closed, in the background.
pub trait Vm: Debug + Send + Sync {
    /// What this VM offers. Any phase.
    fn capabilities(&self) -> &Capabilities;

    /// What it was made from. Any phase.
    fn config(&self) -> &VmConfig;

    /// Where in its life it is. Any phase.
    fn phase(&self) -> Phase;

    /// The memory given so far, in the order in which it was given. Any phase.
    fn memory(&self) -> Vec<MemoryRegion>;

    /// Gives memory to the guest. Configuring only.
    ///
    /// The first region is the main one. On Gunyah it holds payload and devicetree, and the guest can execute from it.
    /// The VM keeps the region until the hypervisor is done with it.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): it overlaps memory given before, or lies outside of the
    ///   guest's address space.
    /// - [`Unsupported`](crate::Error::Unsupported): private memory without
    ///   [`Feature::PrivateMemory`](crate::Feature::PrivateMemory), and so on.
    /// - [`WrongState`](crate::Error::WrongState), [`Backend`](crate::Error::Backend). On Gunyah ENOMEM is most often the
    ///   limit of locked memory (`ulimit -l`).
    fn map(&self, region: &MemoryRegion) -> Result<()>;

    /// Makes memory of the kind that this host's hypervisor takes, and gives it to the guest. Configuring only.
    ///
    /// This is [`MemoryRegion::new`] and [`Vm::map`] where there is
    /// [`Feature::OwnMemory`](crate::Feature::OwnMemory), and memory of the hypervisor's making where there is not.
    ///
    /// # Errors
    /// As [`Vm::map`] and [`MemoryRegion::new`].
    fn allocate(&self, addr: GuestAddress, size: u64, sharing: Sharing) -> Result<MemoryRegion>;

    /// The largest piece of guest memory, in bytes, that this host takes as one region: larger guests get several, side by
    /// side, as [`allocate_chunks`](#method.allocate_chunks) gives them. `u64::MAX`: any size. Any phase.
    ///
    /// Gunyah up to android14 keeps a list of a region's pages in one piece of kernel memory, which is at most 4 MiB: enough for
    /// 2 GiB. Payload and devicetree have to be in the first region.
    fn largest_region(&self) -> u64;

    /// Takes the region at `addr` back from the guest, which then finds nothing there. Configuring and running; never the main
    /// region.
    ///
    /// KVM only: on Gunyah no kernel does that for user memory, and v17's keep the memory allocated until the host reboots.
    ///
    /// # Errors
    /// - [`Unsupported`](crate::Error::Unsupported) without [`Feature::Unmap`](crate::Feature::Unmap).
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): no region begins at `addr`, or it is the main one.
    /// - [`WrongState`](crate::Error::WrongState), [`Backend`](crate::Error::Backend).
    fn unmap(&self, addr: GuestAddress) -> Result<()>;

    /// Adds the vCPU with this number. Configuring only.
    ///
    /// The number of a vCPU that was dropped before the start can be used again. On KVM it is the same vCPU then, which KVM does
    /// not give up: on x86_64 model-specific registers that were written keep their values.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): `id` is not below [`VmConfig::vcpus`], or taken.
    /// - [`WrongState`](crate::Error::WrongState), [`Backend`](crate::Error::Backend).
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>>;

    /// Makes each signal on `fd` an interrupt on `line`. Configuring and running.
    ///
    /// Write 1 for each signal; nobody reads the counter. What is signalled before the start is lost.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): the line is not declared in [`VmConfig`], or with another
    ///   trigger, or is bound already. On every backend, also where the hypervisor would not mind.
    /// - [`WrongState`](crate::Error::WrongState), [`Backend`](crate::Error::Backend).
    fn register_irqfd(&self, fd: &EventFd, line: IrqLine) -> Result<()>;

    /// Undoes [`Vm::register_irqfd`]. Any phase.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): that `fd` is not bound to that `line`.
    /// - [`Backend`](crate::Error::Backend): the hypervisor did not let it go. It is not bound any more as far as this VM
    ///   knows, but the line may stay taken.
    fn unregister_irqfd(&self, fd: &EventFd, line: IrqLine) -> Result<()>;

    /// Makes a guest's store to `addr` signal `fd`, without an exit. Configuring and running.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): a width that is not 1, 2, 4 or 8; a value that does not fit
    ///   it; a match that another ioevent at `addr` has already.
    /// - [`WrongState`](crate::Error::WrongState), [`Backend`](crate::Error::Backend).
    fn register_ioevent(&self, fd: &EventFd, addr: GuestAddress, want: IoEventMatch) -> Result<()>;

    /// Undoes [`Vm::register_ioevent`]. Any phase.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): there is no such ioevent.
    /// - [`Backend`](crate::Error::Backend): the hypervisor did not let it go; or, on Gunyah's v11 and android14, it took
    ///   another at this address with it that could not be put back (`gunyah_ioctls::Error::IoEventFdLost`).
    fn unregister_ioevent(&self, fd: &EventFd, addr: GuestAddress, want: IoEventMatch) -> Result<()>;

    /// Adds what this hypervisor wants below the root of the guest's devicetree. Configuring only, after the memory.
    ///
    /// On Gunyah that is `/gunyah-vm-config`, with the memory, the doorbells of all declared lines, and the shared memory as it is
    /// declared now: memory that is given later is not in it. On KVM it is nothing.
    ///
    /// `gic` is the phandle of the interrupt controller. [`fdt::write`](crate::fdt::write) calls this.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument), on Gunyah: there is no memory yet, or some lies below the main region and
    ///   is not the firmware.
    /// - [`Fdt`](crate::Error::Fdt): the tree is not at a place where a node can begin.
    /// - [`WrongState`](crate::Error::WrongState).
    fn describe(&self, tree: &mut FdtWriter, gic: u32) -> Result<()>;

    /// How many bytes to leave free behind a tree of `blob` bytes, for what the hypervisor adds to it. Any phase.
    fn tree_slack(&self, blob: u64) -> u64;

    /// Ends the configuration and makes the vCPUs runnable. Configuring only.
    ///
    /// A start that the hypervisor refused, in whichever of its steps, is final: the VM is [`Phase::Stopped`] then.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): no devicetree at `boot.fdt`, one that is larger than
    ///   `boot.fdt_size`, or payload and tree not where this hypervisor needs them. The VM is still configuring.
    /// - [`Unsupported`](crate::Error::Unsupported): an entry point without
    ///   [`Feature::BootContext`](crate::Feature::BootContext) that is not the start of the main region.
    /// - [`WrongState`](crate::Error::WrongState), [`Backend`](crate::Error::Backend). On Gunyah ENODEV is most often a
    ///   devicetree that the Resource Manager refuses.
    fn start(&self, boot: &BootContext) -> Result<()>;

    /// Dirty-page tracking, where there is [`Feature::DirtyLog`](crate::Feature::DirtyLog).
    fn dirty_log(&self) -> Option<&dyn DirtyLog>;

    /// Taking pages back from the guest, where there is [`Feature::Reclaim`](crate::Feature::Reclaim).
    fn reclaim(&self) -> Option<&dyn Reclaim>;
}

/// Taking pages back from a running guest: what a memory balloon does.
pub trait Reclaim: Debug + Send + Sync {
    /// Takes the pages at `addr .. addr + size` back from the guest, and gives them to the host. What was in them is lost. The
    /// guest gets new ones, filled with zeros, when it touches the range again. Running only.
    ///
    /// KVM always succeeds. Gunyah (android15, android16, v17) may be using a page: EBUSY was seen a thousand times in a row. It
    /// is not an error to go on without.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): not aligned to pages, empty, or not inside one region.
    /// - [`WrongState`](crate::Error::WrongState).
    /// - [`Backend`](crate::Error::Backend): on Gunyah EBUSY the hypervisor is using it, EAGAIN it changed meanwhile. Nothing is
    ///   lost then.
    fn pages(&self, addr: GuestAddress, size: u64) -> Result<()>;
}

/// Dirty-page tracking, a region at a time.
///
/// KVM: any region, configuring and running. What the host writes is not in the log. Gunyah has none.
pub trait DirtyLog: Debug + Send + Sync {
    /// Begins to track the region at `addr`, with no page written so far. Nothing if it is tracked already.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Error::InvalidArgument): there is no region at `addr`.
    /// [`WrongState`](crate::Error::WrongState), [`Backend`](crate::Error::Backend).
    fn start(&self, addr: GuestAddress) -> Result<()>;

    /// Ends the tracking of the region at `addr`, and with it the cost of tracking. Nothing if it is not tracked.
    ///
    /// # Errors
    /// As [`DirtyLog::start`].
    fn stop(&self, addr: GuestAddress) -> Result<()>;

    /// Takes the bitmap of the pages of the region at `addr` that were written since the last call, or since the start of the
    /// tracking: bit 0 of word 0 is the first page. Pages are of the host's size.
    ///
    /// # Errors
    /// As [`DirtyLog::start`], and for a region that is not tracked.
    fn take(&self, addr: GuestAddress) -> Result<Vec<u64>>;
}

//! Stands for `hypervisor/src/vm.rs`, and for the routes of the `vm-device` crate.
#![expect(unsafe_code, reason = "the trait takes guest memory as a raw pointer")]

use std::any::Any;
use std::sync::{Arc, Mutex};

use vm_fdt::FdtWriter;
use vmm_sys_util::eventfd::EventFd;

use super::additions::BootContext;
use super::cpu::{Vcpu, VcpuInit};
use super::gic::{Vgic, VgicConfig};

/// What goes wrong with a VM: a variant for each call.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says itself")]
pub enum HypervisorVmError {
    #[error("cannot register an irqfd")]
    RegisterIrqFd(#[source] anyhow::Error),
    #[error("cannot unregister an irqfd")]
    UnregisterIrqFd(#[source] anyhow::Error),
    #[error("cannot create a vCPU")]
    CreateVcpu(#[source] anyhow::Error),
    #[error("cannot create the interrupt controller")]
    CreateVgic(#[source] anyhow::Error),
    #[error("cannot register an ioevent")]
    RegisterIoEvent(#[source] anyhow::Error),
    #[error("cannot unregister an ioevent")]
    UnregisterIoEvent(#[source] anyhow::Error),
    #[error("cannot set the routes of interrupts")]
    SetGsiRouting(#[source] anyhow::Error),
    #[error("cannot create a region of guest memory")]
    CreateUserMemory(#[source] anyhow::Error),
    #[error("cannot remove a region of guest memory")]
    RemoveUserMemory(#[source] anyhow::Error),
    #[error("cannot tell the preferred kind of vCPU")]
    GetPreferredTarget(#[source] anyhow::Error),
    #[error("cannot create a pass-through device")]
    CreatePassthroughDevice(#[source] anyhow::Error),
    #[error("cannot start the dirty log")]
    StartDirtyLog(#[source] anyhow::Error),
    #[error("cannot stop the dirty log")]
    StopDirtyLog(#[source] anyhow::Error),
    #[error("cannot get the dirty log")]
    GetDirtyLog(#[source] anyhow::Error),
    #[error("cannot access guest memory")]
    GuestMemory(#[source] anyhow::Error),
    #[error("cannot emulate an access of the guest")]
    Mmio(#[source] anyhow::Error),
    #[error("cannot describe the VM in the devicetree")]
    Describe(#[source] anyhow::Error),
    #[error("cannot start the VM")]
    Start(#[source] anyhow::Error),
}

/// A result of a VM's call.
pub type Result<T> = std::result::Result<T, HypervisorVmError>;

/// Where a guest's store signals an eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoEventAddress {
    /// A port.
    Pio(u64),
    /// A guest physical address.
    Mmio(u64),
}

/// What the store must be of, if not of anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataMatch {
    /// This value, stored with 32 bits.
    DataMatch32(u32),
    /// This value, stored with 64 bits.
    DataMatch64(u64),
}

/// Where an interrupt of a device without messages goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyIrqSourceConfig {
    /// The controller. There is one, 0.
    pub irqchip: u32,
    /// The SPI: the INTID less 32.
    pub pin: u32,
}

/// A message, as the guest's driver wrote it into the device's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiIrqSourceConfig {
    /// The upper half of the address.
    pub high_addr: u32,
    /// The lower half.
    pub low_addr: u32,
    /// What is stored there.
    pub data: u32,
    /// Which device stores.
    pub devid: u32,
}

/// Where an interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptSourceConfig {
    /// To a line.
    LegacyIrq(LegacyIrqSourceConfig),
    /// To an address.
    MsiIrq(MsiIrqSourceConfig),
}

/// A route in the form of its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqRoutingEntry {
    /// The glue's: an addition.
    Adapter {
        /// The number that an irqfd names.
        gsi: u32,
        /// Where it goes.
        to: InterruptSourceConfig,
    },
}

/// A clock's state, for snapshots.
#[derive(Clone, Debug, Default)]
pub struct ClockState;

/// A file descriptor that VFIO devices are joined by. No backend here has one.
#[derive(Clone, Copy, Debug)]
pub enum VfioDeviceFd {}

/// The VMM, as a vCPU sees it.
pub trait VmOps: Send + Sync {
    /// Writes guest memory; gives how many bytes. For instruction emulators.
    fn guest_mem_write(&self, gpa: u64, buf: &[u8]) -> Result<usize>;
    /// Reads guest memory; gives how many bytes.
    fn guest_mem_read(&self, gpa: u64, buf: &mut [u8]) -> Result<usize>;
    /// The guest loads. An error ends the vCPU.
    fn mmio_read(&self, gpa: u64, data: &mut [u8]) -> Result<()>;
    /// The guest stores. An error ends the vCPU.
    fn mmio_write(&self, gpa: u64, data: &[u8]) -> Result<()>;
}

/// A virtual machine.
pub trait Vm: Send + Sync + Any {
    /// Makes the interrupt controller, where that is a step of its own.
    fn create_irq_chip(&self) -> Result<()>;

    /// Makes a signal on `fd` an interrupt, by the route of `gsi`.
    fn register_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<()>;

    /// Undoes it.
    fn unregister_irqfd(&self, fd: &EventFd, gsi: u32) -> Result<()>;

    /// Makes a vCPU. Its accesses go to `vm_ops`.
    fn create_vcpu(&self, id: u32, vm_ops: Option<Arc<dyn VmOps>>) -> Result<Box<dyn Vcpu>>;

    /// Makes the interrupt controller of arm64.
    fn create_vgic(&self, config: &VgicConfig) -> Result<Arc<Mutex<dyn Vgic>>>;

    /// Makes a guest's store signal `fd`, without an exit.
    fn register_ioevent(
        &self,
        fd: &EventFd,
        addr: &IoEventAddress,
        datamatch: Option<DataMatch>,
    ) -> Result<()>;

    /// Undoes it, for every match at this address.
    fn unregister_ioevent(&self, fd: &EventFd, addr: &IoEventAddress) -> Result<()>;

    /// A route in this backend's form.
    fn make_routing_entry(&self, gsi: u32, config: &InterruptSourceConfig) -> IrqRoutingEntry;

    /// These are all routes now.
    fn set_gsi_routing(&self, entries: &[IrqRoutingEntry]) -> Result<()>;

    /// Gives memory to the guest.
    ///
    /// # Safety
    /// `userspace_addr .. + memory_size` is mapped, and stays so until the region is removed with success, or the VM and all its
    /// vCPUs are gone. No reference into it exists.
    unsafe fn create_user_memory_region(
        &self,
        slot: u32,
        guest_phys_addr: u64,
        memory_size: usize,
        userspace_addr: *mut u8,
        readonly: bool,
        log_dirty_pages: bool,
    ) -> Result<()>;

    /// Takes memory back.
    ///
    /// # Safety
    /// The arguments are those with which it was given.
    unsafe fn remove_user_memory_region(
        &self,
        slot: u32,
        guest_phys_addr: u64,
        memory_size: usize,
        userspace_addr: *mut u8,
        readonly: bool,
        log_dirty_pages: bool,
    ) -> Result<()>;

    /// What vCPUs are to be initialised as.
    fn get_preferred_target(&self, kvi: &mut VcpuInit) -> Result<()>;

    /// The clock's state. `None`: there is none to keep.
    fn snapshot_clock(&self, _vcpu: &dyn Vcpu) -> Option<ClockState> {
        None
    }

    /// Restores it.
    fn restore_clock(&self, _vcpu: &dyn Vcpu, _clock: &ClockState) -> Result<()> {
        Ok(())
    }

    /// Makes what VFIO devices are joined by.
    fn create_passthrough_device(&self) -> Result<VfioDeviceFd>;

    /// Notes from now on which pages are written.
    fn start_dirty_log(&self) -> Result<()>;

    /// Ends that.
    fn stop_dirty_log(&self) -> Result<()>;

    /// The pages written since the last call, as bits.
    fn get_dirty_log(&self, slot: u32, base_gpa: u64, memory_size: u64) -> Result<Vec<u64>>;

    /// The backend's own type.
    fn as_any(&self) -> &dyn Any;

    /// Everything that the backend does before memory is filled.
    fn init(&self) -> Result<()> {
        Ok(())
    }

    /// What the backend does for a pause, beside the vCPUs.
    fn pause(&self) -> Result<()> {
        Ok(())
    }

    /// What it does for the end of a pause.
    fn resume(&self) -> Result<()> {
        Ok(())
    }

    /// An addition: whether the host loses the guest's memory at the start, all but the DMA pool.
    fn is_protected(&self) -> bool {
        false
    }

    /// An addition: writes into the root node of the devicetree what the hypervisor wants there.
    fn describe(&self, _fdt: &mut FdtWriter, _gic_phandle: u32) -> Result<()> {
        Ok(())
    }

    /// An addition: how many bytes to leave free behind a tree of `blob` bytes.
    fn fdt_slack(&self, _blob: u64) -> u64 {
        0
    }

    /// An addition: payload and devicetree are in place; vCPUs run after this. Once, and final.
    fn start(&self, _boot: &BootContext) -> Result<()> {
        Ok(())
    }
}

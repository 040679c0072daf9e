//! The whole reading: from the devicetree's bytes to the VM that it describes.

use super::cpus::{Affinity, Cpus};
use super::error::RmError;
use super::fdt::{Fdt, Node};
use super::interrupts::{Gic, GicFrames};
use super::memory::{Memory, Range};
use super::vdevices::{Doorbell, SharedMemory, Vdevices};

/// A tree of more bytes than this was seen to fail when the Resource Manager applied its overlay.
const LARGEST_GOOD_TREE: usize = 16 << 10;
/// Room for the overlay that is enough for any VM seen.
const ROOM_FOR_OVERLAY: usize = 4 << 10;
/// The VM attributes that the Resource Manager of December 2023 knows.
const KNOWN_ATTRIBUTES: [&str; 8] = [
    "ras-error-handler",
    "amu-counting-disabled",
    "crash-fatal",
    "context-dump",
    "no-shutdown",
    "no-reset",
    "guest-ram-dump",
    "insecure-console",
];

/// The VM that a devicetree describes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmDescription {
    /// How many vCPUs: their ids are 0 to `vcpus - 1`, in the order of the cpu nodes.
    pub vcpus: u32,
    /// The id of the vCPU that runs first: the first whose node is not disabled. The others are off.
    pub boot_vcpu: u32,
    /// Who schedules the vCPUs. Only [`Affinity::Proxy`] gives the host vCPUs to run.
    pub affinity: Affinity,
    /// Whether a sleeping vCPU's timer is the host's business.
    pub no_timer_wakeups: bool,
    /// Whether the guest's PSCI calls reach the Resource Manager. Without it, SYSTEM_OFF never ends the VM.
    pub psci: bool,
    /// Where the guest's interrupt controller is. `None` when its node does not say: the guest has none then.
    pub gic: Option<GicFrames>,
    /// The doorbells, in the tree's order.
    pub doorbells: Vec<Doorbell>,
    /// The shared parcels beside RAM, in the tree's order.
    pub shm: Vec<SharedMemory>,
    /// Where the parcel that holds the devicetree is mapped, in bytes, after rounding up to 2 MiB. It wins over
    /// the guest address of the region. `None` when the tree does not say.
    pub base_address: Option<u64>,
    /// The least and the most memory of the VM, in bytes.
    pub size_min: Option<u64>,
    /// See `size_min`.
    pub size_max: Option<u64>,
    /// Where the firmware of a protected VM is.
    pub firmware: Option<Range>,
    /// The image's name.
    pub image_name: String,
    /// What a real Resource Manager would log, or what works here and is known to fail elsewhere.
    pub warnings: Vec<String>,
}

/// Reads the devicetree at the start of `dtb` as the Resource Manager does at `VM_START`.
///
/// `dtb` is the whole buffer of `SET_DTB_CONFIG`: what lies behind the tree is the room for the Resource Manager's
/// overlay. Nothing in it is trusted.
///
/// # Errors
/// The first thing wrong, in this order: the tree's form; `/hypervisor`; nodes of `device_type` memory; the
/// configuration's node; its `image-name`; `memory`; `vcpus` and the cpu nodes; the interrupt controller; the
/// virtual devices. The module's table tells which code each has.
pub fn read_vm_config(dtb: &[u8]) -> Result<VmDescription, RmError> {
    let fdt = Fdt::parse(dtb)?;
    let mut warnings = Vec::new();
    check_room(&fdt, dtb.len(), &mut warnings);
    check_nodes_of_the_manager(&fdt)?;
    let config = find_config(&fdt, &mut warnings)?;
    let image_name = image_name(&config)?;
    check_attributes(&config, &mut warnings);
    let memory = Memory::read(&config, &mut warnings)?;
    let cpus = Cpus::read(&fdt, &config, &mut warnings)?;
    let gic = Gic::find(&fdt, &config, &mut warnings)?;
    let frames = gic.frames(cpus.count, &mut warnings);
    let vdevices = Vdevices::read(&config, &gic, &mut warnings)?;
    Ok(VmDescription {
        vcpus: cpus.count,
        boot_vcpu: cpus.boot,
        affinity: cpus.affinity,
        no_timer_wakeups: cpus.no_timer_wakeups,
        psci: cpus.psci,
        gic: frames,
        doorbells: vdevices.doorbells,
        shm: vdevices.shared_memory,
        base_address: memory.base_address,
        size_min: memory.size_min,
        size_max: memory.size_max,
        firmware: memory.firmware,
        image_name,
        warnings,
    })
}

fn check_room(fdt: &Fdt<'_>, buffer: usize, warnings: &mut Vec<String>) {
    let used = fdt.used();
    let room = buffer.saturating_sub(used);
    if room < ROOM_FOR_OVERLAY {
        warnings.push(format!(
            "the tree leaves {room} bytes of its buffer for the Resource Manager's overlay; leave {ROOM_FOR_OVERLAY}"
        ));
    }
    if used > LARGEST_GOOD_TREE {
        warnings.push(format!(
            "the tree has {used} bytes; beyond {LARGEST_GOOD_TREE} a Resource Manager was seen to fail"
        ));
    }
}

/// `/hypervisor` and `/memory` are written by the Resource Manager.
fn check_nodes_of_the_manager(fdt: &Fdt<'_>) -> Result<(), RmError> {
    if fdt.root().is_some_and(|root| root.child("hypervisor").is_some()) {
        return Err(RmError::invalid("/hypervisor exists already; the Resource Manager makes it"));
    }
    let misnamed =
        fdt.all().find(|node| node.text("device_type") == Some("memory") && node.name() != "memory");
    match misnamed {
        Some(node) => Err(RmError::invalid(format!(
            "{} has device_type memory, but a name that is not exactly \"memory\"",
            node.path()
        ))),
        None => Ok(()),
    }
}

fn find_config<'f>(fdt: &'f Fdt<'f>, warnings: &mut Vec<String>) -> Result<Node<'f>, RmError> {
    let root = fdt.root().ok_or_else(|| RmError::missing("the devicetree has no root"))?;
    let mut found =
        root.children().filter(|node| matches!(node.name(), "gunyah-vm-config" | "qcom,vm-config"));
    let config = found.next().ok_or_else(|| {
        RmError::missing("neither /gunyah-vm-config nor /qcom,vm-config is there: no VM is described")
    })?;
    if let Some(other) = found.next() {
        warnings.push(format!("{} is ignored: {} came first", other.path(), config.path()));
    }
    Ok(config)
}

fn image_name(config: &Node<'_>) -> Result<String, RmError> {
    config
        .text("image-name")
        .map(str::to_owned)
        .ok_or_else(|| RmError::invalid(format!("{} has no image-name that is a text", config.path())))
}

fn check_attributes(config: &Node<'_>, warnings: &mut Vec<String>) {
    for name in config.texts("vm-attrs").filter(|name| !KNOWN_ATTRIBUTES.contains(name)) {
        warnings.push(format!("{}: the VM attribute {name:?} is not known", config.path()));
    }
}

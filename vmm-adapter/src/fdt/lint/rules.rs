//! What can be wrong with a tree. A new rule is an entry here, its check in the file of its node, and its test.

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The VM does not start, or cannot work.
    Error,
    /// It works on some hosts, or not as its author will expect.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that can be wrong with a tree.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// A name for programs, that stays.
    pub code: &'static str,
    /// How bad it is, where the host is not known.
    pub severity: Severity,
    /// Why it matters.
    pub why: &'static str,
    /// On which flavours and hosts it holds.
    pub flavours: &'static str,
    /// Those of them that refuse to start such a VM: it is an [`Severity::Error`] there. Empty: no difference.
    pub refused_on: &'static str,
    /// What to do.
    pub fix: &'static str,
}

impl Rule {
    /// Whether it holds on a flavour or host, by its name.
    #[must_use]
    pub fn holds_on(&self, flavour: &str) -> bool {
        self.flavours == ALL || names(self.flavours, flavour)
    }

    /// How bad it is on a flavour or host, by its name.
    #[must_use]
    pub fn severity_on(&self, flavour: &str) -> Severity {
        if names(self.refused_on, flavour) { Severity::Error } else { self.severity }
    }
}

fn names(list: &str, flavour: &str) -> bool {
    list.split(", ").any(|name| name == flavour)
}

const ALL: &str = "every flavour";

macro_rules! rules {
    ($($name:ident: $severity:ident $code:literal, $why:literal, $flavours:expr, $fix:literal $(, refused_on $refused:literal)?;)*) => {
        $(pub(super) static $name: Rule = Rule {
            code: $code,
            severity: Severity::$severity,
            why: $why,
            flavours: $flavours,
            refused_on: concat!("" $(, $refused)?),
            fix: $fix,
        };)*

        /// Every rule.
        pub static RULES: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    NOT_A_TREE: Error "not-a-tree",
        "the Resource Manager finds no devicetree: the start fails", ALL,
        "write the tree to the address of SET_DTB_CONFIG before the start";
    TRUNCATED: Error "truncated",
        "a part of the tree lies outside the range that was handed over: the start fails", ALL,
        "give SET_DTB_CONFIG the tree's whole size, and room behind it";
    MALFORMED: Error "malformed",
        "the Resource Manager cannot read the tree: the start fails", ALL,
        "write the tree with a devicetree library and finish it";
    NO_ROOM: Error "no-room",
        "the Resource Manager adds its nodes in place; without room the start fails", ALL,
        "hand over at least 4096 bytes more than the tree has, for many doorbells more";
    TOO_BIG: Warning "too-big",
        "beyond 16 KiB, with its additions, the Resource Manager of December 2023 was seen to fail", ALL,
        "leave out what the guest does not need", refused_on "open-2023, open-2023-debug";
    WHOLE_PAGES: Error "whole-pages",
        "the kernel counts the size in whole pages of 4096 bytes; a smaller one is 0, and the start is EINVAL",
        "android15, android16, v17, open-2023, open-2023-debug",
        "hand over a multiple of 4096 bytes";
    ROOT_CELLS: Error "root-cells",
        "the Resource Manager writes the VM's memory into the tree by its #address-cells and #size-cells (2 and 1 where they are missing), and it does not fit", ALL,
        "write #address-cells = <2> and #size-cells = <2> at the root, and in /reserved-memory";
    HYPERVISOR_EXISTS: Error "hypervisor-exists",
        "the Resource Manager makes /hypervisor and refuses a tree that has one", ALL,
        "leave /hypervisor out; name its nodes by `generate` in vdevices";
    MEMORY_NAME: Error "memory-name",
        "the Resource Manager refuses a node of device_type memory that is not called exactly `memory` (EINVAL)", ALL,
        "call it `memory`, without an address; the Resource Manager writes its reg";
    NO_CONFIG: Error "no-config",
        "without it the Resource Manager knows no VM: the start is ENODEV", ALL,
        "add /gunyah-vm-config";
    TWO_CONFIGS: Warning "two-configs",
        "the Resource Manager reads one of them", ALL,
        "keep one";
    NO_IMAGE_NAME: Error "no-image-name",
        "the start is EINVAL without it", ALL,
        "add image-name, a string";
    UNKNOWN_ATTRIBUTE: Warning "unknown-attribute",
        "the Resource Manager of December 2023 does not know it; newer ones may", ALL,
        "leave it out unless the host is known to have it";
    NO_MEMORY: Error "no-memory",
        "the start is ENODEV without it", ALL,
        "add /gunyah-vm-config/memory with base-address, size-min and size-max";
    NO_BASE: Error "no-base-address",
        "it says where the memory with the devicetree is mapped", ALL,
        "add base-address, two cells: the guest address of the main region";
    BASE_UNALIGNED: Error "base-unaligned",
        "the Resource Manager wants whole pages", ALL,
        "put the main region at a multiple of 4096, better of 2 MiB";
    BASE_ROUNDED: Warning "base-rounded",
        "the Resource Manager rounds it up to 2 MiB, and the guest finds its memory there", ALL,
        "put the main region at a multiple of 2 MiB";
    BASE_MOVED: Error "base-moved",
        "the memory with the devicetree is mapped at base-address, whatever address its region was given", ALL,
        "give base-address and the region the same address";
    SIZE_WRONG: Error "size-wrong",
        "the Resource Manager wants whole pages, and size-min no larger than size-max", ALL,
        "write both as two cells, multiples of 4096";
    NO_SIZE: Warning "no-size",
        "newer Resource Managers translate only addresses from base-address to base-address + size-max", ALL,
        "add size-min and size-max, two cells each";
    OUTSIDE_WINDOW: Error "outside-window",
        "newer Resource Managers translate only addresses from base-address to base-address + size-max: the guest cannot reach the region", ALL,
        "enlarge size-max, or put the region behind the main one";
    FIRMWARE_HALF: Error "firmware-half",
        "the Resource Manager needs both to find the firmware", ALL,
        "write firmware-address and firmware-size-max, or neither";
    FIRMWARE_WRONG: Error "firmware-wrong",
        "the Resource Manager wants whole pages", ALL,
        "write firmware-address and firmware-size-max as two cells, multiples of 4096";
    FIRMWARE_OVERLAPS: Error "firmware-overlaps",
        "the Resource Manager refuses firmware inside the image's range", ALL,
        "put the firmware below or behind the main region";
    NO_FIRMWARE: Error "no-firmware",
        "firmware in a region of its own is not found without them", "android14-early, android14, android15, android16",
        "add firmware-address and firmware-size-max";
    NO_VCPUS: Error "no-vcpus",
        "the start is ENODEV without it", ALL,
        "add /gunyah-vm-config/vcpus with affinity = \"proxy\"";
    NOT_PROXY: Error "not-proxy",
        "only proxy-scheduled vCPUs are the host's to run: VCPU_RUN is ENODEV for the others", ALL,
        "write affinity = \"proxy\"";
    NO_CPU: Error "no-cpu",
        "the Resource Manager makes a vCPU for each node of device_type cpu, and wants at least one", ALL,
        "add /cpus with a cpu node for each vCPU";
    NO_BOOT_CPU: Error "no-boot-cpu",
        "the first CPU that is not disabled boots, and there is none", ALL,
        "remove the status of the first cpu node";
    BOOT_CPU_LATER: Warning "boot-cpu-later",
        "the guest starts on the first CPU that is not disabled, whose vCPU id is not 0", ALL,
        "enable the first CPU";
    NO_ENABLE_METHOD: Error "no-enable-method",
        "the Resource Manager refuses a second CPU that cannot be turned on", ALL,
        "write enable-method = \"psci\" in each cpu node";
    CPU_COUNT: Error "cpu-count",
        "a vCPU that the tree has not can never run (ENODEV), and a CPU without a vCPU hangs the guest that turns it on", ALL,
        "write as many cpu nodes as vCPUs are added";
    CPU_REG: Warning "cpu-reg",
        "the guest's kernel ignores a CPU whose reg is missing or stands twice", ALL,
        "give each cpu node a reg of its own";
    NO_PSCI: Warning "no-psci",
        "the VM starts, and its SYSTEM_OFF never ends it", ALL,
        "add a psci node, compatible with arm,psci-1.0 or arm,psci-0.2";
    PSCI_METHOD: Error "psci-method",
        "calls to the hypervisor are by HVC", ALL,
        "write method = \"hvc\"";
    NO_GIC: Error "no-gic",
        "the Resource Manager must find the interrupt controller: by the interrupts node of the configuration, or by the root's interrupt-parent", ALL,
        "write interrupt-parent at the root, and config in /gunyah-vm-config/interrupts";
    GIC_DANGLES: Error "gic-dangles",
        "what is referred to is not in the tree", ALL,
        "refer to the interrupt controller's path or phandle";
    GIC_KIND: Error "gic-kind",
        "the virtual interrupt controller of Gunyah is a GICv3 with three cells for an interrupt", ALL,
        "write compatible = \"arm,gic-v3\", #interrupt-cells = <3> and the empty interrupt-controller";
    GIC_IN_RAM: Error "gic-in-memory",
        "the guest's memory hides the interrupt controller", ALL,
        "put the interrupt controller below 1 GiB, and memory elsewhere";
    VDEVICE_TYPE: Error "vdevice-type",
        "the Resource Manager does not know such a device", ALL,
        "write one of doorbell, shm and the others that it knows";
    NO_LABEL: Error "no-label",
        "an irqfd names its doorbell by the label", ALL,
        "write label, one cell: the number that the irqfd uses";
    LABEL_TWICE: Error "label-twice",
        "an irqfd reaches one of them", ALL,
        "give each doorbell a label of its own";
    NO_PEER: Error "no-peer",
        "the Resource Manager refuses a doorbell that nobody may ring", ALL,
        "add the empty property peer-default";
    NO_INTERRUPT: Warning "no-interrupt",
        "the Resource Manager chooses one that the guest's devices do not name", ALL,
        "write interrupts, three cells: <0 n trigger>";
    BAD_INTERRUPT: Error "bad-interrupt",
        "it is no shared peripheral interrupt of three cells: <0 n trigger> with n from 0 to 987, or <2 n trigger> with n from 0 to 1023, and a trigger of 1, 2, 4 or 8", ALL,
        "write interrupts = <0 n 1> or <0 n 4>";
    BAD_TRIGGER: Warning "bad-trigger",
        "doorbells signal by a rising edge (1) or a high level (4)", ALL,
        "write 1 or 4, as the irqfd has it";
    INTERRUPT_TWICE: Error "interrupt-twice",
        "two doorbells cannot have one interrupt", ALL,
        "give each doorbell an interrupt of its own";
    LINE_WITHOUT_DOORBELL: Error "line-without-doorbell",
        "an irqfd whose label the tree has not never reaches the guest, and nothing says so", ALL,
        "add a doorbell with that label to vdevices, before the start";
    TRIGGER_DIFFERS: Error "trigger-differs",
        "a guest that is told another trigger than the irqfd's hangs in an interrupt storm, or misses interrupts", ALL,
        "write the irqfd's trigger: 1 for edge, 4 for level";
    DEVICE_WITHOUT_DOORBELL: Warning "device-without-doorbell",
        "no doorbell rings the device's interrupt: it never comes", ALL,
        "add a doorbell with the same interrupts to vdevices";
    DEVICE_TRIGGER: Error "device-trigger",
        "the device's node and its doorbell tell the guest different triggers", ALL,
        "write the same cells in both";
    DEVICE_IN_MEMORY: Error "device-in-memory",
        "the guest's accesses reach memory, and the VMM never sees them", ALL,
        "put devices below 1 GiB, away from memory";
    DEVICE_HIGH: Warning "device-high",
        "accesses were seen to reach the VMM below 1 GiB; above, some hosts abort them inside the guest", ALL,
        "put devices below 1 GiB";
    NO_SHM_MEMORY: Error "no-shm-memory",
        "the Resource Manager finds the parcel of a shm device by the label in its memory node", ALL,
        "add the node memory with label, one cell: the region's label";
    SHM_BASE: Error "shm-base",
        "the Resource Manager reads the parcel's address as two cells", ALL,
        "write base as two cells, or leave it out";
    SHM_NOT_OPTIONAL: Warning "shm-not-optional",
        "where memory is given page by page the Resource Manager knows no such parcel, and the start fails",
        "android15, android16, v17",
        "add the empty property optional to the memory node", refused_on "android15, android16, v17";
    SHM_WITHOUT_REGION: Error "shm-without-region",
        "there is no shared parcel with that label beside the main region: the start is ENODEV", ALL,
        "write the label of a shared region";
    SHARED_WITHOUT_SHM: Warning "shared-without-shm",
        "a shared region beside lent memory reaches the guest only as a shm device; where memory is given in parcels the start is ENODEV", ALL,
        "add a shm device with the region's label to vdevices",
        refused_on "android14-early, android14, open-2023, open-2023-debug";
    IMAGE_SHARED: Warning "image-shared",
        "many hosts run no VM whose main region is shared: production Resource Managers refuse it (ENODEV), v17 kernels fail (ENOMEM), and on android15 no instruction can be fetched from it",
        "android14-early, android14, android15, v17, open-2023",
        "lend the main region, and share a second one", refused_on "v17, open-2023";
    FDT_OUTSIDE: Error "fdt-outside-memory",
        "the kernel refuses a devicetree that is not inside one region (EINVAL or ENOENT)", ALL,
        "put the tree, with its room, into the main region";
    ENTRY_OUTSIDE: Error "entry-outside-image",
        "the guest starts in the region that holds the devicetree: only that is the image", ALL,
        "put payload and devicetree into one region";
    ENTRY_NOT_FIRST: Error "entry-not-first",
        "without a boot context, or a Resource Manager that takes it, the guest starts at the first byte of the region that holds the devicetree",
        "v11, android14-early, android14, open-2023, open-2023-debug",
        "put the first instruction at the region's start";
    LABEL_NOT_ZERO: Warning "label-not-zero",
        "the Resource Manager reserves the main region's memory in the tree (no-map) unless its label is 0", ALL,
        "give the main region the label 0";
    INITRD_OUTSIDE: Error "initrd-outside-memory",
        "the guest's kernel finds no memory there", ALL,
        "put the initial RAM disk into a region, and tell its real place";
    NO_DMA_POOL: Warning "no-dma-pool",
        "the VMM cannot reach lent memory: without a restricted-dma-pool in shared memory the guest's virtio devices have no buffers", ALL,
        "add a node compatible with restricted-dma-pool to /reserved-memory, in the shared region, and a guest kernel with CONFIG_DMA_RESTRICTED_POOL";
    POOL_NOT_SHARED: Error "dma-pool-not-shared",
        "the VMM cannot reach the buffers in it", ALL,
        "put the restricted-dma-pool into a shared region";
    DEVICE_WITHOUT_POOL: Warning "device-without-pool",
        "a pool is used by those that refer to it: the driver of another device puts its buffers into lent memory, which the VMM cannot reach", ALL,
        "write memory-region = <phandle of the restricted-dma-pool> in the node of each virtio device and PCI host";
    RESERVED_WITHOUT_PARCEL: Warning "reserved-without-parcel",
        "users of SM8650 phones report ENODEV for a reg in /reserved-memory that is no shared region's, a fence over low memory for example", "android14",
        "leave it out; other flavours may need it";
    PARCEL_NOT_RESERVED: Warning "parcel-not-reserved",
        "users of SM8650 phones report ENODEV for a shared region beside lent memory without a reg in /reserved-memory", "android14",
        "add a node with the region's reg to /reserved-memory: the restricted-dma-pool";
    STDOUT_DANGLES: Warning "stdout-dangles",
        "the guest's console is not in the tree: it boots without a word", ALL,
        "write the path of the console's node";
}

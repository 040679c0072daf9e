//! What kind of machine this is: who would want to run what on it.

use super::root::Root;

/// A machine, as its files show it.
pub(crate) struct Machine {
    pub(crate) arm64: bool,
    pub(crate) android: bool,
    pub(crate) release: String,
    /// The board's names in the devicetree, the most specific first.
    pub(crate) boards: Vec<String>,
    /// The names of the devicetree's hypervisor node and its children.
    pub(crate) hypervisor: Vec<String>,
    pub(crate) kvm_node: bool,
}

/// Who is asking, when there is no Gunyah device. Each has another way forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Situation {
    /// Not an arm64 machine at all.
    OtherArchitecture,
    /// A phone with a vendor kernel, 5.10 or 5.15.
    VendorPhone,
    /// A phone whose kernel could have the driver.
    Phone,
    /// A PC or a board with a Snapdragon, running an ordinary Linux.
    SnapdragonPc,
    /// Some other arm64 machine.
    OtherArm64,
}

impl Machine {
    pub(crate) fn look(root: &Root) -> Self {
        let tree = root.exists("proc/device-tree");
        let release = root.word("proc/sys/kernel/osrelease").unwrap_or_default();
        let mut hypervisor = root.strings("proc/device-tree/hypervisor/compatible");
        for child in root.list("proc/device-tree/hypervisor") {
            hypervisor.extend(root.strings(&format!("proc/device-tree/hypervisor/{child}/compatible")));
        }
        Self {
            arm64: if root.is_live() { cfg!(target_arch = "aarch64") } else { tree },
            android: release.contains("android")
                || root.exists("system/build.prop")
                || root.exists("vendor/build.prop"),
            boards: root.strings("proc/device-tree/compatible"),
            hypervisor,
            kvm_node: root.exists("dev/kvm"),
            release,
        }
    }

    /// The devicetree names Gunyah or its Resource Manager.
    pub(crate) fn names_gunyah(&self) -> bool {
        self.hypervisor.iter().any(|name| name.contains("gunyah"))
    }

    pub(crate) fn situation(&self) -> Situation {
        let qualcomm = self.boards.iter().any(|board| board.starts_with("qcom,"));
        if !self.arm64 {
            Situation::OtherArchitecture
        } else if self.vendor_release() {
            Situation::VendorPhone
        } else if self.android {
            Situation::Phone
        } else if qualcomm {
            Situation::SnapdragonPc
        } else {
            Situation::OtherArm64
        }
    }

    /// 5.10 and 5.15 with Android on them: the kernels of the vendors' older ABI.
    pub(crate) fn vendor_release(&self) -> bool {
        self.android && (self.release.starts_with("5.10.") || self.release.starts_with("5.15."))
    }

    /// What somebody with this machine can do instead.
    pub(crate) fn way_forward(&self) -> Vec<&'static str> {
        match self.situation() {
            Situation::OtherArchitecture => vec![
                "Gunyah runs on arm64. For development, fake-gunyah gives programs a Gunyah device on any Linux host",
                "for VMs on this machine, use KVM",
            ],
            Situation::VendorPhone => vec![
                "this phone's kernel has the vendors' older Gunyah ABI. It starts images that the vendor has signed, by \
                 name, and gives no program a VM of its own",
                "nothing that can be installed, and no permission, changes that: crosvm and QEMU fail here as well. \
                 Phones with kernel 6.1 or later (Snapdragon 8 Gen 3 on) can host",
            ],
            Situation::Phone => vec![
                "this kernel could have the driver. Look for its module (gunyah.ko) on the vendor partitions, and in the \
                 kernel's configuration",
            ],
            Situation::SnapdragonPc => vec![
                "on Snapdragon PCs and boards Gunyah holds EL2 and this Linux is its guest. Mainline Linux has no driver \
                 that would let it start other VMs, so Gunyah cannot host your VM from here",
                "what you want is EL2 for Linux, and KVM: look for an EL2 boot of your model (EL2 devicetree overlays, \
                 slbounce). KVM and Gunyah cannot both be there",
            ],
            Situation::OtherArm64 if self.kvm_node => {
                vec!["this machine has KVM: use that"]
            }
            Situation::OtherArm64 => vec![
                "Gunyah is found on Qualcomm's SoCs only, and has to be there from boot. For VMs on this machine, use KVM",
            ],
        }
    }
}

//! The checks, in the order of the report.

mod android;
mod devices;
mod facilities;
mod guest_kernel;
mod guest_tree;
mod huge_pages;
mod hypervisor;
mod kernel;
mod limits;
mod log;
mod memory;
mod modules;
mod open;
mod pinning;
mod probe;
mod processes;

use super::Examination;
use super::finding::Finding;

type Check = fn(&Examination) -> Finding;

pub(crate) const ALL: [Check; 18] = [
    devices::nodes,
    kernel::release,
    hypervisor::below,
    open::selinux,
    open::device,
    probe::vm,
    probe::functions,
    limits::memlock,
    memory::amount,
    huge_pages::available,
    pinning::tried,
    facilities::kernel,
    processes::others,
    modules::loaded,
    log::messages,
    android::tools,
    guest_kernel::options,
    guest_tree::devicetree,
];

/// A check's title, by its id.
pub(crate) fn title(id: &str) -> &'static str {
    match id {
        "nodes" => "device nodes",
        "kernel" => "kernel",
        "hypervisor" => "hypervisor",
        "selinux" => "SELinux and user",
        "device" => "Gunyah device",
        "vm" => "creating a VM",
        "functions" => "vCPU, irqfd, ioeventfd",
        "memlock" => "locked memory",
        "memory" => "memory",
        "huge-pages" => "huge pages",
        "pinning" => "pinned memory",
        "facilities" => "kernel facilities",
        "processes" => "other VMMs",
        "modules" => "modules",
        "log" => "kernel log",
        "android" => "Android",
        "guest-kernel" => "guest kernel",
        "guest-tree" => "guest devicetree",
        _ => "check",
    }
}

/// An amount of memory, in the unit that reads best.
fn bytes(amount: u64) -> String {
    match amount {
        0..0x10_0000 => format!("{} KiB", amount >> 10),
        _ => format!("{} MiB", amount >> 20),
    }
}

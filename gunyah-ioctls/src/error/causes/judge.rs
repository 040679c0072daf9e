//! What speaks for or against a cause.
//!
//! A judge looks at what is known and says how likely its cause is, and what it saw. One that sees nothing says
//! "possible": missing knowledge must not hide a cause.

use super::Likelihood::{self, Likely, Possible, Unlikely};
use super::context::Context;
use super::host::Limit;
use crate::features::{Feature, Flavour};

pub(super) type Verdict = (Likelihood, Option<String>);
pub(super) type Judge = fn(&Context) -> Verdict;

const UNSEEN: Verdict = (Possible, None);
const MIB: u64 = 1 << 20;

fn because(likelihood: Likelihood, evidence: impl Into<String>) -> Verdict {
    (likelihood, Some(evidence.into()))
}

/// Prints an amount of memory in the unit that reads best.
pub(super) fn bytes(amount: u64) -> String {
    match amount {
        0..1024 => format!("{amount} bytes"),
        1024..MIB => format!("{} KiB", amount >> 10),
        _ => format!("{} MiB", amount >> 20),
    }
}

/// Nothing that can be seen from user space bears on it.
pub(super) fn unseen(_: &Context) -> Verdict {
    UNSEEN
}

/// This crate does not do it, so only a caller that goes around it does.
pub(super) fn guarded(_: &Context) -> Verdict {
    because(Unlikely, "this crate checks it before it asks the kernel")
}

/// Known, and rare.
pub(super) fn rare(_: &Context) -> Verdict {
    (Unlikely, None)
}

/// The errno has no other known cause.
pub(super) fn certain(_: &Context) -> Verdict {
    (Likely, None)
}

pub(super) fn memlock(context: &Context) -> Verdict {
    let host = &context.host;
    let Some(limit) = host.memlock else { return UNSEEN };
    let Limit::At(limit) = limit else { return because(Unlikely, "RLIMIT_MEMLOCK is unlimited") };
    let privileged = host.ipc_lock == Some(true);
    let lifted = if privileged { "; CAP_IPC_LOCK, which this process has, should lift it" } else { "" };
    let wanted = context.total_memory().map(|total| total.saturating_add(host.locked.unwrap_or(0)));
    match wanted {
        Some(wanted) if wanted > limit => {
            let seen = format!("RLIMIT_MEMLOCK is {}, {} are needed{lifted}", bytes(limit), bytes(wanted));
            because(if privileged { Possible } else { Likely }, seen)
        }
        Some(wanted) => {
            because(Unlikely, format!("RLIMIT_MEMLOCK is {}, {} are needed", bytes(limit), bytes(wanted)))
        }
        // The default of Android is 64 KiB, that of other systems 8 MiB: both below any guest.
        None if limit < 64 * MIB => {
            let seen = format!("RLIMIT_MEMLOCK is {}{lifted}", bytes(limit));
            because(if privileged { Possible } else { Likely }, seen)
        }
        None => because(Possible, format!("RLIMIT_MEMLOCK is {}", bytes(limit))),
    }
}

/// The kernel keeps an array of a pointer per 4 KiB page of a region, in contiguous memory.
pub(super) fn page_array(context: &Context) -> Verdict {
    const POINTERS_PER_BYTE: u64 = 4096 / 8;
    let largest_region = context.asked.iter().chain(&context.regions).map(|region| region.size).max();
    let Some(region) = largest_region else { return UNSEEN };
    let array = region / POINTERS_PER_BYTE;
    let need = array.checked_next_power_of_two().unwrap_or(u64::MAX);
    match context.host.largest_free_block {
        Some(block) if block < need => because(
            Likely,
            format!(
                "a region of {} needs {} of contiguous kernel memory, the largest free block has {}",
                bytes(region),
                bytes(need),
                bytes(block)
            ),
        ),
        Some(block) => because(
            Unlikely,
            format!("needs {} of contiguous kernel memory, a free block has {}", bytes(need), bytes(block)),
        ),
        None if region > 2048 * MIB => because(
            Likely,
            format!("a region of {} needs {} of contiguous memory", bytes(region), bytes(need)),
        ),
        None => UNSEEN,
    }
}

pub(super) fn host_memory(context: &Context) -> Verdict {
    let host = &context.host;
    let Some(available) = host.memory_available else { return UNSEEN };
    if let Some(wanted) = context.total_memory() {
        if wanted > available {
            let seen = format!("{} are available, {} are asked for", bytes(available), bytes(wanted));
            return because(Likely, seen);
        }
    }
    match host.memory_pressure {
        Some(pressure) if pressure >= 10.0 => {
            because(Likely, format!("something waited for memory in {pressure} % of the last 10 seconds"))
        }
        _ if host.memory_total.is_some_and(|total| available < total / 20) => {
            because(Likely, format!("only {} are available", bytes(available)))
        }
        _ => because(Unlikely, format!("{} are available", bytes(available))),
    }
}

/// Pages of contiguous-memory areas cannot stay pinned, and must be moved out first.
pub(super) fn cma_pages(context: &Context) -> Verdict {
    let host = &context.host;
    let (Some(free), Some(cma)) = (host.memory_free, host.cma_free) else { return UNSEEN };
    let seen = format!("{} of {} free memory are in contiguous-memory areas", bytes(cma), bytes(free));
    because(if cma > free / 2 { Likely } else { Possible }, seen)
}

/// The hypervisor's own memory for page tables: small pages use it up.
pub(super) fn page_tables(context: &Context) -> Verdict {
    let Some(huge) = context.host.free_in_huge_blocks else { return UNSEEN };
    let seen = format!("{} of the host's free memory are in blocks of 2 MiB or more", bytes(huge));
    match context.total_memory() {
        Some(wanted) if wanted > huge && wanted > 1024 * MIB => because(Likely, seen),
        _ => because(Possible, seen),
    }
}

pub(super) fn misaligned(context: &Context) -> Verdict {
    let Some(asked) = context.asked else { return UNSEEN };
    let page = u64::try_from(crate::sys::page_size()).unwrap_or(4096);
    let values = [
        ("size", asked.size),
        ("guest address", asked.guest_phys_addr),
        ("user address", asked.userspace_addr.unwrap_or(0)),
    ];
    if asked.size == 0 {
        return because(Likely, "the size is 0");
    }
    match values.into_iter().find(|(_, value)| value % page != 0) {
        Some((name, value)) => because(Likely, format!("the {name} {value:#x} is no multiple of {page}")),
        None => because(Unlikely, "size and addresses are multiples of the page size"),
    }
}

pub(super) fn wraps(context: &Context) -> Verdict {
    match context.asked.map(|asked| asked.range().end()) {
        Some(None) => because(Likely, "guest address + size is above 2^64"),
        Some(Some(_)) => because(Unlikely, "guest address + size does not wrap"),
        None => UNSEEN,
    }
}

pub(super) fn overlap(context: &Context) -> Verdict {
    let Some(asked) = context.asked else { return UNSEEN };
    match context.regions.iter().find(|region| region.range().overlaps(asked.range())) {
        Some(region) => because(
            Likely,
            format!("guest addresses overlap with the region at {:#x}", region.guest_phys_addr),
        ),
        None if context.regions.is_empty() => UNSEEN,
        None => because(Unlikely, "the known regions do not overlap with it"),
    }
}

pub(super) fn same_label(context: &Context) -> Verdict {
    let Some(asked) = context.asked else { return UNSEEN };
    match context.regions.iter().find(|region| region.label == asked.label) {
        Some(region) => because(
            Likely,
            format!("label {} is used by the region at {:#x}", asked.label, region.guest_phys_addr),
        ),
        None if context.regions.is_empty() => UNSEEN,
        None => because(Unlikely, format!("no known region has label {}", asked.label)),
    }
}

pub(super) fn dtb_outside(context: &Context) -> Verdict {
    let Some(dtb) = context.dtb else { return UNSEEN };
    if context.regions.is_empty() {
        return UNSEEN;
    }
    if context.regions.iter().any(|region| region.range().contains(dtb)) {
        because(Unlikely, "the devicetree lies inside a region")
    } else {
        because(
            Likely,
            format!("no region holds the devicetree's {:#x}+{:#x}", dtb.guest_phys_addr, dtb.size),
        )
    }
}

pub(super) fn dtb_below_page(context: &Context) -> Verdict {
    match context.dtb {
        Some(dtb) if dtb.size < 4096 => because(Likely, format!("the devicetree's size is {}", dtb.size)),
        Some(dtb) => because(Unlikely, format!("the devicetree's size is {}", dtb.size)),
        None => UNSEEN,
    }
}

pub(super) fn firmware_outside(context: &Context) -> Verdict {
    match context.firmware {
        None => because(Unlikely, "no firmware was declared, as far as is known here"),
        Some(_) if context.regions.is_empty() => UNSEEN,
        Some(firmware) if context.regions.iter().any(|region| region.range().contains(firmware)) => {
            because(Unlikely, "the firmware lies inside a region")
        }
        Some(_) => because(Likely, "no region holds the whole firmware"),
    }
}

/// The tree must be in the guest's memory with room for what the Resource Manager adds.
pub(super) fn tree(context: &Context) -> Verdict {
    match context.dtb {
        None => UNSEEN,
        Some(dtb) if dtb.size < 4096 => because(Likely, "the devicetree has no room to grow"),
        Some(_) => UNSEEN,
    }
}

pub(super) fn shared_dtb(context: &Context) -> Verdict {
    let Some(dtb) = context.dtb else { return UNSEEN };
    match context.regions.iter().find(|region| region.range().contains(dtb)) {
        Some(region) if region.lent => because(Unlikely, "the devicetree's region is lent"),
        Some(_) => because(Likely, "the devicetree's region is shared"),
        None => UNSEEN,
    }
}

pub(super) fn shared_and_lent(context: &Context) -> Verdict {
    let shared = context.regions.iter().filter(|region| !region.lent).count();
    let lent = context.regions.len().saturating_sub(shared);
    match (shared, lent) {
        (0, 0) => UNSEEN,
        (_, 0) | (0, _) => because(Unlikely, "the regions are all lent, or all shared"),
        _ => because(Likely, format!("{shared} regions are shared, {lent} are lent")),
    }
}

pub(super) fn many_parcels(context: &Context) -> Verdict {
    match context.regions.len() {
        0 => UNSEEN,
        count @ 1..=16 => because(Unlikely, format!("this VM has {count} regions")),
        count => because(Likely, format!("this VM has {count} regions, each of which is a parcel")),
    }
}

pub(super) fn boot_register(context: &Context) -> Verdict {
    match context.boot_context {
        Some(true) => because(Likely, "a boot register was set"),
        Some(false) => because(Unlikely, "no boot register was set"),
        None => UNSEEN,
    }
}

pub(super) fn not_started(context: &Context) -> Verdict {
    match context.started {
        Some(false) => because(Likely, "the VM has not started"),
        Some(true) => because(Unlikely, "the VM has started"),
        None => UNSEEN,
    }
}

pub(super) fn started(context: &Context) -> Verdict {
    match not_started(context) {
        (Likely, seen) => (Unlikely, seen),
        (Unlikely, seen) => (Likely, seen),
        unseen => unseen,
    }
}

pub(super) fn files(context: &Context) -> Verdict {
    match (context.host.open_files, context.host.open_files_limit) {
        (Some(open), Some(limit)) if limit.allows(open.saturating_add(8)) => {
            because(Unlikely, format!("{open} files are open, the limit is {limit}"))
        }
        (Some(open), Some(limit)) => because(Likely, format!("{open} files are open, the limit is {limit}")),
        _ => UNSEEN,
    }
}

pub(super) fn selinux(context: &Context) -> Verdict {
    match context.host.selinux_enforcing {
        Some(true) if context.host.uid == Some(0) => {
            because(Likely, "SELinux is enforcing, and this is root")
        }
        Some(true) => because(Possible, "SELinux is enforcing"),
        Some(false) => because(Unlikely, "SELinux is permissive"),
        None => because(Unlikely, "no SELinux is visible"),
    }
}

pub(super) fn node_mode(context: &Context) -> Verdict {
    match context.host.uid {
        Some(0) => because(Unlikely, "this is root"),
        Some(uid) => {
            because(Likely, format!("the user id is {uid}, and phones ship the node for root alone"))
        }
        None => UNSEEN,
    }
}

pub(super) fn not_arm64(context: &Context) -> Verdict {
    let _ = context;
    if cfg!(target_arch = "aarch64") {
        because(Unlikely, "this is arm64")
    } else {
        because(Likely, format!("this program was built for {}", std::env::consts::ARCH))
    }
}

pub(super) fn vendor_kernel(context: &Context) -> Verdict {
    if context.flavour == Some(Flavour::Vendor) {
        return because(Likely, "the device answers unknown ioctls with EINVAL, as vendor kernels do");
    }
    match (context.host.kernel_version(), &context.host.kernel_release) {
        (Some((5, _)), Some(release)) => because(Likely, format!("the kernel is {release}")),
        (Some(_), Some(release)) => because(Unlikely, format!("the kernel is {release}")),
        _ => UNSEEN,
    }
}

pub(super) fn sm8650(context: &Context) -> Verdict {
    match &context.host.soc {
        Some(soc) if soc.to_ascii_uppercase().contains("SM8650") => {
            because(Likely, format!("the SoC is {soc}"))
        }
        Some(soc) if soc.to_ascii_uppercase().starts_with("SM") => {
            because(Unlikely, format!("the SoC is {soc}"))
        }
        _ => UNSEEN,
    }
}

pub(super) fn lacks(context: &Context, feature: Feature) -> Verdict {
    match &context.features {
        Some(features) if features.has(feature) => because(Unlikely, "the host answered that it has it"),
        Some(features) => because(Likely, format!("the host has {features}")),
        None => (Likely, None),
    }
}

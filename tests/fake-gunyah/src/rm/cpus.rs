//! The vCPUs: the `vcpus` node and the cpu nodes it points to.

use super::error::RmError;
use super::fdt::{Fdt, Node};

/// How the Resource Manager schedules the VM's vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// By the hypervisor, each vCPU on a core of its own. What a tree without `affinity` gets.
    #[default]
    Static,
    /// By the hypervisor, with a preferred core.
    Sticky,
    /// By the hypervisor, never migrated.
    Pinned,
    /// By the host, with `VCPU_RUN`. The only one that gives the host vCPUs to run.
    Proxy,
}

/// What the tree says about the vCPUs.
#[derive(Debug)]
pub(super) struct Cpus {
    pub(super) count: u32,
    pub(super) boot: u32,
    pub(super) psci: bool,
    pub(super) affinity: Affinity,
    pub(super) no_timer_wakeups: bool,
}

impl Cpus {
    pub(super) fn read(
        fdt: &Fdt<'_>,
        config: &Node<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, RmError> {
        let vcpus = config
            .child("vcpus")
            .ok_or_else(|| RmError::missing(format!("{} has no node vcpus", config.path())))?;
        let affinity = affinity(&vcpus)?;
        let path = match vcpus.bytes("config") {
            None => "/cpus",
            Some(_) => vcpus
                .text("config")
                .ok_or_else(|| RmError::invalid(format!("{}: config is no path", vcpus.path())))?,
        };
        let cpus = fdt.at_path(path).ok_or_else(|| {
            RmError::missing(format!("{} wants its CPUs from {path}, which is missing", vcpus.path()))
        })?;

        let mut count = 0_u32;
        let mut boot = None;
        let mut idle_states = false;
        for cpu in cpus.children().filter(|node| node.text("device_type") == Some("cpu")) {
            let id = count;
            count = count.saturating_add(1);
            idle_states |= cpu.has("cpu-idle-states");
            if boot.is_none() && cpu.text("status") != Some("disabled") {
                boot = Some(id);
            } else if !matches!(cpu.text("enable-method"), Some("psci" | "qcom,gunyah-hvc")) {
                return Err(RmError::invalid(format!(
                    "{}: a secondary CPU needs the enable-method \"psci\" or \"qcom,gunyah-hvc\"",
                    cpu.path()
                )));
            }
        }
        let boot = boot.ok_or_else(|| {
            RmError::missing(format!(
                "{}: none of its {count} nodes of device_type cpu can boot",
                cpus.path()
            ))
        })?;
        check_affinity_map(&vcpus, affinity, count)?;
        if affinity != Affinity::Proxy {
            warnings.push(format!(
                "{}: without affinity = \"proxy\" the host gets no vCPU that VCPU_RUN could run",
                vcpus.path()
            ));
        }

        let psci = idle_states || fdt.all().any(|node| is_psci(&node));
        if !psci {
            warnings.push(
                "no PSCI: there is neither a node compatible with \"arm,psci-0.2\" or \"arm,psci-1.0\" nor a cpu \
                 with cpu-idle-states; the guest cannot end the VM"
                    .to_owned(),
            );
        }
        Ok(Self { count, boot, psci, affinity, no_timer_wakeups: vcpus.has("no-timer-wakeups") })
    }
}

fn is_psci(node: &Node<'_>) -> bool {
    node.base_name() == "psci"
        && node.texts("compatible").any(|name| matches!(name, "arm,psci-0.2" | "arm,psci-1.0"))
}

fn affinity(vcpus: &Node<'_>) -> Result<Affinity, RmError> {
    if !vcpus.has("affinity") {
        return Ok(Affinity::default());
    }
    match vcpus.text("affinity") {
        Some("static") => Ok(Affinity::Static),
        Some("sticky") => Ok(Affinity::Sticky),
        Some("pinned") => Ok(Affinity::Pinned),
        Some("proxy") => Ok(Affinity::Proxy),
        other => Err(RmError::invalid(format!(
            "{}: affinity is {}, not static, sticky, pinned or proxy",
            vcpus.path(),
            other.map_or("no text".to_owned(), |text| format!("{text:?}"))
        ))),
    }
}

/// The map of cores belongs to the vCPUs that the hypervisor schedules, and has an entry for each.
fn check_affinity_map(vcpus: &Node<'_>, affinity: Affinity, count: u32) -> Result<(), RmError> {
    let Some(map) = vcpus.bytes("affinity-map") else { return Ok(()) };
    let entries = map.len() / 4;
    if affinity != Affinity::Proxy && u32::try_from(entries) != Ok(count) {
        return Err(RmError::invalid(format!(
            "{}: affinity-map has {entries} entries for {count} vCPUs",
            vcpus.path()
        )));
    }
    Ok(())
}

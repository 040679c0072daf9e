//! What the kernel's release says about the ABI to expect.

use super::super::Examination;
use super::super::finding::{Finding, Level};

/// The first two numbers of the release, what ships with it, and what to know about it.
const KERNELS: [(u32, u32, &str, &str); 6] = [
    (5, 10, "vendor", "msm-5.10 (Snapdragon 8 Gen 1): the vendors' older ABI, named firmware only"),
    (5, 15, "vendor", "msm-5.15 (Snapdragon 8 Gen 2): the vendors' older ABI, named firmware only"),
    (6, 1, "android14", "android14-6.1 (Snapdragon 8 Gen 3): all guest memory is pinned when it is declared"),
    (6, 6, "android15", "android15-6.6 (Snapdragon 8 Elite): pages on touch, protected VMs only"),
    (6, 12, "android16", "android16-6.12: as android15, and unprotected VMs"),
    (6, 18, "android17", "android17-6.18: has Gunyah; its ABI has not been read"),
];

pub(super) fn release(examination: &Examination) -> Finding {
    let machine = &examination.machine;
    let host = &examination.host;
    let architecture = if examination.root.is_live() {
        std::env::consts::ARCH
    } else if machine.arm64 {
        "aarch64"
    } else {
        "unknown"
    };
    let release = if machine.release.is_empty() { "unknown release" } else { &machine.release };
    let known = host
        .kernel_version()
        .and_then(|version| KERNELS.iter().find(|(major, minor, ..)| (*major, *minor) == version));
    let (expected, text) = match known {
        Some((_, _, name, text)) if machine.android => (*name, *text),
        _ if machine.android => ("unknown", "an Android kernel that is not known here"),
        _ => (
            "none",
            "no Android kernel. The host driver is not in mainline Linux: only kernels with a port of it have one",
        ),
    };
    let mut finding = Finding::new("kernel", Level::Note, format!("{release}, {architecture}"))
        .detail(text)
        .fact("release", release)
        .fact("architecture", architecture)
        .fact("expected", expected);
    if let Some(soc) = &host.soc {
        finding = finding.detail(format!("SoC {soc}")).fact("soc", soc.as_str());
        if expected == "android14" && soc.to_ascii_uppercase().contains("SM8650") {
            finding = finding
                .detail(
                    "SM8650 kernels take VM ids above 0x3f for the host's own: the start then fails with ENODEV until a \
                     reboot",
                )
                .detail("more than 2 GiB in one region needs 4 MiB of contiguous kernel memory: give it in several");
        }
    }
    if !machine.boards.is_empty() {
        finding = finding.fact("boards", machine.boards.clone());
    }
    finding
}

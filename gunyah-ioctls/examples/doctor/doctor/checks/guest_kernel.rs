//! What a guest's kernel was built with.

use std::fs;
use std::io::Read;

use flate2::read::GzDecoder;

use super::super::Examination;
use super::super::finding::{Finding, Level};

/// The mark before a configuration that is embedded in a kernel.
const MARK: &[u8] = b"IKCFG_ST";
/// No configuration is larger; a file that claims to be is none.
const LARGEST: u64 = 16 << 20;

/// An option, whether a protected guest cannot do without it, and what for.
const OPTIONS: [(&str, bool, &str); 4] = [
    (
        "CONFIG_DMA_RESTRICTED_POOL",
        true,
        "without it devices are handed addresses of lent memory, which the host must not touch",
    ),
    ("CONFIG_VIRTIO", true, "no virtio device works"),
    ("CONFIG_VIRTIO_MMIO", false, "virtio devices on MMIO are not found"),
    ("CONFIG_VIRTIO_PCI", false, "virtio devices on PCI are not found"),
];

/// The drivers of the two UARTs that VMMs have. One is enough.
const CONSOLES: [&str; 2] = ["CONFIG_SERIAL_8250_CONSOLE", "CONFIG_SERIAL_AMBA_PL011_CONSOLE"];

pub(super) fn options(examination: &Examination) -> Finding {
    let Some(path) = &examination.options.guest_kernel else {
        return Finding::new("guest-kernel", Level::Skipped, "needs --guest-kernel");
    };
    let config = match fs::read(path) {
        Ok(bytes) => config(&bytes, true),
        Err(error) => {
            return Finding::new("guest-kernel", Level::Unknown, format!("{}: {error}", path.display()));
        }
    };
    let Some(config) = config else {
        return Finding::new("guest-kernel", Level::Unknown, "the file holds no kernel configuration")
            .advise("give the guest's config file instead, such as /boot/config-* of its distribution");
    };
    let has = |option: &str| {
        config.lines().any(|line| line == format!("{option}=y") || line == format!("{option}=m"))
    };
    const NO_CONSOLE: (&str, bool, &str) =
        (CONSOLES[0], false, "no console on a 16550 UART, nor on a PL011 (CONFIG_SERIAL_AMBA_PL011_CONSOLE)");
    let mut missing: Vec<_> = OPTIONS.iter().filter(|(option, ..)| !has(option)).copied().collect();
    if !CONSOLES.into_iter().any(has) {
        missing.push(NO_CONSOLE);
    }
    let transport = has("CONFIG_VIRTIO_MMIO") || has("CONFIG_VIRTIO_PCI");
    let serious = missing.iter().any(|(_, needed, _)| *needed) || !transport;
    let summary = if missing.is_empty() {
        "has what a guest needs".to_owned()
    } else {
        format!("lacks {}", missing.iter().map(|(option, ..)| *option).collect::<Vec<_>>().join(", "))
    };
    let level = match (missing.is_empty(), serious) {
        (true, _) => Level::Good,
        (false, false) => Level::Note,
        (false, true) => Level::Warning,
    };
    let mut finding = Finding::new("guest-kernel", level, summary);
    for (option, _, effect) in &missing {
        finding = finding.detail(format!("{option}: {effect}"));
    }
    if has("CONFIG_ARM64_SME") {
        finding = finding
            .detail("CONFIG_ARM64_SME is set: guests were seen not to come up where the hypervisor does not offer it")
            .advise("if the guest stops early without a word, add arm64.nosme to its command line");
    }
    finding.fact("missing", missing.iter().map(|(option, ..)| *option).collect::<Vec<_>>())
}

/// The configuration in a file: embedded in a kernel, gzipped, or plain.
///
/// `zipped` says whether an archive may still be opened: one can hold itself.
fn config(bytes: &[u8], zipped: bool) -> Option<String> {
    let plain = |bytes: &[u8]| {
        // A kernel is no text.
        let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?;
        text.lines().any(|line| line.starts_with("CONFIG_")).then(|| text.to_owned())
    };
    if let Some(at) = bytes.windows(MARK.len()).position(|window| window == MARK) {
        return unzip(bytes.get(at.checked_add(MARK.len())?..)?).as_deref().and_then(plain);
    }
    if zipped && bytes.starts_with(&[0x1f, 0x8b]) {
        return config(&unzip(bytes)?, false);
    }
    plain(bytes.get(..bytes.len().min(LARGEST as usize))?)
}

fn unzip(bytes: &[u8]) -> Option<Vec<u8>> {
    // A kernel of this size would fill a phone.
    const LARGEST_KERNEL: u64 = 256 << 20;
    let mut inside = Vec::new();
    match GzDecoder::new(bytes).take(LARGEST_KERNEL).read_to_end(&mut inside) {
        // Bytes behind the archive are the rest of the kernel.
        Ok(_) => Some(inside),
        Err(_) if !inside.is_empty() => Some(inside),
        Err(_) => None,
    }
}

//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Which hypervisor to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// Gunyah, or the fake where this host has no /dev/gunyah
    #[default]
    Auto,
    /// Gunyah, by way of its device
    Gunyah,
    /// KVM, on arm64 hosts
    Kvm,
    /// A fake Gunyah kernel inside this process
    Fake,
}

/// A small VMM: boots an arm64 guest through the Gunyah ABI.
///
/// Without --kernel it runs a built-in guest, which greets, checks reads and writes of every width with a test device,
/// starts a second CPU if there is one, and powers off.
///
/// Without /dev/gunyah it uses a fake Gunyah kernel inside this process, which interprets the guest's instructions:
/// enough for small bare-metal guests, on any host.
#[derive(Clone, Debug, Parser)]
#[command(name = "microvm", version, after_help = AFTER_HELP)]
pub(crate) struct Options {
    /// The guest's kernel: an arm64 Image, or a flat image that is entered at its first byte
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,

    /// An initial RAM disk for the kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,

    /// The kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) cmdline: String,

    /// The guest's memory, in MiB or with a suffix K, M or G [default: 256M, or 2M for the built-in guest]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<u64>,

    /// How many CPUs the guest has
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cpus: u32,

    /// Write the guest's devicetree to FILE before the start
    #[arg(long, value_name = "FILE")]
    pub(crate) dtb: Option<PathBuf>,

    /// The hypervisor
    #[arg(long, value_name = "NAME", value_enum, default_value_t)]
    pub(crate) hypervisor: Choice,

    /// The Gunyah device; never the fake [default: /dev/gunyah, or the fake where that does not exist]
    #[arg(long, value_name = "PATH")]
    pub(crate) device: Option<PathBuf>,

    /// Lend the guest its memory, so that the host cannot reach it. The default where the host can
    #[arg(long)]
    pub(crate) protected: bool,

    /// Share the guest's memory with the host. Many hosts that can lend refuse such a VM at the start
    #[arg(long, conflicts_with = "protected")]
    pub(crate) plain: bool,
}

const AFTER_HELP: &str = "\
Console:
  The guest's UART is standard input and output. On a terminal, Ctrl-A x quits and Ctrl-A Ctrl-A sends Ctrl-A.

Exit codes:
    0  the guest powered off (the built-in guest: and the test device found nothing wrong)
    1  microvm cannot go on; one line on standard error says why
    2  the command line is wrong
   32  the guest reset itself; run microvm again for another boot
   33  the guest crashed
   35  Ctrl-A x
  128+n  signal n

Examples:
  microvm                                  run the built-in guest
  microvm --cpus 2                         the same with two CPUs
  microvm --kernel Image --initrd rootfs.cpio --cmdline 'console=ttyS0 panic=-1' --memory 512M
  microvm --dtb guest.dtb                  look at the tree with: dtc guest.dtb";

/// A size in bytes. A plain number is in MiB.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let unit: u64 = match text.strip_prefix(digits).unwrap_or_default().to_ascii_uppercase().as_str() {
        "K" => 1 << 10,
        "" | "M" => 1 << 20,
        "G" => 1 << 30,
        other => return Err(format!("unknown suffix {other:?}, use K, M or G")),
    };
    let number: u64 =
        digits.parse().map_err(|_| "not a size: use a number with K, M or G behind it".to_owned())?;
    match number.checked_mul(unit) {
        Some(0) => Err("a guest needs memory".to_owned()),
        Some(size) => Ok(size),
        None => Err("too large".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("64"), Ok(64 << 20));
        assert_eq!(size("1g"), Ok(1 << 30));
        assert_eq!(size("4100K"), Ok(4100 << 10));
        for wrong in ["", "M", "64MB", "-1", "1.5G", "0", "99999999999999G", "0x10"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}

//! The command line.

use std::path::PathBuf;

use clap::Parser;

const EXAMPLES: &str = "\
Exit codes:
  0   this host can run Gunyah VMs: one was created, and nothing speaks against it (needs --probe)
  1   it cannot, and the report says why
  2   it can with warnings, or it could not be told
  64  the command line is wrong

Examples:
  doctor                          look, open the device, ask what changes nothing
  doctor --probe --memory 2048    create an empty VM, list its features; a guest of 2 GiB is planned
  doctor --probe --json           the same for programs
  doctor --guest-kernel Image     also look into a guest's kernel
  doctor --dtb guest.dtb          also check a guest's devicetree, any VMM's
  doctor --root ./bugreport       look at /proc, /sys and /dev files copied from another host

What it prints: kernel release, SoC and board names, modes and owners of device nodes, limits, amounts of memory, names
and ids of processes that use Gunyah, and known messages of Gunyah from the kernel log. No serial numbers, host or user
names, addresses or command lines. It writes no file and changes no setting.

A guest's kernel or devicetree can make this exit with 2: it says nothing about the host. The rules of the devicetree, and what a VMM
does beside it, are for vmm-adapter's example `lint`.";

/// Says whether this host can run VMs under Gunyah, and if not, why and what to do.
#[derive(Debug, Parser)]
#[command(name = "doctor", version, after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Create an empty VM, ask it for its features, add and remove a vCPU, an irqfd and an ioeventfd. It is never started
    #[arg(long)]
    pub(crate) probe: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// The device node [default: /dev/gunyah, then /dev/qgunyah]
    #[arg(long, value_name = "PATH")]
    pub(crate) device: Option<PathBuf>,

    /// The memory of the guest that is planned, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub(crate) memory: u64,

    /// How much memory to populate, to see whether it comes in huge pages and can stay pinned, in MiB; 0 for none
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub(crate) huge_pages: u64,

    /// A guest kernel to look into: an Image with an embedded configuration, or a configuration, plain or gzipped
    #[arg(long, value_name = "FILE")]
    pub(crate) guest_kernel: Option<PathBuf>,

    /// A guest's devicetree to check, as a VMM writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) dtb: Option<PathBuf>,

    /// Read /proc, /sys and /dev below this directory; what only the running kernel can tell is left out
    #[arg(long, value_name = "PATH")]
    pub(crate) root: Option<PathBuf>,
}

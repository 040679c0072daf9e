//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Which hypervisor to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// Gunyah, or the fake where this host has no /dev/gunyah; in builds without the gunyah feature: KVM
    #[default]
    Auto,
    /// Gunyah, by way of its device
    Gunyah,
    /// KVM, on arm64 hosts, in builds with the kvm feature
    Kvm,
    /// A fake Gunyah kernel inside this process, in builds with the gunyah feature
    Fake,
}

use crate::config::Config;
use crate::error::Result;

/// A small VMM: boots an arm64 guest through the Gunyah ABI.
///
/// Without --kernel it runs a built-in guest, which greets, checks reads and writes of every width with a test device,
/// starts a second CPU if there is one, and powers off.
///
/// Without /dev/gunyah it uses a fake Gunyah kernel inside this process. On arm64 hosts whose /dev/kvm can be used, and has a
/// GICv3, the fake runs the guest's code on KVM, Linux too; elsewhere it interprets it, which is enough for small bare-metal
/// guests. The first line on standard error says which.
#[derive(Clone, Debug, Parser)]
#[command(name = "microvm", version, after_help = AFTER_HELP)]
pub(crate) struct Options {
    /// What the VM is made of. [`Options::resolve`] makes it what options and file come to.
    #[command(flatten)]
    pub(crate) vm: Config,

    /// Share the guest's memory with the host. Many hosts that can lend refuse such a VM at the start. In a file:
    /// protected = false
    #[arg(long, conflicts_with = "protected")]
    pub(crate) plain: bool,

    /// Let the guest's notifications be exits, which are handed on. To measure what ioeventfds save
    #[arg(long)]
    pub(crate) no_ioeventfd: bool,

    /// A TOML file with these options, under these names. Options of the command line go before it; its paths are relative
    /// to the current directory
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Print what file and options come to, as a file would give it, and do nothing else
    #[arg(long)]
    pub(crate) print_config: bool,

    /// Print what devices and vCPUs did, on standard error at the end
    #[arg(long)]
    pub(crate) stats: bool,

    /// Write the guest's devicetree to FILE before the start
    #[arg(long, value_name = "FILE")]
    pub(crate) dtb: Option<PathBuf>,

    /// The hypervisor
    #[arg(long, value_name = "NAME", value_enum, default_value_t)]
    pub(crate) hypervisor: Choice,

    /// The Gunyah device; never the fake [default: /dev/gunyah, or the fake where that does not exist]
    #[arg(long, value_name = "PATH")]
    pub(crate) device: Option<PathBuf>,
}

impl Options {
    /// Reads the file and settles what the VM is made of.
    pub(crate) fn resolve(mut self) -> Result<Self> {
        if self.plain {
            self.vm.protected = Some(false);
        }
        if self.no_ioeventfd {
            self.vm.ioeventfd = Some(false);
        }
        if let Some(path) = &self.config {
            self.vm = self.vm.over(Config::from_file(path)?);
        }
        self.vm.check()?;
        Ok(self)
    }
}

const AFTER_HELP: &str = "\
Console:
  The guest's UART (ttyS0) is standard input and output. On a terminal, Ctrl-A x quits and Ctrl-A Ctrl-A sends Ctrl-A.
  With --console virtio the input goes to a virtio console (hvc0), and both are shown; unless the command line names a
  console, console=hvc0 is added to it.

Network:
  tap=NAME     a tap interface of the host; one that does not exist is made, which needs CAP_NET_ADMIN. A bridge or an address
               for it is yours to set up
  user         the host's network by way of passt (Debian: apt-get install passt), without privileges; the guest finds its
               address by DHCP
  socket=PATH  frames over a Unix socket, each behind its length in 4 bytes, as passt --socket and QEMU's stream netdev
               have it

Vsock:
  A program of the host reaches the guest's port 52 by connecting to PATH and sending \"CONNECT 52\\n\"; the answer is
  \"OK NUMBER\\n\" when somebody listens there, else the end of the connection. When a program of the guest connects to
  port 53 of the host (cid 2), microvm connects to the Unix socket PATH_53.

Protected guests:
  All memory is lent but for a pool (--dma-pool) that the devices use. The guest's kernel needs CONFIG_DMA_RESTRICTED_POOL=y
  and says so when it boots: \"created restricted DMA pool\".

Exit codes:
    0  the guest powered off (the built-in guest: and the test device found nothing wrong)
    1  microvm cannot go on: a kernel, disk, socket, network or hypervisor that it cannot open or use, a size or number that
       cannot be, or a failure while the guest ran
    2  the command line or the configuration file makes no sense, or the latter cannot be read
   32  the guest reset itself; run microvm again for another boot
   33  the guest crashed
   34  the host refuses the VM: it lacks what was asked for, has no memory for it, or does not start it
   35  Ctrl-A x
  128+n  signal n (SIGTERM, SIGINT, SIGHUP and SIGQUIT end the guest in order)
  With 1, 2 and 34 the last line on standard error says why.

Examples:
  microvm                                  run the built-in guest
  microvm --cpus 2                         the same with two CPUs
  microvm --kernel Image --initrd rootfs.cpio --cmdline 'console=ttyS0 panic=-1' --memory 512M
  microvm --kernel Image --disk root.img --disk data.img,ro,serial=data --cmdline 'console=ttyS0 root=/dev/vda'
  microvm --kernel Image --initrd rootfs.cpio --net user --rng --console virtio
  microvm --kernel Image --initrd rootfs.cpio --net tap=tap0,mac=52:54:00:12:34:56
  microvm --kernel Image --initrd rootfs.cpio --vsock cid=3,uds=/tmp/vm.vsock
  microvm --kernel Image --initrd rootfs.cpio --protected --dma-pool 32M --disk root.img
  microvm --kernel Image --disk root.img --memory 4G --prepare
  microvm --config vm.toml --memory 1G     a file, and one thing different
  microvm --config vm.toml --print-config  what that comes to
  microvm --kernel Image --disk root.img --stats
  microvm --kernel Image --disk root.img --stats --no-ioeventfd
  microvm --dtb guest.dtb                  look at the tree with: dtc guest.dtb";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::spec::Size;

    fn parse(arguments: &[&str]) -> Options {
        Options::try_parse_from([&["microvm"], arguments].concat()).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn options_become_a_configuration() {
        let config = parse(&[
            "--memory",
            "64M",
            "--disk",
            "a,ro",
            "--disk",
            "b",
            "--rng",
            "--no-ioeventfd",
            "--plain",
        ]);
        let config = config.resolve().unwrap().vm;
        assert_eq!((config.memory, config.disk.len(), config.rng), (Some(Size(64 << 20)), 2, Some(true)));
        assert_eq!((config.ioeventfd, config.protected), (Some(false), Some(false)));
        assert_eq!(parse(&["--protected"]).resolve().unwrap().vm.protected, Some(true));
        assert_eq!(parse(&[]).resolve().unwrap().vm, Config::default());
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert!(Options::try_parse_from(["microvm", "--plain", "--protected"]).is_err());
        let why = |arguments: &[&str]| parse(arguments).resolve().unwrap_err().to_string();
        assert!(why(&["--initrd", "i"]).contains("--kernel"));
        assert!(why(&["--plain", "--dma-pool", "4M"]).contains("no DMA pool"));
    }

    #[test]
    fn every_option_of_a_file_is_one_of_the_command_line() {
        let text = Options::command().render_long_help().to_string();
        let full = r#"kernel=""
            initrd=""
            cmdline=""
            vsock={cid=3,uds="v"}
            protected=true
            disk=[{path="a"}]
            net=[{user=true}]"#;
        let all: Config = toml::from_str(full).unwrap();
        let printed: toml::Table = toml::from_str(&all.to_text().unwrap()).unwrap();
        for name in printed.keys().filter(|name| *name != "ioeventfd") {
            assert!(text.contains(&format!("--{name} ")) || text.contains(&format!("--{name}\n")), "{name}");
        }
        assert_eq!(printed.len(), 14);
    }
}

//! What a VM is made of: by a file, by options, or by both.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::{Console, Disk, Net, Size, Vsock};

/// The options that a file can give too, under the same names. An option of the command line goes before the file's; a list
/// there replaces the file's.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    /// The guest's kernel: an arm64 Image, or a flat image that is entered at its first byte
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kernel: Option<PathBuf>,

    /// An initial RAM disk for the kernel
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) initrd: Option<PathBuf>,

    /// The kernel's command line
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cmdline: Option<String>,

    /// The guest's memory, in MiB or with a suffix K, M or G [default: 256M, or 2M for the built-in guest]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Size>,

    /// Have the host provide all of the guest's memory before the start, in large pages if it can. Slower to start; large
    /// guests on phones need it, or run out of page tables under load
    #[arg(long, num_args = 0, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prepare: Option<bool>,

    /// How many CPUs the guest has [default: 1]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpus: Option<u32>,

    /// Lend the guest its memory, so that the host cannot reach it, but for a pool that devices use. The default where the
    /// host can lend. In a file: protected = true
    #[arg(long, num_args = 0, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protected: Option<bool>,

    /// The pool of shared memory for the devices of a protected guest, beside its memory [default: 16M]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dma_pool: Option<Size>,

    /// Which console is standard input and output: the UART, ttyS0, or a virtio console, hvc0 [default: serial]
    #[arg(long, value_name = "KIND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) console: Option<Console>,

    /// Give the guest a virtio source of random numbers
    #[arg(long, num_args = 0, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rng: Option<bool>,

    /// Whether the guest's notifications reach devices by ioeventfds; without, each is an exit. In a file: ioeventfd = false
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ioeventfd: Option<bool>,

    /// Sockets between host and guest, by way of Unix sockets at PATH
    #[arg(long, value_name = "cid=N,uds=PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vsock: Option<Vsock>,

    /// A disk: a raw image, or a block device of the host. Can be given again
    #[arg(long, value_name = "FILE[,ro][,serial=TEXT]")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) disk: Vec<Disk>,

    /// A network card on a tap interface, on the host's network by way of passt, or on a socket. Can be given again
    #[arg(long, value_name = "tap=NAME|user|socket=PATH[,mac=ADDRESS]")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) net: Vec<Net>,
}

impl Config {
    pub(crate) fn from_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|error| Error::new(format!("cannot read {}: {error}", path.display())))?;
        Self::from_text(&text).map_err(|error| Error::new(format!("{}: {error}", path.display())))
    }

    fn from_text(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            // Its own text spreads over lines and shows the place by a drawing.
            let line = error
                .span()
                .and_then(|span| text.get(..span.start))
                .map(|before| before.matches('\n').count() + 1);
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            Error::new(format!("{place}{}", error.message().replace('\n', " ")))
        })
    }

    /// These options, and those of `file` where there are none.
    pub(crate) fn over(self, file: Self) -> Self {
        Self {
            kernel: self.kernel.or(file.kernel),
            initrd: self.initrd.or(file.initrd),
            cmdline: self.cmdline.or(file.cmdline),
            memory: self.memory.or(file.memory),
            prepare: self.prepare.or(file.prepare),
            cpus: self.cpus.or(file.cpus),
            protected: self.protected.or(file.protected),
            dma_pool: self.dma_pool.or(file.dma_pool),
            console: self.console.or(file.console),
            rng: self.rng.or(file.rng),
            ioeventfd: self.ioeventfd.or(file.ioeventfd),
            vsock: self.vsock.or(file.vsock),
            disk: if self.disk.is_empty() { file.disk } else { self.disk },
            net: if self.net.is_empty() { file.net } else { self.net },
        }
    }

    /// As a file would give it, with the defaults written out.
    pub(crate) fn to_text(&self) -> Result<String> {
        let full = Self {
            memory: Some(Size(self.memory_size())),
            prepare: Some(self.prepare.unwrap_or_default()),
            cpus: Some(self.vcpus()),
            console: Some(self.console.unwrap_or_default()),
            rng: Some(self.rng.unwrap_or_default()),
            ioeventfd: Some(self.ioeventfd.unwrap_or(true)),
            dma_pool: (self.protected != Some(false)).then(|| Size(self.dma_pool_size())),
            ..self.clone()
        };
        toml::to_string(&full).map_err(|error| Error::new(format!("cannot write the configuration: {error}")))
    }

    /// What no single option shows to be wrong.
    pub(crate) fn check(&self) -> Result<()> {
        if self.initrd.is_some() && self.kernel.is_none() {
            return Err(Error::new("an initrd needs a kernel (--kernel)"));
        }
        match &self.vsock {
            Some(vsock) if !(3..u32::MAX).contains(&vsock.cid) => {
                return Err(Error::new(format!("no guest can have the cid {}: use 3 or more", vsock.cid)));
            }
            _ => {}
        }
        if self.dma_pool.is_some() && self.protected == Some(false) {
            return Err(Error::new("a plain VM has no DMA pool: devices reach all of its memory"));
        }
        Ok(())
    }

    pub(crate) fn memory_size(&self) -> u64 {
        self.memory.map_or(if self.kernel.is_some() { 256 << 20 } else { 2 << 20 }, |size| size.0)
    }

    pub(crate) fn dma_pool_size(&self) -> u64 {
        self.dma_pool.map_or(16 << 20, |size| size.0)
    }

    pub(crate) fn vcpus(&self) -> u32 {
        self.cpus.unwrap_or(1)
    }

    /// The kernel's command line. A virtio console is named in it, unless some console is.
    pub(crate) fn kernel_cmdline(&self) -> String {
        let given = self.cmdline.clone().unwrap_or_default();
        let named = given.split_whitespace().any(|word| word.starts_with("console="));
        if self.console.unwrap_or_default() != Console::Virtio || named {
            return given;
        }
        if given.is_empty() { "console=hvc0".to_owned() } else { format!("{given} console=hvc0") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        kernel = "Image"
        memory = "512M"
        cpus = 2
        protected = true
        console = "virtio"
        ioeventfd = false
        [vsock]
        cid = 3
        uds = "/run/v"
        [[disk]]
        path = "a.img"
        read-only = true
        [[disk]]
        path = "b.img"
        [[net]]
        user = true
        [[net]]
        tap = "tap0"
        mac = "52:54:00:12:34:56"
    "#;

    #[test]
    fn a_file_says_it_all_and_prints_the_same() {
        let config = Config::from_text(FILE).unwrap();
        assert_eq!((config.memory, config.cpus), (Some(Size(512 << 20)), Some(2)));
        assert_eq!((config.disk.len(), config.net.len(), config.disk[0].read_only), (2, 2, true));
        assert_eq!(config.kernel_cmdline(), "console=hvc0");
        let printed = config.to_text().unwrap();
        let again = Config::from_text(&printed).unwrap();
        assert_eq!((again.disk.clone(), again.net.clone()), (config.disk, config.net));
        assert_eq!((again.vsock.clone(), again.ioeventfd), (config.vsock, Some(false)));
        assert_eq!(again.to_text().unwrap(), printed);
    }

    #[test]
    fn a_number_is_a_size_in_mib() {
        assert_eq!(Config::from_text("memory = 64").unwrap().memory, Some(Size(64 << 20)));
    }

    #[test]
    fn what_is_unknown_is_named_with_what_is_known() {
        let why = |text: &str| Config::from_text(text).unwrap_err().to_string();
        let unknown = why("cpus = 1\nmemroy = 1");
        assert!(
            unknown.contains("line 2") && unknown.contains("memroy") && unknown.contains("`memory`"),
            "{unknown}"
        );
        let disk = why("[[disk]]\npath = \"a\"\nro = true");
        assert!(disk.contains("`ro`") && disk.contains("`read-only`"), "{disk}");
        assert!(why("memory = \"1X\"").contains("unknown suffix"), "{}", why("memory = \"1X\""));
        assert!(why("[[net]]\nmac = \"52:54:00:12:34:56\"").contains("one of: tap, user, socket"));
        assert!(why("cpus =").contains("line 1"));
    }

    #[test]
    fn options_go_before_the_file() {
        let options = Config { cpus: Some(4), disk: vec!["c.img".parse().unwrap()], ..Config::default() };
        let both = options.over(Config::from_text(FILE).unwrap());
        assert_eq!((both.cpus, both.memory), (Some(4), Some(Size(512 << 20))));
        assert_eq!((both.disk.len(), both.net.len()), (1, 2));
    }

    #[test]
    fn a_named_console_is_left_alone() {
        let text = |cmdline: &str, console| {
            Config { cmdline: Some(cmdline.to_owned()), console: Some(console), ..Config::default() }
                .kernel_cmdline()
        };
        assert_eq!(text("quiet", Console::Virtio), "quiet console=hvc0");
        assert_eq!(text("console=ttyS0 quiet", Console::Virtio), "console=ttyS0 quiet");
        assert_eq!(text("quiet", Console::Serial), "quiet");
    }
}

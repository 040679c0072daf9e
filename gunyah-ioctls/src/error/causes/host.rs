//! What the host shows to any process, read from /proc and /sys.

use std::fmt;
use std::fs;
use std::path::Path;

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many bytes, or pieces.
    At(u64),
    /// No limit.
    Unlimited,
}

impl Limit {
    /// Whether `amount` is allowed.
    pub fn allows(self, amount: u64) -> bool {
        match self {
            Self::At(limit) => amount <= limit,
            Self::Unlimited => true,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(limit) => limit.fmt(f),
            Self::Unlimited => f.pad("unlimited"),
        }
    }
}

/// What the host shows to this process. `None` is what could not be read.
#[non_exhaustive]
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The kernel's release, such as `6.6.30-android15-8`.
    pub kernel_release: Option<String>,
    /// The SoC's name, such as `SM8650`.
    pub soc: Option<String>,
    /// The soft limit of locked memory (RLIMIT_MEMLOCK), in bytes.
    pub memlock: Option<Limit>,
    /// The hard limit of locked memory, in bytes.
    pub memlock_hard: Option<Limit>,
    /// How much memory this process has locked, in bytes.
    pub locked: Option<u64>,
    /// Whether this process has CAP_IPC_LOCK, which lifts the limit of locked memory.
    pub ipc_lock: Option<bool>,
    /// The effective user id.
    pub uid: Option<u32>,
    /// The limit of open files.
    pub open_files_limit: Option<Limit>,
    /// How many files this process has open.
    pub open_files: Option<u64>,
    /// The host's memory, in bytes.
    pub memory_total: Option<u64>,
    /// What of it is free, in bytes.
    pub memory_free: Option<u64>,
    /// What of it could be had without swapping, in bytes.
    pub memory_available: Option<u64>,
    /// What is free in the contiguous-memory areas, which cannot hold pinned pages, in bytes.
    pub cma_free: Option<u64>,
    /// The largest contiguous free block, in bytes.
    pub largest_free_block: Option<u64>,
    /// How much memory lies in free blocks of 2 MiB or more, in bytes.
    pub free_in_huge_blocks: Option<u64>,
    /// The share of the last 10 seconds in which something waited for memory, in percent.
    pub memory_pressure: Option<f64>,
    /// Whether SELinux is there, and enforces its policy.
    pub selinux_enforcing: Option<bool>,
}

impl Host {
    /// Reads what the host shows.
    pub fn observe() -> Self {
        Self::observe_under(Path::new("/"), page_size())
    }

    /// As [`Host::observe`], with the files below `root`, of a host with pages of `page_size` bytes.
    ///
    /// For looking at files that were copied from another host.
    pub fn observe_under(root: &Path, page_size: u64) -> Self {
        let read = |path: &str| fs::read_to_string(root.join(path)).ok();
        let mut host = Self {
            kernel_release: read("proc/sys/kernel/osrelease").map(|release| release.trim().to_owned()),
            soc: soc(&read),
            selinux_enforcing: read("sys/fs/selinux/enforce").map(|enforce| enforce.trim() == "1"),
            open_files: fs::read_dir(root.join("proc/self/fd"))
                .ok()
                .and_then(|entries| u64::try_from(entries.count()).ok()),
            memory_pressure: read("proc/pressure/memory").and_then(|text| pressure(&text)),
            ..Self::default()
        };
        if let Some(limits) = read("proc/self/limits") {
            host.read_limits(&limits);
        }
        if let Some(status) = read("proc/self/status") {
            host.read_status(&status);
        }
        if let Some(meminfo) = read("proc/meminfo") {
            host.memory_total = kibibytes(&meminfo, "MemTotal:");
            host.memory_free = kibibytes(&meminfo, "MemFree:");
            host.memory_available = kibibytes(&meminfo, "MemAvailable:");
            host.cma_free = kibibytes(&meminfo, "CmaFree:");
        }
        if let Some(buddyinfo) = read("proc/buddyinfo") {
            host.read_buddyinfo(&buddyinfo, page_size);
        }
        host
    }

    /// The first two numbers of the kernel's release.
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut parts = self.kernel_release.as_deref()?.split(['.', '-', '+']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    fn read_limits(&mut self, limits: &str) {
        let find =
            |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)).map(str::split_whitespace);
        if let Some(mut values) = find("Max locked memory") {
            self.memlock = values.next().and_then(limit);
            self.memlock_hard = values.next().and_then(limit);
        }
        if let Some(mut values) = find("Max open files") {
            self.open_files_limit = values.next().and_then(limit);
        }
    }

    fn read_status(&mut self, status: &str) {
        const CAP_IPC_LOCK: u32 = 14;
        let find = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        self.locked = kibibytes(status, "VmLck:");
        self.uid = find("Uid:").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok());
        self.ipc_lock = find("CapEff:")
            .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
            .map(|set| set >> CAP_IPC_LOCK & 1 == 1);
    }

    fn read_buddyinfo(&mut self, buddyinfo: &str, page_size: u64) {
        const HUGE: u64 = 2 << 20;
        let (mut largest, mut huge): (u64, u64) = (0, 0);
        for line in buddyinfo.lines() {
            let Some((_, counts)) = line.split_once("zone") else { continue };
            let counts = counts.split_whitespace().skip(1).map(|count| count.parse::<u64>().unwrap_or(0));
            for (order, count) in counts.enumerate() {
                let size =
                    u32::try_from(order).ok().and_then(|order| page_size.checked_shl(order)).unwrap_or(0);
                if count > 0 {
                    largest = largest.max(size);
                }
                if size >= HUGE {
                    huge = huge.saturating_add(size.saturating_mul(count));
                }
            }
        }
        self.largest_free_block = Some(largest);
        self.free_in_huge_blocks = Some(huge);
    }
}

fn page_size() -> u64 {
    u64::try_from(crate::sys::page_size()).unwrap_or(4096)
}

fn limit(word: &str) -> Option<Limit> {
    if word == "unlimited" { Some(Limit::Unlimited) } else { word.parse().ok().map(Limit::At) }
}

/// A value of /proc/meminfo or /proc/self/status, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
}

/// Vendors name the SoC in different places.
fn soc(read: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let property = |file: &str| {
        let text = read(file)?;
        let value = text.lines().find_map(|line| line.strip_prefix("ro.soc.model="))?;
        Some(value.trim().to_owned())
    };
    property("vendor/build.prop")
        .or_else(|| property("vendor/default.prop"))
        .or_else(|| read("sys/devices/soc0/machine").map(|name| name.trim().to_owned()))
        .filter(|name| !name.is_empty())
}

//! How the command line and a configuration file describe sizes and devices.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A size in bytes. A plain number is in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Text", into = "String")]
pub(crate) struct Size(pub(crate) u64);

/// A size in a file: a string as on the command line, or a number of MiB.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a size, such as \"512M\"")]
enum Text {
    Number(u64),
    Text(String),
}

impl TryFrom<Text> for Size {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        match text {
            Text::Number(number) => number.to_string().parse(),
            Text::Text(text) => text.parse(),
        }
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
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
            Some(0) => Err("there must be some".to_owned()),
            Some(size) => Ok(Self(size)),
            None => Err("too large".to_owned()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            size if size % (1 << 30) == 0 => write!(f, "{}G", size >> 30),
            size if size % (1 << 20) == 0 => write!(f, "{}M", size >> 20),
            size => write!(f, "{}K", size >> 10),
        }
    }
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Disk {
    /// A raw image.
    pub(crate) path: PathBuf,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) read_only: bool,
    /// What the guest reads as the disk's name. By default disk0, disk1 …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !*value
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, options) = text.split_once(',').unwrap_or((text, ""));
        if path.is_empty() {
            return Err("which file?".to_owned());
        }
        let mut disk = Self { path: path.into(), read_only: false, serial: None };
        for (key, value) in pairs(options) {
            match (key, value) {
                ("ro", None) => disk.read_only = true,
                ("serial", Some(serial)) if serial.len() <= 20 => disk.serial = Some(serial.to_owned()),
                ("serial", Some(_)) => return Err("a disk's serial has 20 bytes at most".to_owned()),
                _ => return Err(unknown(key, value, "ro, serial=TEXT")),
            }
        }
        Ok(disk)
    }
}

/// A network card, and what it is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "NetTable", into = "NetTable")]
pub(crate) struct Net {
    pub(crate) link: Link,
    /// By default one that is made up, locally administered.
    pub(crate) mac: Option<Mac>,
}

/// What a network card is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// A tap interface of the host.
    Tap(String),
    /// The host's network by way of passt, which needs no privileges.
    User,
    /// A Unix socket on which frames go with their length before them, as passt and QEMU's stream sockets have it.
    Socket(PathBuf),
}

/// A network card as a table of the file.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NetTable {
    #[serde(skip_serializing_if = "Option::is_none")]
    tap: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    user: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<Mac>,
}

impl TryFrom<NetTable> for Net {
    type Error = String;

    fn try_from(table: NetTable) -> Result<Self, String> {
        let link = match (table.tap, table.user, table.socket) {
            (Some(name), false, None) => Link::Tap(name),
            (None, true, None) => Link::User,
            (None, false, Some(path)) => Link::Socket(path),
            _ => return Err("a net needs one of: tap, user, socket".to_owned()),
        };
        Ok(Self { link, mac: table.mac })
    }
}

impl From<Net> for NetTable {
    fn from(net: Net) -> Self {
        let mut table = Self { tap: None, user: false, socket: None, mac: net.mac };
        match net.link {
            Link::Tap(name) => table.tap = Some(name),
            Link::User => table.user = true,
            Link::Socket(path) => table.socket = Some(path),
        }
        table
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const KNOWN: &str = "tap=NAME, user or socket=PATH, and mac=ADDRESS";
        let (mut link, mut mac) = (None, None);
        for (key, value) in pairs(text) {
            let one = match (key, value) {
                ("tap", Some(name)) if !name.is_empty() => Link::Tap(name.to_owned()),
                ("user", None) => Link::User,
                ("socket", Some(path)) if !path.is_empty() => Link::Socket(path.into()),
                ("mac", Some(address)) => {
                    mac = Some(address.parse()?);
                    continue;
                }
                _ => return Err(unknown(key, value, KNOWN)),
            };
            if link.replace(one).is_some() {
                return Err("a card is connected to one thing only".to_owned());
            }
        }
        Ok(Self { link: link.ok_or_else(|| format!("use {KNOWN}"))?, mac })
    }
}

/// The address of a network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Vec<u8> = text
            .split(':')
            .map(|part| match part.as_bytes() {
                [a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => u8::from_str_radix(part, 16).ok(),
                _ => None,
            })
            .collect::<Option<_>>()
            .unwrap_or_default();
        let bytes = <[u8; 6]>::try_from(bytes)
            .map_err(|_| format!("{text:?} is no MAC address, such as 52:54:00:12:34:56"))?;
        match bytes {
            [first, ..] if first & 1 != 0 => Err(format!("{text} is a group's address, no card can have it")),
            bytes => Ok(Self(bytes)),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Sockets between host and guest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Vsock {
    /// The guest's address.
    pub(crate) cid: u32,
    /// The Unix socket of the host's side.
    pub(crate) uds: PathBuf,
}

impl FromStr for Vsock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut cid, mut uds) = (None, None);
        for (key, value) in pairs(text) {
            match (key, value) {
                ("cid", Some(number)) => {
                    cid = Some(number.parse().map_err(|_| format!("{number:?} is no context id"))?);
                }
                ("uds", Some(path)) if !path.is_empty() => uds = Some(path.into()),
                _ => return Err(unknown(key, value, "cid=NUMBER and uds=PATH")),
            }
        }
        match (cid, uds) {
            (Some(cid), Some(uds)) => Ok(Self { cid, uds }),
            _ => Err("use cid=NUMBER,uds=PATH".to_owned()),
        }
    }
}

/// Which console is the guest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Console {
    /// The UART, ttyS0.
    #[default]
    Serial,
    /// A virtio console, hvc0. What the guest writes to the UART is shown too.
    Virtio,
}

/// `a,b=c` taken apart.
fn pairs(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value))))
}

fn unknown(key: &str, value: Option<&str>, known: &str) -> String {
    let value = value.map(|value| format!("={value}")).unwrap_or_default();
    format!("unknown {:?}, use {known}", format!("{key}{value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.0);
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("64"), Ok(64 << 20));
        assert_eq!(size("1g"), Ok(1 << 30));
        assert_eq!(size("4100K"), Ok(4100 << 10));
        for wrong in ["", "M", "64MB", "-1", "1.5G", "0", "99999999999999G", "0x10"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        for text in ["64M", "1G", "4100K"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn disks() {
        let disk = |text: &str| text.parse::<Disk>();
        assert_eq!(disk("a.img"), Ok(Disk { path: "a.img".into(), read_only: false, serial: None }));
        let all = Disk { path: "a=b".into(), read_only: true, serial: Some("x1".to_owned()) };
        assert_eq!(disk("a=b,ro,serial=x1"), Ok(all));
        assert!(disk("a,rw").unwrap_err().contains("unknown \"rw\", use ro, serial=TEXT"));
        assert!(disk(",ro").unwrap_err().contains("which file"));
        assert!(disk("a,serial=123456789012345678901").unwrap_err().contains("20 bytes"));
    }

    #[test]
    fn nets() {
        let net = |text: &str| text.parse::<Net>();
        assert_eq!(net("user"), Ok(Net { link: Link::User, mac: None }));
        let mac = Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0xab]));
        assert_eq!(net("tap=t0,mac=52:54:00:12:34:AB"), Ok(Net { link: Link::Tap("t0".to_owned()), mac }));
        assert_eq!(Mac([0x52, 0x54, 0, 0x12, 0x34, 0xab]).to_string(), "52:54:00:12:34:ab");
        for (text, why) in [
            ("", "use tap=NAME"),
            ("mac=52:54:00:12:34:56", "use tap=NAME"),
            ("tap=", "unknown \"tap=\""),
            ("user,tap=t0", "one thing only"),
            ("user,mac=1:2", "no MAC address"),
            ("user,mac=+1:54:00:12:34:56", "no MAC address"),
            ("user,mac=53:54:00:12:34:56", "group's address"),
        ] {
            assert!(net(text).unwrap_err().contains(why), "{text}: {:?}", net(text));
        }
    }

    #[test]
    fn vsocks() {
        assert_eq!("uds=/v,cid=3".parse(), Ok(Vsock { cid: 3, uds: "/v".into() }));
        for wrong in ["", "cid=3", "uds=/v", "cid=x,uds=/v", "cid=3,uds=/v,port=1"] {
            assert!(wrong.parse::<Vsock>().is_err(), "{wrong}");
        }
    }
}

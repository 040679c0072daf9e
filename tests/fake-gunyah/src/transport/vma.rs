//! A process's memory map.

use super::sys::FileId;

/// One mapping of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vma {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
    pub(crate) shared: bool,
    /// Where in its file it begins.
    pub(crate) offset: u64,
    /// Its file; anonymous memory that is not shared has none.
    pub(crate) file: Option<FileId>,
}

impl Vma {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let (from, to) = words.next()?.split_once('-')?;
        let &[read, write, execute, share, ..] = words.next()?.as_bytes() else { return None };
        let offset = hex(words.next()?)?;
        let (major, minor) = words.next()?.split_once(':')?;
        let ino: u64 = words.next()?.parse().ok()?;
        let dev = libc::makedev(u32::try_from(hex(major)?).ok()?, u32::try_from(hex(minor)?).ok()?);
        Some(Self {
            from: hex(from)?,
            to: hex(to)?,
            readable: read == b'r',
            writable: write == b'w',
            executable: execute == b'x',
            shared: share == b's',
            offset,
            file: (ino != 0).then_some(FileId { dev, ino }),
        })
    }

    /// The part of it in a range.
    fn within(mut self, from: u64, to: u64) -> Option<Self> {
        let cut = from.saturating_sub(self.from);
        self.from = self.from.max(from);
        self.to = self.to.min(to);
        self.offset = self.offset.wrapping_add(cut);
        (self.from < self.to).then_some(self)
    }
}

/// The mappings of thread `tid`'s process from `addr` on, cut to `len` bytes. `None` if they leave gaps.
pub(crate) fn covering(tid: u32, addr: u64, len: u64) -> Option<Vec<Vma>> {
    let maps = std::fs::read_to_string(format!("/proc/{tid}/maps")).ok()?;
    let end = addr.checked_add(len)?;
    let found: Vec<Vma> = maps.lines().filter_map(|line| Vma::parse(line)?.within(addr, end)).collect();
    let reached = found.iter().try_fold(addr, |at, vma| (vma.from == at).then_some(vma.to))?;
    (reached == end).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_cut() {
        let line = "ffff8000-ffffa000 rw-s 00001000 00:01 77                         /memfd:ram (deleted)";
        let vma = Vma::parse(line).unwrap();
        assert_eq!(vma.file, Some(FileId { dev: libc::makedev(0, 1), ino: 77 }));
        assert!(vma.readable && vma.writable && !vma.executable && vma.shared);
        let part = vma.within(0xffff_9000, 0xffff_b000).unwrap();
        assert_eq!((part.from, part.to, part.offset), (0xffff_9000, 0xffff_a000, 0x2000));
        assert_eq!(vma.within(0xffff_a000, 0xffff_b000), None);
        assert_eq!(Vma::parse("7f00-8f00 r--p 00000000 00:00 0").unwrap().file, None);
        assert_eq!(Vma::parse("[anon]"), None);
    }

    #[test]
    fn gaps_are_seen() {
        let here = [0u8; 1];
        let page = here.as_ptr() as u64 & !4095;
        assert_eq!(covering(std::process::id(), page, 4096).unwrap().len(), 1);
        assert_eq!(covering(std::process::id(), 0, 4096), None);
        assert_eq!(covering(std::process::id(), u64::MAX - 4095, 8192), None);
    }
}

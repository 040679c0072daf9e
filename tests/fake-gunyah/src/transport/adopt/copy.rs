//! Carrying memory's content over to a file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;

use super::sys::write_at;
use crate::errno::Errno;
use crate::transport::sys as host;

/// How much is copied at a time.
const CHUNK: u64 = 256 << 10;

/// What a page's word in `pagemap` says when it has content of its own: it is in memory, or swapped out.
const PRESENT_OR_SWAPPED: u64 = 3 << 62;

/// Copies what thread `tid`'s process has at `addr` to `file` at `offset`. With `sparse`, pages that were never touched
/// stay holes.
pub(super) fn memory_to_file(
    tid: u32,
    addr: u64,
    len: u64,
    sparse: bool,
    file: BorrowedFd<'_>,
    offset: u64,
) -> Result<(), Errno> {
    let page = host::page_size() as u64;
    let mut touched = vec![true; usize::try_from(len / page).map_err(|_| Errno::ENOMEM)?];
    if sparse {
        read_touched(tid, addr / page, &mut touched)?;
    }
    let mut buf = vec![0u8; CHUNK as usize];
    let mut at = 0;
    while at < len {
        let flags = touched.get((at / page) as usize..).unwrap_or_default();
        let same = flags.first().copied().unwrap_or(false);
        let run = flags.iter().take((CHUNK / page) as usize).take_while(|flag| **flag == same).count();
        let size = run.max(1) * page as usize;
        if same {
            let chunk = buf.get_mut(..size).ok_or(Errno::EFAULT)?;
            host::process_read(tid, addr + at, chunk)?;
            write_at(file, chunk, offset + at)?;
        }
        at += size as u64;
    }
    Ok(())
}

/// Reads which pages have been touched.
fn read_touched(tid: u32, first: u64, touched: &mut [bool]) -> Result<(), Errno> {
    let mut map = File::open(format!("/proc/{tid}/pagemap"))?;
    map.seek(SeekFrom::Start(first * 8))?;
    let mut buf = vec![0u8; 8 * 4096];
    for pages in touched.chunks_mut(4096) {
        let words = buf.get_mut(..8 * pages.len()).ok_or(Errno::EFAULT)?;
        map.read_exact(words)?;
        for (flag, word) in pages.iter_mut().zip(words.chunks_exact(8)) {
            *flag = word.try_into().map_or(0, u64::from_ne_bytes) & PRESENT_OR_SWAPPED != 0;
        }
    }
    Ok(())
}

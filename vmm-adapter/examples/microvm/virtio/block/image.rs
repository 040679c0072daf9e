//! A raw image: a file, or a block device of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::super::chain::Buffers;
use crate::error::{Error, Result};
use crate::sys;

pub(crate) const SECTOR: u64 = 512;

/// An image that this process alone writes.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    sectors: u64,
    read_only: bool,
    serial: String,
}

/// What a read of a zeroed range is made of where the host cannot make one.
const ZEROES: [u8; 4096] = [0; 4096];

impl Image {
    /// Opens an image. The guest reads `serial` from it, as far as its 20 bytes go.
    pub(crate) fn open(path: &Path, read_only: bool, serial: &str) -> Result<Self> {
        let name = path.display();
        let cannot =
            |what: &str, error: io::Error| Error::new(format!("cannot {what} the disk {name}: {error}"));
        let mut file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if !read_only => {
                    format!(" (to use it without writing: --disk {name},ro)")
                }
                _ => String::new(),
            };
            Error::new(format!("cannot open the disk {name}: {error}{hint}"))
        })?;
        let kind = file.metadata().map_err(|error| cannot("look at", error))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::new(format!("the disk {name} is neither a file nor a block device")));
        }
        let size = file.seek(SeekFrom::End(0)).map_err(|error| cannot("find the size of", error))?;
        if size == 0 {
            return Err(Error::new(format!("the disk {name} is empty; make it with: truncate -s 1G {name}")));
        }
        if size % SECTOR != 0 {
            return Err(Error::new(format!(
                "the disk {name} has {size} bytes, which are no whole sectors of {SECTOR}: not a raw image, or a part of \
                 one; to fill it up: truncate -s %{SECTOR} {name}"
            )));
        }
        match sys::lock(&file, !read_only) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::new(format!("the disk {name} is in use by another VM")));
            }
            // Not every file system has locks.
            Ok(()) | Err(_) => {}
        }
        Ok(Self { file, sectors: size / SECTOR, read_only, serial: serial.to_owned() })
    }

    pub(crate) fn sectors(&self) -> u64 {
        self.sectors
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn serial(&self) -> &str {
        &self.serial
    }

    /// The byte offset of `len` bytes from `sector` on, if they are whole sectors of this disk.
    pub(crate) fn range(&self, sector: u64, len: u64) -> Option<u64> {
        let end = sector.checked_add(len / SECTOR)?;
        (len % SECTOR == 0 && end <= self.sectors).then(|| sector * SECTOR)
    }

    pub(crate) fn read(&mut self, offset: u64, buffers: &mut Buffers<'_>) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        buffers.fill_from(&mut self.file)
    }

    pub(crate) fn write(&mut self, offset: u64, buffers: &mut Buffers<'_>) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        buffers.drain_to(&mut self.file)
    }

    pub(crate) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Forgets what is there. A hint: where the host cannot, nothing happens.
    pub(crate) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match sys::punch_hole(&self.file, offset, len) {
            Err(error) if is_unsupported(&error) => Ok(()),
            done => done,
        }
    }

    /// Makes it read as zeros. With `may_discard` the host may free the room.
    pub(crate) fn zero(&mut self, offset: u64, len: u64, may_discard: bool) -> io::Result<()> {
        let done = if may_discard {
            sys::punch_hole(&self.file, offset, len)
        } else {
            sys::zero_range(&self.file, offset, len)
        };
        match done {
            Err(error) if is_unsupported(&error) => {}
            done => return done,
        }
        self.file.seek(SeekFrom::Start(offset))?;
        let mut left = len;
        while left > 0 {
            let now = left.min(ZEROES.len() as u64);
            self.file.write_all(ZEROES.get(..now as usize).unwrap_or(&ZEROES))?;
            left -= now;
        }
        Ok(())
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
}

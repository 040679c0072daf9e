//! What the guest runs, and where it goes in memory.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use vm_memory::GuestAddress;
use vmm_adapter::MemoryRegion;

use crate::error::{Error, Result};
use crate::layout::RAM;

const BUILT_IN: &[u8] = include_bytes!("../../../tests/guests/hello.bin");

/// As much of an image as tells what it is.
const HEAD: usize = 64;

/// Bytes that go into guest memory, read when they do.
#[derive(Debug)]
pub(crate) struct Blob {
    source: Source,
    pub(crate) size: u64,
    /// For messages.
    name: String,
}

#[derive(Debug)]
enum Source {
    Here(&'static [u8]),
    File(File),
}

impl Blob {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let cannot = |error| Error::new(format!("cannot read {name}: {error}"));
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if !metadata.is_file() {
            return Err(Error::new(format!("cannot read {name}: it is no file")));
        }
        Ok(Self { source: Source::File(file), size: metadata.len(), name })
    }

    /// A reader of all of it, from its start.
    pub(crate) fn reader(&self) -> Result<Box<dyn Read + '_>> {
        match &self.source {
            Source::Here(bytes) => Ok(Box::new(*bytes)),
            Source::File(file) => {
                let mut file = file;
                file.rewind().map_err(|error| self.cannot_read(&error))?;
                Ok(Box::new(file))
            }
        }
    }

    /// Copies all of it to `addr`, straight from the file: a copy of a whole kernel on the way would double its memory.
    pub(crate) fn load(&self, ram: &MemoryRegion, addr: GuestAddress) -> Result<()> {
        let len = usize::try_from(self.size).unwrap_or(usize::MAX);
        let done = match &self.source {
            Source::Here(bytes) => ram.read_from(addr, &mut &**bytes, len),
            Source::File(file) => {
                let mut file = file;
                file.rewind().map_err(|error| self.cannot_read(&error))?;
                ram.read_from(addr, &mut file, len)
            }
        };
        done.map_err(|error| Error::new(format!("cannot load {}: {}", self.name, error.chain())))
    }

    fn head(&self) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        self.reader()?.take(HEAD as u64).read_to_end(&mut head).map_err(|error| self.cannot_read(&error))?;
        Ok(head)
    }

    fn cannot_read(&self, error: &io::Error) -> Error {
        Error::new(format!("cannot read {}: {error}", self.name))
    }
}

/// The kernel that is to be loaded.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) image: Blob,
    /// Where in memory, as an offset from its start. It is entered there.
    pub(crate) offset: u64,
    /// How much room it needs from there on; more than the image when it has memory of its own behind it.
    pub(crate) room: u64,
}

impl Kernel {
    /// The guest that comes with microvm.
    pub(crate) fn built_in() -> Self {
        let size = BUILT_IN.len() as u64;
        let image = Blob { source: Source::Here(BUILT_IN), size, name: "the built-in guest".into() };
        Self { image, offset: 0, room: size }
    }

    pub(crate) fn from_file(path: &Path) -> Result<Self> {
        Self::from_blob(Blob::open(path)?)
    }

    fn from_blob(image: Blob) -> Result<Self> {
        let (head, name) = (image.head()?, &image.name);
        if let Some(what) = refused(&head) {
            let why = format!("{name} is {what}; microvm boots an uncompressed arm64 Image or a flat image");
            return Err(Error::new(why));
        }
        let (offset, room) = match Header::read(&head) {
            Some(header) => header.place(name, image.size)?,
            None => (0, image.size),
        };
        Ok(Self { image, offset, room })
    }

    /// The first address behind it, if it lies within `size` bytes of memory.
    pub(crate) fn end(&self, size: u64) -> Result<u64> {
        match self.offset.checked_add(self.room) {
            Some(end) if end <= size => Ok(RAM.saturating_add(end)),
            _ => Err(Error::new(format!(
                "{} is too big: it needs {} KiB of memory at offset {:#x}, and the guest has {} KiB (--memory)",
                self.image.name,
                self.room.div_ceil(1024),
                self.offset,
                size / 1024
            ))),
        }
    }
}

/// What a file is that cannot be a guest.
fn refused(image: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(&[u8], &str); 8] = [
        (b"\x7fELF", "an ELF file"),
        (b"\x1f\x8b", "compressed by gzip"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (b"\xfd7zXZ", "compressed by xz"),
        (b"BZh", "compressed by bzip2"),
        (b"\x02\x21\x4c\x18", "compressed by lz4"),
        (b"\xd0\x0d\xfe\xed", "a devicetree"),
        (b"ANDROID!", "an Android boot image"),
    ];
    if image.is_empty() {
        return Some("empty");
    }
    if image.starts_with(b"MZ") && image.get(4..8) == Some(b"zimg") {
        return Some("a compressed EFI image");
    }
    if image.starts_with(b"MZ") && !Header::is_there(image) {
        return Some("an EFI or DOS program without the header of an arm64 Image");
    }
    SIGNATURES.iter().find(|(signature, _)| image.starts_with(signature)).map(|(_, what)| *what)
}

/// The header of an arm64 Linux image.
struct Header {
    text_offset: u64,
    image_size: u64,
    flags: u64,
}

impl Header {
    const MAGIC: &[u8] = b"ARM\x64";
    const MAGIC_AT: usize = 56;
    const BIG_ENDIAN: u64 = 1;

    fn is_there(image: &[u8]) -> bool {
        image.get(Self::MAGIC_AT..).is_some_and(|rest| rest.starts_with(Self::MAGIC))
    }

    fn read(image: &[u8]) -> Option<Self> {
        if !Self::is_there(image) {
            return None;
        }
        let word = |at: usize| {
            image.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u64::from_le_bytes(*bytes))
        };
        Some(Self { text_offset: word(8)?, image_size: word(16)?, flags: word(24)? })
    }

    /// Offset and room.
    fn place(&self, name: &str, file_size: u64) -> Result<(u64, u64)> {
        if self.flags & Self::BIG_ENDIAN != 0 {
            return Err(Error::new(format!("{name} is a big-endian kernel, which microvm does not boot")));
        }
        if self.image_size == 0 {
            return Err(Error::new(format!(
                "{name} is an Image from before Linux 3.17, which does not say how much memory it needs"
            )));
        }
        if self.image_size < file_size {
            return Err(Error::new(format!(
                "{name} has {file_size} bytes, but its header says {}: not a sound Image",
                self.image_size
            )));
        }
        Ok((self.text_offset, self.image_size))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn image(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
        let mut image = vec![0; 4096];
        for (at, word) in [(8, text_offset), (16, image_size), (24, flags)] {
            image[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        image[56..60].copy_from_slice(b"ARM\x64");
        image
    }

    fn load(image: Vec<u8>) -> Result<Kernel> {
        /// What was made in place of built-in images, where leak checkers find it.
        static KEPT: Mutex<Vec<&'static [u8]>> = Mutex::new(Vec::new());

        let size = image.len() as u64;
        let image: &'static [u8] = image.leak();
        KEPT.lock().unwrap().push(image);
        Kernel::from_blob(Blob { source: Source::Here(image), size, name: "kernel".into() })
    }

    #[test]
    fn an_image_says_where_it_goes() {
        let kernel = load(image(0, 0x20_0000, 0b1010)).unwrap();
        assert_eq!((kernel.offset, kernel.room, kernel.image.size), (0, 0x20_0000, 4096));
        assert_eq!(load(image(0x8_0000, 0x20_0000, 0)).unwrap().offset, 0x8_0000);
    }

    #[test]
    fn what_has_no_header_is_flat() {
        let kernel = load(vec![0x14; 100]).unwrap();
        assert_eq!((kernel.offset, kernel.room), (0, 100));
        assert_eq!(Kernel::built_in().offset, 0);
    }

    #[test]
    fn what_cannot_boot_is_named() {
        let why = |bytes: Vec<u8>| load(bytes).unwrap_err().to_string();
        assert!(why(vec![]).contains("kernel is empty"));
        assert!(why(b"\x7fELF....".to_vec()).contains("ELF"));
        assert!(why(b"\x1f\x8b\x08".to_vec()).contains("gzip"));
        assert!(why(b"MZ\0\0zimg".to_vec()).contains("compressed EFI"));
        assert!(why([&b"MZ"[..], &[0; 100]].concat()).contains("without the header"));
        assert!(why(image(0, 0x20_0000, 1)).contains("big-endian"));
        assert!(why(image(0, 0, 0)).contains("3.17"));
        assert!(why(image(0, 100, 0)).contains("not a sound Image"));
    }

    #[test]
    fn what_is_too_big_says_how_big() {
        let kernel = load(image(0, 0x20_0000, 0)).unwrap();
        assert_eq!(kernel.end(0x20_0000).unwrap(), RAM + 0x20_0000);
        let error = kernel.end(0x10_0000).unwrap_err().to_string();
        assert!(error.contains("needs 2048 KiB") && error.contains("has 1024 KiB"), "{error}");
        let error = load(image(u64::MAX, 0x20_0000, 0)).unwrap().end(1 << 40).unwrap_err().to_string();
        assert!(error.contains("too big"), "{error}");
    }
}

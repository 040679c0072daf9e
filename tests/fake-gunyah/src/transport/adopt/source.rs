//! Memory that a program gives, mapped here too.

use std::ffi::CString;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::program::Program;
use super::uffd::Uffd;
use super::window::Window;
use super::{copy, sys};
use crate::errno::Errno;
use crate::transport::guest_file::GuestFile;
use crate::transport::vma::{self, Vma};

/// Memory of a program.
#[derive(Debug)]
pub(crate) struct Source {
    pieces: Vec<Piece>,
    len: u64,
    /// What the program sees there, for us to read.
    window: Window,
    /// What takes lent pages out of the program's reach, and where the program has the memory. A file may be mapped anywhere, so
    /// it has none.
    guard: Option<(Uffd, u64)>,
}

/// A part of it, in one file.
#[derive(Debug)]
struct Piece {
    at: u64,
    len: u64,
    file: OwnedFd,
    offset: u64,
}

impl Piece {
    /// The part of the file behind a range of the memory.
    fn in_file(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let start = range.start.max(self.at);
        let end = range.end.min(self.at.saturating_add(self.len));
        (start < end).then(|| start - self.at + self.offset..end - self.at + self.offset)
    }
}

/// What an adoption that is about to begin needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) tgid: u32,
    pub(crate) addr: u64,
    pub(crate) len: u64,
    /// It is going to be lent.
    pub(crate) lent: bool,
}

impl Source {
    /// A file for memory that is in none yet.
    pub(crate) fn new_file(len: u64) -> Result<OwnedFd, Errno> {
        sys::memory_file(c"gunyah-guest", len)
    }

    /// Makes a program's memory ours, too. `file` is one that [`Source::new_file`] has made, and that the program has.
    ///
    /// The error comes with what went wrong, in words.
    pub(crate) fn adopt(
        program: &mut Program,
        wanted: Wanted,
        file: OwnedFd,
    ) -> Result<Self, (Errno, &'static str)> {
        let Wanted { tgid, addr, len, lent } = wanted;
        let vmas = vma::covering(tgid, addr, len).ok_or((Errno::EFAULT, "it is not all mapped"))?;
        let window = Window::reserve(len).map_err(|errno| (errno, "no addresses for it here"))?;
        let mut pieces = Vec::new();
        for vma in vmas {
            let at = vma.from - addr;
            let piece = match vma.file.filter(|_| vma.shared) {
                Some(_) => shared_file(tgid, &vma, at)?,
                None => exchange(program, tgid, &vma, at, &file)?,
            };
            if lent && !sys::is_memory(piece.file.as_fd()) {
                return Err((Errno::EIO, "a file on a disk cannot be lent"));
            }
            let writable = vma.writable;
            window
                .map(at, piece.len, piece.file.as_fd(), piece.offset, writable)
                .map_err(|errno| (errno, "its file cannot be mapped here"))?;
            pieces.push(piece);
        }
        let guard = if lent {
            let made = program.userfaultfd(tgid).and_then(Uffd::guard);
            Some((made.map_err(|errno| (errno, "userfaultfd, which keeps lent memory out of reach"))?, addr))
        } else {
            None
        };
        Ok(Self { pieces, len, window, guard })
    }

    /// A part of a file of guest memory.
    pub(crate) fn of_file(file: &GuestFile, offset: u64, len: u64) -> Result<Self, Errno> {
        let window = Window::reserve(len)?;
        window.map(0, len, file.as_fd(), offset, true)?;
        let fd = file.as_fd().try_clone_to_owned()?;
        Ok(Self { pieces: vec![Piece { at: 0, len, file: fd, offset }], len, window, guard: None })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Where the program's view of it can be read here.
    pub(crate) fn address(&self) -> u64 {
        self.window.address()
    }

    /// Shows all of it in another window.
    pub(super) fn show_in(&self, window: &Window, writable: bool) -> Result<(), Errno> {
        self.pieces
            .iter()
            .try_for_each(|piece| window.map(piece.at, piece.len, piece.file.as_fd(), piece.offset, writable))
    }

    /// From now on what is not there is out of the program's reach.
    pub(super) fn close(&self) -> Result<(), Errno> {
        match &self.guard {
            Some((guard, addr)) => guard.register_missing(*addr, self.len),
            None => Ok(()),
        }
    }

    /// The program can have everything again: what is not there is filled with zeros.
    pub(super) fn open(&self) {
        if let Some((guard, addr)) = &self.guard {
            guard.unregister(*addr, self.len);
        }
    }

    /// Takes a part away from the program.
    pub(super) fn take_out(&self, range: Range<u64>) -> Result<(), Errno> {
        self.each(&range, |file, part| sys::punch(file, part))
    }

    /// Gives a part that the program does not have back, as zeros.
    pub(super) fn put_in(&self, range: Range<u64>) -> Result<(), Errno> {
        self.each(&range, |file, part| sys::fill(file, part))
    }

    fn each(
        &self,
        range: &Range<u64>,
        mut act: impl FnMut(BorrowedFd<'_>, Range<u64>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        for piece in &self.pieces {
            if let Some(part) = piece.in_file(range) {
                act(piece.file.as_fd(), part)?;
            }
        }
        Ok(())
    }

    /// Copies all content to the same places in a window.
    pub(super) fn copy_to(&self, to: &Window) -> Result<(), Errno> {
        for piece in &self.pieces {
            let whole = piece.offset..piece.offset + piece.len;
            let mut from = whole.start;
            while let Some(content) = sys::next_content(piece.file.as_fd(), from..whole.end) {
                from = content.end;
                let at = piece.at + (content.start - piece.offset);
                to.read_from(at, content.end - content.start, piece.file.as_fd(), content.start)?;
            }
        }
        Ok(())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.open();
    }
}

/// Exchanges a mapping of the program for one of `file`, with the same content.
fn exchange(
    program: &mut Program,
    tgid: u32,
    vma: &Vma,
    at: u64,
    file: &OwnedFd,
) -> Result<Piece, (Errno, &'static str)> {
    let len = vma.to - vma.from;
    // What a private mapping of a file has not been touched yet is in the file all the same.
    let sparse = vma.file.is_none();
    copy::memory_to_file(tgid, vma.from, len, sparse, file.as_fd(), at)
        .map_err(|errno| (errno, "its content cannot be copied"))?;
    program.map_file(vma, at).map_err(|errno| (errno, "the program cannot map another file there"))?;
    let file = file.try_clone().map_err(|error| (error.into(), "no descriptor for it"))?;
    Ok(Piece { at, len, file, offset: at })
}

/// The file of a shared mapping.
fn shared_file(tgid: u32, vma: &Vma, at: u64) -> Result<Piece, (Errno, &'static str)> {
    let open = |path: String| {
        let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
        sys::open(&path)
    };
    let is_it = |entry: &std::fs::DirEntry| {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(entry.path()).ok();
        found.zip(vma.file).is_some_and(|(found, file)| (found.dev(), found.ino()) == (file.dev, file.ino))
    };
    let numbers = std::fs::read_dir(format!("/proc/{tgid}/fd")).into_iter().flatten().flatten();
    let by_number =
        numbers.filter(is_it).find_map(|entry| open(entry.path().to_string_lossy().into_owned()).ok());
    // Without a descriptor only the privileged may.
    let found =
        by_number.map_or_else(|| open(format!("/proc/{tgid}/map_files/{:x}-{:x}", vma.from, vma.to)), Ok);
    let file =
        found.map_err(|errno| (errno, "it is a shared mapping of a file that has no descriptor any more"))?;
    Ok(Piece { at, len: vma.to - vma.from, file, offset: vma.offset })
}

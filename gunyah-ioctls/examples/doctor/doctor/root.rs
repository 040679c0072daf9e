//! Where files are read: the running system, or a directory with the files of another one.

use std::fs;
use std::path::{Path, PathBuf};

/// A root directory.
pub(crate) struct Root {
    dir: PathBuf,
    live: bool,
}

impl Root {
    pub(crate) fn new(dir: Option<PathBuf>) -> Self {
        Self { live: dir.is_none(), dir: dir.unwrap_or_else(|| PathBuf::from("/")) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether this is the running system, which can be asked, and not only read.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// The path of a file, given without the leading slash.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// A file's text. Bytes that are no text are replaced.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        fs::read(self.path(path)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A file's text without white space around it.
    pub(crate) fn word(&self, path: &str) -> Option<String> {
        self.read(path).map(|text| text.trim().to_owned())
    }

    /// A devicetree property that lists strings.
    pub(crate) fn strings(&self, path: &str) -> Vec<String> {
        let text = self.read(path).unwrap_or_default();
        text.split('\0').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// The names in a directory, sorted.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

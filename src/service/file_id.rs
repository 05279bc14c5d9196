//! Files as the kernel tells them apart. A path is not enough: by a bind mount one file has several.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    fs::{Metadata, metadata, read_dir},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Which file it is, as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Blocks.
    pub fn at(path: &Path) -> Option<Self> {
        Some(Self::of(&metadata(path).ok()?))
    }

    /// Whose this file is, of those that are known by their paths. Blocks.
    pub fn found<T>(self, known: impl IntoIterator<Item = (PathBuf, T)>) -> Option<T> {
        known.into_iter().find_map(|(path, whose)| (Self::at(&path) == Some(self)).then_some(whose))
    }

    /// By which name this file lies in a folder. Blocks.
    pub fn found_in(self, folder: &Path) -> Option<PathBuf> {
        let entries = read_dir(folder).into_iter().flatten().flatten();
        self.found(entries.map(|entry| (entry.path(), entry.path())))
    }
}

/// Whether a path lies in a folder, by whatever names. Blocks.
pub(super) fn lies_in(path: &Path, folder: &Path) -> bool {
    let wanted = FileId::at(folder);
    wanted.is_some() && path.ancestors().skip(1).any(|above| FileId::at(above) == wanted)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_with_two_names_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("a")).unwrap();
        fs::create_dir(at("b")).unwrap();
        fs::write(at("a/disk"), "x").unwrap();
        fs::write(at("a/twin"), "x").unwrap();
        fs::hard_link(at("a/disk"), at("b/other")).unwrap();
        let other = FileId::at(&at("b/other")).unwrap();
        let known = |name: &str| [(at("gone"), "nobody"), (at(name), "web")];
        assert_eq!(other.found(known("a/disk")), Some("web"));
        assert_eq!(other.found(known("a/twin")), None);
        assert_eq!(other.found_in(&at("a")), Some(at("a/disk")));
        assert_eq!(other.found_in(&at("nowhere")), None);
        assert!(lies_in(&at("a/disk"), &at("a")) && lies_in(&at("a/disk"), dir.path()));
        assert!(!lies_in(&at("a/disk"), &at("b")) && !lies_in(&at("a/disk"), &at("nowhere")));
    }
}

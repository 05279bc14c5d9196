//! The file of a disk, by whose it is. Who reads it asks for its path; who would erase it has to have an [`OwnFile`], which a
//! file of somebody else's never becomes.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize};

use super::{ImageFormat, Volume};

const GIB: u64 = 1 << 30;

/// The file that a disk's data is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskFile {
    /// Made for the disk, as qcow2, and erased with it.
    Own(OwnFile),
    /// Attached as it was found, and left when the disk goes.
    Foreign(ForeignFile),
    /// Made by qherd, and left when the disk goes.
    Volume(VolumeFile),
}

/// A file that qherd made.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnFile(PathBuf);

/// A file that was there before the disk, and stays its user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignFile {
    /// Canonical.
    pub path: PathBuf,
    pub format: ImageFormat,
    /// Bytes that a guest saw of it when it was attached.
    pub bytes: u64,
    /// What the image that it lies on lies on itself, from above.
    pub below: Vec<Below>,
}

/// A file of a chain of images, each of which lies on the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    /// Canonical.
    pub path: PathBuf,
    pub format: ImageFormat,
}

/// A file that qherd made, and that stays when its disk or its VM goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFile {
    pub path: PathBuf,
    pub volume: Arc<Volume>,
}

impl OwnFile {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Deref for OwnFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl ForeignFile {
    /// GiB: its size as a definition has it, where every part of one counts.
    pub fn size(&self) -> u64 {
        self.bytes.div_ceil(GIB).max(1)
    }
}

impl DiskFile {
    pub fn own(&self) -> Option<&OwnFile> {
        match self {
            Self::Own(file) => Some(file),
            Self::Foreign(_) | Self::Volume(_) => None,
        }
    }

    pub fn foreign(&self) -> Option<&ForeignFile> {
        match self {
            Self::Foreign(file) => Some(file),
            Self::Own(_) | Self::Volume(_) => None,
        }
    }

    pub fn volume(&self) -> Option<&Volume> {
        match self {
            Self::Volume(file) => Some(&file.volume),
            Self::Own(_) | Self::Foreign(_) => None,
        }
    }

    /// [`ForeignFile::below`].
    pub fn below(&self) -> &[Below] {
        self.foreign().map_or(&[], |file| &file.below)
    }

    pub fn format(&self) -> ImageFormat {
        match self {
            Self::Own(_) | Self::Volume(_) => ImageFormat::Qcow2,
            Self::Foreign(file) => file.format,
        }
    }

    /// Bytes that a guest is to see of a disk of `size` GiB. One that was attached keeps those that it had, to the byte, until
    /// it is to have more.
    pub fn bytes(&self, size: u64) -> u64 {
        match self {
            Self::Foreign(file) if size <= file.size() => file.bytes,
            Self::Own(_) | Self::Foreign(_) | Self::Volume(_) => size.saturating_mul(GIB),
        }
    }
}

impl Deref for DiskFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        match self {
            Self::Own(file) => file,
            Self::Foreign(file) => &file.path,
            Self::Volume(file) => &file.path,
        }
    }
}

impl AsRef<Path> for DiskFile {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl Default for DiskFile {
    fn default() -> Self {
        Self::Own(OwnFile::default())
    }
}

/// Made by qherd, as all were before others could be attached.
impl From<PathBuf> for DiskFile {
    fn from(path: PathBuf) -> Self {
        Self::Own(OwnFile(path))
    }
}

impl From<&str> for DiskFile {
    fn from(path: &str) -> Self {
        PathBuf::from(path).into()
    }
}

impl From<String> for DiskFile {
    fn from(path: String) -> Self {
        PathBuf::from(path).into()
    }
}

/// As earlier versions stored it: they attached none.
impl<'de> Deserialize<'de> for DiskFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PathBuf::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attached_disk_keeps_its_bytes_until_it_is_to_have_more() {
        let file =
            ForeignFile { path: "/srv/a".into(), format: ImageFormat::Raw, bytes: 5 * GIB / 2, below: Vec::new() };
        assert_eq!(file.size(), 3);
        let file = DiskFile::Foreign(file);
        assert_eq!([0, 3, 4].map(|size| file.bytes(size)), [5 * GIB / 2, 5 * GIB / 2, 4 * GIB]);
        assert!(file.own().is_none() && file.volume().is_none());
        assert_eq!(DiskFile::from("/own").bytes(3), 3 * GIB);
    }
}

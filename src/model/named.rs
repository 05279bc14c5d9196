//! What a client called the files of its VM, and which folders came into being for them. None of it is hardware: two
//! definitions that differ in this alone are the same one.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Paths as they were sent (ruling 29), and the folders made for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Named {
    /// Of the ISO image.
    pub iso: Option<Alias>,
    /// Of the folder that the root disk lies in.
    pub disk_folder: Option<PathBuf>,
    /// Folders that qherd made on the way to the root disk, the outermost first. VMs that share them all have them here,
    /// so that they go with the last of them.
    pub folders: Vec<MadeFolder>,
}

/// What a client calls a file. It says which one: when the VM has another by now, it says nothing of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// Canonical.
    pub file: PathBuf,
    pub sent: PathBuf,
}

/// A folder that qherd made, told from any other that takes its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFolder {
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
    /// Nanoseconds since 1970, where its file system knows.
    pub born: Option<u64>,
}

impl Named {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

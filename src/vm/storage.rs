//! Where disks are kept, and what shows that a disk which is not there is gone: each such folder bears a mark, and without
//! it its storage is away (ADR 0014). Whose a disk is, where the state directory is a copy.

#![allow(clippy::disallowed_methods, reason = "called on threads that may wait")]

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Context;
use crate::model::{Disk, Error, Result, VmSpec};

/// In each folder where disks are kept. Where it is missing, the storage is not mounted.
const MARK: &str = ".qherd-storage";
const MARK_TEXT: &str =
    "qherd keeps disks of virtual machines in this folder, and knows by this file that it is mounted.\n";

/// The state directory that ours was copied from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    pub path: PathBuf,
    /// When that was noticed, in milliseconds since 1970: VMs from before are that one's.
    pub before: u64,
}

/// Marks a folder of disks; without the right to write there it goes unmarked, and nothing is said to be gone from it.
pub(crate) fn mark(folder: &Path) {
    match fs::File::create_new(folder.join(MARK))
        .and_then(|mut file| io::Write::write_all(&mut file, MARK_TEXT.as_bytes()))
    {
        Err(error) if !matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
            tracing::warn!(folder = %folder.display(), %error, "cannot mark a folder of disks");
        }
        _ => {}
    }
}

/// Whether the storage of a file bears its mark.
pub(crate) fn is_marked(file: &Path, folders: &[PathBuf]) -> bool {
    storage_of(file, folders).is_some_and(|folder| folder.join(MARK).exists())
}

/// Refuses to make a disk in unmarked storage where others should be and are not.
pub(crate) fn check_mounted(file: &Path, others: &[PathBuf], folders: &[PathBuf]) -> Result<()> {
    let Some(folder) = storage_of(file, folders) else { return Ok(()) };
    match others.iter().find(|other| storage_of(other, folders) == Some(folder) && !other.exists()) {
        Some(missed) => Err(Error::Storage(format!(
            "The disk {} of another VM is not there: the storage of {} is not mounted, it seems. Mount it and try again.",
            missed.display(),
            folder.display()
        ))),
        None => Ok(()),
    }
}

/// The storage directory that holds a file.
pub(crate) fn storage_of<'a>(file: &Path, folders: &'a [PathBuf]) -> Option<&'a PathBuf> {
    let holding = folders.iter().filter(|folder| {
        // It may be a link to a larger disk, and named by either of the two.
        file.starts_with(folder) || folder.canonicalize().is_ok_and(|canonical| file.starts_with(canonical))
    });
    holding.max_by_key(|folder| folder.components().count())
}

/// Whether a disk can be removed, or is known to be gone.
///
/// # Errors
/// In words.
pub(crate) fn check(file: &Path, folders: &[PathBuf]) -> std::result::Result<(), String> {
    let Some(folder) = storage_of(file, folders) else {
        return Err(format!(
            "The disk {} lies outside of the storage directories and is not removed; allow its folder with --storage-dir.",
            file.display()
        ));
    };
    let mark = folder.join(MARK);
    if fs::symlink_metadata(file).is_ok() || mark.exists() {
        return Ok(());
    }
    Err(format!(
        "The disk {} is not there, and neither is {}: its storage is not mounted, it seems. Mount it and try again. If the \
         disk is lost, make that file, empty, first.",
        file.display(),
        mark.display()
    ))
}

impl Context {
    /// Whether a disk is this VM's to write to and to remove. One outside of a state directory that was copied is the
    /// original's.
    ///
    /// # Errors
    /// In words.
    pub(super) fn owns(&self, disk: &Disk, spec: &VmSpec) -> Result<()> {
        match &self.original {
            Some(original) if spec.created_at < original.before && !disk.file.starts_with(&self.config.state_dir) => {
                Err(Error::Storage(format!(
                    "The disk {} belongs to {}, of which this state directory is a copy; it is not touched from here. If \
                     that one is no more, remove \"copied_from\" from {}/state.json and start qherd again.",
                    disk.file.display(),
                    original.path.display(),
                    self.config.state_dir.display()
                )))
            }
            _ => Ok(()),
        }
    }
}

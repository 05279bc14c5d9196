//! Makes a store out of an export and puts it in the place of another one: a crash at any moment leaves the old
//! one or the new one, whole, and the old one is set aside, never removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::backend::Backend;
use super::dump::{self, Entry};
use super::record::{MAX_KEY_BYTES, MAX_RECORD_BYTES};
use super::{StoreError, utc};

/// Records that are stored at a time; what is half done is never used.
const GROUP: usize = 64;

/// What an import is made of: an export that was read and found whole.
#[derive(Debug)]
pub struct Import(Vec<Entry>);

impl Import {
    /// # Errors
    /// `Export`: what is wrong with it, with the number of the line.
    pub fn parse(text: &str) -> Result<Import, StoreError> {
        let entries = dump::parse(text).map_err(|reason| StoreError::Export { reason })?;
        for (name, value) in &entries {
            if name.len() > MAX_KEY_BYTES || value.len() > MAX_RECORD_BYTES {
                let record = String::from_utf8_lossy(name).into_owned();
                let reason = format!("{} bytes are more than {MAX_RECORD_BYTES}", name.len() + value.len());
                return Err(StoreError::Refused { record, reason });
            }
        }
        Ok(Import(entries))
    }

    pub fn records(&self) -> usize {
        self.0.len()
    }

    /// The names of its records: `kind/key`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned())
    }

    /// Makes the store in `dir`, which must not be there yet. Durable when it returns. Blocks.
    ///
    /// # Errors
    /// `Io`, `NoSpace`, `Damaged`; what was made of it is removed.
    pub fn make(&self, dir: &Path) -> Result<(), StoreError> {
        let made =
            Backend::open(dir).and_then(|backend| self.0.chunks(GROUP).try_for_each(|group| backend.insert(group)));
        if made.is_err() {
            let _ = fs::remove_dir_all(dir);
        }
        made
    }
}

/// Puts the store `new` in the place of `dir`, and what was there aside as `<dir>.<word>-<date>`, whose path is returned.
/// Nobody may have either open. Blocks.
///
/// # Errors
/// `Io`; nothing has changed then.
pub fn put_in_place(new: &Path, dir: &Path, word: &str) -> Result<Option<PathBuf>, StoreError> {
    let io = |source: io::Error| StoreError::Io { what: "put the new store in place", dir: dir.to_path_buf(), source };
    let parent = dir.parent().unwrap_or(Path::new("."));
    let moved = |from: &Path, to: &Path, how| renameat_with(CWD, from, CWD, to, how).map_err(|e| io(e.into()));
    let aside = if dir.exists() {
        let aside = free_name(dir, word);
        // The new one waits under the name that the old one is to have, so that both get theirs in the same instant.
        moved(new, &aside, RenameFlags::NOREPLACE)?;
        if let Err(error) = moved(&aside, dir, RenameFlags::EXCHANGE) {
            let _ = moved(&aside, new, RenameFlags::NOREPLACE);
            return Err(error);
        }
        Some(aside)
    } else {
        moved(new, dir, RenameFlags::NOREPLACE)?;
        None
    };
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(io)?;
    Ok(aside)
}

fn free_name(dir: &Path, word: &str) -> PathBuf {
    let name = |number: u32| {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".{word}-{}", utc(SystemTime::now()).replace(':', "-")));
        if number > 1 {
            name.push(format!("-{number}"));
        }
        PathBuf::from(name)
    };
    (1..).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0))
}
